from __future__ import annotations

import math

import numpy as np
import pytest

from t2i_xattn.traces.heat_map import HeatMap


class TestHeatMap:
    def test_share_is_the_mean(self) -> None:
        heat = HeatMap("x", np.array([[0.0, 0.5], [0.25, 0.25]]))
        assert heat.share == 0.25
        assert heat.array.dtype == np.float32

    def test_cannot_be_changed(self) -> None:
        array = np.ones((2, 2), dtype=np.float32)
        heat = HeatMap("x", array)
        with pytest.raises(ValueError, match="read-only"):
            heat.array[0, 0] = 2
        array[0, 0] = 5  # the caller's own stays theirs
        assert heat.array[0, 0] == 1

    def test_peak_is_row_and_column(self) -> None:
        array = np.zeros((3, 5), dtype=np.float32)
        array[1, 4] = 1
        assert HeatMap("x", array).peak() == (1, 4)

    def test_peakedness(self) -> None:
        point, half = np.zeros((2, 4, 8), dtype=np.float32)
        point[2, 3] = 0.3
        half[:2] = 0.1
        assert HeatMap("x", point).peakedness == pytest.approx(1)
        even = np.full((4, 8), 0.2, dtype=np.float32)
        assert HeatMap("x", even).peakedness == pytest.approx(0, abs=1e-6)
        assert HeatMap("x", half).peakedness == pytest.approx(1 - math.log(16) / math.log(32))
        assert HeatMap("x", 0 * even).peakedness == 0

    def test_mask_and_box(self) -> None:
        array = np.zeros((6, 9), dtype=np.float32)
        array[1:3, 2:6] = 0.2
        array[5, 8] = 0.2
        heat = HeatMap("x", array)
        assert heat.mask().sum() == 9
        assert heat.box() == (1 / 6, 2 / 9, 3 / 6, 6 / 9)  # in fractions of the picture
        assert HeatMap("x", np.full((3, 3), 0.1, dtype=np.float32)).box() is None

    def test_what_it_is_told_as(self) -> None:
        array = np.zeros((6, 8), dtype=np.float32)
        array[1:3, 2:6] = 0.3
        told = "<HeatMap of 'x': share 5.00%, box 0.17, 0.25, 0.50, 0.75, 6 × 8>"
        assert repr(HeatMap("x", array)) == told
        assert repr(HeatMap("x", 0 * array)) == "<HeatMap of 'x': share 0.00%, flat, 6 × 8>"
