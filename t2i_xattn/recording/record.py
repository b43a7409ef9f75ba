"""`record`: watch one run of a pipeline and leave everything as it was found."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from t2i_xattn.denoisers.branches import CONDITIONAL, UNCONDITIONAL
from t2i_xattn.denoisers.following import FollowedRun, Spans, controlnets
from t2i_xattn.denoisers.sites import Sites, choose_sites
from t2i_xattn.denoisers.wrapping import wrappers
from t2i_xattn.editing.editing_processor import EditingProcessor
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.listening import EncodedPrompts
from t2i_xattn.recording.denoiser_calls import DenoiserCalls
from t2i_xattn.recording.keep import Heads, Keep, Places, Steps
from t2i_xattn.recording.sums import CallShape
from t2i_xattn.traces.recorded_run import RecordedRun
from t2i_xattn.traces.trace import Trace


@contextmanager
def record(
    pipe: Any,
    *,
    sites: Sites | None = None,
    words: Sequence[str] | None = None,
    columns: Sequence[int] | None = None,
    heads: Heads = "mean",
    steps: Steps = "sum",
    branches: str | Sequence[str] = CONDITIONAL,
    walk: int = 0,
    walk_every: int = 4,
    self_attention: Places | None = None,
    reference: str | None = None,
    spans: Spans | Sequence[Spans] | None = None,
    controlnet: bool = False,
    budget: int | None = None,
    unrecordable: Literal["raise", "skip"] = "raise",
) -> Iterator[Trace]:
    """Records the cross-attention maps of one run of a diffusers pipeline.

    The picture is the same, byte for byte, as without recording: the processors that stand at the
    sites go on computing the output, with their fused kernels. Kept is, unless asked otherwise, for
    every site and every token the head mean of the conditional half, averaged over the steps;
    memory does not grow with the steps.

    One context holds one run. Contexts nest, and each gets full maps. On leaving, by success or by
    exception, processors, hooks and methods are as they were found; a processor that was installed
    meanwhile (an IP-Adapter that was loaded) stays.

    Args:
        pipe: any loaded pipeline with a cross-attending `unet`.
        sites: which sites to keep: names, or a function of the `AttentionSite` that says yes or
            no, such as `lambda site: site.place == "up"`. By default all.
        words: words or phrases of the prompt to keep, the shares of their columns added up. By
            default every column of the text is kept by itself.
        columns: columns to keep instead, 0 the start token.
        heads: `"mean"`, `"each"` to keep every head by itself, or `"auto"` to weigh them at each
            place by what they add to the layer's output, and the sites by how well they agree with
            the layout of the picture; see `aggregation.auto`, which then pools the sites.
        steps: `"sum"` for one map over all steps, `"each"` for one a step (memory then grows with
            the steps), or windows `[(first, end), …]`. A step is a call of the denoiser.
        branches: which branches of the guidance: `"conditional"`, `"unconditional"`, `"image"`
            (InstructPix2Pix), `"perturbed"` (PAG), or several.
        walk: steps by which the maps are carried along the self-attention of their block as well,
            as the stream `walked`: places that look at each other come to have alike shares. Best
            with few words, since it costs about as much as self-attention for every 40 columns.
        walk_every: the walk is taken at the first call of each window of steps, and then at each
            so-manieth; the mean is over these. The calls next to each other are much alike.
        self_attention: places of the picture as (down, right), 0 to 1, whose self-attention is
            kept as the stream `self`: at each site, where the query that the place lies in looks.
            `"all"` keeps the whole matrix of every site, and needs a budget.
        reference: with `heads="auto"`, the name of the site whose queries say what belongs
            together; by default `site_weights.reference_site` chooses.
        spans: for prompts that are given as embeddings: the columns of each word or phrase, a
            mapping for all the images or one for each.
        controlnet: whether to record the sites of the pipeline's ControlNet as well; their names
            begin with `controlnet.`.
        budget: most bytes that the maps may take; a run that needs more is refused.
        unrecordable: what to do about a site whose processor forms no queries and keys that could
            be read: raise an error, or skip the site.

    Yields:
        A `Trace`, readable once the pipeline has run, inside the context or after it.

    Raises:
        UserError: before anything is changed, if the pipeline has no UNet with cross-attention, an
            argument cannot be, or a site cannot be recorded; before its first step, for a second
            run inside the context, a word that the prompt does not have, or a budget that is too
            small; at a UNet call whose batch is not made of known branches.

    Example:
        >>> with record(pipe) as trace:
        ...     image = pipe("a red circle", num_inference_steps=25).images[0]
        >>> trace.heatmap("red").overlay(image).save("red.png")
    """
    keep = Keep(
        words=words,
        columns=columns,
        heads=heads,
        steps=steps if isinstance(steps, str) else tuple(steps),
        branches=(branches,) if isinstance(branches, str) else tuple(branches),
        budget=budget,
        walk=walk,
        walk_every=walk_every,
        self_attention=self_attention
        if isinstance(self_attention, str | None)
        else tuple(self_attention),
        reference=reference,
    )
    if controlnet and heads == "auto":
        raise UserError(
            'expected heads="mean" or "each" with controlnet=True, but came "auto": the weights of '
            "a ControlNet's sites cannot be held against the UNet's"
        )
    if unrecordable not in ("raise", "skip"):
        raise UserError(f'expected unrecordable="raise" or "skip", but came {unrecordable!r}')
    followed = _denoisers(pipe, controlnet, unrecordable == "skip")
    chosen = choose_sites([site for each in followed for site in each.sites], sites)
    if reference is not None:
        choose_sites(chosen, [reference])
    for each in followed:
        each.keep_sites(chosen, keep)
    followed = [each for each in followed if each.modules]

    run = _Run(pipe, keep, followed, spans)
    trace = Trace(run.read)
    try:
        with run.followed():
            yield trace
    finally:
        trace.finish()


def _denoisers(pipe: Any, controlnet: bool, skip: bool) -> list[DenoiserCalls]:
    unet = getattr(pipe, "unet", None)
    if not isinstance(unet, nn.Module):
        raise UserError(
            "expected a diffusers pipeline with a `unet`, but came "
            f"{type(pipe).__name__}; record a text-to-image pipeline of the Stable Diffusion family"
        )
    denoisers = [DenoiserCalls(unet, "", skip)]
    if controlnet:
        denoisers += [DenoiserCalls(net, prefix, skip) for prefix, net in controlnets(pipe)]
    return denoisers


class _Run(FollowedRun[DenoiserCalls]):
    """One recorded run, and what is read of it."""

    def __init__(
        self,
        pipe: Any,
        keep: Keep,
        denoisers: Sequence[DenoiserCalls],
        spans: Spans | Sequence[Spans] | None,
    ) -> None:
        super().__init__(pipe, denoisers, spans)
        self.keep = keep
        self.guidance_scale: float | None = None

    def run_again(self) -> None:
        raise UserError(
            "expected one run inside `with record(pipe)`, but a second one begins; "
            "open a new `with record(pipe) as trace:` for each run"
        )

    def check(self, encoded: EncodedPrompts) -> None:
        if self.keep.words is not None and self.spans is None and None not in encoded.prompts:
            self.keep.groups(encoded.words, 0)  # a word that is not there is told before the run

    def begin(
        self, denoiser: DenoiserCalls, shape: CallShape, branches: Mapping[str, slice]
    ) -> None:
        groups = self.keep.groups(self.words(shape.images), next(iter(shape.tokens.values())))
        steps = getattr(self.pipe, "_num_timesteps", None)
        edited = any(
            isinstance(each, EditingProcessor)
            for of_run in self.denoisers  # so that the stream has all the sites of the trace
            for _, attn in of_run.modules
            for each in wrappers(attn.processor)
        )
        denoiser.store.begin_run(shape, groups, steps, edited)
        guided = UNCONDITIONAL in branches
        self.guidance_scale = getattr(self.pipe, "guidance_scale", None) if guided else None

    def read(self) -> RecordedRun:
        """What has been recorded so far.

        Raises:
            UserError: if there is nothing to read, or what there is cannot be trusted.
        """
        stores = [each.store for each in self.denoisers]
        maps: dict[str, Any] = {}
        for store in stores:
            for stream, of_sites in store.means().items():
                maps.setdefault(stream, {}).update(of_sites)
        shape = stores[0].shape
        assert shape is not None
        height, width = shape.latent_size
        scale = getattr(self.pipe, "vae_scale_factor", 8)
        none = (None,) * shape.images
        return RecordedRun(
            maps=maps,
            sites=tuple(site for store in stores for site in store.sites),
            groups=stores[0].groups,
            branches=self.keep.branches,
            steps=stores[0].windows(),
            prompts=none if self.encoded is None else self.encoded.prompts,
            words=self.words(shape.images),
            latent_size=(height, width),
            picture_size=(height * scale, width * scale),
            settings=self._settings(),
            site_weights=stores[0].site_weights(),
        )

    def _model(self) -> str | None:
        # A pipeline that was loaded from a `Path` keeps it as one, which JSON does not know.
        name = getattr(getattr(self.pipe, "config", None), "_name_or_path", None)
        return None if name is None else str(name)

    def _settings(self) -> dict[str, Any]:
        store = self.denoisers[0].store
        return {
            "calls": store.calls,
            "timesteps": [_numbers(timestep) for timestep in store.timesteps],
            "guidance_scale": self.guidance_scale,
            "heads": self.keep.heads,
            "walk": self.keep.walk,
            "pipeline": type(self.pipe).__name__,
            "model": self._model(),
            "scheduler": type(getattr(self.pipe, "scheduler", None)).__name__,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("torch", "diffusers", "transformers")
            },
        }


def _numbers(timestep: Any) -> float | list[float]:
    """A timestep as JSON has it: one number, or one a row where the rows differ in noise."""
    numbers: list[float] = torch.as_tensor(timestep).flatten().float().tolist()
    return numbers[0] if len(numbers) == 1 else numbers
