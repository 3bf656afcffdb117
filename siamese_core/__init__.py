"""Siamese-Diffusion: networks, objective, sampling and pair files, free of any host.

At the top stand the small tools that any room may use: ``architecture``, ``contact_sheet``, ``cpu_memory``,
``errors``, ``files``, ``json_lines``, ``resume_check``, ``seeds``, ``settings``, ``shipped`` and
``stop_requests``.
The rooms, each importing only from the top and from rooms above it in this list:

- ``method``: hint blocks, noise schedule, objective, DDIM
- ``weights``: files of weights, their names and layouts
- ``masks``: mask files, random transforms, connected components
- ``pairs``: pair files, manifest, writing, export, ``formats``
- ``dataset_generation``: datasets, made by one worker or many
- ``learning``: training: settings, the optimiser step, checkpoints and resume, the encoded pairs
- ``diffusers_backend``: networks, base models and the training engine on diffusers, transformers, accelerate

Outside ``diffusers_backend`` nothing imports diffusers, transformers or accelerate, which ComfyUI does not
ship: all else needs only torch, numpy, Pillow, safetensors and tqdm, and fsspec and filelock, which come with
torch.
"""
