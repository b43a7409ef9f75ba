"""How denoisers take a text that is not the prompt: in which blocks, and with what beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families.build import nearest

Rotary = Callable[[Any, DenoiserCall, Any, Sequence[int]], Any]
"""From a denoiser, its call, the rotary embedding that a block is given for the picture and its own
text, and the columns of another text's tokens, to the one for the picture and these tokens."""


@dataclass(frozen=True)
class DoubleStream:
    """The blocks of one class where the text has states of its own beside the picture's.

    A block is given `hidden_states` and `encoder_hidden_states`, and gives the text's states first.

    Attributes:
        blocks: a regular expression for their names; `NAME.attn` is the attention site.
        single: the same for those behind them, where text and picture have the same weights. They
            are given the same, or `hidden_states` of both, the text's in front; None: there are
            none.
        embedded: from a denoiser and a text's embeddings `(rows, tokens, channels)` to the states
            that its first block is given.
        rotary: the argument `image_rotary_emb` for another text; None where blocks have none.
        masks: the arguments that mask the prompt: `(rows, tokens and what stands behind them)`.
            They are left out with a text without padding.
    """

    blocks: str = r"transformer_blocks\.\d+"
    single: str | None = None
    embedded: Callable[[Any, Tensor], Tensor] = lambda denoiser, text: denoiser.context_embedder(
        text
    )
    rotary: Rotary | None = None
    masks: tuple[str, ...] = ()


def _text_in_front(last_axis: bool) -> Rotary:
    """Of FLUX: cosines and sines `(text + picture, d)` of ids whose axes are all 0 for the text, or
    whose last one is the column."""

    def rotary(denoiser: Any, call: DenoiserCall, own: Any, columns: Sequence[int]) -> Any:
        ids = call.given["img_ids"]
        ids = ids.new_zeros(len(columns), ids.shape[-1])
        if last_axis:
            ids[:, -1] = torch.tensor(columns).to(ids)
        text = denoiser.pos_embed(ids)
        return tuple(
            torch.cat([of_text.to(whole), whole[call.tokens :]])
            for of_text, whole in zip(text, own, strict=True)
        )

    return rotary


def _text_beside(denoiser: Any, call: DenoiserCall, own: Any, columns: Sequence[int]) -> Any:
    """Of Qwen-Image: the picture's and the text's, whose positions follow each other."""
    picture, _ = own
    longest, shapes = max(columns) + 1, call.given["img_shapes"]
    _, text = denoiser.pos_embed(shapes, max_txt_seq_len=longest, device=picture.device)
    return picture, text[list(columns)]


_SINGLE = r"single_transformer_blocks\.\d+"

DOUBLE_STREAMS: Mapping[str, DoubleStream] = {
    "FluxTransformer2DModel": DoubleStream(single=_SINGLE, rotary=_text_in_front(last_axis=False)),
    "ChromaTransformer2DModel": DoubleStream(
        single=_SINGLE, rotary=_text_in_front(last_axis=False), masks=("attention_mask",)
    ),
    "Flux2Transformer2DModel": DoubleStream(single=_SINGLE, rotary=_text_in_front(last_axis=True)),
    "SD3Transformer2DModel": DoubleStream(),
    "QwenImageTransformer2DModel": DoubleStream(
        embedded=lambda denoiser, text: denoiser.txt_in(denoiser.txt_norm(text)),
        rotary=_text_beside,
        masks=("encoder_hidden_states_mask",),
    ),
}
"""By the name of the denoiser's class."""


def double_stream_of(denoiser: nn.Module) -> DoubleStream | None:
    """How a denoiser's double-stream blocks are built, by the nearest of its classes."""
    return nearest(DOUBLE_STREAMS, denoiser)


def sites_take_texts(denoiser: Any) -> bool:
    """Whether the sites of cross-attention are given the text as it was encoded.

    So it is in UNets, unless they project it first (Kandinsky's and DeepFloyd's do).
    """
    kind = getattr(getattr(denoiser, "config", None), "encoder_hid_dim_type", None)
    of_unet = hasattr(denoiser, "down_blocks") and hasattr(denoiser, "mid_block")
    return of_unet and kind in (None, "ip_image_proj")
