"""Sharing computations between the passes of classifier-free guidance.

The passes have the same latent, timestep and hint and differ only in their text, which first enters in the
encoder's first cross-attention. The input convolution, a residual block and the costliest self-attention come
before it and are computed once. If all samples of a pass have the same text, its keys and values are, too.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor


class TextAttnProcessor(AttnProcessor2_0):
    """Scaled dot product attention that also accepts one text for each of P equal shares of the batch.

    ``hidden_states`` (P * B, n, C) attends to ``encoder_hidden_states`` (P, tokens, width), whose row p is
    the text of samples p * B to (p + 1) * B - 1. One row per sample, (P * B, tokens, width), works as usual.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        if encoder_hidden_states is None or len(encoder_hidden_states) == len(hidden_states):
            return super().__call__(attn, hidden_states, encoder_hidden_states, **others)
        # Queries are independent of each other, so samples with the same text can be joined along n.
        rows = hidden_states.reshape(len(encoder_hidden_states), -1, hidden_states.shape[-1])
        return super().__call__(attn, rows, encoder_hidden_states, **others).reshape(hidden_states.shape)


def expand_passes(tensor: Tensor, passes: int) -> Tensor:
    """Repeat ``(B, ...)`` to ``(passes * B, ...)``, pass by pass; a single pass returns ``tensor`` itself."""
    return tensor if passes == 1 else tensor.repeat(passes, *(1,) * (tensor.ndim - 1))


def first_down_block(
    block: Any, sample: Tensor, embedding: Tensor, context: Tensor, passes: int
) -> tuple[Tensor, ...]:
    """Outputs (P * B, C, h, w) of a ``CrossAttnDownBlock2D`` for P ``passes``, the last one downsampled.

    ``sample`` (B, C, h, w) and ``embedding`` (B, E) are common to all passes; ``context`` has P * B or P
    rows. The result equals that of running each pass separately.
    """
    sample = _first_layer(block, sample, embedding, context, passes)
    outputs = [sample]
    embedding = expand_passes(embedding, passes)
    for residual, transformer in zip(block.resnets[1:], block.attentions[1:], strict=True):
        sample = transformer(residual(sample, embedding), encoder_hidden_states=context, return_dict=False)[0]
        outputs.append(sample)
    for downsampler in block.downsamplers or ():
        outputs.append(downsampler(outputs[-1]))
    return tuple(outputs)


def _first_layer(block: Any, sample: Tensor, embedding: Tensor, context: Tensor, passes: int) -> Tensor:
    """The block's first residual block and transformer; passes are expanded just before cross-attention."""
    sample = block.resnets[0](sample, embedding)
    transformer = block.attentions[0]
    first, *others = transformer.transformer_blocks
    tokens = _to_tokens(transformer, transformer.norm(sample))
    tokens = expand_passes(tokens + first.attn1(first.norm1(tokens)), passes)
    tokens = tokens + first.attn2(first.norm2(tokens), encoder_hidden_states=context)
    tokens = tokens + first.ff(first.norm3(tokens))
    for layer in others:
        tokens = layer(tokens, encoder_hidden_states=context)
    return _to_image(transformer, tokens, sample.shape) + expand_passes(sample, passes)


def _to_tokens(transformer: Any, image: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C'); the projection is linear in SD 2.x, a 1x1 convolution in SD 1.x."""
    if transformer.use_linear_projection:
        return transformer.proj_in(image.flatten(2).mT)
    return transformer.proj_in(image).flatten(2).mT


def _to_image(transformer: Any, tokens: Tensor, shape: Any) -> Tensor:
    """(P * B, h * w, C') -> (P * B, C, h, w), with h and w from ``shape``; reverses :func:`_to_tokens`."""
    if transformer.use_linear_projection:
        return transformer.proj_out(tokens).mT.unflatten(2, shape[2:])
    return transformer.proj_out(tokens.mT.unflatten(2, shape[2:]))
