"""A recorded run: what of each denoiser is kept, and what is read of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from t2i_xattn.denoisers.branches import ROLES, UNCONDITIONAL
from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.of_pipeline import OfPipeline
from t2i_xattn.denoisers.pictures import ip_adapters
from t2i_xattn.denoisers.registry import Acting
from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.run import FollowedDenoiser, FollowedRun, Repeated, Spans
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import Groups
from t2i_xattn.errors import UserError, WordNotFoundError
from t2i_xattn.kernel.cover import Cover
from t2i_xattn.kernel.owner import was_running
from t2i_xattn.prompts.concepts import Concept, encoded_concepts
from t2i_xattn.prompts.encoded import Text, kinds_of
from t2i_xattn.prompts.roles import CONDITIONAL
from t2i_xattn.provenance.versions import versions
from t2i_xattn.recording.arguments import arguments_of
from t2i_xattn.recording.concepts import concept_reader
from t2i_xattn.recording.contributions import ContributionCall, Contributions
from t2i_xattn.recording.keep import Keep
from t2i_xattn.recording.modalities import Modalities
from t2i_xattn.recording.reading import RecordingCall
from t2i_xattn.recording.store import MapStore, steps_of
from t2i_xattn.traces.recorded_run import RecordedRun


class RecordedDenoiser(FollowedDenoiser):
    """One denoiser (a UNet, or a ControlNet) while its calls are recorded.

    Attributes:
        found: its sites that read the text, in forward order.
        store: what is kept.
        concepts: how maps of concepts are read; None where nobody wants them.
    """

    run: RecordingRun

    def __init__(self, run: RecordingRun, denoiser: OfPipeline) -> None:
        """
        Raises:
            UserError: if it has no cross-attention, or maps of concepts cannot be read in it.
        """
        super().__init__(run, denoiser)
        sites = [site for site, _ in self.registry.modules.values()]
        self.found = [
            dataclasses.replace(site, name=self.prefix + site.name)
            for site in sites
            if site.reads_text
        ]
        if not self.found:
            raise UserError(
                "expected a denoiser whose picture looks at a text, but "
                f"{type(self.module).__name__} has no site where it does; "
                "record a pipeline whose pictures are conditioned on text"
            )
        self.concepts = None
        if run.keep.concepts:
            self.concepts = concept_reader(self.registry, self.module, run.keep.concepts)
        self.store = MapStore((), run.keep)
        self._partners: dict[str, str] = {}

    def keep_sites(self, chosen: Sequence[AttentionSite]) -> None:
        """Decides what is kept: these of its sites.

        Raises:
            UserError: if self-attention has to be read beside a site that has none.
        """
        names = {site.name for site in chosen}
        kept = [site for site in self.found if site.name in names]
        self.store = MapStore(kept, self.run.keep)
        if self.run.keep.needs_self_attention:
            for site in kept:
                self._partners[site.name] = self.prefix + self._partner(site)
        needed = [site.name for site in kept] + list(self._partners.values())
        self.site_names = {name.removeprefix(self.prefix) for name in needed}

    @property
    def has_concepts(self) -> bool:
        """Whether one of the sites that are kept has maps of concepts."""
        if self.concepts is None:
            return False
        names = [site.name.removeprefix(self.prefix) for site in self.store.sites]
        return any(self.concepts.reads(self.registry.modules[name][0]) for name in names)

    def _partner(self, site: AttentionSite) -> str:
        """The self-attention of a site's block, which comes before it; itself where text and
        picture look at both."""
        if site.kind == "joint":
            return site.name.removeprefix(self.prefix)
        own = site.name.removeprefix(self.prefix)
        block, found = own.rpartition(".")[0], None
        for name, (other, _) in self.registry.modules.items():
            if name == own:
                break
            if other.kind == "self" and name.rpartition(".")[0] == block:
                found = name
        if found is None:
            raise UserError(
                f"expected self-attention beside {site.name} to read, but its block has none; "
                "leave that site out with sites=…, or read without it (walk=0)"
            )
        return found

    def acting(self, layout: Layout, call: DenoiserCall) -> Acting | None:
        run, store = self.run, self.store
        latent = call.latent_size
        tokens = {branch: call.tokens_of(rows) for branch, rows in layout.rows.items()}
        if not store.began:
            store.begin_run(layout, latent, run.steps, run.columns_of_words(layout))
            run.note_beginning(layout)
        gone = {branch: self.steps_elsewhere(branch) for branch in layout.rows}
        for branch in layout.rows:
            if branch not in run.keep.branches:
                continue
            # A prompt may change on the way: the words are those of the steps that are kept.
            kept = store.keeps(branch, gone[branch])
            if branch not in store.words or (kept and branch not in store.fixed):
                if kept and not store.fixed:
                    store.look_at(run.columns_of_words(layout))
                texts = layout.texts[branch]
                words = run.words_of(layout, branch)
                store.begin_branch(branch, words, texts, tokens[branch], kept)
        windows = store.begin_call(layout, latent, tokens, call.timestep, gone)
        concepts = None
        if self.concepts is not None and CONDITIONAL in windows:
            concepts = self.concepts.begin(call, run.concepts())
        contributions = None
        if CONDITIONAL in windows and store.reads_words(CONDITIONAL, windows[CONDITIONAL]):
            contributions = self._contributions(layout)
        acting = RecordingCall(
            store,
            layout,
            windows,
            self._partners,
            self.prefix,
            edited=run.is_edited,
            skip=run.skip,
            concepts=concepts,
            contributions=contributions,
            modalities=Modalities(call.given, ip_adapters(self.pipe))
            if run.keep.modalities
            else None,
        )
        if self.concepts is not None and concepts is not None:
            self.concepts.follow(acting)
        return acting

    def _contributions(self, layout: Layout) -> ContributionCall | None:
        """What is done for the contributions of words in a call; None where nobody wants them, or
        there are no words.

        Raises:
            UserError: if a prompt cannot be encoded without its words.
        """
        run, store = self.run, self.store
        if run.contributions is None:
            return None
        groups = None if store.groups is None else store.groups[CONDITIONAL]
        of_images = [
            run.contributions.prepare(text, None if groups is None else groups[image])
            for image, text in enumerate(layout.texts[CONDITIONAL])
        ]
        axis = store.walked_columns if groups is None else None
        return ContributionCall(layout, of_images, axis) if any(of_images) else None


class RecordingRun(FollowedRun):
    """One recorded run, and what is read of it."""

    denoisers: list[RecordedDenoiser]  # type: ignore[assignment]

    def __init__(
        self,
        pipe: Any,
        keep: Keep,
        spans: Spans | Sequence[Spans] | None,
        repeated: Repeated,
        skip: bool,
    ) -> None:
        super().__init__(pipe, spans, repeated)
        self.keep, self.skip = keep, skip
        self._guidance_scale: float | None = None
        self._broken_off: str | None = None
        self._arguments: dict[str, Any] = {}
        self._crop: tuple[int, ...] | None = None
        self._cropping: Cover | None = None
        self._concepts: tuple[Concept, ...] | None = None
        self._encoded_with: Any = None
        self.contributions = Contributions(self.ears) if keep.contributions else None
        masks = getattr(pipe, "mask_processor", None)
        if hasattr(masks, "get_crop_region"):
            self._cropping = Cover(masks, "get_crop_region", self._cropped)

    def _open(self) -> None:
        if self._cropping is not None:
            self._cropping.put()
        super()._open()
        for each in self.denoisers:
            if each.concepts is not None and each.has_concepts:
                each.concepts.put()

    def _close(self) -> None:
        for each in self.denoisers:
            if each.concepts is not None:
                each.concepts.take_off()
        super()._close()
        if self._cropping is not None:
            self._cropping.take_off()

    def _cropped(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """An inpainting pipeline paints a part of the picture only."""
        region = method(*args, **kwargs)
        self._crop = tuple(int(each) for each in region)
        return region

    def run_again(self) -> None:
        if any(each.store.began for each in self.denoisers):
            raise UserError(
                "expected one run inside `with record(pipe)`, but a second one begins; "
                "open a new `with record(pipe) as trace:` for each run"
            )
        super().run_again()

    def heard(self) -> None:
        super().heard()
        settings = self.ears.settings
        if self.keep.concepts and settings and settings != self._encoded_with:
            # While the text encoders are where they are needed: they may be offloaded then.
            self._concepts, self._encoded_with = None, settings
            self.concepts()
        named = self.keep.words is not None
        if self.ears.called or not (named or self.contributions):
            return
        for text in self.ears.texts:  # a word that is not there is told before the run
            if text.role == CONDITIONAL and CONDITIONAL in self.keep.branches and text.words:
                groups = self._groups(text) if named else None
                # Which phase of a schedule is kept, its steps say.
                if self.contributions is not None and not text.phases:
                    self.contributions.prepare(text, None if groups is None else groups[0])

    def _groups(self, text: Text) -> tuple[Groups, ...] | None:
        """The columns of the words that are kept; of a schedule in the first phase that has them.

        Raises:
            UserError: if they are not there.
        """
        every = {each.picture for each in self.ears.texts if each.role == CONDITIONAL}
        phases = [text, *(dataclasses.replace(text, words=words) for words in text.phases)]
        for number, phase in enumerate(phases, start=1):
            words = self.words(phase, CONDITIONAL, text.picture, len(every))
            try:
                return self.keep.groups([words], len(text.embedding))
            except WordNotFoundError:
                if number == len(phases):
                    raise
        return None

    def concepts(self) -> tuple[Concept, ...]:
        """The concepts as the pipeline encodes them; made once a run.

        Raises:
            UserError: if they cannot be.
        """
        if self._concepts is None:
            self._concepts = encoded_concepts(self.ears, self.keep.concepts)
        return self._concepts

    def columns_of_words(self, layout: Layout) -> set[int]:
        """The columns of all words in the branches that are kept, also of those that the run comes
        to in later calls."""
        branches = self.keep.branches
        roles = {ROLES[branch] for branch in branches}
        texts = [text for text in self.ears.texts if text.role is None or text.role in roles]
        own = [self.words_of(layout, branch) for branch in branches if branch in layout.rows]
        every = [words for text in texts for words in (text.words, *text.phases)]
        every += [words for of_images in own for words in of_images]
        return {column for words in every for word in words for column in word.columns}

    @property
    def is_edited(self) -> bool:
        """Whether edits act on any of the denoisers, so that all sites have maps after them."""
        return any(
            other.edits
            for each in self.denoisers
            for other in each.registry.followers_of(self.pipe)
        )

    def note_beginning(self, layout: Layout) -> None:
        """Remembers with what guidance and arguments the run began."""
        self._arguments = arguments_of(self.pipe)
        guided = UNCONDITIONAL in layout.rows
        self._guidance_scale = getattr(self.pipe, "guidance_scale", None) if guided else None

    def note_error(self, error: BaseException) -> None:
        """Remembers that the run was broken off, if the error came from within it and not from
        what the user did after it."""
        if was_running(self.pipe, error):
            self._broken_off = type(error).__name__

    def read(self) -> RecordedRun:
        """What has been recorded so far.

        Raises:
            UserError: if there is nothing to read, or what there is cannot be trusted.
        """
        # Of several denoisers one may have had no step in this run.
        stores = [each.store for each in self.denoisers if each.store.sites]
        stores = [store for store in stores if store.began] or stores[:1]
        maps: dict[str, Any] = {}
        counts: dict[str, Any] = {}
        for store in stores:
            store.check_readable()
        windows = steps_of(stores)
        for store in stores:
            for whole, part in zip((maps, counts), store.means(windows), strict=True):
                for stream, of_sites in part.items():
                    whole.setdefault(stream, {}).update(of_sites)
        first = stores[0]
        height, width = first.latent_size
        scale = _pixels_a_latent(self.pipe)
        texts = {branch: first.texts.get(branch, ()) for branch in self.keep.branches}
        return RecordedRun(
            maps=maps,
            counts=counts,
            sites=tuple(site for store in stores for site in store.sites),
            groups=first.groups,
            walked_columns=first.walked_columns,
            branches=self.keep.branches,
            steps=tuple(windows.values()),
            prompts={b: tuple(t and t.prompt for t in each) for b, each in texts.items()},
            words={branch: first.words.get(branch, ()) for branch in self.keep.branches},
            tokens={b: tuple(t.tokens if t else () for t in each) for b, each in texts.items()},
            kinds={b: tuple(map(kinds_of, each)) for b, each in texts.items()},
            frames=first.frames,
            latent_size=(height, width),
            picture_size=(round(height * scale), round(width * scale)),
            crop=self._crop,
            settings=self._settings(),
            site_weights=first.site_weights(windows),
            concepts=self.keep.concepts,
        )

    def _model(self) -> str | None:
        # A pipeline that was loaded from a `Path` keeps it as one, which JSON does not know.
        name = getattr(getattr(self.pipe, "config", None), "_name_or_path", None)
        return None if name is None else str(name)

    def _settings(self) -> dict[str, Any]:
        stores = [each.store for each in self.denoisers if not each.beside]
        broken_off = {} if self._broken_off is None else {"broken_off": self._broken_off}
        return {
            **broken_off,
            "calls": sum(each.calls for each in stores),
            "timesteps": [_numbers(one) for each in stores for one in each.timesteps],
            "guidance_scale": self._guidance_scale,
            "arguments": self._arguments,
            "heads": self.keep.heads,
            "walk": self.keep.walk,
            "pipeline": type(self.pipe).__name__,
            "model": self._model(),
            "scheduler": type(getattr(self.pipe, "scheduler", None)).__name__,
            "versions": versions(),
        }


_SCALES = (
    "vae_scale_factor",
    "vae_scale_factor_spatial",
    "vae_spatial_compression_ratio",
    "vae_spatial_scale_factor",
)
"""Where pipelines keep how many pixels a latent stands for, on a side."""


def _pixels_a_latent(pipe: Any) -> float:
    found = [float(each) for name in _SCALES if (each := getattr(pipe, name, None))]
    # Stable Cascade's prior paints for a decoder.
    multiple = getattr(getattr(pipe, "config", None), "resolution_multiple", None)
    return found[0] if found else float(multiple or 8)


def _numbers(timestep: Any) -> float | list[float]:
    """A timestep as JSON has it: one number, or one a row where the rows differ in noise."""
    numbers: list[float] = torch.as_tensor(timestep).flatten().float().tolist()
    return numbers[0] if len(numbers) == 1 else numbers
