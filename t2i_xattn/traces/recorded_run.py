"""The data of a trace, with its axes. No model is needed to read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.prompts.words import Word
from t2i_xattn.recording.keep import Groups

AXES = ("image", "branch", "step", "head", "height", "width", "token")
"""The axes of every recorded map, in their order. An axis over which a mean was taken while
recording has length 1."""


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """The data of a trace.

    Attributes:
        maps: by stream and site name, fp32 with the axes `AXES`, at the site's own resolution:
            shares of attention, 0 to 1. Where every token of a stream is kept they sum to 1 at each
            location, special tokens included. The stream `text` is always there; `picture n` holds
            the n-th IP-Adapter's picture tokens, `walked` the text's maps carried along
            self-attention, `edited` the text's maps after the edits that acted. `self` holds the
            self-attention of chosen places, one a place of the token axis; there the shares of one
            place sum to 1 over height and width.
        sites: the sites, in the order of the forward pass.
        groups: for each image, the columns that each place of the text's token axis stands for;
            None: every column by itself.
        branches: the branches, in the order of their axis.
        steps: first step and end of each place on the step axis.
        prompts: the prompt of each image; None where it was given as embeddings.
        words: the words of each image's prompt.
        latent_size: height and width of the latent.
        picture_size: height and width of the picture, in pixels.
        settings: what made the run, as JSON has it: `calls` (of the UNet), `timesteps` (one a
            call), `guidance_scale` (None: off), `pipeline`, `model`, `scheduler`, `versions`.
        site_weights: by site name, fp32 `(image, branch, step)`, at least 0: how much each site is
            to count in `aggregation.auto`; None unless recorded with `heads="auto"`.
    """

    maps: dict[str, dict[str, NDArray[np.float32]]]
    sites: tuple[AttentionSite, ...]
    groups: tuple[Groups, ...] | None
    branches: tuple[str, ...]
    steps: tuple[tuple[int, int], ...]
    prompts: tuple[str | None, ...]
    words: tuple[tuple[Word, ...], ...]
    latent_size: tuple[int, int]
    picture_size: tuple[int, int]
    settings: dict[str, Any]
    site_weights: dict[str, NDArray[np.float32]] | None = None


def of_steps(run: RecordedRun, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(images, heads, height, width, tokens)`: the first branch, the mean over the steps."""
    of_branch = array[:, 0]
    if of_branch.shape[1] == 1:
        return of_branch[:, 0]
    lengths = np.array([end - first for first, end in run.steps], dtype=np.float64)
    return np.asarray(np.average(of_branch, axis=1, weights=lengths), dtype=np.float32)
