"""The libraries' own chatter, kept back where a sentence of ours says what matters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and progress bars of diffusers and transformers; both as before after."""
    import diffusers
    import transformers

    libraries = (diffusers.logging, transformers.logging)
    before = [each.get_verbosity() for each in libraries]
    shown = [each.is_progress_bar_enabled() for each in libraries]
    for each in libraries:
        each.set_verbosity_error()
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each, level, bar in zip(libraries, before, shown, strict=True):
            each.set_verbosity(level)
            if bar:
                each.enable_progress_bar()
