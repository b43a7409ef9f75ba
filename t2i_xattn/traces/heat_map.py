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
            place gave to the word, 0 to 1. Of a run with `walk=…` or `contributions=True` the
            mean alone is the word's share, and its places say how it is spread; see
            `Trace.heatmap`.
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

    def _repr_png_(self) -> bytes:
        """The map in colours, for notebooks."""
        from t2i_xattn.showing.notebook import map_png

        return map_png(self)

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

    def sharpened(self, image: Image.Image, radius: float = 1 / 8) -> HeatMap:
        """The map brought to the edges of its picture, which are finer than the sites' maps.

        By the guided filter (`traces.guided_filter`): within a window, places of like colour come
        to have like values. So it is a guess from the picture, not from the model: where a thing
        has many colours, or its surroundings its own, it may be wrong. The mean is kept.

        Args:
            image: that the map is of; brought to the map's size.
            radius: of the windows, as a share of the picture's shorter side; that of a cell of the
                coarsest site is a good choice.

        Raises:
            UserError: if `image` is no picture, or the radius not above 0 and below 1/2.
        """
        import PIL.Image

        from t2i_xattn.traces.guided_filter import guided

        if not isinstance(image, PIL.Image.Image):
            raise UserError(
                f"expected the picture that the map is of, a PIL image, but came {shown(image)}; "
                "give the one that the pipeline painted"
            )
        if not regions.is_number(radius) or not 0 < radius < 0.5:
            raise UserError(
                f"expected a radius above 0 and below 0.5, but came {shown(radius)}; it is a share "
                "of the picture's shorter side"
            )
        height, width = self.array.shape
        fitted = image.convert("RGB").resize((width, height), PIL.Image.Resampling.BICUBIC)
        guide = np.asarray(fitted, dtype=np.float32) / np.float32(255)
        pixels = max(1, round(radius * min(height, width)))
        # No share is below 0, which a linear function of colours may come to.
        array = guided(self.array, guide, pixels).clip(min=min(0.0, float(self.array.min())))
        mean = float(array.mean(dtype=np.float64))
        scale = self.share / mean if mean > 0 else 1.0
        return HeatMap(self.word, array * np.float32(scale), self.crop)

    def overlay(
        self,
        image: Image.Image,
        colormap: str = "inferno",
        alpha: float = 0.7,
        *,
        scale: tuple[float, float] | None = None,
        outline: int = 0,
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

        return overlay(image, self, colormap, alpha, scale=scale, outline=outline)
