"""What the passes of classifier-free guidance have in common, computed once.

They see the same latent, timestep and hint and differ in their text alone. It first matters in the encoder's
first cross-attention: the input convolution, a residual block and the costliest self-attention before it are
the same for all passes. And where all samples of a pass share one text, its keys and values do.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor


class TextAttnProcessor(AttnProcessor2_0):
    """Scaled dot product attention in which equal shares of the batch may have a text in common.

    ``hidden_states`` (P * B, n, C) attends to ``encoder_hidden_states`` (P, tokens, width): row p is the text
    of samples p * B to (p + 1) * B. One row a sample works as ever.
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
        # Queries do not see each other: those of samples with one text may stand in one row.
        rows = hidden_states.reshape(len(encoder_hidden_states), -1, hidden_states.shape[-1])
        return super().__call__(attn, rows, encoder_hidden_states, **others).reshape(hidden_states.shape)


def expand_passes(tensor: Tensor, passes: int) -> Tensor:
    """``(B, ...)`` -> ``(passes * B, ...)``, pass by pass; the tensor itself for a single pass."""
    return tensor if passes == 1 else tensor.repeat(passes, *(1,) * (tensor.ndim - 1))


def first_down_block(
    block: Any, sample: Tensor, embedding: Tensor, context: Tensor, passes: int
) -> tuple[Tensor, ...]:
    """Outputs (P * B, C, h, w) of a diffusers ``CrossAttnDownBlock2D``, the last one downsampled.

    ``sample`` (B, C, h, w) and ``embedding`` (B, E) are those of every pass; ``context``: the passes' texts,
    P * B or P rows. Equal to what the passes would give one by one.
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
    """The block's first residual block and transformer, split where the text comes in."""
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
    """(B, C, h, w) -> (B, h * w, C'); the projection is linear in SD 2.x, a 1x1 convolution before."""
    if transformer.use_linear_projection:
        return transformer.proj_in(image.flatten(2).mT)
    return transformer.proj_in(image).flatten(2).mT


def _to_image(transformer: Any, tokens: Tensor, shape: Any) -> Tensor:
    """(P * B, h * w, C') -> (P * B, C, h, w), h and w as in ``shape``: undoes :func:`_to_tokens`."""
    if transformer.use_linear_projection:
        return transformer.proj_out(tokens).mT.unflatten(2, shape[2:])
    return transformer.proj_out(tokens.mT.unflatten(2, shape[2:]))
