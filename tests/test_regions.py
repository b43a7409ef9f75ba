from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from t2i_xattn.edits.picture import checked_box
from t2i_xattn.errors import UserError
from t2i_xattn.traces.regions import (
    Box,
    bounding_box,
    iou,
    largest_component,
    otsu,
    peak,
    pointing_hit,
    threshold,
)

ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(0, 1, width=32),
)


class TestThreshold:
    def test_halfway_between_lowest_and_highest(self) -> None:
        array = np.array([[0.1, 0.2, 0.21, 0.3]])
        assert threshold(array).tolist() == [[False, True, True, True]]
        assert threshold(array, 0.8).tolist() == [[False, False, False, True]]

    @given(ARRAYS, st.floats(0, 1))
    def test_holds_the_peak_unless_flat(self, array: np.ndarray, level: float) -> None:
        flat = array.min() == array.max()
        assert threshold(array, level).any() != flat
        assert threshold(array, level)[peak(array)] != flat

    @given(ARRAYS, st.floats(0, 1), st.floats(0, 1))
    def test_a_higher_level_is_inside_a_lower_one(
        self, array: np.ndarray, a: float, b: float
    ) -> None:
        lower, higher = sorted((a, b))
        assert not (threshold(array, higher) & ~threshold(array, lower)).any()

    def test_otsu_parts_two_groups(self) -> None:
        generator = np.random.default_rng(0)
        low, high = generator.normal(0.1, 0.01, 400), generator.normal(0.4, 0.02, 100)
        array = np.concatenate([low, high]).reshape(20, 25)
        assert low.max() < otsu(array) < high.min()
        # Halfway would do here too; with one bright point it would not.
        array[0, 0] = 1.0
        assert threshold(array, "otsu").sum() == 101
        assert threshold(array).sum() == 1

    @pytest.mark.parametrize("level", [-0.1, 1.1, float("nan"), "Otsu"])
    def test_other_levels_are_refused(self, level: float) -> None:
        with pytest.raises(UserError, match="threshold from 0 to 1 or 'otsu', but came"):
            threshold(np.eye(2), level)


class TestComponents:
    def test_the_largest_and_its_box(self) -> None:
        mask = np.zeros((6, 8), dtype=bool)
        mask[0, 0:3] = mask[3:5, 4:7] = True
        largest = largest_component(mask)
        assert largest.sum() == 6
        assert bounding_box(largest) == Box(top=3 / 6, left=4 / 8, bottom=5 / 6, right=7 / 8)
        assert bounding_box(mask) == Box(0, 0, 5 / 6, 7 / 8)

    @given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
    def test_a_box_is_found_again_in_pixels(self, mask: np.ndarray) -> None:
        """In those of the mask it has all of it, to the row; and edits and losses take it."""
        box = bounding_box(mask)
        assert (box is None) == (not mask.any())
        if box is None:
            return
        assert checked_box(box) == tuple(box)
        left, top, right, bottom = box.pixels(*mask.shape)
        inside = mask[top:bottom, left:right]
        assert inside.sum() == mask.sum()
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert edge.any()

    def test_pixels_of_a_picture(self) -> None:
        """As `Image.crop` takes them: left and right first."""
        assert Box(0.25, 0.5, 0.75, 1.0).pixels(64, 96) == (48, 16, 96, 48)
        picture = Image.new("RGB", (96, 64))
        assert picture.crop(Box(0.25, 0.5, 0.75, 1.0).pixels(64, 96)).size == (48, 32)

    def test_corners_touch(self) -> None:
        assert largest_component(np.eye(4, dtype=bool)).sum() == 4

    def test_nothing(self) -> None:
        empty = np.zeros((3, 3), dtype=bool)
        assert not largest_component(empty).any()
        assert bounding_box(empty) is None


class TestAgreement:
    def test_iou(self) -> None:
        a, b = np.zeros((2, 4), dtype=bool), np.zeros((2, 4), dtype=bool)
        a[:, :2], b[:, 1:3] = True, True
        assert iou(a, b) == pytest.approx(2 / 6)
        assert iou(a, a) == 1
        assert iou(a & ~a, b & ~b) == 0

    def test_pointing_game(self) -> None:
        array = np.zeros((2, 3))
        array[1, 2] = 1
        mask = np.zeros((2, 3), dtype=bool)
        assert not pointing_hit(array, mask)
        mask[1, 2] = True
        assert pointing_hit(array, mask)

    def test_sizes_must_agree(self) -> None:
        for compare in (iou, pointing_hit):
            with pytest.raises(UserError, match=r"came \(2, 3\) and \(3, 2\)"):
                compare(np.ones((2, 3), dtype=bool), np.ones((3, 2), dtype=bool))
