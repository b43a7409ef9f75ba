"""What a user gives of a picture (a box, a mask, a map), brought to the size of a site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from t2i_xattn.edits.edit import EditContext
from t2i_xattn.errors import UserError


def checked_box(box: Sequence[float]) -> tuple[float, float, float, float]:
    """Top, left, bottom, right as fractions of the picture.

    Raises:
        UserError: if it reaches out of the picture or is inside out.
    """
    try:
        sides = tuple(float(each) for each in box)
    except (TypeError, ValueError):
        sides = ()
    top, left, bottom, right = sides if len(sides) == 4 else (1.0, 1.0, 0.0, 0.0)
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise UserError(
            "expected a box (top, left, bottom, right) inside the picture, from 0 to 1 with top "
            f"above bottom and left of right, but came {box!r}; y comes first"
        )
    return top, left, bottom, right


def checked_shares(name: str, given: Any) -> Tensor:
    """A mask, map or PIL picture as fp32 `(height, width)` of 0 to 1.

    Raises:
        UserError: if it has other axes, other values, or is 0 everywhere.
    """
    if hasattr(given, "convert"):  # PIL
        array = np.asarray(given.convert("L"), dtype=np.float32) / 255
    else:
        array = np.asarray(given)
    if array.ndim != 2 or not array.size:
        raise UserError(f"expected {name} (height, width), but came shape {array.shape}")
    array = array.astype(np.float32)
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise UserError(
            f"expected {name} with values from 0 to 1, but came {array.min():g} to "
            f"{array.max():g}; divide by its highest value"
        )
    if not array.any():
        raise UserError(f"expected {name} with something in it, but it is 0 everywhere")
    return torch.from_numpy(array)


def checked_region(given: Any) -> tuple[float, float, float, float] | Tensor:
    """A box, or a mask or PIL picture as fp32 `(height, width)`, see the two above."""
    if isinstance(given, tuple | list) and all(isinstance(each, int | float) for each in given):
        return checked_box(given)
    return checked_shares("a mask", given)


def region_coverage(
    region: tuple[float, float, float, float] | Tensor, context: EditContext
) -> Tensor:
    """`(height, width)` of the site: how much of each place lies in a checked region, 0 to 1."""
    if isinstance(region, Tensor):
        return at_site("a mask", region, context)
    return box_coverage(region, context.height, context.width)


def box_coverage(box: Sequence[float], height: int, width: int) -> Tensor:
    """`(height, width)`: how much of each place a box covers, 0 to 1."""
    top, left, bottom, right = box
    return torch.outer(_covered(top, bottom, height), _covered(left, right, width))


def at_site(name: str, shares: Tensor, context: EditContext, smooth: bool = False) -> Tensor:
    """`(height, width)` of the picture, at any resolution, brought to that of the site.

    Args:
        name: what messages call it.
        shares: the mask or map.
        context: where it is to act.
        smooth: whether one that is coarser than the site has slopes and no steps between its
            pixels.

    Raises:
        UserError: if it has not the picture's aspect.
    """
    height, width = shares.shape
    rows, columns = context.latent_size
    # A picture may be a pixel or so off the latent's aspect.
    if abs(height * columns - width * rows) > max(height, width):
        raise UserError(
            f"expected {name} of the picture's aspect, {rows}:{columns} (height:width), but came "
            f"{height}×{width}; resize it to the picture"
        )
    if smooth:
        finer = max(height, context.height), max(width, context.width)
        shares = functional.interpolate(shares[None, None], finer, mode="bilinear")[0, 0]
        height, width = finer
    # A place has the mean of what lies in it. A filter that looks beyond it would blur an edge
    # between two places, which a box has not, nor `ip_adapter_masks` of diffusers.
    down, across = (_parts(*sides) for sides in ((context.height, height), (context.width, width)))
    return (down @ shares.double() @ across.mT).float().clamp(0, 1)


def _parts(places: int, pixels: int) -> Tensor:
    """fp64 `(places, pixels)`: which part of each place each pixel covers."""
    edges = torch.arange(pixels + 1, dtype=torch.float64) * places / pixels
    first = torch.arange(places, dtype=torch.float64)[:, None]
    return (edges[1:].minimum(first + 1) - edges[:-1].maximum(first)).clamp(min=0)


def _covered(first: float, end: float, count: int) -> Tensor:
    """How much of each of `count` equal parts of 0 to 1 lies from `first` to `end`."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    return (edges[1:].clamp(max=end) - edges[:-1].clamp(min=first)).clamp(min=0).mul(count).float()
