"""What is kept of a run: sums of maps, whose memory does not depend on the number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.recording.keep import EDITED, SELF, TEXT, WALKED, Groups, Keep
from t2i_xattn.recording.site_weights import agreement, reference_affinity, reference_site
from t2i_xattn.recording.sums import CallShape, Kept, Sums
from t2i_xattn.recording.targets import Action, Carry, Looks, Tap, Target, Walk


@dataclass
class _Affinity:
    """What the weights of the sites in one call of one branch are computed from, at its end."""

    weights: dict[str, Tensor]
    branch: int
    carries: dict[str, Carry]
    reference: Carry = field(default_factory=Carry)


class MapStore:
    """Sums of the probs of each site of one denoiser over its calls in one run.

    Attributes:
        keep: what is kept.
        sites: the sites kept, in forward order.
        shape: what the first call fixed; None before it.
        groups: for each image, the columns kept of the text; None: all.
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
            partners: for each site, the self-attention site of its block; needed where `keep` has
                to do with self-attention.
        """
        self.keep = keep
        self.partners = dict(partners or {})
        self.sites = tuple(sites)
        self.calls = 0
        self.finished = 0
        self.timesteps: list[Tensor | float] = []
        self._kept: Kept | None = None
        self._windows: dict[int, Sums] = {}
        self._steps = dict.fromkeys(keep.branches, 0)
        self._selection: Tensor | None = None
        self._places: dict[int, Tensor | None] = {}
        self._affinities: list[_Affinity] = []

    @property
    def shape(self) -> CallShape | None:
        return None if self._kept is None else self._kept.shape

    @property
    def groups(self) -> tuple[Groups, ...] | None:
        return None if self._kept is None else self._kept.groups

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
            edited: whether edits act on the sites, so that the maps after them are kept too.

        Raises:
            UserError: if the maps would be larger than the budget.
        """
        self._kept = Kept(self.keep, self.sites, shape, groups, edited)
        windows = self.keep.windows(steps) or 1
        budget = self.keep.budget
        if budget is not None and windows * self._kept.nbytes > budget:
            raise UserError(
                f"expected maps of at most {budget:,} bytes (budget=…), but this run would keep "
                f"{windows * self._kept.nbytes:,}: {len(self.sites)} sites, {windows} of steps, "
                f"{len(self.keep.branches)} branches, heads {self.keep.heads!r}; keep fewer by "
                'sites=…, words=…, steps="sum" or heads="mean"'
            )

    @property
    def window_nbytes(self) -> int:
        """Bytes of one place on the step axis."""
        assert self._kept is not None
        return self._kept.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes held for maps on the denoiser's device."""
        return sum(
            each.nbytes for window in self._windows.values() for each in window.maps.values()
        )

    def begin_call(
        self,
        shape: CallShape,
        branches: Mapping[str, slice],
        timestep: Tensor | float,
        device: torch.device,
    ) -> dict[str, tuple[Action, ...]]:
        """Counts a call and says what is to be done at each site, by its name.

        The partners of the sites are named too, where they have something to do.

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
        self._affinities = []
        actions: dict[str, tuple[Action, ...]] = {site.name: () for site in self.sites}
        for index, branch in enumerate(self.keep.branches):
            if branch not in branches:
                continue
            place = self.keep.window(self._steps[branch])
            self._steps[branch] += 1
            if place is None:
                continue
            window = self._window(place, device)
            for name, more in self._actions(branches[branch], window, index, device):
                actions[name] = (*actions.get(name, ()), *more)
        return actions

    def _actions(
        self, rows: slice, window: Sums, branch: int, device: torch.device
    ) -> list[tuple[str, tuple[Action, ...]]]:
        """What is to be done with one branch's rows, by site."""
        assert self._kept is not None
        walks = self.keep.walk > 0 and window.calls[branch] % self.keep.walk_every == 0
        window.calls[branch] += 1
        window.walks[branch] += walks
        auto = self.keep.heads == "auto"
        affinity = _Affinity(window.weights, branch, {site.name: Carry() for site in self.sites})
        actions: list[tuple[str, tuple[Action, ...]]] = []
        for site in self.sites:
            walk = edited = None
            at_partner: list[Action] = []
            if walks:
                carry = Carry()
                at_partner.append(Tap(rows, carry))
                walk = Walk(carry, self.keep.walk, *window.place(WALKED, site.name, branch))
            if auto:
                at_partner.append(Tap(rows, affinity.carries[site.name]))
            if self.keep.self_attention is not None:
                queries = self._queries(site, device)
                at_partner.append(Looks(rows, *window.place(SELF, site.name, branch), queries))
            if at_partner:
                actions.append((self.partners[site.name], tuple(at_partner)))
            if self._kept.edited:
                edited = window.place(EDITED, site.name, branch)
            targets = tuple(
                Target(
                    number,
                    rows,
                    *window.place(stream, site.name, branch),
                    selection=self._selection if stream == TEXT else None,
                    walk=walk if stream == TEXT else None,
                    edited=edited if stream == TEXT else None,
                    weighed=auto and stream == TEXT,
                )
                for number, stream in enumerate(self._kept.shape.tokens)
            )
            actions.append((site.name, targets))
        if auto:
            actions.append((self._reference.name, (Tap(rows, affinity.reference),)))
            self._affinities.append(affinity)
        return actions

    @property
    def _reference(self) -> AttentionSite:
        named = [site for site in self.sites if site.name == self.keep.reference]
        return named[0] if named else reference_site(self.sites)

    def _queries(self, site: AttentionSite, device: torch.device) -> Tensor | None:
        """The queries of a site to keep the self-attention of; one tensor a level of the UNet."""
        assert self.shape is not None
        if site.level not in self._places:
            queries = self.keep.queries(*site.size(*self.shape.latent_size))
            self._places[site.level] = (
                None if queries is None else torch.tensor(queries, device=device)
            )
        return self._places[site.level]

    def end_call(self) -> None:
        """Takes in what can be told after the whole call only."""
        assert self.shape is not None
        self.finished += 1
        for affinity in self._affinities:
            size = self._reference.size(*self.shape.latent_size)
            reference = reference_affinity(affinity.reference.taken()[0])
            for site in self.sites:
                carry = affinity.carries[site.name]
                own = site.size(*self.shape.latent_size)
                agreed = agreement(*carry.taken(), carry.scale, own, reference, size)
                affinity.weights[site.name][affinity.branch].add_(agreed)
        self._affinities = []

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
        if self._kept is None or not self._windows:
            raise UserError(
                "expected a recorded run, but the pipeline has not run yet (or not as far as the "
                "steps to keep); call it inside `with record(pipe) as trace:` before reading maps"
            )
        if self.calls != self.finished:
            raise UserError(
                f"expected a run that ended, but it broke off inside UNet call {self.calls}; "
                "record it again"
            )
        windows = self._in_order()
        for index, branch in enumerate(self.keep.branches):
            if not any(window.calls[index] for window in windows):
                raise UserError(
                    f"expected a run with the branch {branch!r}, but this one had none; turn "
                    "guidance on, or keep another branch"
                )
        return {
            stream: {site.name: self._kept.mean(windows, stream, site) for site in self.sites}
            for stream in self._kept.streams
        }

    def site_weights(self) -> dict[str, NDArray[np.float32]] | None:
        """See `Kept.mean_weights`; to be read after `means`, which looks whether all is well."""
        assert self._kept is not None
        return self._kept.mean_weights(self._in_order())

    def _in_order(self) -> list[Sums]:
        return [self._windows[place] for place in sorted(self._windows)]

    def _window(self, place: int, device: torch.device) -> Sums:
        if place in self._windows:
            return self._windows[place]
        assert self._kept is not None
        budget = self.keep.budget
        if budget is not None and self.nbytes + self.window_nbytes > budget:
            raise UserError(
                f"expected maps of at most {budget:,} bytes (budget=…), but step {place} goes "
                f'beyond it, with {self.window_nbytes:,} a step; keep steps="sum" or windows'
            )
        if self._selection is None and self._kept.groups is not None:
            selection = _selection(self._kept.groups, self._kept.shape.tokens[TEXT])
            self._selection = selection.to(device)
        self._windows[place] = self._kept.zeros(device)
        return self._windows[place]


def _selection(groups: tuple[Groups, ...], tokens: int) -> Tensor:
    """`(images, tokens, kept)` of 0 and 1: probs times it are the sums over each group."""
    selection = torch.zeros(len(groups), tokens, len(groups[0]))
    for image, of_image in enumerate(groups):
        for place, columns in enumerate(of_image):
            selection[image, list(columns), place] = 1
    return selection
