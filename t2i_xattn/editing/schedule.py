"""Which edit acts at which site, in which call of a denoiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.editing.editing_processor import ActingEdit, BranchEdits
from t2i_xattn.edits.edit import Edit, EditContext
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.words import Word
from t2i_xattn.recording.keep import TEXT
from t2i_xattn.recording.sums import CallShape


class EditSchedule:
    """Says at each call which edits act at which site, and looks at what they made.

    Attributes:
        shape: what the first call of a run fixed; None before it.
        calls: calls of this run so far.
    """

    def __init__(self, placed: Sequence[tuple[Edit, Sequence[AttentionSite]]]) -> None:
        """
        Args:
            placed: the edits in their order, and the sites of each.
        """
        self.placed = placed
        self.reset()

    def reset(self) -> None:
        """Forgets the run that was."""
        self.shape: CallShape | None = None
        self.calls = 0
        self._words: tuple[tuple[Word, ...], ...] = ()
        self._token_ids: tuple[tuple[int, ...] | None, ...] = ()
        self._steps: int | None = None
        self._texts: Mapping[str, Tensor] = {}
        self._windows: list[tuple[int, float]] = []
        # By branch and site, each with the number of its edit.
        self._prepared: dict[str, dict[str, list[tuple[int, ActingEdit]]]] = {}
        self._step: dict[str, int] = {}
        self._acting: list[ActingEdit] = []

    def begin_run(
        self,
        shape: CallShape,
        words: tuple[tuple[Word, ...], ...],
        token_ids: tuple[tuple[int, ...] | None, ...],
        steps: int | None,
        texts: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Fixes what stays the same over a run.

        Args:
            shape: of every call to come.
            words, token_ids: of each image's prompt, see `EditContext`.
            steps: of the run, if they are known.
            texts: the embeddings of the edits' own texts.

        Raises:
            UserError: if a window holds none of the steps.
        """
        self.shape, self._words, self._token_ids, self._steps = shape, words, token_ids, steps
        self._texts = texts or {}
        self._windows = [each.window(steps) for each, _ in self.placed]

    def begin_call(
        self,
        shape: CallShape,
        branches: Mapping[str, slice],
        timestep: Tensor | float,
        device: torch.device,
    ) -> dict[str, tuple[BranchEdits, ...]]:
        """The edits that act at each site in this call.

        Raises:
            UserError: if this call has another shape than the first, or, at the first call of a
                branch, an edit does not fit the run.
        """
        if shape != self.shape:
            raise UserError(
                f"expected every UNet call of a run to be like the first, {self.shape}, but came "
                f"{shape}; edit each run on its own"
            )
        self.calls += 1
        self._acting = []
        targets: dict[str, tuple[BranchEdits, ...]] = {}
        for branch, rows in branches.items():
            if branch not in self._prepared:
                self._prepared[branch] = self._prepare(branch, timestep, device)
            step = self._step.get(branch, 0)
            self._step[branch] = step + 1
            for name, prepared in self._prepared[branch].items():
                acting = tuple(
                    each._replace(
                        context=dataclasses.replace(each.context, step=step, timestep=timestep)
                    )
                    for number, each in prepared
                    if self._windows[number][0] <= step < self._windows[number][1]
                )
                if acting:
                    targets[name] = (*targets.get(name, ()), BranchEdits(rows, acting))
                    self._acting += acting
        return targets

    def end_call(self) -> None:
        """Looks whether the edits made finite probs.

        Raises:
            UserError: if one did not, naming the first.
        """
        if self._acting and not torch.stack([each.finite for each in self._acting]).all():
            wrong = next(each for each in self._acting if not each.finite)
            raise UserError(
                f"expected {wrong.edit.name} to return finite probs at {wrong.context.site.name}, "
                "but came NaN or infinity; is there a division by 0 (all shares of a query taken "
                "away), or a logarithm of 0?"
            )

    def _prepare(
        self, branch: str, timestep: Tensor | float, device: torch.device
    ) -> dict[str, list[tuple[int, ActingEdit]]]:
        assert self.shape is not None
        prepared: dict[str, list[tuple[int, ActingEdit]]] = {}
        for number, (each, sites) in enumerate(self.placed):
            if branch not in each.of_branches:
                continue
            images = each.images_of(self.shape.images)
            for site in sites:
                height, width = site.size(*self.shape.latent_size)
                context = EditContext(
                    site=site,
                    height=height,
                    width=width,
                    latent_size=self.shape.latent_size,
                    branch=branch,
                    step=0,
                    steps=self._steps,
                    timestep=timestep,
                    words=self._words,
                    token_ids=self._token_ids,
                    tokens=self.shape.tokens[TEXT] if site.kind == "cross" else height * width,
                    images=images,
                    device=device,
                    encoded={text: self._texts[text] for text in each.texts},
                )
                if each.acts_at(context):
                    acting = ActingEdit(
                        edit=each,
                        prepared=each.prepare(context),
                        context=context,
                        only=_only(each, context),
                        finite=torch.ones((), dtype=torch.bool, device=device),
                    )
                    prepared.setdefault(site.name, []).append((number, acting))
        return prepared


def _only(edit: Edit, context: EditContext) -> Tensor | None:
    """What an edit may change, see `ActingEdit.only`."""
    only = None
    if len(context.images) < len(context.words):
        only = torch.zeros(len(context.words), 1, 1, 1, dtype=torch.bool, device=context.device)
        only[list(context.images)] = True
    if edit.words is not None:
        # Without a span in the images that it leaves alone, so these are left out as well.
        only = torch.stack([context.span(word) for word in edit.words]).sum(0) > 0
    return only
