"""Which keys of a kernel call stay, where only some of the text's columns do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import Asked
from t2i_xattn.kernel.fewer_keys import FewerKeys
from t2i_xattn.kernel.shares import of_row
from t2i_xattn.variants.variant import NowCall, Variant


def is_of_text(reading: Reading, site: AttentionSite, variant: Variant) -> bool:
    """Whether a kernel call is one where the picture looks at the text.

    Raises:
        UserError: where that cannot be known.
    """
    if reading.problem is not None:
        raise UserError(
            f"expected kernel calls whose keys are known for {variant.name}, but at {site.name} "
            f"{reading.problem}; leave {variant.name} out"
        )
    return reading.stream == TEXT


def rows_with_texts(now: NowCall) -> list[tuple[str, int, int]]:
    """For each row of the kernel calls that is somebody's: its branch, its picture, its number."""
    layout = now.layout
    return [
        (branch, number * layout.images // len(rows), row)
        for branch, rows in layout.rows.items()
        for number, row in enumerate(rows)
    ]


def text_of_row(call: Asked, reading: Reading, row: int) -> range:
    """Where the columns of a row's text stand among the keys of a call; some rows have fewer than
    others, and the picture's keys behind them."""
    portion = reading.portion
    return range(call.key.shape[2]) if portion is None else of_row(portion.keys, row)


def fewer_keys(call: Asked, reading: Reading, columns: Sequence[Tensor | None]) -> FewerKeys:
    """The keys that are not the text's, and of the text's some.

    Args:
        call: the kernel call.
        reading: what it is about.
        columns: for each row, the columns of its text that stay, int64 `(heads or 1, columns)`;
            None: all.
    """
    keys, device = call.key.shape[2], call.key.device
    rows: list[Tensor] = []
    for row, own in enumerate(columns):
        text = text_of_row(call, reading, row)
        if own is None:
            own = torch.arange(len(text), device=device)[None]
        heads = len(own)
        front = torch.arange(text.start, device=device).expand(heads, -1)
        behind = torch.arange(text.stop, keys, device=device).expand(heads, -1)
        rows.append(torch.cat([front, own.to(device) + text.start, behind], dim=1))
    longest, heads = max(each.shape[1] for each in rows), max(map(len, rows))
    index = torch.zeros(len(rows), heads, longest, dtype=torch.int64, device=device)
    there = torch.zeros(len(rows), heads, longest, dtype=torch.bool, device=device)
    for row, each in enumerate(rows):
        index[row, :, : each.shape[1]] = each
        there[row, :, : each.shape[1]] = True
    alike = all(each.shape[1] == longest for each in rows)
    return FewerKeys(index, None if alike else there)
