"""`guide`: move the latents so that the maps of words become as a loss wants them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.branches import CONDITIONAL
from t2i_xattn.denoisers.followed_denoiser import FollowedDenoiser
from t2i_xattn.denoisers.following import FollowedRun, Spans
from t2i_xattn.denoisers.frozen import frozen
from t2i_xattn.denoisers.sites import Sites, choose_sites, walk_sites
from t2i_xattn.errors import UserError
from t2i_xattn.guidance.shallow_pass import GuidingProcessor, rows_of, shallow_maps
from t2i_xattn.losses.loss import GuidanceLoss
from t2i_xattn.losses.word_maps import WordMaps
from t2i_xattn.prompts.words import Word
from t2i_xattn.recording.sums import CallShape

USUAL_SIDE = 16
"""The side of the maps that the published methods read (of a picture of 512 × 512)."""


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
    losses see the maps before edits. On leaving all is as it was found. Whole compiled UNets are
    guided by what they were compiled from; `compile_repeated_blocks` cannot be.

    Args:
        pipe: any loaded pipeline with a cross-attending `unet` and a `scheduler`.
        losses: `AttendAndExcite`, `Layout`, `BoxDiff`, `Binding`, subclasses of `GuidanceLoss`.
        sites: the sites whose mean map is taken, all of one resolution: names, or a function of the
            `AttentionSite`. By default those whose map is nearest to 16 places on its longer side.
        spans: for prompts that are given as embeddings, the columns of each word.

    Raises:
        UserError: at once, for what is no loss, or sites that are not there; before the first step,
            for words that a prompt does not have, or sites of several resolutions; in the run for
            gradients that are not finite.

    Example:
        >>> with guide(pipe, AttendAndExcite(["circle", "star"])):
        ...     image = pipe("a red circle and a blue star").images[0]
    """
    for loss in losses:
        if not isinstance(loss, GuidanceLoss):
            raise UserError(
                f"expected losses such as AttendAndExcite([…]), but came {loss!r}; subclass "
                "GuidanceLoss for one of your own"
            )
    if not losses:
        raise UserError("expected at least one loss to guide by, but came none")
    unet, scheduler = getattr(pipe, "unet", None), getattr(pipe, "scheduler", None)
    if not isinstance(unet, nn.Module) or scheduler is None:
        raise UserError(
            "expected a diffusers pipeline with a `unet` and a `scheduler`, but came "
            f"{type(pipe).__name__}; guide a pipeline of the Stable Diffusion family"
        )
    denoiser = _GuidedDenoiser(unet, losses, sites)
    with _GuidedRun(pipe, [denoiser], spans).followed(), _moved_steps(scheduler, denoiser):
        yield


