"""A request painted as a film: what the picture is after each step, and where its words act."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_xattn.asking.painting import pictures_of
from t2i_xattn.asking.recording import recorded
from t2i_xattn.asking.request import Request, paint
from t2i_xattn.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.traces.trace import Trace

_SAME = 2 / 255
"""How far the picture after the last step may be from the finished one, in the mean; more means
that the latents were read in another way than the pipeline reads them."""

_LARGEST = 512
"""Pixels of the longer side of a picture that is held."""


@dataclass(frozen=True, eq=False)
class Filmed:
    """What was painted.

    Attributes:
        picture: the finished one.
        frames: the picture after each window of steps, as the autoencoder decodes what is noise in
            part; no larger than a film needs.
        trace: the recording, with a map for each of these windows.
    """

    picture: Image.Image
    frames: tuple[Image.Image, ...]
    trace: Trace


def windows_of(steps: int, frames: int) -> list[tuple[int, int]]:
    """The steps of a run in at most so many windows of like length, first and end."""
    count = min(steps, frames)
    ends = [round(steps * (number + 1) / count) for number in range(count)]
    return list(zip([0, *ends], ends, strict=False))


def filmed(pipe: Any, request: Request, words: Sequence[str], walk: int, frames: int) -> Filmed:
    """Paints a request, and keeps the picture and the maps of some words at several moments.

    Memory grows with the moments and words, not with the steps.

    Args:
        pipe: a pipeline whose latents its autoencoder decodes as Stable Diffusion's or FLUX's does.
        request: of one picture.
        words: whose maps are kept.
        walk: steps along self-attention, see `record`.
        frames: moments at most.

    Raises:
        UserError: the pipeline does not say what its latents are after a step, or they cannot be
            decoded so; or it took another number of steps than it was asked for.
    """
    known = inspect.signature(pipe.__call__).parameters
    if "callback_on_step_end" not in known or getattr(pipe, "vae", None) is None:
        raise UserError(
            "expected a pipeline that hands over its latents after each step "
            f"(callback_on_step_end), but {type(pipe).__name__} does not; take t2i-xattn inspect, "
            "which needs none"
        )
    windows = windows_of(request.steps, frames)
    ends = {end - 1 for _, end in windows}
    found: dict[int, Any] = {}

    def keep(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step in ends:
            found[step] = decoded(pipe, given["latents"][:1], request.size)
        return given

    with recorded(pipe, walk, words=words, steps=windows) as trace:
        (picture,) = paint(pipe, request, callback_on_step_end=keep)
    if sorted(found) != sorted(ends) or trace.run.steps != tuple(windows):
        raise UserError(
            f"expected a run of {request.steps} steps, but it took others, as "
            f"{type(pipe.scheduler).__name__} does; take another scheduler, or t2i-xattn inspect"
        )
    last = found[max(found)]
    true = np.asarray(picture, dtype=np.float32) / 255
    if last.shape != true.shape or float(np.abs(last - true).mean()) > _SAME:
        raise UserError(
            f"expected latents that decode to the picture of {type(pipe).__name__}, but they give "
            "another one, so the steps before would be wrong too; take t2i-xattn inspect"
        )
    pictures = [_small(pictures_of([found[step]])[0]) for step in sorted(found)]
    return Filmed(picture, tuple(pictures), trace)


def decoded(pipe: Any, latents: Any, size: tuple[int, int] | None) -> Any:
    """Latents as a picture: `(height, width, 3)` from 0 to 1.

    Args:
        pipe: the pipeline.
        latents: of one picture, as its sampling loop has them.
        size: width and height of the picture; None: the model's own.

    Raises:
        UserError: if the autoencoder takes something else than scaled, shifted latents.
    """
    import torch

    config = pipe.vae.config
    scale = getattr(config, "scaling_factor", None)
    if latents.ndim == 3 and hasattr(pipe, "_unpack_latents"):  # FLUX packs places of 2 × 2
        side = int(pipe.default_sample_size) * int(pipe.vae_scale_factor)
        width, height = size or (side, side)
        latents = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    if latents.ndim != 4 or scale is None or getattr(config, "latents_mean", None) is not None:
        raise UserError(
            "expected latents that are scaled, and shifted where the autoencoder says so, but "
            f"{type(pipe).__name__} has others; take t2i-xattn inspect, which does not decode them"
        )
    with torch.no_grad():
        given = latents / scale + (getattr(config, "shift_factor", None) or 0)
        picture = pipe.vae.decode(given.to(pipe.vae.dtype), return_dict=False)[0]
    return pipe.image_processor.postprocess(picture, output_type="np")[0]


def _small(picture: Image.Image) -> Image.Image:
    picture.thumbnail((_LARGEST, _LARGEST))
    return picture
