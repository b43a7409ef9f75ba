"""`guide`: move the latents so that the maps of words become as a loss wants them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.arguments import checked
from t2i_xattn.denoisers.branches import CONDITIONAL
from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.frozen import frozen
from t2i_xattn.denoisers.of_pipeline import OfPipeline, denoisers_of
from t2i_xattn.denoisers.registry import Acting
from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.rows_of import rows_of
from t2i_xattn.denoisers.run import FollowedDenoiser, FollowedRun, Spans
from t2i_xattn.denoisers.sites import AttentionSite, Sites, choose_sites
from t2i_xattn.errors import UserError, WordNotFoundError, shown
from t2i_xattn.guidance.shallow_pass import ShallowPass, writable
from t2i_xattn.kernel.call import as_index
from t2i_xattn.kernel.cover import Cover
from t2i_xattn.losses.loss import GuidanceLoss
from t2i_xattn.losses.word_maps import WordMaps
from t2i_xattn.prompts.words import Word

USUAL_SIDE = 16
"""The side of the maps that the published methods read (of a picture of 512 × 512)."""


@checked
@contextmanager
def guide(
    pipe: Any,
    *losses: GuidanceLoss,
    sites: Sites | None = None,
    spans: Spans | Sequence[Spans] | None = None,
) -> Iterator[None]:
    """Guides the latents of a diffusers pipeline while the context is open.

    Before each call of the denoiser in the steps where a loss acts, the maps of the words are
    formed with gradients, in a pass on the conditional half that ends at the last site that is
    read; and the latents are moved along the losses' gradients. Then the pipeline goes on with
    these latents, in its call of the denoiser and in the sampler's step. Several losses are added
    up. In half precision the losses are scaled, so that small gradients do not vanish.

    Contexts nest with `record` and `edit`: a recording sees the pipeline's own calls only, and the
    losses see the maps before edits. On leaving all is as it was found. The guided pass of a
    compiled denoiser runs uncompiled, and one with gradient checkpointing without it.

    Args:
        pipe: any loaded pipeline whose denoiser looks at a text, with a `scheduler`.
        losses: `AttendAndExcite`, `Layout`, `BoxDiff`, `Binding`, subclasses of `GuidanceLoss`.
        sites: the sites whose mean map is taken, all of one resolution: names, or a function of the
            `AttentionSite`. By default those whose map is nearest to 16 places on its longer side.
        spans: the columns of words, parts of words or symbols under names of your own.

    Raises:
        UserError: at once, for what is no loss, or sites that are not there; before the first step,
            for words that a prompt does not have, or sites of several resolutions; in the run for
            gradients that are not finite.

    Example:
        >>> with guide(pipe, losses.AttendAndExcite(["circle", "star"])):
        ...     image = pipe("a red circle and a blue star").images[0]
    """
    for loss in losses:
        if not isinstance(loss, GuidanceLoss):
            raise UserError(
                f"expected losses such as AttendAndExcite([…]), but came {shown(loss)}; subclass "
                "GuidanceLoss for one of your own"
            )
    if not losses:
        raise UserError("expected at least one loss to guide by, but came none")
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None:
        raise UserError(
            f"expected a diffusers pipeline with a `scheduler`, but {type(pipe).__name__} has "
            "none; guide a pipeline whose sampler takes its steps by scheduler.step"
        )
    run = _GuidedRun(pipe, scheduler, spans)
    run.denoisers = [_GuidedDenoiser(run, denoisers_of(pipe)[0], losses, sites)]
    with run.followed():
        yield


class _GuidedRun(FollowedRun):
    """Runs of a guided pipeline, one after the other."""

    denoisers: list[_GuidedDenoiser]  # type: ignore[assignment]

    def __init__(self, pipe: Any, scheduler: Any, spans: Spans | Sequence[Spans] | None) -> None:
        super().__init__(pipe, spans, "add")
        self.scale_input = getattr(scheduler, "scale_model_input", None)
        self._step = Cover(scheduler, "step", self._moved_step)

    def _open(self) -> None:
        self._step.put()
        super()._open()

    def _close(self) -> None:
        super()._close()
        self._step.take_off()

    def _moved_step(
        self, step: Any, output: Any, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """The sampler's step starts from the moved latents."""
        (denoiser,) = self.denoisers
        moved, denoiser.moved = denoiser.moved, None
        if moved is not None:
            if self.scale_input is not None:
                # Samplers scale the denoiser's input by a factor, if at all.
                moved = moved / self.scale_input(torch.ones((), device=moved.device), timestep)
            sample = moved.to(sample).reshape(sample.shape)
        return step(output, timestep, sample, *args, **kwargs)


