"""What is kept of a run: sums of maps, whose memory does not depend on the number of steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import BETWEEN, Groups
from t2i_xattn.errors import UserError, shown
from t2i_xattn.prompts.words import Word
from t2i_xattn.recording.keep import Keep
from t2i_xattn.recording.sums import Key, Sums, mean_of


class MapStore:
    """Sums of the probs of each site of one denoiser over its calls in one run.

    Attributes:
        keep: what is kept.
        sites: the sites kept, in forward order; those that cannot be read are taken out where the
            user said so.
        words: by branch, the words of each image's text.
        texts: by branch, each image's text.
        fixed: the branches of which a step that is kept has come, so that these hold.
        sizes: by site, height and width of its map.
        calls, finished: calls of the denoiser that began, and that ran to their end.
        timesteps: the noise level of each call, as handed to the denoiser.
    """

    def __init__(self, sites: Sequence[AttentionSite], keep: Keep) -> None:
        self.keep, self.sites = keep, list(sites)
        self.words: dict[str, tuple[tuple[Word, ...], ...]] = {}
        self.texts: dict[str, tuple[Any, ...]] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        self.calls = self.finished = 0
        self.timesteps: list[Any] = []
        self.images = self.frames = 0
        self.latent_size = (0, 0)
        self.groups: dict[str, tuple[Groups, ...]] | None = None
        self.walked_columns: tuple[int, ...] | None = None
        self.fixed: set[str] = set()
        self._tokens: dict[str, int] = {}
        self._expected_windows = 1
        self._asked: list[tuple[int, int]] | None = None
        self._windows: dict[int, Sums] = {}
        self._steps = dict.fromkeys(keep.branches, 0)
        self._end = 0
        self._selections: dict[tuple[str, str], Tensor] = {}

    @property
    def began(self) -> bool:
        """Whether the run has come to its first call."""
        return self.images > 0

    def begin_run(
        self,
        layout: Layout,
        latent: tuple[int, int],
        steps: int | None,
        named: Collection[int] = (),
    ) -> None:
        """Fixes what stays the same over the run; `named` are the columns of all of its words.

        Raises:
            UserError: for windows that do not fit it.
        """
        self.images, self.frames = layout.images, layout.frames
        self.latent_size = latent
        self._asked = self.keep.windows(steps)
        if self._asked is not None:
            self._expected_windows = len(self._asked)
        elif self.keep.steps == "each":
            self._expected_windows = steps or 1
        self.look_at(named)

    def look_at(self, named: Collection[int]) -> None:
        """Fixes the columns of words that are walked, before anything is kept; a prompt may have
        others in the first step that is kept than when the run began."""
        of_words = self.keep.walk or self.keep.contributions
        if of_words and self.keep.words is None and self.keep.columns is None:
            # Only words are looked at; a column costs as much whoever it belongs to.
            self.walked_columns = tuple(sorted(named)) or None

    def begin_branch(
        self,
        branch: str,
        words: tuple[tuple[Word, ...], ...],
        texts: tuple[Any, ...],
        tokens: int,
        kept: bool = True,
    ) -> None:
        """Fixes what is kept of a branch, whose texts, of so many tokens, are known by now.

        Args:
            branch: its name.
            words, texts: of its pictures.
            tokens: columns of the text.
            kept: whether this step is; if not, what is fixed holds until one is.

        Raises:
            UserError: for a word that one of its prompts does not have.
        """
        self._tokens[branch] = tokens
        self.words[branch], self.texts[branch] = words, texts
        if kept:
            self.fixed.add(branch)
        # Before the first step that is kept, a prompt need not have the words yet.
        with nullcontext() if kept else suppress(UserError):
            groups = self.keep.groups(words, tokens)
            if groups is not None:
                self.groups = (self.groups or {}) | {branch: groups}

    def begin_call(
        self,
        layout: Layout,
        latent: tuple[int, int],
        tokens: Mapping[str, int],
        timestep: Any,
        gone: Mapping[str, int],
    ) -> dict[str, int]:
        """Counts a call; gives the number of the window that each branch is summed into.

        Args:
            layout: whose the rows are.
            latent: height and width of the latents.
            tokens: columns of the text, by branch.
            timestep: the noise level.
            gone: steps that other denoisers have taken, by branch.

        Raises:
            UserError: if this call has another shape than the first.
        """
        known = {branch: self._tokens.get(branch, tokens[branch]) for branch in layout.rows}
        first = (self.images, self.frames, self.latent_size, known)
        came = (layout.images, layout.frames, latent, dict(tokens))
        if came != first:
            raise UserError(
                f"expected every call of a run to be like the first, {_told(*first)}, but came "
                f"{_told(*came)}; record each run on its own"
            )
        self.calls += 1
        # Kept as it came: reading a number off a GPU would wait for it at every step.
        self.timesteps.append(timestep)
        windows: dict[str, int] = {}
        for index, branch in enumerate(self.keep.branches):
            if branch not in layout.rows:
                continue
            step = self._steps[branch] + gone[branch]
            self._steps[branch] += 1
            self._end = max(self._end, step + 1)
            number = self._window_of(step)
            if number is not None:
                self._check_texts(branch, layout)
                windows[branch] = number
                self._sums(number).calls[index] += 1
        return windows

    def keeps(self, branch: str, gone: int) -> bool:
        """Whether the next step of a branch is kept; `gone` as of `begin_call`."""
        return self._window_of(self._steps[branch] + gone) is not None

    def _check_texts(self, branch: str, layout: Layout) -> None:
        """Raises `UserError` for a prompt that has changed since the first step that is kept."""
        before, now = self.texts.get(branch, ()), layout.texts[branch]
        for one, other in zip(before, now, strict=False):
            if one is not None and other is not None and one.ids != other.ids:
                # Of a schedule, which is one prompt, it is the tokens that differ.
                same = one.prompt == other.prompt
                names = [shown(" ".join(e.tokens) if same else e.prompt, 80) for e in (one, other)]
                raise UserError(
                    f"expected one prompt for each picture in the steps that are kept, but "
                    f"{names[1]} came after {names[0]}; keep the steps of one with "
                    "steps=[(first, end)], or record each run on its own"
                )

    def reads_words(self, branch: str, window: int) -> bool:
        """Whether this call, which has begun, is one of those in which words are walked and their
        contributions read: the first of its window, and then each so-manieth."""
        calls = self._sums(window).calls[self.keep.branches.index(branch)]
        return (calls - 1) % self.keep.walk_every == 0

    def add(
        self,
        window: int,
        branch: str,
        key: Key,
        maps: Tensor,
        columns: tuple[int, int] | None = None,
    ) -> None:
        """Adds maps `(images, heads, places, kept)` to a sum.

        Args:
            window: number of the window.
            branch: of the guidance.
            key: the stream and the site.
            maps: fp32.
            columns: where they are a part of the token axis: the first place, and its length.

        Raises:
            UserError: if what is kept outgrows the budget.
        """
        sums, index = self._sums(window), self.keep.branches.index(branch)
        first, length = (0, maps.shape[-1]) if columns is None else columns
        fresh = key not in sums.maps
        total = sums.place(key, index, (*maps.shape[:-1], length), maps.device)
        if fresh:
            self._check_budget()
        if total.shape[-1] != maps.shape[-1]:
            total = total[..., first : first + maps.shape[-1]]
        total.add_(maps)
        if first == 0:
            sums.counts[key][index] += 1

    def weigh(self, window: int, branch: str, site: str, agreement: Tensor) -> None:
        """Adds how well a site agreed with the layout of the picture, fp32 `(images,)`."""
        sums, index = self._sums(window), self.keep.branches.index(branch)
        if site not in sums.weights:
            sums.weights[site] = torch.zeros(
                (sums.branches, len(agreement)), device=agreement.device
            )
        sums.weights[site][index].add_(agreement)

    def selection(self, branch: str, stream: str, device: torch.device) -> Tensor | None:
        """`(images, tokens, kept)` of 0 and 1: probs times it are the sums over what is kept; None:
        every column by itself."""
        groups = None if self.groups is None else self.groups.get(branch)
        if groups is None and stream == "walked" and self.walked_columns is not None:
            groups = (tuple((column,) for column in self.walked_columns),) * self.images
        if groups is None:
            return None
        key = (branch, stream)
        if key not in self._selections:
            self._selections[key] = _selection(groups, self._tokens[branch]).to(device)
        return self._selections[key]

    @property
    def nbytes(self) -> int:
        """Bytes held for maps."""
        return sum(window.nbytes for window in self._windows.values())

    def leave_out(self, site: AttentionSite) -> None:
        """A site that cannot be read, and that the user wants left out then."""
        self.sites = [each for each in self.sites if each.name != site.name]
        for window in self._windows.values():
            window.maps = {key: each for key, each in window.maps.items() if key[1] != site.name}

    def check_readable(self) -> None:
        """Raises `UserError` if nothing was recorded, or what was cannot be trusted."""
        if not self._windows:
            raise UserError(
                "expected a recorded run, but the pipeline has not run yet (or not as far as the "
                "steps to keep); call it inside `with record(pipe) as trace:` before reading maps"
            )
        if self.calls != self.finished:
            raise UserError(
                f"expected a run that ended, but it broke off inside call {self.calls} of the "
                "denoiser; record it again"
            )
        for branch in self.keep.branches:
            if not self._steps[branch]:
                raise UserError(
                    f"expected a run with the branch {branch!r}, but this one had none; turn "
                    "guidance on, or keep another branch"
                )

    def means(self, numbers: Collection[int]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """By stream and site, the mean over the calls of each of some windows, `(image, branch,
        step, head, [frame,] height, width, token)`, shares 0 to 1; and how many calls that were,
        `(branch, step)`. NaN where there were none.

        Raises:
            UserError: if the model gave NaN at a site, or a site was never reached.
        """
        windows = self._summed(numbers)
        maps: dict[str, dict[str, NDArray[np.float32]]] = {}
        counts: dict[str, dict[str, NDArray[np.int64]]] = {}
        keys = dict.fromkeys(key for window in windows for key in window.maps)
        for site in self.sites:
            if ("text", site.name) not in keys:
                raise UserError(
                    f"expected calls at {site.name}, but its block was skipped during the whole "
                    "run; leave that site out with sites=…"
                )
        order = {site.name: place for place, site in enumerate(self.sites)}
        for stream, name in sorted(keys, key=lambda key: order.get(key[1], 0)):
            if name not in order:
                continue
            mean, count = mean_of(windows, (stream, name), self._grid(stream, name))
            maps.setdefault(stream, {})[name] = mean
            counts.setdefault(stream, {})[name] = count
        return maps, counts

    def site_weights(self, numbers: Collection[int]) -> dict[str, NDArray[np.float32]] | None:
        """By site, the mean of `site_weights.agreement` over the calls, `(image, branch, step)`;
        None unless the heads are `"auto"`."""
        if self.keep.heads != "auto":
            return None
        windows = self._summed(numbers)
        calls = np.array([window.calls for window in windows], dtype=np.float32)[..., None]
        weights: dict[str, NDArray[np.float32]] = {}
        for site in self.sites:
            total = np.stack([window.weights[site.name].cpu().numpy() for window in windows])
            with np.errstate(invalid="ignore"):
                weights[site.name] = np.ascontiguousarray((total / calls).transpose(2, 1, 0))
        return weights

    def _summed(self, numbers: Collection[int]) -> list[Sums]:
        """The sums of windows by their numbers; empty ones where this denoiser did not run."""
        branches = len(self.keep.branches)
        return [self._windows.get(number) or Sums(branches) for number in numbers]

    def _grid(self, stream: str, site: str) -> tuple[int, ...]:
        """How the places of a site's map lie: `([frames,] height, width)`."""
        size = self.sizes[site]
        if stream == BETWEEN:  # a token that looks is a place
            size = (1, max(self._tokens.values()))
            return size if self.frames == 1 else (1, *size)
        return size if self.frames == 1 else (self.frames, *size)

    def _window_of(self, step: int) -> int | None:
        """The number of the window that a step is summed into; None: it is not kept."""
        if self.keep.steps == "sum":
            return 0
        if self._asked is None:
            return step
        found = [n for n, (first, end) in enumerate(self._asked) if first <= step < end]
        return found[0] if found else None

    def _sums(self, window: int) -> Sums:
        if window not in self._windows:
            self._windows[window] = Sums(len(self.keep.branches))
        return self._windows[window]

    def _check_budget(self) -> None:
        budget = self.keep.budget
        if budget is None:
            return
        each = max(window.nbytes for window in self._windows.values())
        needed = max(self.nbytes, each * self._expected_windows)
        if needed > budget:
            raise UserError(
                f"expected maps of at most {budget:,} bytes (budget=…), but this run would keep "
                f"{needed:,} or more: {len(self.sites)} sites, {self._expected_windows} of steps, "
                f"{len(self.keep.branches)} branches, heads {self.keep.heads!r}; keep fewer by "
                'sites=…, words=…, steps="sum" or heads="mean"'
            )


def steps_of(stores: Sequence[MapStore]) -> dict[int, tuple[int, int]]:
    """By the number of each window that one of the stores has, its first step and end."""
    numbers = sorted({number for store in stores for number in store._windows})
    end = max(store._end for store in stores)
    keep, asked = stores[0].keep, stores[0]._asked
    if keep.steps == "sum":
        return {0: (0, end)}
    if asked is None:
        return {number: (number, number + 1) for number in numbers}
    return {number: (asked[number][0], min(asked[number][1], end)) for number in numbers}


def _selection(groups: tuple[Groups, ...], tokens: int) -> Tensor:
    selection = torch.zeros(len(groups), tokens, len(groups[0]))
    for image, of_image in enumerate(groups):
        for place, columns in enumerate(of_image):
            selection[image, list(columns), place] = 1
    return selection


def _told(images: int, frames: int, latent: tuple[int, int], tokens: Mapping[str, int]) -> str:
    height, width = latent
    lengths = " and ".join(dict.fromkeys(map(str, tokens.values())))
    video = f" of {frames} frames" if frames > 1 else ""
    return f"{images} pictures{video}, latents of {height} × {width}, {lengths} tokens"
