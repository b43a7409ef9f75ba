"""The sums of one place on the step axis: their sizes, and the means that are read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.recording.keep import EDITED, OF_TEXT, SELF, TEXT, WALKED, Groups, Keep


@dataclass(frozen=True)
class CallShape:
    """What must stay the same over a run, and fixes the size of what is kept.

    Attributes:
        images: rows of one branch.
        latent_size: height and width of the latent.
        tokens: by stream, the number of keys.
    """

    images: int
    latent_size: tuple[int, int]
    tokens: Mapping[str, int]


@dataclass(frozen=True)
class Kept:
    """What is kept of every call of a run, which says how large its sums are.

    Attributes:
        keep: as it was asked for.
        sites: the sites kept.
        shape: of a call.
        groups: for each image, the columns kept of the text; None: all.
        edited: whether edits act on the sites, so that the maps after them are kept too.
    """

    keep: Keep
    sites: tuple[AttentionSite, ...]
    shape: CallShape
    groups: tuple[Groups, ...] | None
    edited: bool = False

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that are kept."""
        more = (
            (WALKED, self.keep.walk > 0),
            (EDITED, self.edited),
            (SELF, self.keep.self_attention is not None),
        )
        return (*self.shape.tokens, *(stream for stream, wanted in more if wanted))

    def sum_shape(self, stream: str, site: AttentionSite) -> tuple[int, ...]:
        """`(branches, images, heads, queries, kept)` of a sum."""
        height, width = site.size(*self.shape.latent_size)
        if stream == SELF:
            places = self.keep.self_attention
            assert places is not None
            kept = height * width if isinstance(places, str) else len(places)
        elif stream in OF_TEXT and self.groups is not None:
            kept = len(self.groups[0])
        else:
            kept = self.shape.tokens[TEXT if stream in OF_TEXT else stream]
        heads = site.heads if self.keep.heads == "each" and stream != WALKED else 1
        return (len(self.keep.branches), self.shape.images, heads, height * width, kept)

    @property
    def nbytes(self) -> int:
        """Bytes of the maps of one place on the step axis."""
        return 4 * sum(
            int(np.prod(self.sum_shape(stream, site)))
            for stream in self.streams
            for site in self.sites
        )

    def zeros(self, device: torch.device) -> Sums:
        """The sums of one place on the step axis, before anything was added."""
        branches = len(self.keep.branches)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=device)

        keys = [(stream, site) for stream in self.streams for site in self.sites]
        return Sums(
            maps={(s, site.name): zeros(*self.sum_shape(s, site)) for s, site in keys},
            reached={(stream, site.name): zeros(branches) for stream, site in keys},
            weights={
                site.name: zeros(branches, self.shape.images)
                for site in (self.sites if self.keep.heads == "auto" else ())
            },
            calls=[0] * branches,
            walks=[0] * branches,
        )

    def mean(
        self, windows: Sequence[Sums], stream: str, site: AttentionSite
    ) -> NDArray[np.float32]:
        """The mean over the calls of each window, `(image, branch, step, head, height, width,
        token)`; NaN where a branch did not run in a window.

        Raises:
            UserError: if the site was not reached at every call, or the model gave NaN there.
        """
        means = []
        for window in windows:
            began = window.walks if stream == WALKED else window.calls
            calls = np.array(began, dtype=np.float32)
            reached = window.reached[stream, site.name].cpu().numpy()
            if (reached != calls).any():
                raise UserError(
                    f"expected {calls.tolist()} calls at {site.name}, but {reached.tolist()} were "
                    "recorded; its block was skipped during the run, or its processor replaced "
                    "inside a UNet call: record again without that"
                )
            total = window.maps[stream, site.name].cpu().numpy()
            if np.isnan(total).any():
                raise UserError(
                    f"expected numbers at {site.name}, but the model gave NaN there; run it in "
                    "bfloat16 or float32 instead of float16"
                )
            with np.errstate(invalid="ignore"):
                means.append(total / calls[:, None, None, None, None])
        # (step, branch, image, head, query, token), with the queries as height × width.
        stacked = np.stack(means)
        size = site.size(*self.shape.latent_size)
        stacked = stacked.reshape(*stacked.shape[:4], *size, stacked.shape[-1])
        mean: NDArray[np.float32] = np.ascontiguousarray(stacked.transpose(2, 1, 0, 3, 4, 5, 6))
        return mean

    def mean_weights(self, windows: Sequence[Sums]) -> dict[str, NDArray[np.float32]] | None:
        """By site, the mean of `site_weights.agreement` over the calls, `(image, branch, step)`;
        None unless the heads are `"auto"`."""
        if self.keep.heads != "auto":
            return None
        calls = np.array([window.calls for window in windows], dtype=np.float32)[..., None]
        weights: dict[str, NDArray[np.float32]] = {}
        for site in self.sites:
            total = np.stack([window.weights[site.name].cpu().numpy() for window in windows])
            with np.errstate(invalid="ignore"):
                weights[site.name] = np.ascontiguousarray((total / calls).transpose(2, 1, 0))
        return weights


@dataclass
class Sums:
    """The sums of one place on the step axis.

    `maps[stream, site]` is fp32 `(branches, images, heads, queries, kept)` and `reached[...]` the
    calls that arrived there, one number a branch; `weights[site]` is fp32 `(branches, images)`.
    `calls` are those that began, and `walks` those of them that walk.
    """

    maps: dict[tuple[str, str], Tensor]
    reached: dict[tuple[str, str], Tensor]
    weights: dict[str, Tensor]
    calls: list[int]
    walks: list[int]

    def place(self, stream: str, site: str, branch: int) -> tuple[Tensor, Tensor]:
        """The sum and the count of one branch, to be added to."""
        return self.maps[stream, site][branch], self.reached[stream, site][branch : branch + 1]
