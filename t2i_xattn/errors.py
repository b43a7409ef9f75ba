"""Mistakes that the user can mend."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

_MOST = 600
"""Characters of a message."""


class UserError(ValueError):
    """A mistake that the user can mend; its message is one sentence for them.

    The sentence says what was expected, what came and what to do next. The command line prints it
    and ends with exit code 2. A fault of our own is an `AssertionError` instead.

    It stands on one line; a message that has become very long, with what came in it, is cut in its
    middle.
    """

    # Not as it is made, which torch.compile would have to follow.
    def __str__(self) -> str:
        text = " ".join(line.strip() for line in super().__str__().splitlines())
        return text if len(text) <= _MOST else f"{text[: _MOST * 2 // 3]} … {text[-_MOST // 3 :]}"


class WordNotFoundError(UserError):
    """A word or phrase was asked for that the prompt does not have."""


class TraceFileError(UserError):
    """A file cannot be read as a trace: damaged, of another kind, or of another version."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name spelled most like `name`, or an empty string."""
    if len(name) > 100:  # whose comparison would take minutes
        return ""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {shown(close[0], 120)}?)" if close else ""


def shown(value: Any, most: int = 40) -> str:
    """What came, as an error message quotes it: on one line, and short whatever it holds.

    Args:
        value: anything; a text is cut after `most` characters, other things after four times that.
        most: characters.
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= most else f"{value[:most]!r}…"
    try:
        text = " ".join(_SHORT.repr(value).split())
    except Exception:  # whatever an object of the user's own says of itself
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= 4 * most else f"{text[: 4 * most]}…"


def shown_path(path: Any, most: int = 120) -> str:
    """A path, or the end of a long one, where the file's own name stands.

    Args:
        path: of a file or folder.
        most: characters.
    """
    text = str(path)
    return repr(text) if len(text) <= most else f"…{text[-most:]!r}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 160
_SHORT.maxlist = _SHORT.maxtuple = 12


def listed(texts: Iterable[str], most: int = 5) -> str:
    """`"'a', 'b', and 3 more"`: the first `most` of some texts, each as `shown` quotes it."""
    several = list(texts)
    parts = [shown(text) for text in several[:most]]
    if len(several) > most:
        parts.append(f"and {len(several) - most} more")
    return ", ".join(parts)


_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_cpu",
    "invalid buffer size",
    "storage size calculation overflowed",
)
"""What torch says of memory in errors that have no class of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, on an accelerator or on the CPU."""
    if isinstance(error, RuntimeError):
        return any(each in str(error).lower() for each in _NO_MEMORY)
    return isinstance(error, MemoryError)
