"""One kernel call: the very queries, keys, values, mask and scale that the kernel gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from t2i_xattn.kernel.attention import attention_probs, plus

Rows = Sequence[int]
"""Rows of a kernel call's batch."""

Places = range | Sequence[range]
"""Places on an axis of a kernel call: the same in every row, or one range for each row."""


@dataclass(frozen=True, eq=False)
class KernelCall:
    """softmax(Q Kᵀ · scale + mask) V, as a fused kernel was asked for it.

    Attributes:
        query: `(rows, heads, queries, d)`, after norms, rotary embeddings and adapters.
        key, value: `(rows, heads, tokens, d)`.
        output: what the kernel gave, `(rows, heads, queries, d)`.
        mask: broadcast to `(rows, heads, queries, tokens)`: bool (True: may be looked at) or
            numbers to be added to the scores; or None.
        scale: of the scores, usually 1 / √d.
        logsumexp: of the scores over all keys, fp32 `(rows, heads, queries)`, where the kernel said
            it; or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    mask: Tensor | None
    scale: float
    logsumexp: Tensor | None = None

    def probs(self, rows: Rows) -> Tensor:
        """fp32 `(rows, heads, queries, tokens)` of some rows."""
        query, key = taken(self.query, rows), taken(self.key, rows)
        return attention_probs(query, key, self.scale, self.mask_of(rows))

    def mask_of(self, rows: Rows) -> Tensor | None:
        """The mask of some rows, with four axes."""
        mask = self.mask
        if mask is None:
            return None
        while mask.ndim < 4:
            mask = mask[None]
        return mask if mask.shape[0] == 1 else taken(mask, rows)


@dataclass(frozen=True, eq=False)
class Asked:
    """A kernel call before it is made; the fields are those of `KernelCall`."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float

    def answered(self, output: Tensor) -> KernelCall:
        """The call with what it gave."""
        return KernelCall(self.query, self.key, self.value, output, self.mask, self.scale)


def plus_at(
    output: Tensor, rows: Rows, difference: Tensor, queries: Places | None = None
) -> Tensor:
    """A kernel's output with what some rows take in addition. What is not changed keeps its bytes.

    Args:
        output: `(all rows, heads, all queries, d)`.
        rows: of the batch.
        difference: fp32 `(rows, heads, queries, d)`, such as (P′ − P) V.
        queries: where they stand, see `Places`; None: all.
    """
    output = output.clone()  # the kernel's own is needed for its gradients
    if queries is None or isinstance(queries, range):
        places = slice(None) if queries is None else slice(queries.start, queries.stop)
        index = (as_index(rows), slice(None), places)
        output[index] = plus(output[index], difference)
        return output
    for number, row in enumerate(rows):
        places = slice(queries[row].start, queries[row].stop)
        output[row, :, places] = plus(output[row, :, places], difference[number])
    return output


def as_index(rows: Rows) -> slice | list[int]:
    """Rows that follow each other as a slice, which copies nothing."""
    first, count = rows[0], len(rows)
    if list(rows) == list(range(first, first + count)):
        return slice(first, first + count)
    return list(rows)


def taken(tensor: Tensor, rows: Rows) -> Tensor:
    """Some rows of a batch."""
    return tensor[as_index(rows)]
