"""The tables and the plot of numerical stability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from lab.evaluation.stability import (
    DTYPES,
    HEAD_SIZES,
    SHIPPED,
    SPREADS,
    WAYS,
    MaskedFigure,
    StabilityFigure,
)

UNSCALED = "without 1 / √d"


def stability_table(figures: Sequence[StabilityFigure], title: str) -> Table:
    """A row for each source, way and type."""
    names = ("queries and keys", "d", "type", "way", "entropy", "gradient", "not finite", "error")
    table = Table(*names, title=title, title_justify="left")
    for each in figures:
        nothing = each.broken == 1
        table.add_row(
            each.source,
            str(each.head_size),
            each.dtype,
            each.way,
            "" if nothing else f"{each.entropy:.3f}",
            "" if nothing else f"{each.gradient:.3f}",
            f"{each.broken:.1%}",
            "" if each.error is None else f"{each.error:.0e}",
        )
    return table


def heads_table(figures: Sequence[StabilityFigure]) -> Table:
    """Entropy and gradient with and without 1 / √d by head size, in fp32."""
    table = Table("d", "entropy", "without 1 / √d", "gradient", "without 1 / √d")
    for d in HEAD_SIZES:
        scaled, unscaled = (
            next(e for e in figures if (e.head_size, e.dtype, e.way) == (d, "float32", way))
            for way in (SHIPPED, UNSCALED)
        )
        numbers = (scaled.entropy, unscaled.entropy, scaled.gradient, unscaled.gradient)
        table.add_row(str(d), *(f"{each:.3f}" for each in numbers))
    return table


def broken_table(figures: Sequence[StabilityFigure]) -> Table:
    """The part of queries that are not finite, and the error, by how far the scores spread."""
    table = Table("type", "way", *(f"spread {each:g}" for each in SPREADS))
    for dtype in DTYPES:
        for way in WAYS:
            if way == UNSCALED:
                continue
            cells = []
            for spread in SPREADS:
                wanted = f"spread {spread:g}", dtype, way
                each = next(e for e in figures if (e.source, e.dtype, e.way) == wanted)
                error = "" if each.error is None else f", {each.error:.0e}"
                cells.append(f"{each.broken:.0%}{error}")
            table.add_row(dtype, way, *cells)
    return table


def masked_table(figures: Sequence[MaskedFigure]) -> Table:
    """What becomes of queries whose tokens are all hidden."""
    table = Table("type", "way", "NaN", "shares sum to")
    for each in figures:
        sums = "" if each.broken else f"{each.sums:.3g}"
        table.add_row(each.dtype, each.way, f"{each.broken:.0%}", sums)
    return table


def stability_plot(
    by_head: Sequence[StabilityFigure], by_spread: Sequence[StabilityFigure], path: Path
) -> None:
    """Entropy and gradient by head size; the part not finite, and the error, by spread."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(15, 3.2), layout="constrained")
    for axis, name in zip(axes, ("entropy", "gradient"), strict=False):
        for way in (SHIPPED, UNSCALED):
            own = [e for e in by_head if e.way == way and e.dtype == "float32"]
            numbers = [getattr(e, name) for e in own]
            axis.plot([e.head_size for e in own], numbers, marker="o", label=way)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("head size d")
        axis.set_ylim(bottom=0)
    axes[0].set_title("entropy of the probs, nats")
    axes[1].set_title("norm of ∂probs/∂scores")
    axes[0].legend()
    for dtype, style in zip(DTYPES, ("-", "--", ":"), strict=True):
        for number, way in enumerate(each for each in WAYS if each != UNSCALED):
            own = [e for e in by_spread if e.way == way and e.dtype == dtype]
            colour, label = f"C{number}", f"{way}, {dtype}"
            axes[2].plot(SPREADS, [e.broken for e in own], style, color=colour, label=label)
            seen = [(s, e.error) for s, e in zip(SPREADS, own, strict=True) if e.error]
            axes[3].plot(*zip(*seen, strict=True), style, color=colour, label=label)
    for axis in axes[2:]:
        axis.set_xscale("log", base=2)
        axis.set_xlabel("standard deviation of the scores")
    axes[2].set_title("queries that are not finite")
    axes[3].set_title("largest error of a prob")
    axes[3].set_yscale("log")
    axes[3].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=65)
    plt.close(figure)
