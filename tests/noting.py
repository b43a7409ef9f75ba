"""Functions that note what they are given."""

from __future__ import annotations

from typing import Any


def noting(notes: Any, note: Any, result: Any) -> Any:
    """Puts a note into a list or set; gives the result."""
    getattr(notes, "append" if isinstance(notes, list) else "add")(note)
    return result
