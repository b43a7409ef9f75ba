"""How the maps of many sites and heads become one heat map: named ways, each with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.errors import UserError

FloatMap = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SiteMaps:
    """What a way to aggregate is given: the maps of one picture, and which columns are asked for.

    Attributes:
        maps: one a site, `(heads, height, width, tokens)`, shares 0 to 1; one head where their mean
            was recorded.
        columns: places on the token axis whose map is wanted.
        latent_size: height and width of the latent.
        picture_size: height and width of the picture.
        weights: of the sites, at least 0, where the run was recorded with `heads="auto"`.
    """

    maps: Sequence[FloatMap]
    columns: Sequence[int]
    latent_size: tuple[int, int]
    picture_size: tuple[int, int]
    weights: Sequence[float] | None = None

    @property
    def wanted(self) -> list[FloatMap]:
        """The maps of the columns that are asked for, `(heads, height, width, columns)`."""
        return [array[..., list(self.columns)] for array in self.maps]


Aggregate = Callable[[SiteMaps], FloatMap]
"""A way to aggregate; gives `(height, width)` of the picture."""


def mean_over_sites(given: SiteMaps) -> FloatMap:
    """Head mean; each site enlarged bilinearly to the picture; the plain mean over the sites.

    Every value is a convex combination of recorded shares, so the unit is kept: the maps of all
    tokens sum to 1 at each pixel. The columns of a word are added.
    """
    return mean_of(_enlarged(given))


def _enlarged(given: SiteMaps) -> Iterator[FloatMap]:
    """Of each site the head mean of the wanted columns, added up, at picture size."""
    for array in given.wanted:
        # Adding up first is the same and cheaper, since enlarging is linear.
        added = array.mean(axis=0).sum(axis=-1, keepdims=True)
        yield resized(added, given.picture_size, "bilinear")[..., 0]


def daam(given: SiteMaps) -> FloatMap:
    """DAAM's way: each head enlarged bicubically to the latent's size, clamped at 0; the mean.

    Tang et al., "What the DAAM: Interpreting Stable Diffusion Using Cross Attention", ACL 2023
    (arXiv 2210.04885), section 3, as its package does it: the mean is over all heads of all sites,
    and a word's map is the mean of its columns, not their sum. With `record(pipe, heads="each")`
    the result at the latent's size is the package's, divided by the number of steps (it sums over
    them); where the heads' mean was recorded, the clamp comes after the mean. The package leaves
    out sites that are eight times smaller than the latent: `sites=lambda site: site.level < 3`.

    The enlargement to the picture is bicubic and clamped too. Bicubic weights may be negative, so
    the unit holds only roughly.
    """
    heads = (
        resized(head, given.latent_size, "bicubic").clip(min=0)
        for array in given.wanted
        for head in array
    )
    latent = mean_of(head.mean(axis=-1, keepdims=True) for head in heads)
    return resized(latent, given.picture_size, "bicubic")[..., 0].clip(min=0)


def at_resolution(resolution: int) -> Aggregate:
    """Prompt-to-prompt's way: the mean over heads and sites of one resolution only.

    Hertz et al., "Prompt-to-Prompt Image Editing with Cross Attention Control", arXiv 2208.01626,
    whose code shows maps of 16 × 16 (of a 512 × 512 picture). Enlarged bilinearly to the picture.

    Args:
        resolution: the longer side of a site's map.
    """

    def aggregate(given: SiteMaps) -> FloatMap:
        chosen = [array for array in given.maps if max(array.shape[1:3]) == resolution]
        if not chosen:
            known = sorted({max(array.shape[1:3]) for array in given.maps})
            raise UserError(
                f"expected a resolution of {known}, but came {resolution}; the longer side of a "
                "site's map is meant"
            )
        return mean_over_sites(replace(given, maps=chosen))

    return aggregate


def auto(given: SiteMaps) -> FloatMap:
    """Auto aggregation: heads and sites by what they have to do with the picture.

    Meng et al., "Making Training-Free Diffusion Segmentors Scale with the Generative Power", arXiv
    2603.06178. A head weighs at each place as much as it adds to its layer's output
    (`t2i_xattn.kernel.attention.head_weights`), a site as much as its self-attention agrees with
    the layout of the picture (`t2i_xattn.recording.site_weights.agreement`). Both are taken while
    the picture is made, so the run must be recorded with `heads="auto"`. The unit is kept.

    Raises:
        UserError: if the run was recorded otherwise.
    """
    if given.weights is None:
        raise UserError(
            "expected a trace with the weights of its sites, but this one has none; record with "
            'heads="auto"'
        )
    weights = np.asarray(given.weights, dtype=np.float64)
    weights = weights / weights.sum() if weights.sum() > 0 else np.full_like(weights, 1)
    weighted = (weight * each for weight, each in zip(weights, _enlarged(given), strict=True))
    return np.asarray(sum(weighted) / weights.sum(), dtype=np.float32)


def rescaled(given: SiteMaps, pool: Aggregate = mean_over_sites) -> FloatMap:
    """Per-pixel rescaling: the share of what is not given to the start token.

    Meng et al., arXiv 2603.06178: the start token takes most of the attention, and more of it at
    some places than at others, so that shares of different places cannot be compared; they are
    divided by what the other tokens get there. The unit is the share of the attention to all other
    tokens, 0 to 1.

    Args:
        given: the maps.
        pool: how the sites are pooled before.

    Raises:
        UserError: if only some columns were recorded.
    """
    every = range(given.maps[0].shape[-1])
    everything = pool(replace(given, columns=every))
    if not np.allclose(everything, 1, atol=1e-2):
        raise UserError(
            "expected a trace with every column of the text, which rescaling compares, but this "
            "one has some only; record without words=… and columns=…"
        )
    others = everything - pool(replace(given, columns=[0]))
    wanted = [column for column in given.columns if column != 0]
    share: FloatMap = pool(replace(given, columns=wanted)) / others.clip(min=1e-6)
    return share


def goca(given: SiteMaps) -> FloatMap:
    """The whole of Meng et al., arXiv 2603.06178: `auto` aggregation, then `rescaled`.

    Left out is what their segmentation does after it: a blur, and each map to 0 … 1.
    """
    return rescaled(given, auto)


def mean_of(arrays: Iterable[FloatMap]) -> FloatMap:
    """The plain mean of arrays of one shape, summed in fp64 one after the other: of a large picture
    there may be too many to hold at once."""
    total, count = np.zeros((), dtype=np.float64), 0
    for array in arrays:
        total = total + array if count == 0 else np.add(total, array, out=total)
        count += 1
    assert count, "a mean of nothing"
    return np.asarray(np.divide(total, count, out=total), dtype=np.float32)


def resized(
    array: FloatMap, size: tuple[int, int], mode: Literal["bilinear", "bicubic"]
) -> FloatMap:
    """`(height, width, columns)` to another height and width; pixels are areas, not corners."""
    # Here, since a trace can be loaded, searched and thresholded without waiting for torch.
    import torch
    from torch.nn.functional import interpolate

    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))[None]
    result: FloatMap = (
        interpolate(tensor, size=size, mode=mode, align_corners=False)[0].permute(1, 2, 0).numpy()
    )
    return result
