"""Steps of a run. A step is a call of the denoiser; a window of steps means the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2i_xattn.errors import UserError, shown

Window = tuple[float, float]
"""Steps from the first up to but without the end: an `int` is a number of steps, a `float` a
fraction of the run. So `(0, 0.4)` are the first two fifths (rounded down to whole steps), `(0, 1)`
is the first step only, `(0, 1.0)` all."""


def checked_window(window: Any, name: str) -> None:
    """Raises `UserError` unless it is a window of steps."""
    sound = isinstance(window, Sequence) and len(window) == 2
    if sound:
        numbers = [e for e in window if isinstance(e, int | float) and not isinstance(e, bool)]
        sound = len(numbers) == 2 and min(numbers) >= 0 and max(numbers) > 0
        sound = sound and all(each <= 1 for each in numbers if isinstance(each, float))
        alike = sound and isinstance(numbers[0], float) == isinstance(numbers[1], float)
        sound = sound and not (alike and numbers[0] >= numbers[1])
    if not sound:
        raise UserError(
            f"expected steps=(first, end) for {name}, such as (0, 0.4), with first before end, as "
            f"whole steps or as fractions from 0.0 to 1.0, but came {shown(window)}"
        )


def whole_steps(window: Window, steps: int | None, name: str) -> tuple[int, int]:
    """A window in whole steps of a run.

    Raises:
        UserError: if it holds none of them, or the steps are not known and a fraction was asked
            for.
    """
    if steps is None:
        if any(isinstance(end, float) for end in window):
            raise UserError(
                f"expected steps=(first, end) in whole steps for {name}, since this "
                f"pipeline does not say how many it has, but came {window}"
            )
        return int(window[0]), int(window[1])
    # 0.29 · 100 is a little less than 29 in floating point.
    first, end = (
        int(each * steps + 1e-6) if isinstance(each, float) else int(each) for each in window
    )
    if not first < min(end, steps):
        raise UserError(
            f"expected a window of steps that holds one of {steps} for {name}, but came "
            f"{window}; a float is a fraction of the run, an int a number of steps"
        )
    return first, end
