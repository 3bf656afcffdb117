"""The two names of every weight of the four networks, with its shapes for a given architecture.

Model files and ComfyUI use the ldm layout (of the original Stable Diffusion and ControlNet; here without the
prefixes of a merged file). Training uses that of the diffusers and transformers modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ..architecture import Architecture, TextArchitecture, UNetArchitecture, VAEArchitecture
from ..method.dhi import dense_hint_block, sparse_hint_block

Shape = tuple[int, ...]
Part = Literal["unet", "decoder", "control", "vae", "text"]
"""``decoder`` is the part of ``unet`` that Siamese training changes: ``output_blocks`` and ``out``."""

_DECODER_STARTS = ("output_blocks.", "out.")


@dataclass(frozen=True)
class Entry:
    """One parameter of a diffusers or transformers module. Both shapes hold the same values in one order.

    ``place``: if the ldm layout stacks several parameters along the rows of one tensor of ``ldm_shape``, the
    index of this one in that tensor.
    """

    ldm: str
    diffusers: str
    ldm_shape: Shape
    diffusers_shape: Shape
    place: int | None = None


def entries(part: Part, architecture: Architecture) -> list[Entry]:
    """All parameters of ``part``. The module names of the text encoder are those of transformers 5."""
    unet = architecture.unet
    if part == "unet":
        return [*_encoder(unet), *_decoder(unet)]
    if part == "decoder":
        return list(_decoder(unet))
    if part == "control":
        return [*_encoder(unet), *_zero_convolutions(unet), *_hint_block(architecture)]
    if part == "vae":
        return list(_vae(architecture.vae))
    return list(_text(architecture.text))


def is_decoder_key(ldm_name: str) -> bool:
    """Whether an ldm name of the UNet (without prefix) belongs to its decoder."""
    return ldm_name.startswith(_DECODER_STARTS)


def _layer(ldm: str, diffusers: str, *shape: int) -> Iterator[Entry]:
    """A weight of ``shape`` and a bias of ``shape[:1]``: a convolution, linear or normalisation layer."""
    yield _weight(ldm, diffusers, *shape)
    yield Entry(f"{ldm}.bias", f"{diffusers}.bias", shape[:1], shape[:1])


def _weight(ldm: str, diffusers: str, *shape: int) -> Entry:
    return Entry(f"{ldm}.weight", f"{diffusers}.weight", shape, shape)


# --- UNet and ControlNet ---------------------------------------------------------------------------


def _encoder(unet: UNetArchitecture) -> Iterator[Entry]:
    """Time embedding, input blocks and middle block, which UNet and ControlNet have in common."""
    first, deepest = unet.widths[0], len(unet.widths) - 1
    embedding = 4 * first
    yield from _layer("time_embed.0", "time_embedding.linear_1", embedding, first)
    yield from _layer("time_embed.2", "time_embedding.linear_2", embedding, embedding)
    yield from _layer("input_blocks.0.0", "conv_in", first, unet.latent_channels, 3, 3)

    index, channels = 1, first
    for level, width in enumerate(unet.widths):
        block = f"down_blocks.{level}"
        for layer in range(unet.layers_per_block):
            ldm = f"input_blocks.{index}"
            yield from _time_residual(f"{ldm}.0", f"{block}.resnets.{layer}", channels, width, embedding)
            if level != deepest:
                yield from _attention(f"{ldm}.1", f"{block}.attentions.{layer}", width, unet)
            index, channels = index + 1, width
        if level != deepest:
            ldm = f"input_blocks.{index}.0.op"
            yield from _layer(ldm, f"{block}.downsamplers.0.conv", width, width, 3, 3)
            index += 1

    yield from _time_residual("middle_block.0", "mid_block.resnets.0", channels, channels, embedding)
    yield from _attention("middle_block.1", "mid_block.attentions.0", channels, unet)
    yield from _time_residual("middle_block.2", "mid_block.resnets.1", channels, channels, embedding)


def _decoder(unet: UNetArchitecture) -> Iterator[Entry]:
    first, deepest = unet.widths[0], len(unet.widths) - 1
    skips = _skip_widths(unet)
    index, channels = 0, unet.widths[-1]
    for position, level in enumerate(reversed(range(len(unet.widths)))):
        width, block = unet.widths[level], f"up_blocks.{position}"
        for layer in range(unet.layers_per_block + 1):
            ldm, fan_in = f"output_blocks.{index}", channels + skips.pop()
            yield from _time_residual(f"{ldm}.0", f"{block}.resnets.{layer}", fan_in, width, 4 * first)
            if level != deepest:
                yield from _attention(f"{ldm}.1", f"{block}.attentions.{layer}", width, unet)
            index, channels = index + 1, width
        if level != 0:
            # The upsampler is the last module of the level's last output block, after any attention.
            slot = 1 if level == deepest else 2
            ldm = f"output_blocks.{index - 1}.{slot}.conv"
            yield from _layer(ldm, f"{block}.upsamplers.0.conv", width, width, 3, 3)
    yield from _layer("out.0", "conv_norm_out", first)
    yield from _layer("out.2", "conv_out", unet.latent_channels, first, 3, 3)


def _zero_convolutions(unet: UNetArchitecture) -> Iterator[Entry]:
    for index, width in enumerate(_skip_widths(unet)):
        yield from _layer(f"zero_convs.{index}.0", f"controlnet_down_blocks.{index}", width, width, 1, 1)
    deepest = unet.widths[-1]
    yield from _layer("middle_block_out.0", "controlnet_mid_block", deepest, deepest, 1, 1)


def _hint_block(architecture: Architecture) -> Iterator[Entry]:
    build = dense_hint_block if architecture.hint_block == "dense" else sparse_hint_block
    modules = nn.Sequential(*build(architecture.unet.widths[0], device="meta"))
    for name, parameter in modules.named_parameters():
        shape = tuple(parameter.shape)
        yield Entry(f"input_hint_block.{name}", f"controlnet_cond_embedding.{name}", shape, shape)


def _skip_widths(unet: UNetArchitecture) -> list[int]:
    """Channels of the encoder's outputs, one per input block, in the order they are produced."""
    widths = [unet.widths[0]]
    for level, width in enumerate(unet.widths):
        downsampled = level != len(unet.widths) - 1
        widths += [width] * (unet.layers_per_block + downsampled)
    return widths


