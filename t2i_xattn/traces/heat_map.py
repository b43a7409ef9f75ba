"""Heat maps of words, and what can be read off them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.errors import UserError, shown
from t2i_xattn.traces import regions
from t2i_xattn.traces.asked import whole_numbers

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Where a word acted in a picture.

    Attributes:
        word: the word or phrase.
        array: fp32 `(height, width)` of the picture, read-only: the share of attention that each
            place gave to the word, 0 to 1.
        crop: left, top, right and bottom, in pixels, of the part of a larger picture that the map
            is of; None: all of the picture.
    """

    word: str
    array: NDArray[np.float32]
    crop: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: if `word` is no text, `array` no map of finite numbers, or `crop` no box in
                pixels.
        """
        if not isinstance(self.word, str):
            raise UserError(
                f"expected a word or phrase as text, but came {shown(self.word)}; give the map a "
                "name such as 'red circle'"
            )
        if self.crop is not None and len(whole_numbers(self.crop) or ()) != 4:
            raise UserError(
                f"expected crop=(left, top, right, bottom) in whole pixels, but came "
                f"{shown(self.crop)}; leave it out for a map of the whole picture"
            )
        array = np.array(regions.checked_map(self.array), dtype=np.float32)
        array.flags.writeable = False
        object.__setattr__(self, "array", array)

    def __repr__(self) -> str:
        height, width = self.array.shape
        box = self.box()
        where = "flat" if box is None else "box " + ", ".join(f"{each:.2f}" for each in box)
        return f"<HeatMap of {self.word!r}: share {self.share:.2%}, {where}, {height} × {width}>"

    @property
    def share(self) -> float:
        """The word's share of attention, 0 to 1: the mean over the picture."""
        return float(self.array.mean(dtype=np.float64))

    @property
    def peakedness(self) -> float:
        """1 − entropy / log(number of pixels) of the map taken as a distribution.

        0 for a map that is the same everywhere, 1 for one with a single point.
        """
        p = self.array.astype(np.float64).ravel()
        total = p.sum()
        if total <= 0 or p.size < 2:
            return 0.0
        p = p[p > 0] / total
        entropy = -(p * np.log(p)).sum()
        return float(1 - entropy / np.log(self.array.size))

    def peak(self) -> tuple[int, int]:
        """Row and column of the highest value; the first in reading order of several."""
        return regions.peak(self.array)

    def mask(self, threshold: float | Literal["otsu"] = 0.5) -> NDArray[np.bool_]:
        """The pixels where the word acted, `(height, width)` of bool; see `regions.threshold`."""
        return regions.threshold(self.array, threshold)

    def box(self, threshold: float | Literal["otsu"] = 0.5) -> regions.Box | None:
        """The box around the largest connected part of the mask, in fractions of the picture, as
        edits and losses take it; None if the mask is empty."""
        return regions.bounding_box(regions.largest_component(self.mask(threshold)))

    def overlay(
        self, image: Image.Image, colormap: str = "inferno", alpha: float = 0.6
    ) -> Image.Image:
        """The map laid over its picture, in colours; see `showing.render.overlay`.

        Raises:
            UserError: if the map is of a part of the picture only.
        """
        if self.crop is not None:
            raise UserError(
                f"expected the part of the picture that the map is of, but it is of {self.crop} "
                "(left, top, right, bottom) only; lay it over a copy without the crop: "
                "HeatMap(heat.word, heat.array).overlay(picture.crop(heat.crop))"
            )
        from t2i_xattn.showing.render import overlay

        return overlay(image, self, colormap=colormap, alpha=alpha)
