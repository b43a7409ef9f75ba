"""With which arguments a pipeline runs: what a trace says of how its picture was made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from t2i_xattn.kernel.owner import running

_LONGEST = 10_000
"""Characters of a text, and entries of a list, that are still written down."""


def arguments_of(pipe: Any) -> dict[str, Any]:
    """The arguments of the pipeline's call that is going on in this thread, as JSON has them.

    As they stand when the denoiser is first called: a pipeline has put its own size and steps in
    the place of None by then. Only numbers, texts, and lists of these are told; pictures, tensors
    and functions are not.

    Returns:
        By the name of the parameter; `generator` as `seeds`, one for each generator (those that
        they were last seeded with). Nothing for a loop by hand.
    """
    frame = running(pipe)
    if frame is None:
        return {}
    code = frame.f_code
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    local = frame.f_locals
    found = {name: local[name] for name in names if name in local and _is_told(local[name])}
    seeds = _seeds(local.get("generator"))
    return found | ({} if seeds is None else {"seeds": seeds})


def _is_told(value: Any) -> bool:
    if isinstance(value, bool | int):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= _LONGEST
    if isinstance(value, list | tuple):
        return 0 < len(value) <= _LONGEST and all(map(_is_told, value))
    return False


def _seeds(generator: Any) -> list[int] | None:
    listed = generator if isinstance(generator, Sequence) else [generator]
    if not listed or not all(isinstance(each, torch.Generator) for each in listed):
        return None
    return [each.initial_seed() for each in listed]
