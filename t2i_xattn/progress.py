"""The progress bars of inversion, shown and hidden as the pipeline's own."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def bar_options(pipe: Any, title: str) -> dict[str, Any]:
    """Arguments of `tqdm`: what the user said by `pipe.set_progress_bar_config`, and a title."""
    return {"leave": False} | getattr(pipe, "_progress_bar_config", {}) | {"desc": title}


def counted(pipe: Any, steps: range, title: str) -> Any:
    """Numbers of steps, with a bar while they are gone through."""
    return tqdm(steps, **bar_options(pipe, title))
