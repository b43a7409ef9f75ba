"""What is wrong with a prompt, and where; numbers in it."""

from __future__ import annotations

import math

from t2i_xattn.errors import UserError, shown


def as_number(text: str) -> float | None:
    """A text as a number, which need not be finite; None if it is none."""
    if "_" in text:  # which Python would read
        return None
    try:
        return float(text)
    except ValueError:
        return None


def finite(prompt: str, place: int, number: float | None, text: str = "") -> float:
    """The number that stands at a place; raises `UserError` unless it is a finite one."""
    if number is None or not math.isfinite(number):
        said = text or ("" if number is None else str(number))
        came = f", not {shown(said)}" if said else ", but came none"
        raise wrong(prompt, place, f"a finite number{came}", ESCAPE)
    return number


ESCAPE = "mend it, or write a backslash before what is meant as letters, as in \\( and \\AND"


def wrong(prompt: str, place: int, expected: str, advice: str) -> UserError:
    """What is wrong with a prompt at a place."""
    here = prompt[max(0, place - 12) : place + 20]
    return UserError(
        f"expected {expected}, at character {place + 1} of the prompt, in {shown(here)}; {advice}"
    )
