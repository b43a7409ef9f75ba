from __future__ import annotations

import math

import numpy as np
import pytest

from t2i_xattn.maps import HeatMap, daam, mean_over_sites


def shares(height: int, width: int, columns: int, seed: int = 0) -> np.ndarray:
    logits = 4 * np.random.default_rng(seed).normal(size=(height, width, columns))
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(-1, keepdims=True)).astype(np.float32)


class TestMeanOverSites:
    def test_keeps_the_unit_on_odd_and_non_square_sizes(self) -> None:
        sites = [shares(9, 7, 5), shares(5, 4, 5, 1), shares(3, 2, 5, 2)]
        each = [mean_over_sites([site[..., [c]] for site in sites], (72, 56)) for c in range(5)]
        assert np.allclose(sum(each), 1, atol=1e-6)
        assert all(array.min() >= 0 and array.shape == (72, 56) for array in each)

    def test_at_the_sites_own_size_it_is_the_mean(self) -> None:
        a, b = shares(4, 6, 2), shares(4, 6, 2, 1)
        assert np.allclose(mean_over_sites([a, b], (4, 6)), (a + b).sum(-1) / 2)

    def test_pixels_are_areas(self) -> None:
        """Enlarging a step from 0 to 1 by two: the border is between the pixels."""
        row = mean_over_sites([np.array([[[0.0], [1.0]]], dtype=np.float32)], (1, 4))
        assert np.allclose(row, [[0, 0.25, 0.75, 1]])

    def test_height_comes_first(self) -> None:
        tall = np.zeros((3, 2, 1), dtype=np.float32)
        tall[2, 0] = 1
        enlarged = mean_over_sites([tall], (30, 20))
        assert enlarged.shape == (30, 20)
        assert enlarged[29, 0] == 1
        assert enlarged[0, 19] == 0


class TestDaam:
    def test_never_below_zero_where_bicubic_would_be(self) -> None:
        point = np.zeros((5, 5, 1), dtype=np.float32)
        point[2, 2] = 1
        enlarged = daam([point], (40, 40))
        assert enlarged.min() == 0
        assert not np.allclose(enlarged, mean_over_sites([point], (40, 40)), atol=0.01)

    def test_clamps_each_column_before_adding(self) -> None:
        two = np.zeros((5, 5, 2), dtype=np.float32)
        two[2, 2, 0] = two[2, 3, 1] = 1
        apart = daam([two[..., [0]]], (40, 40)) + daam([two[..., [1]]], (40, 40))
        assert np.allclose(daam([two], (40, 40)), apart)

    def test_mean_over_sites_of_one_size(self) -> None:
        a, b = shares(4, 4, 2), shares(4, 4, 2, 1)
        assert np.allclose(daam([a, b], (4, 4)), (a + b).sum(-1) / 2, atol=1e-6)


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
        array = np.zeros((3, 5))
        array[1, 4] = 1
        assert HeatMap("x", array).peak() == (1, 4)

    def test_peakedness(self) -> None:
        point = np.zeros((4, 8))
        point[2, 3] = 0.3
        half = np.zeros((4, 8))
        half[:2] = 0.1
        assert HeatMap("x", point).peakedness == pytest.approx(1)
        assert HeatMap("x", np.full((4, 8), 0.2)).peakedness == pytest.approx(0, abs=1e-6)
        assert HeatMap("x", half).peakedness == pytest.approx(1 - math.log(16) / math.log(32))
        assert HeatMap("x", np.zeros((4, 8))).peakedness == 0

    def test_mask_and_box(self) -> None:
        array = np.zeros((6, 9))
        array[1:3, 2:6] = 0.2
        array[5, 8] = 0.2
        heat = HeatMap("x", array)
        assert heat.mask().sum() == 9
        assert heat.box() == (1, 2, 3, 6)
        assert HeatMap("x", np.full((3, 3), 0.1)).box() is None
