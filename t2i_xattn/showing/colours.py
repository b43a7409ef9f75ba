"""From the values of maps to colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.errors import UserError, shown
from t2i_xattn.traces.regions import is_number

Scale = tuple[float, float]
"""The values at which a colour map begins and ends."""

Scaling = Literal["each", "all"]
"""Whether each word's map has a scale of its own, or all have one."""


def placed(array: NDArray[Any], scale: Scale | None = None) -> NDArray[np.float32]:
    """Where the values of a map lie on a colour map, 0 to 1.

    Args:
        array: the map.
        scale: the values at its two ends; what lies beyond is as at the end. By default how far a
            place stands above the lowest one, as a part of the highest value: (v − lowest) /
            highest. So a map that is nearly flat stays near 0, and one that comes down to nothing
            goes up to 1.
    """
    lowest, highest = float(array.min()), float(array.max())
    low, span = lowest, max(highest, highest - lowest)
    if scale is not None:
        low, span = scale[0], scale[1] - scale[0]
    if span <= 0:
        return np.zeros(array.shape, dtype=np.float32)
    return np.asarray((array - low) / span, dtype=np.float32).clip(0, 1)


def stretched(array: NDArray[Any]) -> NDArray[np.float32]:
    """A map with its lowest value at 0 and its highest at 1: for show only, the unit is gone.

    A map that is the same everywhere becomes 0.
    """
    return placed(array, (float(array.min()), float(array.max())))


def checked_scale(scale: Any) -> Scale | None:
    """The two ends of a scale.

    Raises:
        UserError: unless they are two numbers, the lower one first.
    """
    if scale is None:
        return None
    two = isinstance(scale, Sequence) and not isinstance(scale, str) and len(scale) == 2
    if not two or not all(map(is_number, scale)) or not scale[0] < scale[1]:
        raise UserError(
            f"expected scale=(lowest, highest) in the map's own unit, but came {shown(scale)}; "
            "(0, 0.1) has shares from none to a tenth"
        )
    return float(scale[0]), float(scale[1])


def common_scale(arrays: Sequence[NDArray[Any]]) -> Scale:
    """One scale for several maps: from 0, or from the lowest value below it, to the highest."""
    lowest = min(0.0, *(float(each.min()) for each in arrays))
    highest = max(float(each.max()) for each in arrays)
    return lowest, max(highest, lowest + 1e-12)


def is_nearly_flat(array: NDArray[Any]) -> bool:
    """Whether the lowest place of a map has more than four fifths of the highest."""
    return float(array.min()) > 0.8 * float(array.max()) or not float(np.ptp(array))


def coloured(values: NDArray[np.float32], colormap: str) -> NDArray[np.uint8]:
    """Values from 0 to 1 as RGB, `(height, width, 3)`.

    Raises:
        UserError: if there is no such colour map.
    """
    # Here: reading a catalogue of colour maps is for those who draw.
    import cmap

    try:
        if not isinstance(colormap, str):
            raise TypeError(f"no name: {type(colormap).__name__}")
        colours = np.asarray(cmap.Colormap(colormap).lut())[:, :3]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"expected the name of a colour map of the package cmap, but came {shown(colormap)}; "
            "try 'inferno' or 'viridis'"
        ) from error
    # Looked up in bytes: as fractions, the colours of a large picture would fill the memory.
    places = (values * np.float32(len(colours))).clip(0, len(colours) - 1).astype(np.uint16)
    table: NDArray[np.uint8] = np.round(colours * 255).astype(np.uint8)
    return table[places]
