"""A run that can be stopped, and that says how far it is: at every call of a denoiser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from t2i_xattn.denoisers.of_pipeline import denoisers_of


class StoppedError(Exception):
    """The run was stopped by whoever asked for it."""


@contextmanager
def stoppable(
    pipe: Any, stop: threading.Event, told: Callable[[int], None] | None = None
) -> Iterator[None]:
    """Ends a run within with `StoppedError` at its next call of a denoiser, once `stop` is set.

    A thread cannot be ended from outside, so the run looks by itself.

    Args:
        pipe: the pipeline.
        stop: set by another thread.
        told: given the number of the call before each, 1 the first.
    """
    calls = 0

    def before(*_: Any) -> None:
        nonlocal calls
        if stop.is_set():
            raise StoppedError
        calls += 1
        if told is not None:
            told(calls)

    hooks = [each.module.register_forward_pre_hook(before) for each in denoisers_of(pipe)]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
