"""What is kept of a run: sums of maps, whose memory does not depend on the number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.keep import EDITED, OF_TEXT, TEXT, WALKED, Groups, Keep
from t2i_xattn.sites import AttentionSite
from t2i_xattn.targets import Carry, Tap, Target, Walk


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


@dataclass
class _Window:
    """The sums of one place on the step axis.

    `sums[stream, site]` is fp32 `(branches, images, heads, queries, kept)` and `reached[...]` the
    calls that arrived there, one number a branch; `calls` are those that began.
    """

    sums: dict[tuple[str, str], Tensor]
    reached: dict[tuple[str, str], Tensor]
    calls: list[int]

    def place(self, stream: str, site: str, branch: int) -> tuple[Tensor, Tensor]:
        """The sum and the count of one branch, to be added to."""
        return self.sums[stream, site][branch], self.reached[stream, site][branch : branch + 1]


class MapStore:
    """Sums of the probs of each site of one denoiser over its calls in one run.

    Attributes:
        keep: what is kept.
        sites: the sites kept, in forward order.
        shape: what the first call fixed; None before it.
        groups: for each image, the columns kept of the text; None: all.
        edited: whether edits act on the sites, so that the maps after them are kept too.
        calls, finished: calls of the denoiser that began, and that ran to their end.
        timesteps: the noise level of each call, as handed to the denoiser.
    """

    def __init__(
        self,
        sites: Sequence[AttentionSite],
        keep: Keep,
        partners: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            sites: the sites to keep.
            keep: what to keep of each.
            partners: for each site, the self-attention site of its block; needed for a walk.
        """
        self.keep = keep
        self.partners = dict(partners or {})
        self.sites = tuple(sites)
        self.shape: CallShape | None = None
        self.groups: tuple[Groups, ...] | None = None
        self.edited = False
        self.calls = 0
        self.finished = 0
        self.timesteps: list[Tensor | float] = []
        self._windows: dict[int, _Window] = {}
        self._steps = dict.fromkeys(keep.branches, 0)
        self._selection: Tensor | None = None

    def begin_run(
        self,
        shape: CallShape,
        groups: tuple[Groups, ...] | None,
        steps: int | None,
        edited: bool = False,
    ) -> None:
        """Fixes the sizes, and refuses what would not fit.

        Args:
            shape: of every call to come.
            groups: the columns to keep for each image, see `Keep.groups`.
            steps: steps of the run, if they are known.
            edited: whether edits act on the sites.

        Raises:
            UserError: if the maps would be larger than the budget.
        """
        self.shape, self.groups, self.edited = shape, groups, edited
        windows = self.keep.windows(steps) or 1
        budget = self.keep.budget
        if budget is not None and windows * self.window_nbytes > budget:
            raise UserError(
                f"expected maps of at most {budget:,} bytes (budget=…), but this run would keep "
                f"{windows * self.window_nbytes:,}: {len(self.sites)} sites, {windows} of steps, "
                f"{len(self.keep.branches)} branches, heads {self.keep.heads!r}; keep fewer by "
                'sites=…, words=…, steps="sum" or heads="mean"'
            )

    @property
    def window_nbytes(self) -> int:
        """Bytes of one place on the step axis."""
        assert self.shape is not None
        return 4 * sum(
            int(np.prod(self._sum_shape(stream, site)))
            for stream in self.streams
            for site in self.sites
        )

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that are kept."""
        assert self.shape is not None
        walked, edited = [WALKED] if self.keep.walk else [], [EDITED] if self.edited else []
        return (*self.shape.tokens, *walked, *edited)

    @property
    def nbytes(self) -> int:
        """Bytes held for maps on the denoiser's device."""
        return sum(
            each.nbytes for window in self._windows.values() for each in window.sums.values()
        )

    def begin_call(
        self,
        shape: CallShape,
        branches: Mapping[str, slice],
        timestep: Tensor | float,
        device: torch.device,
    ) -> dict[str, tuple[Target | Tap, ...]]:
        """Counts a call and says where the probs of each site are to be added, by site name.

        With a walk, the partners of the sites are named too.

        Raises:
            UserError: if this call has another shape than the first, or what is kept of every step
                outgrows the budget.
        """
        if shape != self.shape:
            raise UserError(
                f"expected every UNet call of a run to be like the first, {self.shape}, but came "
                f"{shape}; record each run on its own"
            )
        self.calls += 1
        # Kept as it came: reading a number off a GPU would wait for it at every step.
        self.timesteps.append(timestep)
        targets: dict[str, tuple[Target | Tap, ...]] = {site.name: () for site in self.sites}
        for index, branch in enumerate(self.keep.branches):
            if branch not in branches:
                continue
            place = self.keep.window(self._steps[branch])
            self._steps[branch] += 1
            if place is None:
                continue
            window = self._window(place, device)
            window.calls[index] += 1
            rows = branches[branch]
            for site in self.sites:
                walk = edited = None
                if self.edited:
                    edited = window.place(EDITED, site.name, index)
                if self.keep.walk:
                    carry, partner = Carry(), self.partners[site.name]
                    targets[partner] = (*targets.get(partner, ()), Tap(rows, carry))
                    walk = Walk(carry, self.keep.walk, *window.place(WALKED, site.name, index))
                targets[site.name] += tuple(
                    Target(
                        number,
                        rows,
                        *window.place(stream, site.name, index),
                        selection=self._selection if stream == TEXT else None,
                        walk=walk if stream == TEXT else None,
                        edited=edited if stream == TEXT else None,
                    )
                    for number, stream in enumerate(shape.tokens)
                )
        return targets

    def end_call(self) -> None:
        """Notes that the call ran through all its sites."""
        self.finished += 1

    def windows(self) -> tuple[tuple[int, int], ...]:
        """First step and end of each place on the step axis."""
        end = max(self._steps.values())
        if self.keep.steps == "sum":
            return ((0, end),)
        if self.keep.steps == "each":
            return tuple((place, place + 1) for place in sorted(self._windows))
        asked = [self.keep.steps[place] for place in sorted(self._windows)]
        return tuple((int(window[0]), min(int(window[1]), end)) for window in asked)

    def means(self) -> dict[str, dict[str, NDArray[np.float32]]]:
        """By stream and site name, the mean over the calls of each window.

        `(image, branch, step, head, height, width, token)`, shares 0 to 1; NaN where a branch did
        not run in a window of steps.

        Raises:
            UserError: if nothing was recorded, if the run broke off inside a UNet call, or if a
                site was not reached at every call, so that a mean would be wrong.
        """
        if self.shape is None or not self._windows:
            raise UserError(
                "expected a recorded run, but the pipeline has not run yet (or not as far as the "
                "steps to keep); call it inside `with record(pipe) as trace:` before reading maps"
            )
        if self.calls != self.finished:
            raise UserError(
                f"expected a run that ended, but it broke off inside UNet call {self.calls}; "
                "record it again"
            )
        windows = [self._windows[place] for place in sorted(self._windows)]
        for index, branch in enumerate(self.keep.branches):
            if not any(window.calls[index] for window in windows):
                raise UserError(
                    f"expected a run with the branch {branch!r}, but this one had none; turn "
                    "guidance on, or keep another branch"
                )
        return {
            stream: {site.name: self._mean(windows, stream, site) for site in self.sites}
            for stream in self.streams
        }

    def _mean(
        self, windows: Sequence[_Window], stream: str, site: AttentionSite
    ) -> NDArray[np.float32]:
        assert self.shape is not None
        means = []
        for window in windows:
            calls = np.array(window.calls, dtype=np.float32)
            reached = window.reached[stream, site.name].cpu().numpy()
            if (reached != calls).any():
                raise UserError(
                    f"expected {calls.tolist()} calls at {site.name}, but {reached.tolist()} were "
                    "recorded; its block was skipped during the run, or its processor replaced "
                    "inside a UNet call: record again without that"
                )
            total = window.sums[stream, site.name].cpu().numpy()
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

    def _sum_shape(self, stream: str, site: AttentionSite) -> tuple[int, ...]:
        assert self.shape is not None
        height, width = site.size(*self.shape.latent_size)
        if stream in OF_TEXT and self.groups is not None:
            kept = len(self.groups[0])
        else:
            kept = self.shape.tokens[TEXT if stream in OF_TEXT else stream]
        heads = site.heads if self.keep.heads == "each" and stream != WALKED else 1
        return (len(self.keep.branches), self.shape.images, heads, height * width, kept)

    def _window(self, place: int, device: torch.device) -> _Window:
        if place in self._windows:
            return self._windows[place]
        assert self.shape is not None
        budget = self.keep.budget
        if budget is not None and self.nbytes + self.window_nbytes > budget:
            raise UserError(
                f"expected maps of at most {budget:,} bytes (budget=…), but step {place} goes "
                f'beyond it, with {self.window_nbytes:,} a step; keep steps="sum" or windows'
            )
        if self._selection is None and self.groups is not None:
            self._selection = _selection(self.groups, self.shape.tokens[TEXT]).to(device)
        keys = [(stream, site) for stream in self.streams for site in self.sites]
        self._windows[place] = _Window(
            sums={
                (stream, site.name): torch.zeros(
                    self._sum_shape(stream, site), dtype=torch.float32, device=device
                )
                for stream, site in keys
            },
            reached={
                (stream, site.name): torch.zeros(
                    len(self.keep.branches), dtype=torch.float32, device=device
                )
                for stream, site in keys
            },
            calls=[0] * len(self.keep.branches),
        )
        return self._windows[place]


def _selection(groups: tuple[Groups, ...], tokens: int) -> Tensor:
    """`(images, tokens, kept)` of 0 and 1: probs times it are the sums over each group."""
    selection = torch.zeros(len(groups), tokens, len(groups[0]))
    for image, of_image in enumerate(groups):
        for place, columns in enumerate(of_image):
            selection[image, list(columns), place] = 1
    return selection
