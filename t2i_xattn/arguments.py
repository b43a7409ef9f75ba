"""Arguments of public functions, held against their annotations."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, Union

from t2i_xattn.errors import UserError, shown

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")

_SHOWN: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "None",
    Any: "anything",
}

_SEVERAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

_LARGEST = 1_000_000
"""Entries of an array that are looked at as a list."""


def checked(function: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """A function whose arguments are held against their annotations at each call.

    NaN and bools are no numbers, and an array or a tensor may stand for a list.

    Raises:
        UserError: at the call, for an argument of another type.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        bound = signature.bind(*args, **kwargs)
        hints = _hints(function)
        for name, value in bound.arguments.items():
            # Of several they say themselves what is wrong with one.
            if name in hints and signature.parameters[name].kind not in _SEVERAL:
                _check(name, function.__name__, value, hints[name])
        return function(*args, **kwargs)

    return wrapper


def check_fields(instance: Any) -> None:
    """The same for the fields of a dataclass.

    Raises:
        UserError: for one of another type.
    """
    kind: Any = type(instance)
    hints = _hints(kind)
    for field in dataclasses.fields(instance):
        if field.name in hints:
            _check(field.name, kind.__name__, getattr(instance, field.name), hints[field.name])


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(owner)
    except NameError:  # somebody's own class, with names that are known to him alone
        return {}


def _check(name: str, owner: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        raise UserError(
            f"expected {_shown(hint)} as {name} of {owner}, but came {shown(value)}; "
            f"help({owner}) says what it means"
        )


def _fits(value: Any, hint: Any) -> bool:
    from typeguard import CollectionCheckStrategy, ForwardRefPolicy, TypeCheckError, check_type

    value = _plain(value)
    kinds = _alternatives(hint)
    if isinstance(value, bool) and not {bool, Any, object} & set(kinds):
        return False
    if isinstance(value, float) and math.isnan(value):
        return Any in kinds
    if isinstance(value, int) and abs(value) >= 2**63:  # nor would torch take it
        return Any in kinds
    try:
        check_type(
            value,
            hint,
            forward_ref_policy=ForwardRefPolicy.IGNORE,
            collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
        )
    except TypeCheckError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Numbers and lists of numpy and torch as Python's."""
    if hasattr(value, "tolist") and getattr(value, "size", None) is not None:
        count = value.numel() if callable(value.size) else value.size
        return value.tolist() if count <= _LARGEST else value
    return value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return tuple(each for part in typing.get_args(hint) for each in _alternatives(part))
    return (hint,)


def _shown(hint: Any) -> str:
    """What an annotation allows, in words."""
    kinds = _alternatives(hint)
    if len(kinds) > 1:
        return " or ".join(dict.fromkeys(map(_shown, kinds)))
    (kind,) = kinds
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind in _SHOWN:
        return _SHOWN[kind]
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin is tuple:
        return f"({', '.join(map(_shown, inside))})"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping from {_shown(inside[0])} to {_shown(inside[1])}"
    if origin is Callable or kind is Callable:
        return "a function"
    if origin is not None and inside:
        return f"a list of [{_shown(inside[0])}]"
    return f"a {getattr(kind, '__name__', kind)}"
