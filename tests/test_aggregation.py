from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from t2i_xattn.aggregation import SiteMaps, at_resolution, daam, mean_over_sites, rescaled
from t2i_xattn.errors import UserError
from t2i_xattn.recording.record import record


def shares(height: int, width: int, columns: int, seed: int = 0, heads: int = 1) -> np.ndarray:
    logits = 4 * np.random.default_rng(seed).normal(size=(heads, height, width, columns))
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(-1, keepdims=True)).astype(np.float32)


def given(
    sites: list[np.ndarray],
    size: tuple[int, int],
    columns: list[int] | None = None,
    latent: tuple[int, int] = (8, 8),
) -> SiteMaps:
    every = list(range(sites[0].shape[-1]))
    return SiteMaps(sites, every if columns is None else columns, latent, size)


class TestMeanOverSites:
    def test_keeps_the_unit_on_odd_and_non_square_sizes(self) -> None:
        sites = [shares(9, 7, 5, heads=3), shares(5, 4, 5, 1), shares(3, 2, 5, 2)]
        each = [mean_over_sites(given(sites, (72, 56), [column])) for column in range(5)]
        assert np.allclose(sum(each), 1, atol=1e-6)
        assert all(array.min() >= 0 and array.shape == (72, 56) for array in each)

    def test_at_the_sites_own_size_it_is_the_mean(self) -> None:
        a, b = shares(4, 6, 3, heads=2), shares(4, 6, 3, 1)
        expected = (a.mean(0) + b[0])[..., :2].sum(-1) / 2
        assert np.allclose(mean_over_sites(given([a, b], (4, 6), [0, 1])), expected)

    def test_pixels_are_areas(self) -> None:
        """Enlarging a step from 0 to 1 by two: the border is between the pixels."""
        step = np.array([[[[0.0], [1.0]]]], dtype=np.float32)
        assert np.allclose(mean_over_sites(given([step], (1, 4))), [[0, 0.25, 0.75, 1]])

    def test_height_comes_first(self) -> None:
        tall = np.zeros((1, 3, 2, 1), dtype=np.float32)
        tall[0, 2, 0] = 1
        enlarged = mean_over_sites(given([tall], (30, 20)))
        assert enlarged.shape == (30, 20)
        assert enlarged[29, 0] == 1
        assert enlarged[0, 19] == 0


class TestDaam:
    def test_equals_the_packages_steps_on_the_same_probs(self, pipe: Any, draw: Any) -> None:
        """As `daam` 0.2 goes about it: sums over the steps, every head by itself, bicubic, clamp,
        mean over heads and sites, mean over the columns of a word."""
        steps = 3
        with record(pipe, heads="each") as trace:
            draw(pipe, "a red circle", num_inference_steps=steps)
        merged = []
        for array in trace.to_numpy().values():
            # (tokens, heads, height, width), its sum over the steps
            maps = torch.from_numpy(array[0, 0, 0]).permute(3, 0, 1, 2) * steps
            for head in maps.unbind(1):
                enlarged = interpolate(head[:, None], size=(8, 8), mode="bicubic")
                merged.append(enlarged.clamp(min=0))
        token_maps = torch.stack(merged).mean(0)[:, 0]
        columns = trace.words[2].columns
        expected = token_maps[list(columns)].mean(0) / steps
        heat = trace.heatmap("circle", aggregate=_at_latent_size(daam))
        assert np.abs(heat.array - expected.numpy()).max() < 1e-7

    def test_never_below_zero_where_bicubic_would_be(self) -> None:
        point = np.zeros((1, 5, 5, 1), dtype=np.float32)
        point[0, 2, 2] = 1
        enlarged = daam(given([point], (40, 40), latent=(20, 20)))
        assert enlarged.shape == (40, 40)
        assert enlarged.min() == 0

    def test_each_head_is_clamped_by_itself(self) -> None:
        two = np.zeros((2, 5, 5, 1), dtype=np.float32)
        two[0, 2, 2] = two[1, 2, 4] = 1
        apart = [daam(given([head[None]], (20, 20), latent=(20, 20))) for head in two]
        together = daam(given([two], (20, 20), latent=(20, 20)))
        assert np.allclose(together, sum(apart) / 2, atol=1e-6)


def _at_latent_size(aggregate: Any) -> Any:
    """Without the enlargement to the picture, which the package leaves to its plots."""
    return lambda asked: aggregate(
        SiteMaps(asked.maps, asked.columns, asked.latent_size, asked.latent_size)
    )


class TestAtResolution:
    def test_only_the_sites_of_that_size(self) -> None:
        a, b, other = shares(4, 3, 2, heads=2), shares(4, 3, 2, 1), shares(8, 6, 2, 2)
        expected = (a.mean(0) + b[0])[..., 1] / 2
        assert np.allclose(at_resolution(4)(given([a, other, b], (4, 3), [1])), expected)

    def test_a_size_that_is_not_there(self) -> None:
        with pytest.raises(UserError, match=r"resolution of \[4, 8\], but came 16"):
            at_resolution(16)(given([shares(4, 3, 2), shares(8, 6, 2)], (8, 6)))


class TestRescaled:
    def test_what_the_start_token_leaves_is_shared_out(self) -> None:
        array = shares(6, 5, 4)
        each = [rescaled(given([array], (6, 5), [column])) for column in (1, 2, 3)]
        assert np.allclose(sum(each), 1, atol=1e-5)
        expected = array[0, ..., 2] / array[0, ..., 1:].sum(-1)
        assert np.allclose(each[1], expected, atol=1e-5)

    def test_needs_every_column(self) -> None:
        with pytest.raises(UserError, match="every column of the text"):
            rescaled(given([shares(6, 5, 4)[..., :3]], (6, 5)))
