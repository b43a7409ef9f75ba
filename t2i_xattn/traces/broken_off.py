"""Whether a run went to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t2i_xattn.errors import shown

if TYPE_CHECKING:
    from t2i_xattn.traces.recorded_run import RecordedRun

_SHORTENING = ("strength", "denoising_start", "denoising_end", "timesteps", "sigmas", "t_start")
"""Arguments of pipelines by which fewer steps are taken than are asked for."""


def broken_off(run: RecordedRun) -> str:
    """How a run was broken off, such as "broken off by 'KeyboardInterrupt' after 2 of 4 steps";
    empty if nothing says that it was: neither the error or interrupt that the trace names, nor
    fewer calls than steps."""
    arguments = run.settings.get("arguments") or {}
    steps, calls = arguments.get("num_inference_steps"), run.settings.get("calls")
    shortened = any(arguments.get(name) is not None for name in _SHORTENING)
    few = isinstance(steps, int) and isinstance(calls, int) and not shortened and calls < steps
    error = run.settings.get("broken_off")
    if error is None and not few:
        return ""
    by = "" if error is None else f" by {shown(error)}"
    # Guidance may take two calls a step.
    after = f"{calls} of {steps} steps" if few else f"{shown(calls)} calls of the denoiser"
    return f"broken off{by} after {after}"
