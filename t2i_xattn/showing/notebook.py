"""What a notebook shows of a map, a trace and an explanation: light, and escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from t2i_xattn.errors import UserError
from t2i_xattn.showing.colours import coloured, placed
from t2i_xattn.showing.percent import percent

if TYPE_CHECKING:
    from t2i_xattn.explaining.explanation import Explanation
    from t2i_xattn.traces.heat_map import HeatMap
    from t2i_xattn.traces.trace import Trace

SIDE = 256
"""Pixels of the longer side of a map."""

ROWS = 100
"""Rows of a table; how many more there are is said."""


def map_png(heat: HeatMap, colormap: str = "inferno") -> bytes:
    """A map by itself as PNG, in its own scale (see `colours.placed`)."""
    values = Image.fromarray(placed(heat.array))
    factor = SIDE / max(values.size)
    size = max(1, round(values.width * factor)), max(1, round(values.height * factor))
    resized = np.asarray(values.resize(size, Image.Resampling.BILINEAR))
    buffer = BytesIO()
    Image.fromarray(coloured(resized, colormap)).save(buffer, format="PNG")
    return buffer.getvalue()


def trace_html(trace: Trace) -> str:
    """What a trace is of, and its words; no map is computed."""
    try:
        run = trace.run
    except UserError as error:
        return f"<p>{escape(str(error))}</p>"
    height, width = run.picture_size
    prompts = "; ".join("(embeddings)" if each is None else each for each in trace.prompts)
    facts = [
        ("prompt", prompts),
        ("picture", f"{width} × {height} pixels"),
        ("sites", str(len(run.sites))),
        ("steps", f"{run.steps[0][0]} to {run.steps[-1][1]}, windows kept: {len(run.steps)}"),
        ("branches", ", ".join(run.branches)),
        ("streams", ", ".join(run.maps)),
    ]
    words = [(each.text, ", ".join(map(str, each.columns)) or "cut off") for each in trace.words]
    return _table(("trace", ""), facts) + _table(("word", "columns"), words)


def explanation_html(found: Explanation) -> str:
    """The table of an explanation, and its sentences."""
    ways = list(found.words[0].sizes) if found.words else []
    head = ("word", "attention", *(f"effect by {way}" for way in ways), "grade", "in words")
    rows = [
        (
            each.word,
            percent(each.share),
            *(percent(each.sizes[way].mean) for way in ways),
            each.grade,
            each.sentence,
        )
        for each in found.words
    ]
    return f"<p>{escape(found.prompt)}</p>" + _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Iterable[str]]) -> str:
    lines = [_row("th", head), *(_row("td", row) for row in rows[:ROWS])]
    if len(rows) > ROWS:
        lines.append(_row("td", [f"and {len(rows) - ROWS} more"]))
    return f"<table>{''.join(lines)}</table>"


def _row(kind: str, cells: Iterable[str]) -> str:
    inside = "".join(f'<{kind} style="text-align: left">{escape(each)}</{kind}>' for each in cells)
    return f"<tr>{inside}</tr>"