def _time_residual(ldm: str, diffusers: str, fan_in: int, width: int, embedding: int) -> Iterator[Entry]:
    yield from _layer(f"{ldm}.in_layers.0", f"{diffusers}.norm1", fan_in)
    yield from _layer(f"{ldm}.in_layers.2", f"{diffusers}.conv1", width, fan_in, 3, 3)
    yield from _layer(f"{ldm}.emb_layers.1", f"{diffusers}.time_emb_proj", width, embedding)
    yield from _layer(f"{ldm}.out_layers.0", f"{diffusers}.norm2", width)
    yield from _layer(f"{ldm}.out_layers.3", f"{diffusers}.conv2", width, width, 3, 3)
    if fan_in != width:
        yield from _layer(f"{ldm}.skip_connection", f"{diffusers}.conv_shortcut", width, fan_in, 1, 1)


def _attention(ldm: str, diffusers: str, width: int, unet: UNetArchitecture) -> Iterator[Entry]:
    """Spatial transformer of depth one: self-attention, attention to the text, gated feed-forward."""
    yield from _layer(f"{ldm}.norm", f"{diffusers}.norm", width)
    kernel = () if unet.linear_projection else (1, 1)
    yield from _layer(f"{ldm}.proj_in", f"{diffusers}.proj_in", width, width, *kernel)
    yield from _layer(f"{ldm}.proj_out", f"{diffusers}.proj_out", width, width, *kernel)
    ldm, diffusers = f"{ldm}.transformer_blocks.0", f"{diffusers}.transformer_blocks.0"
    for name, source in (("attn1", width), ("attn2", unet.context_dim)):
        yield _weight(f"{ldm}.{name}.to_q", f"{diffusers}.{name}.to_q", width, width)
        yield _weight(f"{ldm}.{name}.to_k", f"{diffusers}.{name}.to_k", width, source)
        yield _weight(f"{ldm}.{name}.to_v", f"{diffusers}.{name}.to_v", width, source)
        yield from _layer(f"{ldm}.{name}.to_out.0", f"{diffusers}.{name}.to_out.0", width, width)
    yield from _layer(f"{ldm}.ff.net.0.proj", f"{diffusers}.ff.net.0.proj", 8 * width, width)
    yield from _layer(f"{ldm}.ff.net.2", f"{diffusers}.ff.net.2", width, 4 * width)
    for name in ("norm1", "norm2", "norm3"):
        yield from _layer(f"{ldm}.{name}", f"{diffusers}.{name}", width)


# --- VAE -------------------------------------------------------------------------------------------


def _vae(vae: VAEArchitecture) -> Iterator[Entry]:
    first, last, deepest = vae.widths[0], vae.widths[-1], len(vae.widths) - 1
    latent, moments = vae.latent_channels, 2 * vae.latent_channels

    yield from _layer("encoder.conv_in", "encoder.conv_in", first, 3, 3, 3)
    channels = first
    for level, width in enumerate(vae.widths):
        ldm, block = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for layer in range(vae.layers_per_block):
            yield from _residual(f"{ldm}.block.{layer}", f"{block}.resnets.{layer}", channels, width)
            channels = width
        if level != deepest:
            yield from _layer(f"{ldm}.downsample.conv", f"{block}.downsamplers.0.conv", width, width, 3, 3)
    yield from _vae_middle("encoder", last)
    yield from _layer("encoder.norm_out", "encoder.conv_norm_out", last)
    yield from _layer("encoder.conv_out", "encoder.conv_out", moments, last, 3, 3)
    yield from _layer("quant_conv", "quant_conv", moments, moments, 1, 1)

    yield from _layer("post_quant_conv", "post_quant_conv", latent, latent, 1, 1)
    yield from _layer("decoder.conv_in", "decoder.conv_in", last, latent, 3, 3)
    yield from _vae_middle("decoder", last)
    for position, level in enumerate(reversed(range(len(vae.widths)))):
        # ldm counts the decoder's levels from the image, diffusers from the latent.
        ldm, block, width = f"decoder.up.{level}", f"decoder.up_blocks.{position}", vae.widths[level]
        for layer in range(vae.layers_per_block + 1):
            yield from _residual(f"{ldm}.block.{layer}", f"{block}.resnets.{layer}", channels, width)
            channels = width
        if level != 0:
            yield from _layer(f"{ldm}.upsample.conv", f"{block}.upsamplers.0.conv", width, width, 3, 3)
    yield from _layer("decoder.norm_out", "decoder.conv_norm_out", first)
    yield from _layer("decoder.conv_out", "decoder.conv_out", 3, first, 3, 3)


