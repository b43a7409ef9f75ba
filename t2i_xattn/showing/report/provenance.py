"""How a run was made, as a page tells it: settings, and the command that repeats it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_xattn.errors import UserError
from t2i_xattn.provenance.made import KEY, Made
from t2i_xattn.provenance.repeating import arguments_of

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.traces.trace import Trace


def settings_of(trace: Trace, image: int) -> dict[str, str]:
    """What made a picture, by name; what is not known is left out."""
    settings = trace.settings
    arguments = settings.get("arguments") or {}
    seeds = arguments.get("seeds") or []
    height, width = trace.picture_size
    model = settings.get("model")
    negative = arguments.get("negative_prompt")
    told: dict[str, Any] = {
        "model": Path(str(model)).name if model else None,
        "pipeline": settings.get("pipeline"),
        "sampler": settings.get("scheduler"),
        "seed": _one(seeds, image),
        "steps": arguments.get("num_inference_steps"),
        "guidance": settings.get("guidance_scale"),
        "size": f"{width} × {height}",
        "negative prompt": _one(negative, image) if isinstance(negative, list) else negative,
        "calls of the denoiser": settings.get("calls"),
        "recorded": f"{len(trace.sites)} attention sites, {_windows(trace)}",
        "versions": ", ".join(f"{k} {v}" for k, v in (settings.get("versions") or {}).items()),
    }
    return {name: str(value) for name, value in told.items() if value not in (None, "")}


def made_of_trace(trace: Trace, picture: Image.Image) -> Made | None:
    """The run of a command that made a trace; None if none did, or the picture says that it is of
    another."""
    try:
        made = Made.read(trace.settings["made"], "the trace")
        said = picture.info.get(KEY)
        return made if said is None or Made.read(said, "the picture") == made else None
    except (KeyError, UserError):
        return None


def command_of(made: Made) -> str | None:
    """The command line that asks for a run, for a shell; None if no command can."""
    try:
        return shlex.join(["t2i-xattn", *arguments_of(made)])
    except UserError:
        return None


def _one(values: Any, image: int) -> Any:
    """Of a list of one a picture."""
    known = isinstance(values, list) and image < len(values)
    return values[image] if known else None


def _windows(trace: Trace) -> str:
    windows = trace.run.steps
    parts = "" if len(windows) == 1 else f" in {len(windows)} windows"
    return f"steps {windows[0][0]} to {windows[-1][1]}{parts}"
