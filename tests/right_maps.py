"""Traces held against what a `Probe` saw in a plain run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from probe import Probe, Rule
from t2i_xattn.aggregation import mean_over_sites
from t2i_xattn.errors import UserError

EXACT, HALF = 1e-5, 5e-3
"""How far a map may be from the oracle's: in fp32, and in bfloat16 and float16."""

Words = Mapping[str, Sequence[int]]
"""Columns of words."""

WORDS: Words = {"a": (1,), "red": (2,), "circle": (3,), "red circle": (2, 3)}
"""Columns of the words of "a red circle" with the tokenizer of the tests."""


def size_at(level: int | None, latent_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after so many strided convolutions, each of which rounds up."""
    assert level is not None
    height, width = latent_size
    for _ in range(level):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def latent_size_of(picture: NDArray[Any]) -> tuple[int, int]:
    """Of pictures or videos `(…, height, width, channels)` by an autoencoder that shrinks by 8."""
    return picture.shape[-3] // 8, picture.shape[-2] // 8


def assert_right_maps(
    trace: Any,
    probe: Probe,
    rule: Rule,
    latent_size: tuple[int, int] = (8, 8),
    *,
    tolerance: float = EXACT,
    frames: int | None = None,
) -> None:
    """Every layer is a site, and its map is the mean of the rule's rows over the counted calls."""
    assert [site.name for site in trace.sites] == probe.layers
    maps = trace.maps
    assert list(maps) == probe.layers
    for site in trace.sites:
        expected = probe.mean(site.name, rule)
        found = maps[site.name]
        height, width = size_at(site.level, latent_size)
        shape: tuple[int, ...] = (len(expected), height, width, expected.shape[-1])
        if frames is not None:
            shape = (shape[0] // frames, frames, *shape[1:])
        assert found.shape == shape, site.name
        assert site.heads == probe.probs[site.name][0].shape[1]
        away = np.abs(found.reshape(expected.shape) - expected).max()
        assert away < tolerance, (site.name, away)
    assert_rows_differ(probe, rule, tolerance)


def assert_rows_differ(probe: Probe, rule: Rule, tolerance: float = EXACT) -> None:
    """Another row in the place of each picture's would have been noticed."""
    distances = probe.distances(rule)
    assert all(away > 10 * tolerance for away in distances.values()), distances


def right_heat(
    probe: Probe,
    rule: Rule,
    columns: Sequence[int],
    latent_size: tuple[int, int] = (8, 8),
    *,
    row: int = 0,
) -> NDArray[np.float64]:
    """The plain mean over the sites, each enlarged to the picture, of some columns added up."""
    size = (latent_size[0] * 8, latent_size[1] * 8)
    enlarged = []
    for layer in probe.layers:
        added = probe.mean(layer, rule)[row][:, list(columns)].sum(-1)
        level = next(n for n in range(8) if np.prod(size_at(n, latent_size)) == len(added))
        square = torch.from_numpy(added.reshape(1, 1, *size_at(level, latent_size)))
        enlarged.append(functional.interpolate(square, size, mode="bilinear", align_corners=False))
    heat: NDArray[np.float64] = torch.stack(enlarged).mean(0)[0, 0].numpy()
    return heat


def assert_right_heat(
    trace: Any,
    probe: Probe,
    rule: Rule,
    words: Words,
    latent_size: tuple[int, int] = (8, 8),
    *,
    tolerance: float = EXACT,
    image: int = 0,
    row: int | None = None,
    **asked: Any,
) -> None:
    """The heat map of each word is that of its columns."""
    for word, columns in words.items():
        heat = trace.heatmap(word, aggregate=mean_over_sites, image=image, **asked)
        expected = right_heat(probe, rule, columns, latent_size, row=image if row is None else row)
        assert heat.array.shape == expected.shape
        assert np.abs(heat.array - expected).max() < tolerance, word


def own_processors(pipe: Any) -> dict[str, int]:
    """Who stands at the attention layers of a pipeline's denoiser, by identity."""
    return {name: id(each) for name, each in pipe.unet.attn_processors.items()}


def one_sentence(error: BaseException) -> str:
    """What a user is told, which is one line that says what was expected."""
    text = str(error)
    assert text, type(error)
    assert "\n" not in text, text
    return text


Result = TypeVar("Result")


def attempt(action: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """What an action gives and None, or None and the one sentence that refuses it; any other error
    comes out."""
    try:
        return action(), None
    except UserError as error:
        return None, one_sentence(error)
