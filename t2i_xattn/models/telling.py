"""What a file or a library says, put into a sentence: short, and on one line."""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def clipped(value: object) -> str:
    """A value that a stranger chose, as Python writes it; a long one loses its middle."""
    return _SHORT.repr(value)


def reason(error: BaseException) -> str:
    """The beginning of what a library says."""
    words = " ".join(str(error).split())
    return "".join(each for each in words if each.isprintable())[:100]
