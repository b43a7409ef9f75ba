"""Maps brought to the edges of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from t2i_xattn.errors import UserError
from t2i_xattn.traces.guided_filter import REGULARISATION, guided
from t2i_xattn.traces.heat_map import HeatMap

RNG = np.random.default_rng(0)


def _window_by_window(array: Any, guide: Any, radius: int) -> NDArray[np.float64]:
    """The paper's equations, one window after the other; windows at the border are reflected."""
    pads = [(2 * radius, 2 * radius)] * 2
    values = np.pad(array.astype(np.float64), pads, mode="symmetric")
    colours = np.pad(guide.astype(np.float64), [*pads, (0, 0)], mode="symmetric")
    height, width = array.shape
    side = 2 * radius + 1
    lines: dict[tuple[int, int], Any] = {}
    for row in range(height + 2 * radius):
        for column in range(width + 2 * radius):
            inside = colours[row : row + side, column : column + side].reshape(-1, 3)
            of_map = values[row : row + side, column : column + side].ravel()
            spread = np.cov(inside.T, bias=True) + REGULARISATION * np.eye(3)
            together = (inside * of_map[:, None]).mean(0) - inside.mean(0) * of_map.mean()
            slope = np.linalg.inv(spread) @ together
            lines[row - radius, column - radius] = slope, of_map.mean() - slope @ inside.mean(0)
    result = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            # Of the windows beyond the border those reflected count, as in the mean over windows.
            every = [
                lines[_reflected(row + down, height), _reflected(column + right, width)]
                for down in range(-radius, radius + 1)
                for right in range(-radius, radius + 1)
            ]
            slope = np.mean([each[0] for each in every], axis=0)
            result[row, column] = slope @ guide[row, column] + np.mean([each[1] for each in every])
    return result


def _reflected(place: int, length: int) -> int:
    return -place - 1 if place < 0 else min(place, 2 * length - 1 - place)


def test_is_what_the_paper_says() -> None:
    array, guide = RNG.random((7, 9)), RNG.random((7, 9, 3))
    found = guided(array.astype(np.float32), guide.astype(np.float32), 2)
    assert found == pytest.approx(_window_by_window(array, guide, 2), abs=1e-4)


def _two_fields(side: int = 32) -> tuple[NDArray[np.bool_], Image.Image]:
    left = np.zeros((side, side), dtype=bool)
    left[:, : side // 2] = True
    colours = np.where(left[..., None], (200, 40, 40), (40, 60, 200)).astype(np.uint8)
    return left, Image.fromarray(colours)


def test_a_smooth_map_comes_to_have_the_edges_of_its_picture() -> None:
    left, picture = _two_fields()
    ramp = np.tile(np.linspace(1, 0, 32, dtype=np.float32), (32, 1)) * 0.4
    sharpened = HeatMap("word", ramp).sharpened(picture, radius=0.2)
    step = sharpened.array[16, 15] - sharpened.array[16, 16]
    assert step > 4 * (ramp[16, 15] - ramp[16, 16])
    assert np.array_equal(sharpened.mask(), left)
    assert sharpened.share == pytest.approx(float(ramp.mean()), rel=1e-5)
    assert sharpened.array.min() >= 0
    assert sharpened.word == "word"


def test_a_map_that_is_the_same_everywhere_stays() -> None:
    _, picture = _two_fields()
    flat = HeatMap("word", np.full((64, 64), 0.1, np.float32), crop=(0, 0, 64, 64))
    sharpened = flat.sharpened(picture)  # of another size than the map
    assert sharpened.array == pytest.approx(flat.array, abs=1e-6)
    assert sharpened.crop == flat.crop


@pytest.mark.parametrize(
    ("picture", "radius", "reason"),
    [
        (None, 0.1, "expected the picture that the map is of, a PIL image, but came None"),
        (_two_fields()[1], 0, "a radius above 0 and below 0.5, but came 0"),
        (_two_fields()[1], 0.5, "a radius above 0 and below 0.5, but came 0.5"),
        (_two_fields()[1], "wide", "a radius above 0 and below 0.5, but came 'wide'"),
    ],
)
def test_mistakes_are_told(picture: Any, radius: Any, reason: str) -> None:
    heat = HeatMap("word", np.eye(8, dtype=np.float32))
    with pytest.raises(UserError, match=reason):
        heat.sharpened(picture, radius)
