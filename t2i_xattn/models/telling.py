"""What a library says, put into a sentence: short, and on one line."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """The beginning of what a library says."""
    words = " ".join(str(error).split())
    return "".join(each for each in words if each.isprintable())[:100]
