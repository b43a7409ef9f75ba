"""Mistakes that the user can mend."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

_MOST = 600
"""Characters of a message."""

_LONGEST = 100
"""Characters of a name that is held against others."""


class UserError(ValueError):
    """A mistake that the user can mend; its message is one sentence for them.

    The sentence says what was expected, what came and what to do next. The command line prints it
    and ends with exit code 2. A fault of our own is an `AssertionError` instead.

    A message that has become very long, with what came in it, is cut in its middle.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        if len(text) > _MOST:
            text = f"{text[: _MOST * 2 // 3]} … {text[-_MOST // 3 :]}"
        super().__init__(text)


class WordNotFoundError(UserError):
    """A word or phrase was asked for that the prompt does not have."""


class TraceFileError(UserError):
    """A file cannot be read as a trace: damaged, of another kind, or of another version."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name spelled most like `name`, or an empty string."""
    if len(name) > _LONGEST:
        return ""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shortened(value: Any) -> str:
    """A value as messages show it: on one line, whatever it is and however long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    try:
        return " ".join(short.repr(value).split())
    except Exception:  # an object's own repr may fail
        return f"a {type(value).__name__}"
