"""Transformers of joint attention whose keys are the text's, then the picture's, then those of
reference pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families.build import Build
from t2i_xattn.denoisers.families.grids import by_ids, frames_first, listed
from t2i_xattn.denoisers.families.joint import Joint

_BLOCKS = r"transformer_blocks\.\d+\.attn1?"
_DOUBLE_AND_SINGLE = r"(single_)?transformer_blocks\.\d+\.attn"
_FLUX = Build(sites=_DOUBLE_AND_SINGLE, grids=by_ids("img_ids"), extra="behind")


class TextFirst(Joint):
    """See the module."""

    text_first = True
    builds: ClassVar = {
        "FluxTransformer2DModel": _FLUX,
        "ChromaTransformer2DModel": _FLUX,
        "LongCatImageTransformer2DModel": _FLUX,
        "OvisImageTransformer2DModel": _FLUX,
        "BriaTransformer2DModel": _FLUX,
        "BriaFiboTransformer2DModel": _FLUX,
        "Flux2Transformer2DModel": _FLUX,
        "QwenImageTransformer2DModel": Build(sites=_BLOCKS, grids=listed, extra="behind"),
        "AuraFlowTransformer2DModel": Build(
            # Registers, which are learnt, stand in front of the text.
            sites=r"(joint|single)_transformer_blocks\.\d+\.attn",
            before=8,
        ),
        "CogView4Transformer2DModel": Build(sites=_BLOCKS),
        "CogView3PlusTransformer2DModel": Build(sites=_BLOCKS),
        "ConsisIDTransformer3DModel": Build(sites=_BLOCKS, grids=frames_first),
        "EasyAnimateTransformer3DModel": Build(sites=_BLOCKS, more=("encoder_hidden_states_t5",)),
        # The keys of references are kept, in front of all.
        "GlmImageTransformer2DModel": Build(sites=_BLOCKS, extra="front"),
        "Krea2Transformer2DModel": Build(
            sites=_BLOCKS, grids=by_ids("position_ids", behind="encoder_hidden_states"), layers=2
        ),
        "PRXTransformer2DModel": Build(sites=r"blocks\.\d+\.attention"),
        "CogVideoXTransformer3DModel": Build(sites=_BLOCKS, grids=frames_first),
    }

    def call(self, denoiser: nn.Module, given: Mapping[str, Any]) -> DenoiserCall | None:
        call = super().call(denoiser, given)
        if call is None or given.get("kv_cache_mode") is None:
            return call
        # FLUX.2 with the keys of references kept: they stand in front of the picture's.
        return replace(call, extra="between")
