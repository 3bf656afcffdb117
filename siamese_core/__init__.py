"""Siamese-Diffusion: networks, objective, sampling and pair files, free of any host.

For training alone, because they stand on diffusers, transformers or accelerate, which ComfyUI does not ship:
``base``, ``base_training``, ``diffusers_export``, ``generation``, ``guidance_passes``, ``loop``, ``model``,
``networks``, ``processes``, ``siamese_training``, ``text``, ``training_set``, ``unet_start``, ``vae_start``.
Everything else needs only torch, numpy, Pillow and safetensors, and fsspec and filelock, which come with
torch.
"""
