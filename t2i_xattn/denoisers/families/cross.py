"""Transformers whose places look at the text by cross-attention: the keys are the text's alone."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.families.build import Build
from t2i_xattn.denoisers.families.grids import channels_last, frames_first, named, with_reference
from t2i_xattn.denoisers.families.other_queries import gists
from t2i_xattn.denoisers.families.several_texts import tokens_first
from t2i_xattn.denoisers.families.transformer import Transformer, no_grid, picture_of
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import TEXT, picture_stream
from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.shares import Portion

_BLOCKS = r"transformer_blocks\.\d+\.attn2"
_WAN = Build(sites=r"blocks\.\d+\.attn2", own=r"blocks\.\d+\.attn1")
_KANDINSKY = r"visual_transformer_blocks\.\d+\."


class Cross(Transformer):
    """See the module."""

    kind = "cross"
    builds: ClassVar = {
        "PixArtTransformer2DModel": Build(sites=_BLOCKS, own=r"transformer_blocks\.\d+\.attn1"),
        # The first attention of Sana's blocks is linear: it has no softmax.
        "SanaTransformer2DModel": Build(sites=_BLOCKS),
        "SanaVideoTransformer3DModel": Build(sites=_BLOCKS),
        "LuminaNextDiT2DModel": Build(sites=r"layers\.\d+\.attn2", own=r"layers\.\d+\.attn1"),
        "LTXVideoTransformer3DModel": Build(
            sites=_BLOCKS, own=r"transformer_blocks\.\d+\.attn1", grids=named
        ),
        "WanTransformer3DModel": _WAN,
        "WanVACETransformer3DModel": _WAN,
        "SkyReelsV2Transformer3DModel": _WAN,
        "ChronoEditTransformer3DModel": _WAN,
        "AnyFlowTransformer3DModel": replace(_WAN, grids=frames_first),
        "AllegroTransformer3DModel": Build(sites=_BLOCKS, own=_BLOCKS[:-1] + "1", layers=1),
        "LTX2VideoTransformer3DModel": Build(
            sites=_BLOCKS,
            own=_BLOCKS[:-1] + "1",
            grids=named,
            connected=tokens_first,
            perturbed=("spatio_temporal_guidance_blocks", "isolate_modalities"),
        ),
        "Kandinsky6Transformer3DModel": Build(
            sites=_KANDINSKY + r"video_dec_block\.cross_attention",
            own=_KANDINSKY + r"video_dec_block\.self_attention",
            grids=with_reference,
            ahead=lambda denoiser, given: 0,
        ),
        # What the places look at is the text's gists, but in some blocks the text too.
        "BriaFibo2Transformer2DModel": Build(
            sites=r"layers\.\d+\.cross_attention", layers=1, ahead=gists
        ),
        "HunyuanDiT2DModel": Build(
            sites=r"blocks\.\d+\.attn2",
            own=r"blocks\.\d+\.attn1",
            more=("encoder_hidden_states_t5",),
        ),
        "CosmosTransformer3DModel": Build(sites=_BLOCKS, own=_BLOCKS[:-1] + "1"),
        "LatteTransformer3DModel": Build(
            sites=_BLOCKS, own=_BLOCKS[:-1] + "1", frames_as_rows=True
        ),
        "Kandinsky5Transformer3DModel": Build(
            sites=_KANDINSKY + "cross_attention",
            own=_KANDINSKY + "self_attention",
            grids=channels_last,
        ),
    }

    def streams_at(
        self, site: AttentionSite, module: nn.Module, call: DenoiserCall
    ) -> tuple[str, ...]:
        streams = super().streams_at(site, module, call)
        beside = site.reads_text and _has_picture(module, call)
        return (*streams, picture_stream(1)) if beside else streams

    def of_text(
        self,
        site: AttentionSite,
        module: nn.Module,
        kernel: KernelCall,
        number: int,
        call: DenoiserCall,
    ) -> Reading:
        queries, keys, grid = kernel.query.shape[2], kernel.key.shape[2], call.places
        assert grid is not None
        picture = picture_of(queries, call)
        if picture is None:
            return Reading(None, problem=no_grid(queries, grid))
        beside = _has_picture(module, call)
        if beside and number == 0:
            return Reading(grid, picture_stream(1))
        if number > beside:
            problem = f"the kernel was called {number + 1} times there"
            return Reading(grid, TEXT, problem=problem)
        if keys != call.tokens:
            problem = f"the kernel got {keys} keys there for a text of {call.tokens} tokens"
            return Reading(grid, TEXT, problem=problem)
        if len(picture) < queries:
            portion = Portion(picture, range(keys), range(0), None)
            return Reading(grid, TEXT, portion=portion)
        return Reading(grid, TEXT)


def _has_picture(module: nn.Module, call: DenoiserCall) -> bool:
    """Whether a picture is looked at beside the text, as in Wan: in a softmax of its own, which
    comes first."""
    images = call.given.get("encoder_hidden_states_image")
    return images is not None and getattr(module, "add_k_proj", None) is not None
