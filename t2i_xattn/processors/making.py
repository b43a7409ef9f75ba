"""What is a processor, and what makes one: both can be called, so they are told apart here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from t2i_xattn.errors import UserError


def maker(value: Any) -> Callable[[], Any]:
    """What gives the processor for the next site: the same one, or a new one for each.

    Args:
        value: a processor; or a class, or a function without arguments, that makes one.

    Returns:
        A function that gives a processor at each call.

    Raises:
        UserError: `value` is neither, or, in a call, what it made is no processor.
    """
    if not is_processor(value) and not _is_factory(value):
        raise UserError(
            "expected an attention processor, called with (attn, hidden_states, "
            "encoder_hidden_states, attention_mask), or a class or function that makes one without "
            f"arguments, but came {_described(value)}; {_advice(value)}"
        )

    def make() -> Any:
        return value if is_processor(value) else checked_processor(value(), _described(value))

    return make


def checked_processor(value: Any, origin: str) -> Any:
    """The value, if it is a processor; `origin` says where it came from."""
    if not is_processor(value):
        raise UserError(
            f"expected an attention processor from {origin}, called with (attn, hidden_states, "
            f"encoder_hidden_states, attention_mask), but came {_described(value)}; "
            f"{_advice(value)}"
        )
    return value


def is_processor(value: Any) -> bool:
    """Whether a value can stand at an attention layer, by what it can be called with.

    It is called as `processor(attn, hidden_states, encoder_hidden_states=…, attention_mask=…)`. An
    object that hands all its arguments on, whatever they are, is taken for one; a function that
    does so is not, since it might as well make one.
    """
    if isinstance(value, type) or not callable(value):
        return False
    signature = _signature(value)
    if signature is None:
        return not _is_function(value)
    first = next(iter(signature.parameters.values()), None)
    if first is not None and first.name == "attn":
        return True
    if first is None or (first.kind is first.VAR_POSITIONAL and _is_function(value)):
        return False
    return _takes_layer(signature) and (not _takes_nothing(signature) or not _is_function(value))


def _is_factory(value: Any) -> bool:
    if not callable(value):
        return False
    signature = _signature(value)
    if isinstance(value, type):
        return signature is None or _takes_nothing(signature)
    return signature is not None and _takes_nothing(signature) and not _takes_layer(signature)


def _is_function(value: Any) -> bool:
    return inspect.isroutine(value) or isinstance(value, partial)


def _takes_nothing(signature: inspect.Signature) -> bool:
    try:
        signature.bind()
    except TypeError:
        return False
    return True


def _takes_layer(signature: inspect.Signature) -> bool:
    try:
        signature.bind(None, None, encoder_hidden_states=None, attention_mask=None)
    except TypeError:
        return False
    return True


def _signature(value: Any) -> inspect.Signature | None:
    if isinstance(value, nn.Module) and type(value).__call__ is nn.Module.__call__:
        value = value.forward
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):  # some builtins do not say what they take
        return None


def _described(value: Any) -> str:
    """The value as a sentence names it."""
    if not callable(value):
        return f"{type(value).__name__} ({value!r:.60})"
    name = getattr(value, "__name__", type(value).__name__)
    kind = "the class" if isinstance(value, type) else "the function" * _is_function(value)
    return f"{kind or 'an object of the class'} {name}{_signature(value) or '(…)'}"


def _advice(value: Any) -> str:
    if isinstance(value, type):
        return f"give `lambda: {value.__name__}(…)` with its arguments"
    if callable(value):
        return "name its first parameter attn if it is a processor, or let it take no arguments"
    return "give for instance InterceptingProcessor(), or RecordingProcessor to have one a site"
