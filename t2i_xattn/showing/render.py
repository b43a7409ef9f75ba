"""A heat map laid over its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i_xattn.errors import UserError, shown
from t2i_xattn.showing.colours import Scale, checked_scale, coloured, placed
from t2i_xattn.traces.regions import is_number, threshold

if TYPE_CHECKING:
    from t2i_xattn.traces.heat_map import HeatMap


def overlay(
    image: Image.Image,
    heat: HeatMap,
    colormap: str = "inferno",
    alpha: float = 0.7,
    *,
    scale: Scale | None = None,
    outline: int = 0,
) -> Image.Image:
    """A heat map in colours over its picture, which turns grey below: so that what is red in the
    picture does not look hot.

    Args:
        image: the picture; if it was enlarged or reduced, the map follows.
        heat: the map of a word.
        colormap: name of a colour map of the package `cmap`.
        alpha: how much the colours cover the picture where the map is highest, 0 to 1; alpha² where
            it is lowest. 0 leaves it as it is.
        scale: the values of the map at both ends of the colour map, for maps that are to be held
            against each other; by default the map's own, see `colours.placed`.
        outline: the width in pixels of a line around where the word acted (`heat.mask()`).

    Returns:
        An RGB picture of the size of `image`.

    Raises:
        UserError: if `image` is not a PIL picture or has another shape than the map, if there is no
            such colour map, if `alpha` is out of range, or `scale` no two numbers.
    """
    if not isinstance(image, Image.Image) or not min(image.size):
        came = shown(image.size) if isinstance(image, Image.Image) else type(image).__name__
        raise UserError(
            f"expected a PIL picture, but came {came}; run the pipeline with "
            "output_type='pil' or use PIL.Image.fromarray"
        )
    if not is_number(alpha) or not 0 <= alpha <= 1:
        raise UserError(f"expected alpha from 0 to 1, but came {shown(alpha)}; 0.7 suits most maps")
    scale = checked_scale(scale)
    height, width = heat.array.shape
    # Half a pixel of rounding is fine, a map of another run is not.
    if abs(image.height * width - image.width * height) > max(image.size):
        raise UserError(
            f"expected a picture of {width} × {height} pixels or in that proportion, but came "
            f"{image.width} × {image.height}; lay the map over the picture of its own run"
        )
    values = _fitted(placed(heat.array, scale), image.size)
    colours = Image.fromarray(coloured(values, colormap))
    # As fractions, what covers a large picture would fill the memory.
    levels = (values * 255).astype(np.uint8)
    del values
    picture = image.convert("RGB")
    grey = picture.convert("L").convert("RGB")
    picture = Image.blend(picture, grey, min(1.0, 2 * alpha))
    # Where the map is low, and its colours dark, more of the picture is left to be seen.
    cover = np.round(255 * float(alpha) ** (2 - np.arange(256) / 255)).astype(np.uint8)
    laid = Image.composite(colours, picture, Image.fromarray(cover[levels]))
    return outlined(laid, heat.array, outline) if outline else laid


def outlined(picture: Image.Image, array: NDArray[Any], width: int) -> Image.Image:
    """A picture with a white line, dark outside, around where a map is above half of its range."""
    from scipy import ndimage

    # Of the enlarged map, whose edge has no steps.
    mask = threshold(_fitted(array, picture.size))
    padded = np.pad(mask, width, mode="edge")  # no line along the picture's own edge
    inside = slice(width, -width), slice(width, -width)
    inner = mask & ~ndimage.binary_erosion(padded, iterations=width)[inside]
    outer = ndimage.binary_dilation(padded, iterations=width)[inside] & ~mask
    pixels = np.array(picture)
    pixels[outer] = (20, 20, 20)
    pixels[inner] = (255, 255, 255)
    return Image.fromarray(pixels)


def _fitted(array: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map at the size of a picture, width and height in pixels."""
    map_ = Image.fromarray(np.asarray(array, dtype=np.float32))
    return np.asarray(map_.resize(size, Image.Resampling.BILINEAR))
