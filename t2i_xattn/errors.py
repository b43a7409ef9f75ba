"""Mistakes that the user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
