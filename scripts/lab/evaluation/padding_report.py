"""The tables of prompts of different lengths."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lab.evaluation.padding_lengths import EVERY, LENGTHS, LengthFigure, LengthTaken
from lab.evaluation.studies_padding import PARTS
from lab.evaluation.studies_report import interval


def lengths_table(figures: Sequence[LengthFigure], steps: int) -> Table:
    """What the parts of prompts attract, a row for each length."""
    title = (
        f"What prompts of different lengths attract, {figures[-1].prompts}, {steps} steps (95 %)"
    )
    table = Table("tokens", "prompts", title=title, title_justify="left")
    for name in (*PARTS, "a column of padding, of a word's"):
        table.add_column(name, justify="right")
    for each in figures:
        means = [interval(each.shares[name]) for name in PARTS]
        table.add_row(_tokens(each.tokens), str(each.prompts), *means, interval(each.per_column))
    return table


def lengths_taken_table(figures: Sequence[LengthTaken]) -> Table:
    """What taking away does, three rows for each length."""
    table = Table("tokens", "taken away", title="What taking away does", title_justify="left")
    names = ("all right", "lost, gained", "peak inside", "IoU", "PSNR, dB", "map alike")
    for name in names:
        table.add_column(name, justify="right")
    for each in figures:
        table.add_row(
            _tokens(each.tokens),
            each.taken,
            str(each.right),
            f"{each.lost}, {each.gained}",
            str(each.peak),
            interval(each.iou),
            interval(each.psnr, 1),
            interval(each.alike),
        )
    return table


def _tokens(tokens: tuple[int, int]) -> str:
    if tokens == EVERY:
        return "all"
    low, high = tokens
    if tokens == LENGTHS[-1]:
        return f"from {low}"
    return f"{low}–{high}" if low else f"to {high}"
