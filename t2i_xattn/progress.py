"""Progress bars, shown and hidden as the pipeline's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


def bar_options(pipe: Any, title: str) -> dict[str, Any]:
    """Arguments of `tqdm`: what the user said by `pipe.set_progress_bar_config`, and a title."""
    return {"leave": False} | getattr(pipe, "_progress_bar_config", {}) | {"desc": title}


def counted(pipe: Any, steps: range, title: str) -> Any:
    """Numbers of steps, with a bar while they are gone through."""
    return tqdm(steps, **bar_options(pipe, title))


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Without the pipeline's own progress bar, where its run is no painting."""
    before = getattr(pipe, "_progress_bar_config", None)
    pipe._progress_bar_config = dict(before or {}) | {"disable": True}
    try:
        yield
    finally:
        if before is None:
            vars(pipe).pop("_progress_bar_config", None)
        else:
            pipe._progress_bar_config = before
