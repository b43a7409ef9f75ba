"""The tables of the studies, and the sentences below them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from lab.evaluation.figures import Estimate
from lab.evaluation.studies_controls import CONTROLS, OWN, SHUFFLED
from lab.evaluation.studies_focus import FocusFigure
from lab.evaluation.studies_layers import (
    ALL_SITES,
    LEVELS,
    MEAN,
    NEARNESS,
    UNIFORM,
    LayerFigure,
    forms_at,
)
from lab.evaluation.studies_padding import PARTS, ShareFigure, TakenFigure
from lab.evaluation.studies_sanity import FAILING, WITHOUT_COLUMNS, SanityFigure
from lab.evaluation.studies_scenes import KINDS
from lab.evaluation.studies_weights import WeightFigure

PARTED = ("thing", "place")
"""Regions whose self-attention is told beside cross-attention."""

KNOWS_NOTHING = "knows nothing"
"""The better of two maps: the same everywhere, and nearness to the middle."""


def short(site: str) -> str:
    """A site's name without what all have, such as `up 1.0`; others as they are."""
    parts = site.split(".")
    if parts[0] not in ("down_blocks", "up_blocks", "mid_block"):
        return site
    place = parts[0].removesuffix("_blocks").removesuffix("_block")
    numbers = [each for each in parts if each.isdigit()][:-1]  # of the block within is always 0
    return f"{place} {'.'.join(numbers)}"


def interval(of: Estimate | None, digits: int = 2) -> str:
    """The mean, with its interval."""
    if of is None or not of.n:
        return ""
    return f"{of.value:.{digits}f} ({of.low:.{digits}f}–{of.high:.{digits}f})"


def depth_table(figures: Sequence[LayerFigure], scenes: int) -> Table:
    """By site, the mean over the levels: cross-attention by kind of word, and self-attention."""
    title = (
        f"Depth, {scenes} drawn scenes, mean over {len(_levels(figures))} noise levels: IoU of "
        "cross-attention at the region's area, and how well self-attention parts the region "
        "(0.5 is chance), 95 %"
    )
    table = Table("site", title=title, title_justify="left")
    for kind in KINDS:
        table.add_column(f"cross, {kind}", justify="right")
    for kind in PARTED:
        table.add_column(f"self, {kind}", justify="right")
    of = {(each.site, each.kind): each for each in figures if each.level == MEAN}
    for site in _rows(figures):
        cross = [_of(of.get((site, kind)), "iou") for kind in KINDS]
        own = [_of(of.get((site, kind)), "parting") for kind in PARTED]
        table.add_row(short(site), *cross, *own)
    return table


def level_table(figures: Sequence[LayerFigure], kind: str) -> Table:
    """Site by noise level, for one kind of word: IoU, % of peaks inside, and self-attention."""
    title = f"{kind}: IoU of cross-attention, % of peaks inside, self-attention's parting"
    table = Table("site", title=title, title_justify="left")
    levels = _levels(figures)
    for level in levels:
        table.add_column(f"level {level}", justify="right")
    of = {(each.site, each.level): each for each in figures if each.kind == kind}
    # What nearness alone does is the same at every level, and stands in the table of depth.
    for site in [each for each in _rows(figures) if not each.startswith(NEARNESS)]:
        cells = []
        for level in levels:
            each = of.get((site, level))
            parts = []
            if each is not None and each.iou is not None and each.peak is not None:
                parts += [f"{each.iou.value:.2f}", f"{100 * each.peak.value:.0f}"]
            if each is not None and each.parting is not None:
                parts.append(f"{each.parting.value:.2f}")
            cells.append(", ".join(parts))
        table.add_row(short(site), *cells)
    return table


def forming(figures: Sequence[LayerFigure]) -> Iterator[str]:
    """A sentence for each kind of word: where its alignment forms."""
    of = {(each.site, each.level, each.kind): each for each in figures}
    for kind in KINDS:
        level, best = forms_at(figures, kind)
        if best is None or best.iou is None:
            continue
        every = of[ALL_SITES, MEAN, kind].iou
        assert every is not None
        when = "no level" if level is None else f"level {level}"
        yield (
            f"{kind} ({every.n} words × levels): half of its alignment is there at {when}; the "
            f"best site is {short(best.site)}, IoU {interval(best.iou)}, all sites "
            f"{interval(every)}"
        )


def _of(figure: LayerFigure | None, measure: str) -> str:
    return "" if figure is None else interval(getattr(figure, measure))


def _levels(figures: Sequence[LayerFigure]) -> list[int]:
    known = {each.level for each in figures}
    return [level for level in LEVELS if level in known]


def _rows(figures: Sequence[LayerFigure]) -> list[str]:
    """The sites in order, then what they are held against."""
    sites = dict.fromkeys(each.site for each in figures)
    ends = [ALL_SITES, UNIFORM, *(each for each in sites if each.startswith(NEARNESS))]
    return [each for each in sites if each not in ends] + ends


def sanity_table(figures: Sequence[SanityFigure], scenes: int, levels: int) -> Table:
    """By kind and method, the IoU of the word's own map, and what the controls make of it."""
    title = (
        f"Sanity, {scenes} drawn scenes, {levels} noise levels: IoU at the region's area; "
        f"{FAILING} where a control leaves more than a map that knows nothing (95 %)"
    )
    table = Table("kind", "method", title=title, title_justify="left")
    for name in ("words × levels", KNOWS_NOTHING, OWN, *CONTROLS):
        table.add_column(name, justify="right")
    of = {(each.kind, each.method, each.control): each for each in figures}
    methods = list(dict.fromkeys(each.method for each in figures))
    for kind in KINDS:
        for method in methods:
            own = of.get((kind, method, OWN))
            if own is None:
                continue
            cells = [_control(of.get((kind, method, control))) for control in CONTROLS]
            if method in WITHOUT_COLUMNS:
                cells[CONTROLS.index(SHUFFLED)] = "knows no columns"
            floor = own.iou.value - own.over.value
            table.add_row(
                kind, method, str(own.iou.n), f"{floor:.2f}", f"{own.iou.value:.2f}", *cells
            )
        table.add_section()
    return table


