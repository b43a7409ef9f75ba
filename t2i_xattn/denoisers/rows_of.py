"""Some rows of what a denoiser is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from t2i_xattn.kernel.call import as_index


def rows_of(value: Any, rows: Sequence[int], batch: int) -> Any:
    """The rows of every tensor in an argument of the denoiser that has as many as the batch."""
    if isinstance(value, Tensor):
        return value[as_index(rows)] if value.ndim and value.shape[0] == batch else value
    if isinstance(value, Mapping):
        return {key: rows_of(each, rows, batch) for key, each in value.items()}
    if isinstance(value, list) and len(value) == batch and not _are_batches(value, batch):
        return [value[row] for row in rows]
    if isinstance(value, tuple | list):
        return type(value)(rows_of(each, rows, batch) for each in value)
    return value


def _are_batches(values: Sequence[Any], batch: int) -> bool:
    """Whether a list has something for all rows in each of its entries, and not one for each."""
    return any(isinstance(each, Tensor) and each.ndim and len(each) == batch for each in values)
