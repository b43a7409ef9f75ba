"""Numbers that are given to a command with commas between."""

from __future__ import annotations

from t2i_xattn.errors import UserError


def numbers(given: str) -> list[int]:
    """`"4,20"` as numbers; none of an empty string.

    Raises:
        UserError: what is no number from 1.
    """
    try:
        found = [int(each) for each in given.split(",") if each.strip()]
    except ValueError:
        found = [0]
    if any(number < 1 for number in found):
        raise UserError(f"expected numbers from 1 with commas between, but came {given!r}")
    return found
