"""Which lines are painted in one call: those of one shape, in an order that is always the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from t2i_xattn.batch.line import Line

AHEAD = 16
"""Batches' worth of lines that wait for others of their shape, at most."""

Shape = tuple[tuple[int, int] | None, int, float, bool]
"""Size, steps, guidance, and whether there is a negative prompt."""


def shape_of(line: Line) -> Shape:
    """What the lines of one call have in common."""
    request = line.request
    return request.size, request.steps, request.guidance, request.negative is not None


def batches(lines: Iterable[Line], size: int) -> Iterator[tuple[Line, ...]]:
    """The lines in batches of at most `size`, each of one shape; a line with edits is by itself.

    They depend on the lines and the size alone, so that every process and every later run makes
    the same ones: where the pipeline's floating-point sums depend on the batch, they stay the same.
    """
    waiting: dict[Shape, list[Line]] = {}
    count = 0
    for line in lines:
        if line.edited or size == 1:
            yield (line,)
            continue
        shape = shape_of(line)
        waiting.setdefault(shape, []).append(line)
        count += 1
        if len(waiting[shape]) < size and count < AHEAD * size:
            continue
        # A full one, or else the one that has waited longest.
        chosen = shape if len(waiting[shape]) == size else next(iter(waiting))
        full = waiting.pop(chosen)
        count -= len(full)
        yield tuple(full)
    yield from map(tuple, waiting.values())
