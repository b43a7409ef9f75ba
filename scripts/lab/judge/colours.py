"""Cut a picture into patches of one colour each, without the rims where two colours mix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lab.scenes.language import language

UNCLEAR = "unclear"
"""The name of a colour or a shape that is none of the language's."""

_BORDER = 4  # pixels; objects are drawn away from the border, so it shows the ground
_SMOOTH = 45  # a pixel is inside a patch if its 3 × 3 neighbours differ by at most so many levels
_REACH = 3  # pixels; a mixed pixel belongs to a colour that is found inside a patch so near
_SAME = 45.0  # touching patches nearer in colour are one: half the palette's least distance
_FOREIGN = 70.0  # a patch further from every colour of the palette has none of them

Pixels = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Patch:
    """Connected pixels of one colour: its name, and a bool mask `(height, width)`."""

    colour: str
    mask: NDArray[np.bool_]


def _distance(pixels: Pixels, palette: Pixels) -> Pixels:
    """Euclidean distance in RGB levels from `(..., 3)` to each of `(colours, 3)`."""
    difference = pixels[..., None, :] - palette
    return np.sqrt(np.einsum("...c,...c->...", difference, difference))


def find_ground(pixels: Pixels) -> tuple[str, Pixels]:
    """The ground's name and its colour in this picture: what most pixels show, border first.

    Args:
        pixels: RGB levels `(height, width, 3)`, 0 to 255.
    """
    grounds = language().grounds
    votes = _distance(pixels, np.array(list(grounds.values()), np.float32)).argmin(axis=-1)
    weights = np.full(votes.shape, 8.0)
    weights[_BORDER:-_BORDER, _BORDER:-_BORDER] = 1.0
    chosen = int(np.bincount(votes.ravel(), weights.ravel(), len(grounds)).argmax())
    mine = (votes == chosen) & (weights > 1)
    if not mine.any():
        mine = votes == chosen
    return list(grounds)[chosen], np.median(pixels[mine], axis=0).astype(np.float32)


def cut(pixels: Pixels, ground: Pixels, least_area: int) -> list[Patch]:
    """The patches that are not ground, of at least `least_area` pixels.

    Args:
        pixels: RGB levels `(height, width, 3)`, 0 to 255.
        ground: RGB levels `(3,)` of the ground in this picture.
        least_area: smaller patches are taken for specks.
    """
    names = list(language().colours)
    palette = np.array([*language().colours.values(), ground], np.float32)
    is_ground = len(names)
    labels = _labels(pixels, palette)
    pieces, means = _pieces(pixels, labels, len(palette))
    patches = []
    for index, mean in enumerate(means):
        mask = pieces == index
        if mask.sum() < least_area:
            continue
        distances = _distance(mean, palette)
        if distances.argmin() != is_ground:
            nearest = int(distances[:is_ground].argmin())
            patches.append(
                Patch(names[nearest] if distances[nearest] <= _FOREIGN else UNCLEAR, mask)
            )
    return patches


def _labels(pixels: Pixels, palette: Pixels) -> NDArray[np.intp]:
    """The index of each pixel's colour in the palette `(height, width)`.

    Where red borders on yellow the pixels between are orange, yet nothing orange is there. So only
    pixels whose surroundings are even are named by themselves; the others get the nearest of the
    colours that were found so close by.
    """
    window = (3, 3, 1)
    spread = ndimage.maximum_filter(pixels, window) - ndimage.minimum_filter(pixels, window)
    smooth = spread.max(axis=-1) <= _SMOOTH
    distances = _distance(pixels, palette)
    labels = distances.argmin(axis=-1)
    near = np.zeros(distances.shape, dtype=bool)
    for index in np.unique(labels[smooth]):
        inside = smooth & (labels == index)
        near[..., index] = ndimage.maximum_filter(inside, 2 * _REACH + 1)
    # Far from any even surroundings, the nearest colour of all stays.
    allowed = near | ~near.any(axis=-1, keepdims=True)
    return np.where(smooth, labels, np.where(allowed, distances, np.inf).argmin(axis=-1))


def _pieces(
    pixels: Pixels, labels: NDArray[np.intp], colours: int
) -> tuple[NDArray[np.intp], Pixels]:
    """Connected pixels of one label, numbered from 0 `(height, width)`, and their mean colours.

    An object whose colour lies between two names falls into speckles of both; those that touch
    and are nearly alike are put together again.
    """
    parts = np.zeros(labels.shape, dtype=np.intp)
    count = 0
    for index in range(colours):
        found, number = ndimage.label(labels == index)
        parts += np.where(found > 0, found + count - 1, 0)
        count += number
    means = _means(pixels, parts, count)
    first = np.concatenate([parts[:, :-1].ravel(), parts[:-1].ravel()])
    second = np.concatenate([parts[:, 1:].ravel(), parts[1:].ravel()])
    alike = (first != second) & (np.linalg.norm(means[first] - means[second], axis=-1) < _SAME)
    first, second = first[alike], second[alike]
    graph = coo_array((np.ones(first.size), (first, second)), shape=(count, count))
    number, merged = connected_components(graph, directed=False)
    pieces = merged[parts].astype(np.intp)
    return pieces, _means(pixels, pieces, number)


def _means(pixels: Pixels, parts: NDArray[np.intp], count: int) -> Pixels:
    """Mean colour `(count, 3)`, of the inner pixels where a part has some."""
    inner = ndimage.maximum_filter(parts, 3) == ndimage.minimum_filter(parts, 3)
    # Rim pixels count, but so little that they matter only where there are no others.
    weights = np.where(inner, 1.0, 1e-3).ravel()
    flat = parts.ravel()
    totals = np.bincount(flat, weights, count)
    sums = [np.bincount(flat, weights * pixels[..., c].ravel(), count) for c in range(3)]
    return (np.stack(sums, axis=-1) / totals[:, None]).astype(np.float32)
