"""The tables of regions: of drawn scenes, and of published tests."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lab.evaluation.painted_regions import PaintedFigure
from lab.evaluation.published.measuring import PublishedFigure
from lab.evaluation.regions import RankFigure, RegionFigure


def regions_table(figures: Sequence[RegionFigure], scenes: int) -> Table:
    """Every figure of `evaluate_regions`, by way, threshold and scale."""
    title = f"Regions of nouns that compete, {scenes} drawn scenes, guidance off"
    table = Table("way", "threshold", "scale", "undecided below", title=title, title_justify="left")
    for name in ("IoU", "background", "pixels right", "undecided", "n"):
        table.add_column(name, justify="right")
    last = ""
    for each in sorted(figures, key=lambda one: one.way):
        if each.way != last:
            table.add_section()
            last = each.way
        table.add_row(
            each.way,
            str(each.threshold),
            each.scale,
            f"{each.undecided:g}" if each.undecided else "-",
            f"{each.iou:.3f}",
            f"{each.background:.3f}",
            f"{100 * each.accuracy:.1f} %",
            f"{100 * each.void:.1f} %",
            str(each.n),
        )
    return table


def painted_table(figures: Sequence[PaintedFigure]) -> Table:
    """Regions in painted pictures, as the judge sees them."""
    title = "Regions of two things that compete, painted pictures, against the judge"
    table = Table("way", title=title, title_justify="left")
    for name in ("IoU", "things", "not seen by the judge"):
        table.add_column(name, justify="right")
    for each in figures:
        table.add_row(each.way, f"{each.iou:.3f}", str(each.n), str(each.unseen))
    return table


def ranks_table(figures: Sequence[RankFigure]) -> Table:
    """How each measure of quality orders the regions, and the estimate at each noise level."""
    title = "Quality of regions against their IoU"
    table = Table("way", "timestep", "measure", title=title, title_justify="left")
    for name in ("rank correlation", "lowest quarter", "second", "third", "highest", "n"):
        table.add_column(name, justify="right")
    shown = [one for one in figures if one.timestep is None or one.measure == "estimate"]
    for each in sorted(shown, key=lambda one: one.way):
        row = (each.correlation, *each.quarters)
        table.add_row(
            each.way,
            "all" if each.timestep is None else str(each.timestep),
            each.measure,
            *("-" if figure is None else f"{figure:.2f}" for figure in row),
            str(each.n),
            end_section=each.measure == "estimate",
        )
    table.caption = "Mean IoU of the quarters by the measure"
    return table


def published_table(figures: Sequence[PublishedFigure], test: str, timestep: int) -> Table:
    """The rows of a published table, a way of making maps each."""
    title = f"{test}, one pass at timestep {timestep}, guidance off, classes told"
    table = Table("way", title=title, title_justify="left")
    for name in ("mIoU", "pixel accuracy", "mAP", "pictures"):
        table.add_column(name, justify="right")
    for each in figures:
        precision = each.mean_average_precision
        table.add_row(
            each.way,
            f"{100 * each.mean_iou:.2f} %",
            f"{100 * each.pixel_accuracy:.2f} %",
            "-" if precision is None else f"{100 * precision:.2f} %",
            str(each.pictures),
        )
    if cut := max((each.cut for each in figures), default=0):
        table.caption = f"{cut} classes of pictures lay beyond the text encoder's window"
    return table
