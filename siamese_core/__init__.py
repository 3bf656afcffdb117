"""Siamese-Diffusion: networks, objective, sampling and pair files, free of any host.

Modules that import diffusers or accelerate: ``networks``, ``base``, ``latents``, ``loop``. Everything
else needs only what ComfyUI itself ships (torch, numpy, Pillow, safetensors).
"""
