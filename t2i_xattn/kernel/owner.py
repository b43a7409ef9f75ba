"""Whose call it is: the pipeline whose method is running.

The stack says it. A denoiser or a text encoder may be shared by pipelines, and what is called looks
the same whoever calls.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any


def running(pipe: Any) -> FrameType | None:
    """The outermost method of a pipeline that runs in this thread, which is one of its runs."""
    outermost = None
    for frame, owner in _methods():
        if owner is pipe:
            outermost = frame
    return outermost


def was_running(pipe: Any, error: BaseException) -> bool:
    """Whether an error, or an interrupt, came from within a method of a pipeline."""
    place = error.__traceback__
    while place is not None:
        if _owner_of(place.tb_frame) is pipe:
            return True
        place = place.tb_next
    return False


def owner_of_call(pipes: list[Any]) -> Any:
    """The pipeline that calls, the innermost if one runs another; None for a loop by hand.

    Args:
        pipes: what counts as a pipeline, beside those of diffusers.
    """
    kinds = _pipelines_of_diffusers()
    for _, owner in _methods():
        if isinstance(owner, kinds) or any(owner is pipe for pipe in pipes):
            return owner
    return None


def _methods() -> Iterator[tuple[FrameType, Any]]:
    """The methods that are running in this thread, the innermost first, with their objects."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = _owner_of(frame)
        if owner is not None:
            yield frame, owner
        frame = frame.f_back


def _owner_of(frame: FrameType) -> Any:
    """The object whose method a frame is of; None for a function."""
    # Looked at by name first, since asking for `f_locals` copies them.
    if frame.f_code.co_varnames[:1] == ("self",) and frame.f_code.co_argcount:
        return frame.f_locals.get("self")
    return None


def _pipelines_of_diffusers() -> tuple[type, ...]:
    """The classes of pipelines, as far as they have been imported: else there is no such object."""
    places = {
        "diffusers.pipelines.pipeline_utils": "DiffusionPipeline",
        "diffusers.modular_pipelines.modular_pipeline": "ModularPipeline",
    }
    found = [getattr(sys.modules.get(module), name, None) for module, name in places.items()]
    return tuple(each for each in found if each is not None)
