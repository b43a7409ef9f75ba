"""Tables and the plot of `faithfulness`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from lab.evaluation.carriers import CarrierFigure
from lab.evaluation.faithfulness import EffectFigure, TrustFigure
from lab.evaluation.figures import Share
from lab.evaluation.intervened import InterventionFigure


def effects_table(figures: Sequence[EffectFigure], pictures: int) -> Table:
    """A row for each kind of words and map."""
    table = Table(title=f"maps of words in {pictures} painted pictures; 95 % bootstrap intervals")
    for name in ("kind", "map"):
        table.add_column(name)
    for name in ("IoU at its area", "IoU by Otsu", "peak inside", "sum inside", "n"):
        table.add_column(name, justify="right")
    for each in sorted(figures, key=lambda one: list_of_kinds(figures).index(one.kind)):
        table.add_row(
            each.kind,
            each.map_of,
            f"{each.iou_true_area.value:.2f} "
            f"({each.iou_true_area.low:.2f}-{each.iou_true_area.high:.2f})",
            f"{each.iou.value:.2f}",
            f"{100 * each.pointing.value:.0f} %",
            f"{100 * each.energy.value:.0f} %",
            str(each.iou.n),
        )
    return table


def list_of_kinds(figures: Sequence[EffectFigure]) -> list[str]:
    """The kinds, in their order."""
    return list(dict.fromkeys(each.kind for each in figures))


def two_table(shares: Mapping[str, Share]) -> Table:
    """Which of two things a map prefers."""
    table = Table("map", "its own thing rather than the other, of two")
    for name, share in shares.items():
        table.add_row(name, f"{share} of {share.n}")
    return table


def trust_table(figures: Sequence[TrustFigure]) -> Table:
    """A row for each grade and range of probabilities."""
    table = Table("grade, or probability", "said", "right", "n")
    for each in figures:
        table.add_row(each.of, f"{each.said:.2f}", str(each.right), str(each.right.n))
    return table


def carriers_table(figures: Sequence[CarrierFigure], pictures: int) -> Table:
    """A row for each kind of words, a column for each group of columns."""
    groups = list(dict.fromkeys(each.group for each in figures))
    table = Table(
        "kind", *groups, "n", title=f"what carries the effect of words, {pictures} pictures"
    )
    for kind in dict.fromkeys(each.kind for each in figures):
        of = {each.group: each.share for each in figures if each.kind == kind}
        cells = [f"{100 * of[group].value:.0f} %" if group in of else "" for group in groups]
        table.add_row(kind, *cells, str(max(each.n for each in of.values())))
    return table


def interventions_table(figures: Sequence[InterventionFigure], scenes: int) -> Table:
    """A row for each kind of words and way."""
    table = Table(title=f"maps against intervention, {scenes} drawn scenes; 95 % intervals")
    for name in ("kind", "map"):
        table.add_column(name)
    for name in (
        "IoU at its area",
        "peak inside",
        "rank with effect",
        "deletion",
        "insertion",
        "n",
    ):
        table.add_column(name, justify="right")
    for kind in dict.fromkeys(each.kind for each in figures):
        for each in (one for one in figures if one.kind == kind):
            table.add_row(
                kind,
                each.way,
                f"{each.iou.value:.2f}",
                f"{100 * each.pointing.value:.0f} %",
                *(
                    f"{one.value:.2f} ({one.low:.2f}-{one.high:.2f})"
                    for one in (each.agreement, each.deletion, each.insertion)
                ),
                str(each.iou.n),
            )
    return table


def save_calibration(figures: Sequence[TrustFigure], path: Path) -> None:
    """A plot of what is right against the probability that was said, with Wilson intervals; below
    each, how many words it is of."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    ranges = [each for each in figures if "to" in each.of]
    said = [each.said for each in ranges]
    right = [each.right.value for each in ranges]
    errors = [
        [value - each.right.interval[0] for value, each in zip(right, ranges, strict=True)],
        [each.right.interval[1] - value for value, each in zip(right, ranges, strict=True)],
    ]
    figure, axes = pyplot.subplots(figsize=(4.5, 4.5), dpi=110)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.errorbar(said, right, yerr=errors, fmt="o", color="black", capsize=3)
    for x, each in zip(said, ranges, strict=True):
        at = x, each.right.interval[0]
        axes.annotate(
            str(each.right.n), at, (0, -11), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set(xlim=(0.2, 1), ylim=(0, 1.02), xlabel="probability that explain gives",
             ylabel="share of words whose region is right")  # fmt: skip
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
