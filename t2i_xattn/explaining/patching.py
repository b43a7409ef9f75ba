"""Texts put together of columns of two: which part of another text a row is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.errors import UserError
from t2i_xattn.explaining.trajectory import TrajectoryCall


@dataclass(frozen=True)
class Patch:
    """Which part of another text a row is given, the rest being the prompt's.

    Attributes:
        columns: of the text sequence that are the other text's.
        others: whether what else depends on the text (a pooled embedding) is the other text's too.
    """

    columns: Collection[int]
    others: bool = False


def name_of_text(given: Mapping[str, Any], call: DenoiserCall) -> str:
    """The name of the argument that the text is.

    Raises:
        UserError: if the text is not one argument as it was encoded.
    """
    name = next((name for name, value in given.items() if _is_same(value, call.text)), None)
    if name is None or call.parts is not None or call.connected is not None:
        raise UserError(
            "expected a denoiser that is given one text as one argument, to put columns of another "
            'one into it, but this one is not; ask for interventions=["text", "attention"]'
        )
    return name


def _is_same(value: Any, text: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(text, Tensor):
        return value.data_ptr() == text.data_ptr() and value.shape == text.shape
    return value is text


def patched(
    asked: Mapping[str, Any],
    then: TrajectoryCall,
    text: str,
    patches: Sequence[Patch | None],
) -> dict[str, Any]:
    """The arguments with parts of the texts, and what depends on them, the prompt's own.

    Args:
        asked: for the pictures' rows alone.
        then: the call of the prompt's own run.
        text: the name of the argument that the text is.
        patches: for each picture; None: its text is its own.

    Raises:
        UserError: if a text has another length than the prompt's.
    """
    assert then.given is not None, "a trajectory that was watched with its arguments"
    rows = [row for row, patch in enumerate(patches) if patch is not None and not patch.others]
    return {
        name: _mixed(value, then.given.get(name), patches)
        if name == text
        else _as_before(value, then.given.get(name), rows, len(patches))
        for name, value in asked.items()
    }


def _mixed(value: Any, plain: Any, patches: Sequence[Patch | None]) -> Any:
    rows = list(value)
    for row, patch in enumerate(patches):
        if patch is None:
            continue
        own = plain[0]
        if rows[row].shape != own.shape:
            raise UserError(
                f"expected a text of {len(own)} columns to take some of, but came one of "
                f"{len(rows[row])}; name another one of as many tokens with instead={{…}}"
            )
        mask = torch.zeros(len(own), 1, dtype=torch.bool)
        mask[list(patch.columns)] = True
        rows[row] = torch.where(mask.to(own.device), rows[row], own)
    return torch.stack(rows) if isinstance(value, Tensor) else rows


def _as_before(value: Any, plain: Any, rows: Sequence[int], count: int) -> Any:
    """An argument with what it was in the picture's own run, in some rows."""
    if isinstance(value, Tensor) and isinstance(plain, Tensor):
        if not value.ndim or value.shape[0] != count or plain.shape[1:] != value.shape[1:]:
            return value
        value = value.clone()
        value[list(rows)] = plain[:1].to(value)
        return value
    if isinstance(value, Mapping) and isinstance(plain, Mapping):
        return {k: _as_before(each, plain.get(k), rows, count) for k, each in value.items()}
    if isinstance(value, tuple | list) and isinstance(plain, tuple | list):
        pairs = zip(value, plain, strict=False)
        return type(value)(_as_before(one, other, rows, count) for one, other in pairs)
    return value