class _GuidedDenoiser(FollowedDenoiser):
    """A denoiser whose latents are moved before its calls.

    Attributes:
        moved: fp32 latents `(images, channels, height, width)`, scaled as the denoiser gets them,
            that the sampler's next step is to start from; None: its own.
    """

    run: _GuidedRun

    def __init__(
        self,
        run: _GuidedRun,
        denoiser: OfPipeline,
        losses: Sequence[GuidanceLoss],
        sites: Sites | None,
    ) -> None:
        super().__init__(run, denoiser)
        self.losses = losses
        found = [site for site, _ in self.registry.modules.values() if site.reads_text]
        if not found:
            raise UserError(
                "expected a denoiser whose picture looks at a text, but "
                f"{type(self.module).__name__} has no site where it does; "
                "guide a pipeline whose pictures are conditioned on text"
            )
        if any(each.is_inference() for each in self.registry.denoiser.parameters()):
            raise UserError(
                "expected weights that gradients pass through, but they were made inside "
                "torch.inference_mode(); load the pipeline outside of it"
            )
        self._all_usual = sites is None
        self._found = choose_sites(found, sites)
        self.site_names = {site.name for site in self._found}

    def forget(self) -> None:
        super().forget()
        self.moved: Tensor | None = None
        self._calls = 0
        self._words: tuple[tuple[Word, ...], ...] = ()
        self._prompts: tuple[str | None, ...] = ()
        self._read: list[AttentionSite] = []

    def begun(
        self, layout: Layout, call: DenoiserCall, given: dict[str, Any]
    ) -> tuple[Acting | None, dict[str, Any]]:
        if layout.frames > 1:
            raise UserError(
                f"expected a pipeline of stills to guide, but came a video of {layout.frames} "
                "frames; guide one picture at a time"
            )
        if CONDITIONAL in layout.rows:
            if self.moved is not None:
                raise UserError(
                    "expected the pipeline's own scheduler to take the steps of a guided run, but "
                    "it did not; set pipe.scheduler before the context is opened"
                )
            self._take_up(layout)
            self._calls += 1
            self._guide(layout, call)
        moved = self.moved
        if moved is None:
            return None, given
        sample, part = stacked(call.sample).clone(), self._own_latents(call)
        for rows in layout.rows.values():
            sample[(as_index(rows), *part[1:])] = moved.to(sample)
        return None, self.registry.family.with_sample(given, sample)

    def _take_up(self, layout: Layout) -> None:
        """Notes the prompts' words, and looks whether the losses can act on them; again where a
        prompt has changed on the way, for the losses that act from here on."""
        words = self.run.words_of(layout, CONDITIONAL)
        prompts = tuple(None if text is None else text.prompt for text in layout.texts[CONDITIONAL])
        if self._calls and (words, prompts) == (self._words, self._prompts):
            return
        self._words, self._prompts = words, prompts
        done = self._done(self._calls)
        for loss in self.losses:
            if done >= loss.until:
                continue
            try:
                loss.check(WordMaps(torch.empty(0), words, done, prompts))
            except WordNotFoundError as error:
                if not self._calls:
                    raise
                if None in layout.texts[CONDITIONAL]:
                    raise UserError(
                        f"expected embeddings whose words are known for {type(loss).__name__}, "
                        f"but came others from step {self._calls} on; make them with "
                        "condition(pipe, prompt), or name their columns by spans={name: columns}"
                    ) from error
                until = math.floor(done * 10_000) / 10_000
                raise WordNotFoundError(
                    f"{error} (from step {self._calls} on, where the text of this run changes; "
                    f"{type(loss).__name__} ends there by until={until:g})"
                ) from error

    def _done(self, step: int) -> float:
        """The part of the run that lies behind a step."""
        return min(step / (self.run.steps or 1), 1.0)

    def _guide(self, layout: Layout, call: DenoiserCall) -> None:
        """Moves the latents, if a loss acts in this step."""
        steps, step = self.run.steps or 1, self._calls - 1
        done = self._done(step)
        acting = [
            (loss, *loss.enough_at(done, step, steps)) for loss in self.losses if done < loss.until
        ]
        if not any(most for _, most, _ in acting):
            return
        moved = self._guided(layout.rows[CONDITIONAL], call, acting, done)
        # Of several guides the last has begun from where the others have come to.
        for other in self.registry.followers_of(self.pipe):
            if isinstance(other, _GuidedDenoiser):
                other.moved = moved

    def _guided(
        self,
        rows: Sequence[int],
        call: DenoiserCall,
        acting: Sequence[tuple[GuidanceLoss, int, float]],
        done: float,
    ) -> Tensor:
        """`moved`, after the updates of one step; `acting` says how often, and what is enough.

        The latents are moved as the denoiser gets them, so that a loss's scale means the same with
        samplers that scale them.
        """
        denoiser: Any = self.registry.denoiser
        family, batch = self.registry.family, call.rows
        # Tensors of inference mode take part in no gradient.
        with torch.inference_mode(False), torch.enable_grad(), frozen(denoiser):
            own = {
                name: writable(rows_of(value, rows, batch)) for name, value in call.given.items()
            }
            sample = writable(rows_of(stacked(call.sample), rows, batch))
            part, dtype = self._own_latents(call), sample.dtype
            latents = sample[part].detach().float()
            for iteration in range(max(most for _, most, _ in acting)):
                latents = latents.detach().requires_grad_(True)
                moved = sample.clone()
                moved[part] = latents.to(dtype)
                own = family.with_sample(own, moved)
                maps = WordMaps(self._shares(own), self._words, done, self._prompts)
                total = latents.new_zeros(())
                live = False
                for loss, most, enough in acting:
                    value = loss(maps)
                    wanted = (value.detach() > enough) & (iteration < most)
                    live = live or bool(wanted.any())
                    total = total + loss.scale * (value * wanted).sum()
                if not live:
                    break
                gradient = _gradient(total, latents, dtype)
                latents = latents.detach() - math.sqrt(1 - done / 2) * gradient
            return latents.detach()

    def _own_latents(self, call: DenoiserCall) -> tuple[slice, ...]:
        """Where the picture's own latents stand in the denoiser's input: some pipelines join masks
        or other pictures to them, as channels or behind them."""
        config: Any = self.registry.denoiser.config
        given, made = config.in_channels, getattr(config, "out_channels", None)
        if isinstance(call.sample, Tensor) and call.sample.ndim == 3:
            # In sequences, whose channels are those of several latents in some.
            _, height, width = call.places or (1, *call.latent_size)
            channels = given if made is None or made * 4 == given else made
            return slice(None), slice(height * width), slice(channels)
        return slice(None), slice(made or given)

    def _shares(self, own: dict[str, Any]) -> Tensor:
        """The mean over the sites that are read, `(images, height, width, tokens)`."""
        # Which sites those are is known once their sizes have been seen.
        sites = self._read or self._found
        seen = ShallowPass([site.name for site in sites]).run(self.registry, own)
        if not self._read:
            size = self._size([each.size for each in seen.values()])
            self._read = [site for site in sites if seen[site.name].size == size]
        read = [seen[site.name] for site in self._read]
        mean = torch.stack([each.probs for each in read]).mean(dim=0)
        return mean.unflatten(1, read[0].size)

    def _size(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """The size of the maps that are read.

        Raises:
            UserError: if the user's sites have several resolutions.
        """
        if self._all_usual:
            return min(sizes, key=lambda size: (abs(math.log2(max(size) / USUAL_SIDE)), -size[0]))
        if len(set(sizes)) > 1:
            raise UserError(
                "expected sites of one resolution to guide by, but came "
                f"{sorted(set(sizes))}; choose them with sites=lambda site: site.level == …"
            )
        return sizes[0]


def stacked(sample: Tensor | Sequence[Tensor]) -> Tensor:
    """Latents as one tensor."""
    return sample if isinstance(sample, Tensor) else torch.stack(list(sample))


def _gradient(loss: Tensor, latents: Tensor, dtype: torch.dtype) -> Tensor:
    """∇loss by the latents; in half precision from a scaled loss.

    Raises:
        UserError: if it is not finite at any scale.
    """
    scale = 2.0**12 if dtype == torch.float16 else 1.0
    while True:
        (gradient,) = torch.autograd.grad(loss * scale, latents, retain_graph=scale > 1)
        gradient = gradient / scale
        if gradient.isfinite().all():
            return gradient
        if scale <= 1:
            raise UserError(
                "expected finite gradients to guide by, but came NaN or infinity; run the model in "
                "bfloat16 or float32, or lower the scale of the loss"
            )
        scale = max(1.0, scale / 16)
