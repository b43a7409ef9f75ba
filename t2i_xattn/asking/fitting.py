"""Whether there is memory for what is asked, looked at before it runs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from t2i_xattn.asking.edit_request import EditRequest
from t2i_xattn.asking.request import Request, arguments_of

STEPS = 2
"""Seen at most; what is held does not grow with them."""
PIXEL = 4096
"""Bytes that no usual model holds for a pixel: Stable Diffusion's autoencoder holds 3,000."""
ROOM = 4
"""With as many times the memory free, nobody need look."""
_FRAMES = ("num_frames", "video_length")
"""Arguments that say how many pictures a video has."""


def check_fits(pipe: Any, request: Request) -> None:
    """Sees a run of the pipeline without computing it, unless there is plainly room for it.

    Raises:
        UserError: one call of the denoiser, or making the picture of its latents, holds more than
            is free now. What recording or an edit takes comes on top.
    """
    _check(pipe, request, "--size or --count" if request.count > 1 else "--size")


def check_edit_fits(pipe: Any, asked: EditRequest) -> None:
    """The same of the pictures before and after an edit, which are painted at once unless something
    pulls at the noise; the size is that of a picture of one's own.

    Raises:
        UserError: see `check_fits`.
    """
    count = 1 if asked.boxes or asked.attend else 2
    size = asked.request.size if asked.image is None else asked.image.size
    smaller = "--size" if asked.image is None else "picture as --image"
    _check(pipe, replace(asked.request, count=count, size=size), smaller)


def _check(pipe: Any, request: Request, smaller: str) -> None:
    """
    Args:
        pipe: the pipeline.
        request: what is painted at once.
        smaller: what to take smaller.
    """
    if _has_plainly_room(pipe, request):
        return  # half a second, which would be a third of a small model's run
    from t2i_xattn.costs.cost import cost

    seen = replace(request, steps=min(request.steps, STEPS))
    cost(pipe, **arguments_of(pipe, seen)).check_fits(
        advice=f"take a smaller {smaller}, or lift this by --no-limits"
    )


def _has_plainly_room(pipe: Any, request: Request) -> bool:
    from torch import nn

    from t2i_xattn.costs.memory import free_bytes

    free = free_bytes(pipe.device)
    if free is None:
        return True
    pixels = _pixels(pipe, request)
    if pixels is None:
        return False
    parts = [each for each in vars(pipe).values() if isinstance(each, nn.Module)]
    weights = sum(each.nbytes for part in parts for each in part.parameters())
    return ROOM * (weights + PIXEL * pixels) < free


def _pixels(pipe: Any, request: Request) -> int | None:
    """Of all that is painted at once; 0 of one picture of a size that is not known, for which the
    weights stand, and None of several or of frames."""
    takes = inspect.signature(pipe.__call__).parameters
    defaults = {name: each.default for name, each in takes.items()}
    frames = next((defaults[name] for name in _FRAMES if name in defaults), 1)
    size = request.size or _own_size(pipe, defaults)
    if size is None or not isinstance(frames, int):
        return 0 if frames == request.count == 1 else None
    width, height = size
    return width * height * frames * request.count


def _own_size(pipe: Any, defaults: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height that a pipeline paints unless it is told; None where it does not say."""
    from t2i_xattn.pictures import own_size

    width, height = (defaults.get(name) for name in ("width", "height"))
    if isinstance(width, int) and isinstance(height, int):
        return width, height
    return own_size(pipe)
