"""Siamese-Diffusion: networks, objective, sampling and pair files, independent of any host.

Top-level modules are small tools that every subpackage may use: ``advice``, ``architecture``,
``contact_sheet``, ``cpu_memory``, ``errors``, ``files``, ``json_lines``, ``overlap``, ``resume_check``,
``seeds``, ``settings``, ``shipped``, ``stop_requests`` and ``text_files``. Each subpackage imports only from
the top level and from subpackages above it in this list:

- ``method``: hint blocks, noise schedule, objective, DDIM
- ``weights``: model files, their key names and layouts
- ``masks``: mask files, random transforms, connected components
- ``pairs``: pair files, manifest, writing, export formats
- ``dataset_generation``: generating datasets with one or many workers
- ``learning``: training settings, the optimiser step, checkpoints and resume, the encoded pairs
- ``diffusers_backend``: networks, base models and the training engine on diffusers, transformers, accelerate

Outside ``diffusers_backend`` nothing imports diffusers, transformers or accelerate, which ComfyUI does not
ship. Everything else needs only torch, numpy, Pillow, safetensors and tqdm, plus fsspec and filelock, which
come with torch.
"""
