"""Networks, base models and training on diffusers and transformers, which ComfyUI does not ship."""
