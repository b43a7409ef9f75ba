"""All tiny pipelines of transformers, each once."""

from __future__ import annotations

from tiny import (
    by_row,
    by_row_more,
    cross,
    kandinsky6,
    kin,
    llm,
    llm_more,
    ltx2,
    mixed,
    picture_first,
    text_first,
    text_first_cog,
    text_first_more,
)
from tiny.case import Case

_FILES = [text_first, text_first_more, text_first_cog, picture_first, cross, by_row, by_row_more]
_FILES += [llm, llm_more, mixed, ltx2, kandinsky6, kin]

CASES: list[Case] = [*(case for file in _FILES for case in file.CASES), *by_row.UNEVEN]
