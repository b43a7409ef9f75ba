"""`edit`: change what words do while a pipeline runs, and leave everything as it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from t2i_xattn.arguments import checked
from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.of_pipeline import OfPipeline, denoisers_of
from t2i_xattn.denoisers.pictures import ip_adapters
from t2i_xattn.denoisers.registry import Acting
from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.run import FollowedDenoiser, FollowedRun, Repeated, Spans
from t2i_xattn.denoisers.sites import AttentionSite, choose_sites
from t2i_xattn.denoisers.streams import picture_stream
from t2i_xattn.editing.block_texts import BlockTexts
from t2i_xattn.editing.schedule import EditedRun, Placed
from t2i_xattn.edits.edit import Edit, EditContext
from t2i_xattn.edits.function import EditFunction
from t2i_xattn.errors import UserError, shown
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.words import check_whole

EditLike = Edit | Callable[[Tensor, EditContext], Tensor]


@checked
@contextmanager
def edit(
    pipe: Any,
    *edits: EditLike,
    spans: Spans | Sequence[Spans] | None = None,
    controlnet: bool = False,
    repeated: Repeated = "raise",
) -> Iterator[None]:
    """Edits the attention of a diffusers pipeline while the context is open.

    Edits compose in their order: each is given what the one before it made. Contexts nest, the
    outer one's edits first; with `record` they nest in either order, and the trace then has the
    stream `edited` beside `text`, the maps before all edits. What an edit changes is added to what
    the kernel gave: O′ = O + (P′ − P) V, before the output projection. Sites, steps, branches and
    images that no edit touches keep their bytes. On leaving, by success or by exception, all is as
    it was found.

    Several runs of the pipeline may follow each other inside one context (a loop by hand over its
    denoiser counts as one). Runs of other pipelines on the same denoiser are left alone.

    Args:
        pipe: any loaded pipeline whose denoiser looks at a text.
        edits: edits of `t2i_xattn`, or functions `(probs, context) -> probs`, of fp32 probs
            `(images, heads, queries, tokens)` and an `EditContext`, that act at all sites of
            cross-attention. Where and when an edit acts is said by its arguments, see `Edit`; a
            function gets them by `EditFunction`.
        spans: the columns of words, parts of words or symbols under names of your own, beside the
            words of the prompt: a mapping for all the images or one for each.
        controlnet: whether the edits act at the sites of the pipeline's ControlNet as well; their
            names begin with `controlnet.`.
        repeated: what to do about further calls at the same noise level, see `record`.

    Raises:
        UserError: before anything is changed, if the pipeline has no denoiser with such sites or an
            argument cannot be; in the first call of a run, if an edit does not fit it (a word that
            the prompt does not have; of a schedule, in the first of the edit's own steps where the
            prompt does not have it); at a call, if an edit changes the shape of the probs or makes
            NaN or infinity of them.

    Example:
        >>> with edit(pipe, edits.Reweight("red", 1.5), edits.Drop("blue", steps=(0, 0.5))):
        ...     image = pipe("a red circle left of a blue square").images[0]
    """
    if not edits:
        raise UserError("expected at least one edit, but came none; such as Reweight('red', 1.5)")
    placed = [_as_edit(each) for each in edits]
    denoisers = denoisers_of(pipe, controlnet)
    run = _EditingRun(pipe, spans, repeated)
    found = [_EditedDenoiser(run, each) for each in denoisers]
    sites = [site for each in found for site in each.found]
    chosen: list[Placed] = [
        (each, frozenset(site.name for site in _sites_of(each, sites))) for each in placed
    ]
    for each in found:
        each.place(chosen)
    # A second one of the sampling loop counts the steps, edited or not.
    run.denoisers = [each for each in found if each.site_names or not each.beside]
    with run.followed():
        yield


def _sites_of(edit: Edit, found: Sequence[AttentionSite]) -> list[AttentionSite]:
    """The sites where an edit acts.

    Raises:
        UserError: if there are none.
    """
    of_kind = [site for site in found if site.reads_text == (edit.kind == "cross")]
    if not of_kind and any(site.kind == "joint" for site in found):
        raise UserError(
            f"expected a denoiser with {edit.kind}-attention for {edit.name}, but came joint "
            "attention, where the picture's attention to itself is part of the same softmax; leave "
            f"{edit.name} out"
        )
    if not of_kind:
        raise UserError(
            f"expected a denoiser with {edit.kind}-attention for {edit.name}, but it has none; "
            "edit a pipeline whose pictures are conditioned on text"
        )
    return choose_sites(of_kind, edit.sites)


def _as_edit(given: Any) -> Edit:
    if isinstance(given, Edit):
        return given
    if isinstance(given, type):
        raise UserError(f"expected an edit, but came the class {given.__name__}; call it first")
    if callable(given):
        return EditFunction(given)
    raise UserError(
        f"expected an edit or a function (probs, context) -> probs, but came {shown(given)}"
    )


class _EditingRun(FollowedRun):
    """Runs of an edited pipeline, one after the other."""

    _texts: Mapping[str, Text] | None = None
    denoisers: list[_EditedDenoiser]  # type: ignore[assignment]

    def _open(self) -> None:
        super()._open()
        for each in self.denoisers:
            if each.block_texts is not None:
                each.block_texts.blocks.put()

    def _close(self) -> None:
        for each in self.denoisers:
            if each.block_texts is not None:
                each.block_texts.blocks.take_off()
        super()._close()

    def run_again(self) -> None:
        self._texts = None
        super().run_again()

    def encoded(self, placed: Sequence[Placed]) -> Mapping[str, Text]:
        """The texts of all edits as the pipeline encodes them, each by itself, once a run.

        Raises:
            UserError: if they cannot be, or one is too long.
        """
        if self._texts is None:
            texts = dict.fromkeys(text for each, _ in placed for text in each.texts)
            encoded = {text: self.ears.encode(text) for text in texts}
            for text, each in encoded.items():
                check_whole(text, each.words)
            self._texts = encoded
        return self._texts


class _EditedDenoiser(FollowedDenoiser):
    """A denoiser whose sites are edited.

    Attributes:
        found: its sites, in forward order.
        block_texts: what gives the edits' texts where attention is joint; None where it is not.
    """

    run: _EditingRun
    edits = True

    def __init__(self, run: _EditingRun, denoiser: OfPipeline) -> None:
        super().__init__(run, denoiser)
        self.found = [
            dataclasses.replace(site, name=self.prefix + site.name)
            for site, _ in self.registry.modules.values()
        ]
        self._placed: list[Placed] = []
        self.block_texts: BlockTexts | None = None

    def place(self, chosen: Sequence[Placed]) -> None:
        """Decides which edits act at its sites.

        Raises:
            UserError: if one has texts that the denoiser cannot be given.
        """
        own = {site.name for site in self.found}
        self._placed = [(each, names & own) for each, names in chosen]
        self.site_names = {
            name.removeprefix(self.prefix) for _, names in self._placed for name in names
        }
        joint = {site.name for site in self.found if site.kind == "joint"}
        texts = [each.name for each, names in self._placed if each.texts and names & joint]
        if texts:
            self.block_texts = BlockTexts(self.registry, self.module, texts[0])

    def forget(self) -> None:
        super().forget()
        self._edited: EditedRun | None = None

    def acting(self, layout: Layout, call: DenoiserCall) -> Acting | None:
        latent = call.latent_size
        if self._edited is None:
            self._check_branches(layout)
            run, copies = self.run, self.run.ears.copies
            known = self._encoded(), self._streams(call)
            self._edited = EditedRun(self._placed, layout, latent, run.steps, copies, *known)
        for branch in layout.rows:
            # A prompt may change on the way.
            self._edited.take_up(branch, self.run.words_of(layout, branch), layout.texts[branch])
        gone = {branch: self.steps_elsewhere(branch) for branch in layout.rows}
        acting = self._edited.begin_call(layout, latent, call.timestep, self.prefix, gone)
        for branch, rows in layout.rows.items():
            step, numbers = acting.steps[branch], acting.acting[branch]
            tokens, device = call.tokens_of(rows), call.text[0].device
            self._edited.check(branch, step, numbers, self.found, tokens, device)
        if self.block_texts is not None:
            texts, sites = self._edited.texts, acting.sites_of_texts
            acting.block_texts = self.block_texts.begin(call, texts, sites)
            self.block_texts.follow(acting, acting.block_texts)
        return acting

    def _streams(self, call: DenoiserCall) -> dict[str, tuple[str, ...]]:
        """By site, whose keys kernel calls of the run may be about, beside which it stands."""
        modules = self.registry.modules
        # A ControlNet looks at no picture of an IP-Adapter, but the denoiser beside it does.
        count = ip_adapters(self.pipe) if self.beside else 0
        elsewhere = [picture_stream(number) for number in range(1, count + 1)]
        return {
            self.prefix + name: (
                *self.registry.family.streams_at(*modules[name], call),
                *elsewhere,
            )
            for name in self.site_names
        }

    def _check_branches(self, layout: Layout) -> None:
        """Raises `UserError` if an edit is for a branch that the run does not have."""
        # A guider, and a loop by hand, may call the denoiser for one branch after the other, and a
        # ControlNet in guess mode sees one only.
        if self.beside or not self.by_pipeline or hasattr(self.pipe, "guider"):
            return
        for each, _ in self._placed:
            missing = [branch for branch in each.of_branches if branch not in layout.rows]
            if missing and not (each.any_branch and len(missing) < len(each.of_branches)):
                raise UserError(
                    f"expected a run with the branch {missing[0]!r} for {each.name}, but this one "
                    f"has {', '.join(layout.rows)}; turn guidance on, or name other branches=…"
                )

    def _encoded(self) -> Mapping[str, Text]:
        """The texts of the edits.

        Raises:
            UserError: if they are not what the denoiser's sites take.
        """
        texts = self.run.encoded(self._placed)
        for text in texts.values():
            for name in self.site_names:
                site, module = self.registry.modules[name]
                own = getattr(module, "cross_attention_dim", None)
                width = text.embedding.shape[-1]
                if site.kind == "cross" and own != width:
                    raise UserError(
                        f"expected texts of {own} channels at {name}, but the pipeline encodes "
                        f"them in {width}, which its denoiser projects first; use a pipeline like "
                        "Stable Diffusion or SDXL"
                    )
        return texts
