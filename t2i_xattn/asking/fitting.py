"""Whether there is memory for what is asked, looked at before it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from t2i_xattn.asking.edit_request import EditRequest
from t2i_xattn.asking.request import Request, arguments_of

STEPS = 2
"""Seen at most; what is held does not grow with them."""
PIXEL = 16_384
"""Bytes that no usual model holds for a pixel: Stable Diffusion's autoencoder holds 2,000."""
ROOM = 4
"""With as many times the memory free, nobody need look."""


def check_fits(pipe: Any, request: Request) -> None:
    """Sees a run of the pipeline without computing it, unless there is plainly room for it.

    Raises:
        UserError: one call of the denoiser, or making the picture of its latents, holds more than
            is free now. What recording or an edit takes comes on top.
    """
    if _has_plainly_room(pipe, request):
        return  # half a second, which would be a third of a small model's run
    from t2i_xattn.costs.cost import cost

    seen = replace(request, steps=min(request.steps, STEPS))
    cost(pipe, **arguments_of(pipe, seen)).check_fits(
        advice="take a smaller --size or --count, or lift this by --no-limits"
    )


def check_edit_fits(pipe: Any, asked: EditRequest) -> None:
    """The same of the pictures before and after an edit, which are painted at once unless something
    pulls at the noise; the size is that of a picture of one's own.

    Raises:
        UserError: see `check_fits`.
    """
    count = 1 if asked.boxes or asked.attend else 2
    size = asked.request.size if asked.image is None else asked.image.size
    check_fits(pipe, replace(asked.request, count=count, size=size))


def _has_plainly_room(pipe: Any, request: Request) -> bool:
    from torch import nn

    from t2i_xattn.costs.memory import free_bytes

    free = free_bytes(pipe.device)
    if free is None:
        return True
    width, height = request.size or (0, 0)  # its own size, for which its weights stand
    parts = [each for each in vars(pipe).values() if isinstance(each, nn.Module)]
    weights = sum(each.nbytes for part in parts for each in part.parameters())
    return ROOM * (weights + PIXEL * width * height * request.count) < free