def _control(figure: SanityFigure | None) -> str:
    return "no such word" if figure is None else f"{figure.iou.value:.2f} {figure.verdict}"


def failing(figures: Sequence[SanityFigure]) -> Iterator[str]:
    """A line for each method and control, with the kinds of words that fail and by how much; and
    one for each method whose own maps are no better than nothing, so that they cannot fall."""
    for method in dict.fromkeys(each.method for each in figures):
        own = [each for each in figures if (each.method, each.control) == (method, OWN)]
        bad = [each.kind for each in own if each.scenes > 1 and each.over.low <= 0]
        if bad:
            yield f"nothing to destroy: {method}: {', '.join(bad)}"
        for control in CONTROLS:
            every = [each for each in figures if (each.method, each.control) == (method, control)]
            left = [each for each in every if each.verdict == FAILING]
            if left:
                told = ", ".join(f"{each.kind} {interval(each.over)}" for each in left)
                yield f"{FAILING}: {method}, {control}, above knowing nothing: {told}"


def focus_table(figures: Sequence[FocusFigure], prompts: int, seeds: int, steps: int) -> Table:
    """By setting, what pictures show, how much they differ, and how glaring they are."""
    title = (
        f"Focus, {prompts} prompts × {seeds} seeds, {steps} steps: everything right (Wilson 95 %), "
        "distances between seeds, and against the usual setting (bootstrap over prompts, 95 %)"
    )
    table = Table("setting", title=title, title_justify="left")
    names = ("all right", "features", "layout", "pixels", "against usual", "saturation", "clipped")
    for name in (*names, ""):
        table.add_column(name, justify="right")
    for each in figures:
        table.add_row(
            f"{each.setting.what} {each.setting.value:g}",
            str(each.right),
            f"{each.features.value:.3f}",
            f"{100 * each.layout.value:.1f} %",
            f"{each.pixels.value:.3f}",
            interval(each.against_usual),
            interval(each.saturation),
            f"{100 * each.clipped.value:.1f} %",
            "rigid" if each.rigid else "",
        )
    return table


def share_table(figures: Sequence[ShareFigure], pictures: int) -> Table:
    """By site and window of steps, what the parts of the text take."""
    title = f"Shares of attention, {pictures} pictures, %: {', '.join(PARTS)}"
    table = Table("site", title=title, title_justify="left")
    windows = sorted({each.window for each in figures})
    for first, end in windows:
        table.add_column(f"steps {first}–{end - 1}", justify="right")
    table.add_column("all steps", justify="right")
    of = {(each.site, each.window): each for each in figures}
    sites = list(dict.fromkeys(each.site for each in figures))

    def cell(values: Sequence[ShareFigure]) -> str:
        means = [sum(v.shares[part].value for v in values) / len(values) for part in PARTS]
        return ", ".join(f"{100 * mean:.0f}" for mean in means)

    for site in sites:
        every = [of[site, window] for window in windows]
        table.add_row(short(site), *(cell([each]) for each in every), cell(every))
    columns = [[of[site, window] for site in sites] for window in windows]
    whole = [each for column in columns for each in column]
    table.add_row("all sites", *(cell(column) for column in columns), cell(whole))
    return table


def taken_table(figures: Sequence[TakenFigure]) -> Table:
    """What taking the padding and the start token away changes."""
    of = figures[0]
    title = f"What taking them away does, {of.right.n} pictures, {of.peak.n} nouns (95 %)"
    table = Table("taken away", title=title, title_justify="left")
    for name in ("all right", "PSNR, dB", "noun's map alike", "its peak inside"):
        table.add_column(name, justify="right")
    for each in figures:
        table.add_row(
            each.taken,
            str(each.right),
            interval(each.psnr, 1),
            interval(each.alike),
            str(each.peak),
        )
    return table


def weights_table(figures: Sequence[WeightFigure], prompts: int, steps: int) -> Table:
    """Rank correlations of weights with what they do, by kind of word and by way."""
    title = f"Weights and what they do, {prompts} prompts, {steps} steps (Spearman, 95 %)"
    table = Table("word", "way", title=title, title_justify="left")
    for name in ("words", "moved", "moved, above 0", "pixels named"):
        table.add_column(name, justify="right")
    for each in figures:
        means = [interval(of) for of in (each.moved, each.above, each.named)]
        table.add_row(each.kind, each.way, str(each.moved.n), *means)
    return table


def by_weight_table(figures: Sequence[WeightFigure]) -> Table:
    """By weight: how many pictures are still all right, and the pixels named against weight 1."""
    title = "By weight: % of pictures all right, pixels named against those at weight 1 (median)"
    table = Table("word", "way", title=title, title_justify="left")
    for weight in figures[0].right:
        table.add_column(f"{weight:g}", justify="right")
    for each in figures:
        cells = [f"{100 * each.right[one]:.0f} %, {each.pixels[one]:.2f}" for one in each.right]
        table.add_row(each.kind, each.way, *cells)
    return table
