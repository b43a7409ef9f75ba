"""A map brought to the edges of its picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatMap = NDArray[np.float32]

REGULARISATION = 1e-3
"""ε of the filter, for a guide from 0 to 1: what varies less than this within a window is no edge.
Chosen on drawn scenes."""


def guided(array: FloatMap, guide: FloatMap, radius: int) -> FloatMap:
    """The guided filter: in each window the map is a linear function of the picture's colours.

    He, Sun and Tang, "Guided Image Filtering" (ECCV 2010; PAMI 2013), eq. 14 to 16, for a guide in
    colours: q = mean of a · I + mean of b over the windows that hold a pixel, with
    a = (Σ + ε)⁻¹ (mean of I p − mean of I · mean of p) and b = mean of p − a · mean of I.

    Args:
        array: p, `(height, width)`.
        guide: I, `(height, width, 3)`, 0 to 1.
        radius: of the windows, in pixels; they are 2 · radius + 1 wide.

    Returns:
        fp32 `(height, width)`.
    """
    # Here, since scipy takes a while and not every use of a heat map needs it.
    from scipy.ndimage import uniform_filter

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        """Over the window around each pixel; other axes are left as they are."""
        size = (2 * radius + 1, 2 * radius + 1, *[1] * (values.ndim - 2))
        filtered: NDArray[np.float64] = uniform_filter(values, size=size, mode="reflect")
        return filtered

    colours: NDArray[np.float64] = guide.astype(np.float64)
    values: NDArray[np.float64] = array.astype(np.float64)[..., None]
    of_colours, of_values = mean(colours), mean(values)
    squares = mean(colours[..., :, None] * colours[..., None, :])
    spread = squares - of_colours[..., :, None] * of_colours[..., None, :]
    together = mean(colours * values) - of_colours * of_values
    slope = np.linalg.solve(spread + REGULARISATION * np.eye(3), together[..., None])[..., 0]
    offset = of_values - (slope * of_colours).sum(axis=-1, keepdims=True)
    result = (mean(slope) * colours).sum(axis=-1) + mean(offset)[..., 0]
    return np.asarray(result, dtype=np.float32)
