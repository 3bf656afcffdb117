"""Adapters to ComfyUI's models, controls, folders, graphs and tensors."""
