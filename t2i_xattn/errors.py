"""Mistakes that the user can mend."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake that the user can mend; its message is one sentence for them.

    The sentence says what was expected, what came and what to do next. The command line prints it
    and ends with exit code 2. A fault of our own is an `AssertionError` instead.
    """


class WordNotFoundError(UserError):
    """A word or phrase was asked for that the prompt does not have."""


class TraceFileError(UserError):
    """A file cannot be read as a trace: damaged, of another kind, or of another version."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name spelled most like `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shown(value: Any) -> str:
    """A value as a sentence shows it: on one line, and short whatever it holds."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except Exception:  # whatever an object of the user's own says of itself
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


_LONGEST = 200
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 160
_SHORT.maxlist = _SHORT.maxtuple = 12
