"""ComfyUI's side: its models, controls, folders, graphs and tensors."""
