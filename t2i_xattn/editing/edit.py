"""`edit`: change what words do while a pipeline runs, and leave everything as it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from t2i_xattn.denoisers.followed_denoiser import FollowedDenoiser
from t2i_xattn.denoisers.following import FollowedRun, Spans, controlnets
from t2i_xattn.denoisers.sites import AttentionSite, choose_sites, walk_sites
from t2i_xattn.editing.editing_processor import EditingProcessor
from t2i_xattn.editing.schedule import EditSchedule
from t2i_xattn.edits.edit import Edit, EditContext
from t2i_xattn.edits.function import EditFunction
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.listening import encode_unheard
from t2i_xattn.prompts.words import token_ids
from t2i_xattn.recording.sums import CallShape

EditLike = Edit | Callable[[Tensor, EditContext], Tensor]


@contextmanager
def edit(
    pipe: Any,
    *edits: EditLike,
    spans: Spans | Sequence[Spans] | None = None,
    controlnet: bool = False,
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
        controlnet: whether the edits act at the sites of the pipeline's ControlNet as well; their
            names begin with `controlnet.`.

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
    placed = [_as_edit(each) for each in edits]
    denoisers = [("", unet), *(controlnets(pipe) if controlnet else [])]
    found = [_found_sites(denoiser, prefix) for prefix, denoiser in denoisers]
    sites = [_sites_of(each, [site for some in found for site, _ in some]) for each in placed]
    followed = [
        _EditedDenoiser(denoiser, prefix, of_it, list(zip(placed, sites, strict=True)))
        for (prefix, denoiser), of_it in zip(denoisers, found, strict=True)
    ]
    with _EditedRun(pipe, followed, spans).followed():
        yield


def _found_sites(denoiser: nn.Module, prefix: str) -> list[tuple[AttentionSite, nn.Module]]:
    return [
        (dataclasses.replace(site, name=prefix + site.name), attn)
        for site, attn in walk_sites(denoiser)
    ]


def _sites_of(edit: Edit, found: Sequence[AttentionSite]) -> list[AttentionSite]:
    """The sites where an edit acts.

    Raises:
        UserError: if there are none.
    """
    of_kind = [site for site in found if site.kind == edit.kind]
    if not of_kind:
        raise UserError(
            f"expected a UNet with {edit.kind}-attention for {edit.name}, but it has none; edit a "
            "pipeline whose pictures are conditioned on text"
        )
    return choose_sites(of_kind, edit.sites)


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

    def __init__(
        self,
        denoiser: nn.Module,
        prefix: str,
        found: Sequence[tuple[AttentionSite, nn.Module]],
        placed: Sequence[tuple[Edit, Sequence[AttentionSite]]],
    ) -> None:
        """
        Args:
            denoiser, prefix: see `FollowedDenoiser`.
            found: its sites, with their layers.
            placed: the edits in their order, and the sites of each, here and elsewhere.
        """
        super().__init__(denoiser, prefix)
        own = {site.name for site, _ in found}
        here = [(each, [site for site in sites if site.name in own]) for each, sites in placed]
        touched = {site.name for _, sites in here for site in sites}
        self.layers = [(site.name, attn) for site, attn in found if site.name in touched]
        for name, attn in self.layers:
            self._check(name, attn)
        self.consumer = self.schedule = EditSchedule(here)


class _EditedRun(FollowedRun[_EditedDenoiser]):
    """Runs of an edited pipeline, one after the other."""

    _texts: Mapping[str, Tensor] | None = None

    def run_again(self) -> None:
        self.encoded = self._texts = None
        for each in self.denoisers:
            each.schedule.reset()

    def begin(
        self, denoiser: _EditedDenoiser, shape: CallShape, branches: Mapping[str, slice]
    ) -> None:
        for each, _ in denoiser.schedule.placed:
            missing = [branch for branch in each.of_branches if branch not in branches]
            # A guider calls the UNet for one branch after the other, and a ControlNet in guess mode
            # sees one only.
            if missing and denoiser is self.denoisers[0] and not hasattr(self.pipe, "guider"):
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
            self._encoded_texts(denoiser),
        )

    def _encoded_texts(self, denoiser: _EditedDenoiser) -> Mapping[str, Tensor]:
        """The embeddings of the texts of all edits, made once a run.

        Raises:
            UserError: if they cannot be made, or are not what the denoiser's sites take.
        """
        if self._texts is None:
            texts = [text for each, _ in denoiser.schedule.placed for text in each.texts]
            settings = {} if self.encoded is None else self.encoded.settings
            self._texts = (
                encode_unheard(self.pipe, list(dict.fromkeys(texts)), settings) if texts else {}
            )
        for text in self._texts.values():
            for name, attn in denoiser.layers:
                width = getattr(attn, "cross_attention_dim", None)
                if getattr(attn, "is_cross_attention", False) and width != text.shape[-1]:
                    raise UserError(
                        f"expected texts of {width} channels at {name}, but the pipeline encodes "
                        f"them in {text.shape[-1]}, which its UNet projects first; use a pipeline "
                        "like Stable Diffusion or SDXL"
                    )
        return self._texts