class _Schedule:
    """Where a guided run has come to; see `followed_denoiser.Consumer`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.shape: CallShape | None = None
        self.calls = 0
        self.words: tuple[tuple[Word, ...], ...] = ()
        self.prompts: tuple[str | None, ...] = ()
        self.steps = 1
        self.branches: Mapping[str, slice] = {}

    def begin_call(
        self,
        shape: CallShape,
        branches: Mapping[str, slice],
        timestep: Tensor | float,
        device: torch.device,
    ) -> dict[str, tuple[Any, ...]]:
        self.calls += CONDITIONAL in branches
        self.branches = branches
        return {}

    def end_call(self) -> None:
        """Nothing is left to do."""


class _GuidedRun(FollowedRun["_GuidedDenoiser"]):
    """Runs of a guided pipeline, one after the other."""

    def run_again(self) -> None:
        self.encoded = None
        for each in self.denoisers:
            each.schedule.reset()
            each.moved = None

    def begin(
        self, denoiser: _GuidedDenoiser, shape: CallShape, branches: Mapping[str, slice]
    ) -> None:
        words = self.words(shape.images)
        known = None if self.spans is not None else self.encoded
        prompts = known.prompts if known is not None else (None,) * shape.images
        for loss in denoiser.losses:
            loss.check(WordMaps(torch.empty(0), words, prompts=prompts))
        schedule = denoiser.schedule
        schedule.shape, schedule.words, schedule.prompts = shape, words, prompts
        schedule.steps = getattr(self.pipe, "_num_timesteps", None) or 1
        denoiser.choose(shape.latent_size)


class _GuidedDenoiser(FollowedDenoiser):
    """A denoiser whose latents are moved before its calls.

    Attributes:
        moved: fp32 latents `(images, channels, height, width)`, scaled as the denoiser gets them,
            that the sampler's next step is to start from; None: its own.
        scale_input: the sampler's `scale_model_input`, or None.
    """

    wrapper = GuidingProcessor
    way_out = "sites=…"

    def __init__(
        self, denoiser: nn.Module, losses: Sequence[GuidanceLoss], sites: Sites | None
    ) -> None:
        super().__init__(denoiser)
        self.losses = losses
        found = [(site, attn) for site, attn in walk_sites(denoiser) if site.kind == "cross"]
        if not found:
            raise UserError(
                f"expected a UNet with cross-attention, but {type(denoiser).__name__} has none; "
                "guide a pipeline whose pictures are conditioned on text"
            )
        self._all_usual = sites is None
        names = {site.name for site in choose_sites([site for site, _ in found], sites)}
        self._found = [(site, attn) for site, attn in found if site.name in names]
        self.layers = [(site.name, attn) for site, attn in self._found]
        for name, attn in self.layers:
            self._check(name, attn)
        self._read = self.layers
        self._size = (0, 0)
        self.consumer = self.schedule = _Schedule()
        self.moved: Tensor | None = None
        self.scale_input: Any = None

    def choose(self, latent_size: tuple[int, int]) -> None:
        """Settles which sites are read, now that the picture's size is known.

        Raises:
            UserError: if the user's have several resolutions.
        """
        sizes = {site.name: site.size(*latent_size) for site, _ in self._found}
        if self._all_usual:
            self._size = min(
                sizes.values(), key=lambda size: (abs(math.log2(max(size) / USUAL_SIDE)), -size[0])
            )
        elif len(set(sizes.values())) > 1:
            raise UserError(
                "expected sites of one resolution to guide by, but came "
                f"{sorted(set(sizes.values()))}; choose them with sites=lambda site: "
                "site.level == …"
            )
        else:
            self._size = next(iter(sizes.values()))
        self._read = [(name, attn) for name, attn in self.layers if sizes[name] == self._size]

    def changed(self, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        schedule, sample = self.schedule, given["sample"]
        if CONDITIONAL in schedule.branches:
            if self.moved is not None:
                raise UserError(
                    "expected the pipeline's own scheduler to take the steps of a guided run, but "
                    "it did not; set pipe.scheduler before the context is opened"
                )
            step = schedule.calls - 1
            done = min(step / schedule.steps, 1.0)
            acting = [
                (loss, *loss.enough_at(done, step, schedule.steps))
                for loss in self.losses
                if done < loss.until
            ]
            if any(most for _, most, _ in acting):
                self.moved = self._guided(given, acting, done)
        if self.moved is None:
            return None
        sample = sample.clone()
        for rows in schedule.branches.values():
            sample[rows, : self.moved.shape[1]] = self.moved.to(sample)
        return (), given | {"sample": sample}

    def take_moved(self, timestep: Any) -> Tensor | None:
        """The latents for the sampler's step, as the sampler has them; once."""
        moved, self.moved = self.moved, None
        if moved is None or self.scale_input is None:
            return moved
        # Samplers scale the denoiser's input by a factor, if at all.
        return moved / self.scale_input(torch.ones((), device=moved.device), timestep)

    def _guided(
        self, given: dict[str, Any], acting: Sequence[tuple[GuidanceLoss, int, float]], done: float
    ) -> Tensor:
        """`moved`, after the updates of one step; `acting` says how often, and what is enough.

        The latents are moved as the denoiser gets them, so that a loss's scale means the same with
        samplers that scale them.
        """
        sample, schedule = given["sample"], self.schedule
        rows = schedule.branches[CONDITIONAL]
        own = {name: rows_of(value, rows, len(sample)) for name, value in given.items()}
        # Some pipelines join masks or other pictures to the latents.
        channels = self.denoiser.config.out_channels  # type: ignore[union-attr]
        latents, joined = sample[rows, :channels].detach().float(), sample[rows, channels:]
        with frozen(self.denoiser):
            for iteration in range(max(most for _, most, _ in acting)):
                with torch.enable_grad():
                    latents = latents.detach().requires_grad_(True)
                    own["sample"] = torch.cat([latents.to(sample.dtype), joined], dim=1)
                    shares = shallow_maps(self.denoiser, self._read, self._size, own)
                    maps = WordMaps(shares, schedule.words, done, schedule.prompts)
                    total = latents.new_zeros(())
                    live = False
                    for loss, most, enough in acting:
                        value = loss(maps)
                        wanted = (value.detach() > enough) & (iteration < most)
                        live = live or bool(wanted.any())
                        total = total + loss.scale * (value * wanted).sum()
                    if not live:
                        break
                    gradient = _gradient(total, latents, sample.dtype)
                latents = latents.detach() - math.sqrt(1 - done / 2) * gradient
        return latents.detach()


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


@contextmanager
def _moved_steps(scheduler: Any, denoiser: _GuidedDenoiser) -> Iterator[None]:
    """The sampler's steps start from the moved latents, on this instance."""
    step = scheduler.step
    denoiser.scale_input = getattr(scheduler, "scale_model_input", None)

    @functools.wraps(step)  # pipelines look at its signature
    def moved_step(output: Any, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        moved = denoiser.take_moved(timestep)
        if moved is not None:
            sample = moved.to(sample)
        return step(output, timestep, sample, *args, **kwargs)

    own = vars(scheduler)
    before = {"step": own["step"]} if "step" in own else {}
    own["step"] = moved_step
    try:
        yield
    finally:
        own.pop("step", None)
        own.update(before)
