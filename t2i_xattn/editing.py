"""`edit`: change what words do while a pipeline runs, and leave everything as it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from t2i_xattn.editing_processor import ActingEdit, BranchEdits, EditingProcessor
from t2i_xattn.edits.edit import Edit, EditContext, EditFunction
from t2i_xattn.errors import UserError
from t2i_xattn.followed_denoiser import FollowedDenoiser
from t2i_xattn.following import FollowedRun, Spans
from t2i_xattn.keep import TEXT
from t2i_xattn.prompt import Word, token_ids
from t2i_xattn.sites import AttentionSite, choose_sites, walk_sites
from t2i_xattn.sums import CallShape

EditLike = Edit | Callable[[Tensor, EditContext], Tensor]


@contextmanager
def edit(
    pipe: Any, *edits: EditLike, spans: Spans | Sequence[Spans] | None = None
) -> Iterator[None]:
    """Edits the attention of a diffusers pipeline while the context is open.

    Edits compose in their order: each is given what the one before it made. Contexts nest, the
    outer one's edits first; with `record` they nest in either order, and the trace then has the
    stream `edited` beside `text`, the maps before all edits. Sites, steps, branches and images that
    no edit touches are computed as they were, by the processors that stand there. On leaving, by
    success or by exception, all is as it was found.

    Several runs of the pipeline may follow each other inside one context (a UNet that is called by
    hand is taken for one run). An edit may be asked twice at a site, by
    the editor and by the recorder. Around a processor of one's own that does more with its values
    than diffusers' do, what the edit changes is added as in a plain layer.

    Args:
        pipe: any loaded pipeline with a cross-attending `unet`.
        edits: edits of `t2i_xattn`, or functions `(probs, context) -> probs`, of fp32 probs
            `(images, heads, queries, tokens)` and an `EditContext`, that act at all sites of
            cross-attention. Where and when an edit acts is said by its arguments, see `Edit`; a
            function gets them by `EditFunction`.
        spans: for prompts that are given as embeddings: the columns of each word or phrase, a
            mapping for all the images or one for each.

    Raises:
        UserError: before anything is changed, if the pipeline has no UNet with such sites or an
            argument cannot be; before the first step, if an edit does not fit the run (a word that
            the prompt does not have); at a call, if an edit changes the shape of the probs or makes
            NaN or infinity of them. In a compiled UNet torch wraps the error about a shape.

    Example:
        >>> with edit(pipe, Reweight("red", 1.5), Drop("blue", steps=(0, 0.5))):
        ...     image = pipe("a red circle left of a blue square").images[0]
    """
    if not edits:
        raise UserError("expected at least one edit, but came none; such as Reweight('red', 1.5)")
    unet = getattr(pipe, "unet", None)
    if not isinstance(unet, nn.Module):
        raise UserError(
            "expected a diffusers pipeline with a `unet`, but came "
            f"{type(pipe).__name__}; edit a text-to-image pipeline of the Stable Diffusion family"
        )
    denoiser = _EditedDenoiser(unet, [_as_edit(each) for each in edits])
    with _EditedRun(pipe, [denoiser], spans).followed():
        yield


def _as_edit(given: Any) -> Edit:
    if isinstance(given, Edit):
        return given
    if isinstance(given, type):
        raise UserError(f"expected an edit, but came the class {given.__name__}; call it first")
    if callable(given):
        return EditFunction(given)
    raise UserError(f"expected an edit or a function (probs, context) -> probs, but came {given!r}")


class _EditedDenoiser(FollowedDenoiser):
    """A denoiser whose sites are wrapped where edits may act."""

    wrapper = EditingProcessor
    way_out = "sites=… of the edit"

    def __init__(self, denoiser: nn.Module, edits: Sequence[Edit]) -> None:
        super().__init__(denoiser)
        found = list(walk_sites(denoiser))
        placed = []
        for each in edits:
            of_kind = [site for site, _ in found if site.kind == each.kind]
            if not of_kind:
                raise UserError(
                    f"expected a UNet with {each.kind}-attention for {each.name}, but "
                    f"{type(denoiser).__name__} has none"
                )
            placed.append((each, choose_sites(of_kind, each.sites)))
        touched = {site.name for _, sites in placed for site in sites}
        self.layers = [(site.name, attn) for site, attn in found if site.name in touched]
        for name, attn in self.layers:
            self._check(name, attn)
        self.consumer = self.schedule = EditSchedule(placed)


class _EditedRun(FollowedRun[_EditedDenoiser]):
    """Runs of an edited pipeline, one after the other."""

    def run_again(self) -> None:
        self.encoded = None
        for each in self.denoisers:
            each.schedule.reset()

    def begin(
        self, denoiser: _EditedDenoiser, shape: CallShape, branches: Mapping[str, slice]
    ) -> None:
        for each, _ in denoiser.schedule.placed:
            missing = [branch for branch in each.of_branches if branch not in branches]
            # A guider calls the UNet for one branch after the other.
            if missing and not hasattr(self.pipe, "guider"):
                raise UserError(
                    f"expected a run with the branch {missing[0]!r} for {each.name}, but this one "
                    f"has {', '.join(branches)}; turn guidance on, or name other branches=…"
                )
        prompts = (None,) * shape.images if self.encoded is None else self.encoded.prompts
        tokenizer = getattr(self.pipe, "tokenizer", None) or getattr(self.pipe, "tokenizer_2", None)
        denoiser.schedule.begin_run(
            shape,
            self.words(shape.images),
            tuple(
                None if prompt is None or tokenizer is None else token_ids(tokenizer, prompt)
                for prompt in prompts
            ),
            # Of a UNet that is called by hand, the pipeline only knows an earlier run.
            None if self.encoded is None else getattr(self.pipe, "_num_timesteps", None),
        )


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
    ) -> None:
        """Fixes what stays the same over a run.

        Args:
            shape: of every call to come.
            words, token_ids: of each image's prompt, see `EditContext`.
            steps: of the run, if they are known.

        Raises:
            UserError: if a window holds none of the steps.
        """
        self.shape, self._words, self._token_ids, self._steps = shape, words, token_ids, steps
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
