"""The data of a trace, with its axes. No model is needed to read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import Groups
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.words import Word

AXES = ("image", "branch", "step", "head", "height", "width", "token")
"""The axes of every recorded map, in their order. An axis over which a mean was taken while
recording has length 1. Videos have `frame` before `height`."""

OF_VIDEOS = (*AXES[:4], "frame", *AXES[4:])


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
            place sum to 1 over height and width. `concepts` holds words that need not be in the
            prompt, of the conditional branch; see `record`. NaN where there were no calls.
        counts: by stream and site name, the calls that each map is the mean of, `(branch, step)`.
        sites: the sites, in the order of the forward pass.
        groups: by branch, for each image, the columns that each place of the text's token axis
            stands for; None: every column by itself.
        walked_columns: the columns of the stream `walked`, where it has fewer than the text; None:
            those of the text.
        branches: the branches, in the order of their axis.
        steps: first step and end of each place on the step axis.
        prompts: by branch, the text of each image; None where it was given as embeddings.
        words: by branch, the words of each image's text.
        tokens: by branch and image, the text of each column, from the start to the end token.
        kinds: by branch and image, what stands in each column of the text: `"word"`, `"other"`
            (punctuation, a template), `"special"` (start and end tokens) or `"padding"`; nothing
            where it is not known.
        frames: of a video; 1 for stills.
        latent_size: height and width of the latent.
        picture_size: height and width of what was painted, in pixels.
        crop: left, top, right and bottom, in pixels, of the part of a larger picture that was
            painted (inpainting with `padding_mask_crop`); None: all of it.
        settings: what made the run, as JSON has it: `calls` (of the denoiser), `timesteps` (one a
            call), `guidance_scale` (None: off), `arguments` (of the pipeline's call: numbers, texts
            and `seeds`), `pipeline`, `model`, `scheduler`, `versions`; `made` by a command;
            `broken_off`, the name of the error or interrupt that broke the run off, if one did.
        concepts: what each place of the token axis of the stream `concepts` stands for.
        site_weights: by site name, fp32 `(image, branch, step)`, at least 0: how much each site is
            to count in `aggregation.auto`; None unless recorded with `heads="auto"`.
    """

    maps: dict[str, dict[str, NDArray[np.float32]]]
    counts: dict[str, dict[str, NDArray[np.int64]]]
    sites: tuple[AttentionSite, ...]
    groups: dict[str, tuple[Groups, ...]] | None
    walked_columns: tuple[int, ...] | None
    branches: tuple[str, ...]
    steps: tuple[tuple[int, int], ...]
    prompts: dict[str, tuple[str | None, ...]]
    words: dict[str, tuple[tuple[Word, ...], ...]]
    tokens: dict[str, tuple[tuple[str, ...], ...]]
    frames: int
    latent_size: tuple[int, int]
    picture_size: tuple[int, int]
    crop: tuple[int, ...] | None
    settings: dict[str, Any]
    site_weights: dict[str, NDArray[np.float32]] | None = None
    kinds: dict[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    concepts: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the maps."""
        return AXES if self.frames == 1 else OF_VIDEOS

    @property
    def images(self) -> int:
        """Pictures of the run."""
        return len(next(iter(self.words.values())))


def of_steps(run: RecordedRun, stream: str, site: str) -> NDArray[np.float32]:
    """`(images, heads, [frames,] height, width, tokens)`: the first branch, the mean over steps.

    Raises:
        UserError: if the branch did not run in these steps.
    """
    return _mean_of_steps(run, run.maps[stream][site], run.counts[stream][site], site)


def weight_of_steps(run: RecordedRun, site: str, image: int) -> float:
    """How much a site counts in `aggregation.auto`: the first branch, the mean over the steps."""
    assert run.site_weights is not None
    array = run.site_weights[site][..., None]
    return float(_mean_of_steps(run, array, run.counts["text"][site], site)[image, 0])


def _mean_of_steps(
    run: RecordedRun, array: NDArray[np.float32], counts: NDArray[np.int64], site: str
) -> NDArray[np.float32]:
    calls = counts[0].astype(np.float64)
    if not calls.any():
        first, end = run.steps[0][0], run.steps[-1][1]
        raise UserError(
            f"expected calls of the branch {run.branches[0]!r} at {site} in the steps {first} to "
            f"{end}, but it did not run there; take other steps with select(steps=…)"
        )
    of_branch = array[:, 0]
    if of_branch.shape[1] == 1:
        return of_branch[:, 0]
    ran = calls > 0
    mean = np.average(of_branch[:, ran], axis=1, weights=calls[ran])
    return np.asarray(mean, dtype=np.float32)
