"""Transformers whose texts stand in another place in each row, since their lengths differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.families.build import Build
from t2i_xattn.denoisers.families.grids import one_by_one
from t2i_xattn.denoisers.families.transformer import Transformer, count
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.shares import Portion

Layout = Callable[[int, Sequence[int]], tuple[Portion, int]]
"""From the places of a picture and the lengths of the texts: where they stand, and all keys."""


def text_in_front(places: int, lengths: Sequence[int]) -> tuple[Portion, int]:
    """Each row's own text, its picture, and padding behind."""
    text = [range(length) for length in lengths]
    picture = [range(length, length + places) for length in lengths]
    return Portion(picture, text, picture, text), max(lengths) + places


def picture_in_front(multiple: int = 1) -> Layout:
    """The picture, each row's own text, and padding behind.

    Args:
        multiple: the picture's sequence and the text's are each filled up to a multiple of it.
    """

    def layout(places: int, lengths: Sequence[int]) -> tuple[Portion, int]:
        filled = places + -places % multiple
        text = [range(filled, filled + length) for length in lengths]
        picture = range(places)
        longest = max(length + -length % multiple for length in lengths)
        return Portion(picture, text, picture, text), filled + longest

    return layout


@dataclass(frozen=True, kw_only=True)
class RowBuild(Build):
    """How the transformers of one class are built.

    Attributes:
        layout: where picture and text stand.
        lengths: the argument with the lengths of the texts, or with a mask of their tokens.
        cut: whether rows of the text are known without what fills them up, which the denoiser is
            given too.
    """

    layout: Layout
    lengths: str = "encoder_attention_mask"
    cut: bool = False


class ByRow(Transformer):
    """See the module."""

    kind = "joint"
    builds: ClassVar[Mapping[str, RowBuild]] = {
        "ZImageTransformer2DModel": RowBuild(
            sites=r"layers\.\d+\.attention",
            grids=one_by_one,
            sample="x",
            text="cap_feats",
            timestep="t",
            layout=picture_in_front(32),
        ),
        "Lumina2Transformer2DModel": RowBuild(sites=r"layers\.\d+\.attn", layout=text_in_front),
        "ErnieImageTransformer2DModel": RowBuild(
            sites=r"layers\.\d+\.self_attention",
            text="text_bth",
            layout=picture_in_front(),
            lengths="text_lens",
            cut=True,
        ),
        "MochiTransformer3DModel": RowBuild(
            sites=r"transformer_blocks\.\d+\.attn1", layout=picture_in_front(), row_by_row=True
        ),
    }

    def call(self, denoiser: nn.Module, given: Mapping[str, Any]) -> DenoiserCall | None:
        call, build = super().call(denoiser, given), self.build_of(denoiser)
        if call is None:
            return None
        assert isinstance(build, RowBuild)
        told = given.get(build.lengths)
        if told is None:
            lengths = [len(each) for each in call.text]
        else:
            lengths = [int(each) for each in (told if told.ndim == 1 else told.sum(dim=1))]
        if build.cut:
            pairs = zip(call.text, lengths, strict=True)
            call = replace(call, text=[text[:length] for text, length in pairs])
        return replace(call, lengths=lengths, layout=build.layout)

    def with_sample(self, given: Mapping[str, Any], sample: Tensor) -> dict[str, Any]:
        changed = super().with_sample(given, sample)
        # Z-Image is given a list.
        return changed | ({"x": list(sample)} if "x" in given else {})

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
        assert call.layout is not None
        portion, expected = call.layout(count(grid), lengths)
        if len({tuple(each.shape) for each in call.sample}) > 1:
            return Reading(None, TEXT, problem="the pictures of the batch differ in size")
        keys = kernel.key.shape[2]
        if keys != expected:
            problem = (
                f"the kernel got {keys} keys there for {count(grid)} places of the picture and "
                f"texts of {', '.join(map(str, lengths))} tokens"
            )
            return Reading(grid, TEXT, problem=problem)
        return Reading(grid, TEXT, portion=portion)
