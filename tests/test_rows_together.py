"""Kernel calls of one row each, read as one of all rows."""

from __future__ import annotations

import pytest
import torch

from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.rows_together import rows_together
from t2i_xattn.kernel.shares import shares_of

PLACES = 3


def one_row(text: int, said: bool) -> KernelCall:
    """`[picture, text]`, with or without the kernel's logsumexp."""
    generator = torch.Generator().manual_seed(text)
    query, key, value = torch.randn(3, 1, 2, PLACES + text, 4, generator=generator)
    scores = query @ key.transpose(-1, -2) / 2
    logsumexp = scores.logsumexp(dim=-1) if said else None
    return KernelCall(query, key, value, scores.softmax(-1) @ value, None, 0.5, logsumexp)


@pytest.mark.parametrize("said", [True, False])
def test_shares_are_those_of_each_row_alone(said: bool) -> None:
    calls = [one_row(text, said) for text in (2, 5)]
    keys = [range(PLACES, PLACES + text) for text in (2, 5)]
    shares = shares_of(rows_together(calls), (0, 1), range(PLACES), keys)
    for row, (call, own) in enumerate(zip(calls, keys, strict=True)):
        alone = call.probs((0,))[0][:, :PLACES, own.start : own.stop]
        torch.testing.assert_close(shares[row, :, :, : len(own)], alone)
    assert not shares[0, :, :, 2:].any()
