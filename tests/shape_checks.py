"""Calls held against the shapes that functions are annotated with.

jaxtyping's import hook puts :func:`checked` on each function and dataclass of the modules that
``--jaxtyping-packages`` in pyproject.toml lists.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from beartype import BeartypeConf, beartype

_held_against_its_annotations = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks each call, but in a graph that is being compiled: what checks cannot be traced."""
    held = _held_against_its_annotations(function)

    @wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        return (function if torch.compiler.is_compiling() else held)(*args, **kwargs)

    return check
