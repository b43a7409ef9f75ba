"""What JSON gave, held against what it is to be: types first, then stated limits."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from t2i_xattn.errors import shown

T = TypeVar("T")

_DEEPEST = 64
"""Lists and objects inside each other, in what is taken as it is."""


class Damaged(ValueError):
    """What stands in a header cannot be; its message says what and where."""


def field(given: Any, name: str) -> Any:
    """What an object has under a name."""
    if not isinstance(given, dict) or name not in given:
        raise Damaged(f"{name} is missing")
    return given[name]


def whole(given: Any, name: str, least: int, most: int) -> int:
    """A whole number; `true` is none, nor is `2.0`."""
    if type(given) is not int or not least <= given <= most:
        raise Damaged(f"{name} is {shown(given)}, no whole number from {least} to {most}")
    return given


def text(given: Any, name: str, longest: int) -> str:
    """A string of so many characters at most."""
    if not isinstance(given, str) or len(given) > longest:
        raise Damaged(f"{name} is {shown(given)}, no text of at most {longest} characters")
    return given


def one_of(given: Any, name: str, known: Collection[T]) -> T:
    """One of some names, and None where that is among them."""
    for each in known:
        if type(given) is type(each) and given == each:
            return each
    raise Damaged(f"{name} is {shown(given)}, none of {', '.join(map(str, known))}")


def several(
    given: Any, name: str, each: Callable[[Any, str], T], count: int | None = None
) -> tuple[T, ...]:
    """A list, of so many entries where that is said."""
    if not isinstance(given, list) or count not in (None, len(given)):
        told = "list" if count is None else f"list of {count}"
        raise Damaged(f"{name} is {shown(given)}, no {told}")
    return tuple(each(one, name) for one in given)


def named(given: Any, name: str, each: Callable[[Any, str], T]) -> dict[str, T]:
    """An object."""
    if not isinstance(given, dict):
        raise Damaged(f"{name} is {shown(given)}, no object")
    return {key: each(one, f"{name} of {shown(key)}") for key, one in given.items()}


def as_it_is(given: Any, name: str) -> dict[str, Any]:
    """An object whose contents nobody reads, as long as they are not nested too deep to save."""
    if not isinstance(given, dict):
        raise Damaged(f"{name} is {shown(given)}, no object")
    layer: list[Any] = [given]
    for _ in range(_DEEPEST):
        inner = [each for each in layer if isinstance(each, dict | list)]
        if not inner:
            return given
        layer = [
            one for each in inner for one in (each.values() if isinstance(each, dict) else each)
        ]
    raise Damaged(f"{name} is nested more than {_DEEPEST} deep")
