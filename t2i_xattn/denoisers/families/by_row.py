"""Transformers whose texts stand in another place in each row, since their lengths differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.families.grids import one_by_one, patched
from t2i_xattn.denoisers.families.transformer import Build, Transformer, count
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.shares import Portion

_MULTIPLE = 32
"""To a multiple of this Z-Image fills up the picture's sequence and the text's."""


class ByRow(Transformer):
    """See the module."""

    kind = "joint"
    builds: ClassVar = {
        "ZImageTransformer2DModel": Build(
            sites=r"layers\.\d+\.attention",
            grids=one_by_one,
            sample="x",
            text="cap_feats",
            timestep="t",
        ),
        "Lumina2Transformer2DModel": Build(sites=r"layers\.\d+\.attn", grids=patched),
    }

    def call(self, denoiser: nn.Module, given: Mapping[str, Any]) -> DenoiserCall | None:
        call = super().call(denoiser, given)
        if call is None:
            return None
        mask = given.get("encoder_attention_mask")
        if mask is None:
            lengths = [len(each) for each in call.text]
        else:  # padding is left out of the sequence
            lengths = [int(each) for each in mask.sum(dim=1)]
        return replace(call, lengths=lengths)

    def of_text(
        self,
        site: AttentionSite,
        module: nn.Module,
        kernel: KernelCall,
        number: int,
        call: DenoiserCall,
    ) -> Reading:
        grid, lengths = call.places, call.lengths
        assert grid is not None
        assert lengths is not None
        keys = kernel.key.shape[2]
        if isinstance(call.sample, Tensor):
            portion, expected = _text_in_front(count(grid), lengths)
        else:
            portion, expected = _picture_in_front(count(grid), lengths)
            if len({tuple(each.shape) for each in call.sample}) > 1:
                return Reading(None, TEXT, problem="the pictures of the batch differ in size")
        if keys != expected:
            problem = (
                f"the kernel got {keys} keys there for {count(grid)} places of the picture and "
                f"texts of {', '.join(map(str, lengths))} tokens"
            )
            return Reading(grid, TEXT, problem=problem)
        return Reading(grid, TEXT, portion=portion)


def _text_in_front(places: int, lengths: Sequence[int]) -> tuple[Portion, int]:
    text = [range(length) for length in lengths]
    picture = [range(length, length + places) for length in lengths]
    return Portion(picture, text, picture, text), max(lengths) + places


def _picture_in_front(places: int, lengths: Sequence[int]) -> tuple[Portion, int]:
    filled = places + -places % _MULTIPLE
    text = [range(filled, filled + length) for length in lengths]
    picture = range(places)
    longest = max(length + -length % _MULTIPLE for length in lengths)
    return Portion(picture, text, picture, text), filled + longest
