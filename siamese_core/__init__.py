"""Siamese-Diffusion: networks, objective, sampling and pair files, free of any host.

At the top stand the small tools that any room may use: ``architecture``, ``contact_sheet``, ``errors``,
``files``, ``json_lines``, ``learning_rate``, ``run_record``, ``seeds``, ``settings``, ``shipped``,
``stop_requests``. The rooms, each importing only from the top and from rooms above it in this list:

- ``method``: hint blocks, noise schedule, objective, DDIM
- ``weights``: files of weights, their names and layouts
- ``masks``: mask files, random transforms, connected components
- ``pairs``: pair files, manifest, writing, export, ``formats``
- ``dataset_generation``: sets of pairs, made by one worker or many
- ``diffusers_backend``: networks and base models on diffusers and transformers
- ``learning``: the training of the Siamese model

``diffusers_backend`` and ``learning`` are for training alone: ComfyUI does not ship diffusers, transformers
and accelerate. Everything else needs only torch, numpy, Pillow and safetensors, and fsspec and filelock,
which come with torch.
"""
