"""`record`: watch one run of a pipeline and leave everything as it was found."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from t2i_xattn.branches import conditional_rows
from t2i_xattn.errors import UserError
from t2i_xattn.processors import RecordingProcessor
from t2i_xattn.prompt_listener import EncodedPrompts, can_listen, listen
from t2i_xattn.sites import AttentionSite, walk_sites
from t2i_xattn.store import MapStore
from t2i_xattn.trace import RecordedRun, Trace


@contextmanager
def record(pipe: Any) -> Iterator[Trace]:
    """Records the cross-attention maps of one run of a diffusers pipeline.

    The picture is the same, byte for byte, as without recording: the processors that stand at the
    sites go on computing the output, with their fused kernels. Kept is, for every site, the head
    mean of the conditional half, summed over the UNet calls; memory does not grow with the steps.

    One context holds one run. Contexts nest, and each gets full maps. On leaving, by success or by
    exception, processors, hooks and methods are as they were found; a processor that was installed
    meanwhile stays.

    Args:
        pipe: any loaded pipeline with a cross-attending `unet`.

    Yields:
        A `Trace`, readable once the pipeline has run, inside the context or after it.

    Raises:
        UserError: before anything is changed, if the pipeline has no UNet with cross-attention;
            before its first step, for a second run inside the context; and at the first UNet call,
            if its batch is not made of an unconditional and a conditional half.

    Example:
        >>> with record(pipe) as trace:
        ...     image = pipe("a red circle", num_inference_steps=25).images[0]
        >>> trace.heatmap("red").overlay(image).save("red.png")
    """
    unet = getattr(pipe, "unet", None)
    if not isinstance(unet, nn.Module):
        raise UserError(
            "expected a diffusers pipeline with a `unet`, but came "
            f"{type(pipe).__name__}; record a text-to-image pipeline of the Stable Diffusion family"
        )
    modules = [(site, attn) for site, attn in walk_sites(unet) if site.kind == "cross"]
    if not modules:
        raise UserError(
            f"expected a UNet with cross-attention, but {type(unet).__name__} has none; "
            "record a pipeline whose pictures are conditioned on text"
        )
    added = [site.name for site, attn in modules if getattr(attn, "added_kv_proj_dim", None)]
    if added:
        raise UserError(
            "expected cross-attention with keys from the text alone, but "
            f"{added[0]} adds its keys to those of self-attention; this denoiser cannot be recorded"
        )

    run = _Run(pipe, [site for site, _ in modules])
    trace = Trace(run.read)
    try:
        with ExitStack() as undo:
            undo.enter_context(listen(pipe, run.prompts_heard))
            for site, attn in modules:
                undo.enter_context(_wrapped(attn, run.processors, site.name))
            for hook in (
                unet.register_forward_pre_hook(run.before_call, with_kwargs=True),
                unet.register_forward_hook(run.after_call),
            ):
                undo.callback(hook.remove)
            yield trace
    finally:
        trace.finish()


@contextmanager
def _wrapped(attn: Any, wrappers: dict[str, RecordingProcessor], name: str) -> Iterator[None]:
    """Stands a recording processor around the one at a site, and takes it away on leaving."""
    wrapper = RecordingProcessor.around(attn.processor)
    attn.processor = wrappers[name] = wrapper
    try:
        yield
    finally:
        wrapper.accumulator = None
        if attn.processor is wrapper:
            attn.processor = wrapper.inner
        else:
            # Another recording that stays longer, or a processor that was installed meanwhile and
            # is not ours to remove.
            wrapper.take_out_of(attn.processor)


class _Run:
    """Follows one run: what is asked, which call, which rows."""

    def __init__(self, pipe: Any, sites: list[AttentionSite]) -> None:
        self.pipe = pipe
        self.store = MapStore(sites)
        self.processors: dict[str, RecordingProcessor] = {}
        self.encoded: EncodedPrompts | None = None
        self.guidance_scale: float | None = None

    def prompts_heard(self, encoded: EncodedPrompts) -> None:
        if self.store.calls:
            raise UserError(
                "expected one run inside `with record(pipe)`, but a second one begins; "
                "open a new `with record(pipe) as trace:` for each run"
            )
        self.encoded = encoded

    def before_call(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False))
        given.update(kwargs)
        sample, text = given["sample"], given["encoder_hidden_states"]
        images = None if self.encoded is None else len(self.encoded.prompts)
        guided = self._guided()
        rows = conditional_rows(sample.shape[0], guided, images)
        self.store.begin_call(
            latent_size=(int(sample.shape[-2]), int(sample.shape[-1])),
            images=rows.stop - rows.start,
            tokens=text.shape[1],
            timestep=given["timestep"],
            device=sample.device,
        )
        if self.store.calls == 1:
            self.guidance_scale = getattr(self.pipe, "guidance_scale", None) if guided else None
        for name, processor in self.processors.items():
            processor.rows = rows
            processor.accumulator = self.store.sums[name]

    def _guided(self) -> bool:
        """Whether this UNet call carries an unconditional half.

        The pipeline's property is read at each call, since a callback may switch guidance off on
        the way. It keeps its value after a run, so for a UNet that is called by hand, with prompts
        encoded without guidance or not by the pipeline at all, it says nothing.
        """
        if self.encoded is None and can_listen(self.pipe):
            return False
        encoded = False if self.encoded is None else self.encoded.guided
        now = bool(getattr(self.pipe, "do_classifier_free_guidance", encoded))
        return now and (encoded or self.encoded is None)

    def after_call(self, unet: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.store.end_call()

    def read(self) -> RecordedRun:
        """What has been recorded so far.

        Raises:
            UserError: if there is nothing to read, or what there is cannot be trusted.
        """
        maps = self.store.means()
        assert self.store.latent_size is not None
        images = next(iter(maps.values())).shape[0]
        height, width = self.store.latent_size
        scale = getattr(self.pipe, "vae_scale_factor", 8)
        return RecordedRun(
            maps=maps,
            sites=self.store.sites,
            prompts=(None,) * images if self.encoded is None else self.encoded.prompts,
            words=((),) * images if self.encoded is None else self.encoded.words,
            latent_size=(height, width),
            picture_size=(height * scale, width * scale),
            settings=self._settings(),
        )

    def _model(self) -> str | None:
        # A pipeline that was loaded from a `Path` keeps it as one, which JSON does not know.
        name = getattr(getattr(self.pipe, "config", None), "_name_or_path", None)
        return None if name is None else str(name)

    def _settings(self) -> dict[str, Any]:
        return {
            "calls": self.store.calls,
            "timesteps": [_numbers(timestep) for timestep in self.store.timesteps],
            "guidance_scale": self.guidance_scale,
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