def _vae_middle(side: str, width: int) -> Iterator[Entry]:
    ldm, diffusers = f"{side}.mid", f"{side}.mid_block"
    yield from _residual(f"{ldm}.block_1", f"{diffusers}.resnets.0", width, width)
    yield from _residual(f"{ldm}.block_2", f"{diffusers}.resnets.1", width, width)
    ldm, diffusers = f"{ldm}.attn_1", f"{diffusers}.attentions.0"
    yield from _layer(f"{ldm}.norm", f"{diffusers}.group_norm", width)
    for theirs, ours in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        # A 1x1 convolution in the ldm layout, a linear layer in diffusers.
        name, other = f"{ldm}.{theirs}", f"{diffusers}.{ours}"
        yield Entry(f"{name}.weight", f"{other}.weight", (width, width, 1, 1), (width, width))
        yield Entry(f"{name}.bias", f"{other}.bias", (width,), (width,))


def _residual(ldm: str, diffusers: str, fan_in: int, width: int) -> Iterator[Entry]:
    yield from _layer(f"{ldm}.norm1", f"{diffusers}.norm1", fan_in)
    yield from _layer(f"{ldm}.conv1", f"{diffusers}.conv1", width, fan_in, 3, 3)
    yield from _layer(f"{ldm}.norm2", f"{diffusers}.norm2", width)
    yield from _layer(f"{ldm}.conv2", f"{diffusers}.conv2", width, width, 3, 3)
    if fan_in != width:
        yield from _layer(f"{ldm}.nin_shortcut", f"{diffusers}.conv_shortcut", width, fan_in, 1, 1)


# --- Text encoder ----------------------------------------------------------------------------------


def _text(text: TextArchitecture) -> Iterator[Entry]:
    return _open_clip_text(text) if text.family == "open_clip" else _clip_text(text)


def _clip_text(text: TextArchitecture) -> Iterator[Entry]:
    hidden, root = text.hidden_size, "transformer.text_model"
    for name, rows in (("token_embedding", text.vocab_size), ("position_embedding", text.max_tokens)):
        yield _weight(f"{root}.embeddings.{name}", f"embeddings.{name}", rows, hidden)
    for index in range(text.num_layers):
        layer = f"encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            attention = f"{layer}.self_attn.{name}"
            yield from _layer(f"{root}.{attention}", attention, hidden, hidden)
        fc1, fc2 = f"{layer}.mlp.fc1", f"{layer}.mlp.fc2"
        yield from _layer(f"{root}.{fc1}", fc1, text.intermediate_size, hidden)
        yield from _layer(f"{root}.{fc2}", fc2, hidden, text.intermediate_size)
        for norm in (f"{layer}.layer_norm1", f"{layer}.layer_norm2"):
            yield from _layer(f"{root}.{norm}", norm, hidden)
    yield from _layer(f"{root}.final_layer_norm", "final_layer_norm", hidden)


def _open_clip_text(text: TextArchitecture) -> Iterator[Entry]:
    hidden, inner = text.hidden_size, text.intermediate_size
    words, places = (text.vocab_size, hidden), (text.max_tokens, hidden)
    yield _weight("model.token_embedding", "embeddings.token_embedding", *words)
    yield Entry("model.positional_embedding", "embeddings.position_embedding.weight", places, places)
    for index in range(text.num_layers):
        ldm, layer = f"model.transformer.resblocks.{index}", f"encoder.layers.{index}"
        for place, name in enumerate(("q_proj", "k_proj", "v_proj")):
            for kind, shape in (("weight", (hidden, hidden)), ("bias", (hidden,))):
                stacked, own = (3 * hidden, *shape[1:]), f"{layer}.self_attn.{name}.{kind}"
                yield Entry(f"{ldm}.attn.in_proj_{kind}", own, stacked, shape, place)
        yield from _layer(f"{ldm}.attn.out_proj", f"{layer}.self_attn.out_proj", hidden, hidden)
        yield from _layer(f"{ldm}.mlp.c_fc", f"{layer}.mlp.fc1", inner, hidden)
        yield from _layer(f"{ldm}.mlp.c_proj", f"{layer}.mlp.fc2", hidden, inner)
        for theirs, ours in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")):
            yield from _layer(f"{ldm}.{theirs}", f"{layer}.{ours}", hidden)
    yield from _layer("model.ln_final", "final_layer_norm", hidden)
