"""`inspect --regions`: which of some words each place of a picture belongs to, as files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from t2i_xattn.asking.parsing import parse_list
from t2i_xattn.errors import UserError, shown
from t2i_xattn.provenance.made import Made
from t2i_xattn.provenance.png import save_png

if TYPE_CHECKING:
    from t2i_xattn.traces.quality import Quality
    from t2i_xattn.traces.regions import Box
    from t2i_xattn.traces.trace import Trace


@dataclass(frozen=True)
class RegionsRequest:
    """What `--regions` is asked for.

    Attributes:
        words: that compete.
        background: others, whose places are background.
        threshold: 0 to 1 or `"otsu"`; None: as `Trace.regions` chooses.
    """

    words: tuple[str, ...]
    background: tuple[str, ...]
    threshold: float | Literal["otsu"] | None


@dataclass(frozen=True)
class RegionReport:
    """One row of the table.

    Attributes:
        label: the word's value in the PNG.
        threshold: what its map needs at a place, from its lowest (0) to its highest (1).
        box: around its largest part (top, left, bottom, right), in fractions of the picture; None
            if it has no region.
        parts: how many connected parts the region has.
        quality: see `traces.quality`.
    """

    label: int
    threshold: float
    box: Box | None
    parts: int
    quality: Quality


@dataclass(frozen=True)
class WrittenRegions:
    """The files of one picture's regions, and the rows of their table."""

    picture: Path
    table: Path
    arrays: Path
    words: tuple[RegionReport, ...]


def regions_request(
    wanted: bool, words: tuple[str, ...], background: str | None, threshold: str | None
) -> RegionsRequest | None:
    """The options, read; None without `--regions`.

    Raises:
        UserError: if one is given without `--regions`, there are no words, or the threshold is
            none.
    """
    if not wanted:
        for name, value in (("--background", background), ("--threshold", threshold)):
            if value is not None:
                raise UserError(
                    f"expected {name} with --regions, but came no --regions; add it, or leave "
                    f"{name} out"
                )
        return None
    if not words:
        raise UserError(
            "expected --words with --regions, since all words of a prompt would compete, 'a' and "
            "'of' too, but came none; give some, such as --words \"red circle, blue square\""
        )
    others = parse_list(background)
    folded = [each.casefold() for each in (*words, *others)]
    for word in (*words, *others):
        if folded.count(word.casefold()) > 1:
            raise UserError(
                f"expected each word once in --words and --background, but came {shown(word)} "
                "twice; leave one out"
            )
    return RegionsRequest(words, others, parse_threshold(threshold))


def write_regions(
    folder: Path,
    out: Path,
    place: Path,
    trace: Trace,
    number: int,
    asked: RegionsRequest,
    made: Made | None,
) -> WrittenRegions:
    """Writes `regions.png`, `regions.json` and `regions.npz` of one picture.

    Args:
        folder: to write into for now.
        out: where it will be moved.
        place: within either.
        trace: the run.
        number: of the picture in it.
        asked: the words, and how they compete.
        made: how the picture was made, which is written beside; None where that is not known.
    """
    from t2i_xattn.traces.competing import connected_parts
    from t2i_xattn.traces.regions_file import LEGEND, legend, palette_picture

    found = trace.regions(
        asked.words, background=asked.background, threshold=asked.threshold, image=number
    )
    names = [place / f"regions.{kind}" for kind in ("png", "json", "npz")]
    labels = legend(found)
    texts = {LEGEND: json.dumps(labels)}
    save_png(palette_picture(found), folder / names[0], made, number, texts)
    rows = tuple(
        RegionReport(
            label,
            found.cuts[label - 1],
            found.box(word),
            len(connected_parts(found.mask(word))[1]) - 1,
            found.quality(word),
        )
        for label, word in enumerate(found.words, start=1)
    )
    table: dict[str, Any] = {
        "prompt": trace.prompts[number],
        **labels,
        "words": [asdict(each) for each in rows],
    }
    if made is not None:
        table["made"] = made.as_dict()
    text = json.dumps(table, indent=2, ensure_ascii=False)
    (folder / names[1]).write_text(text, "utf-8")
    found.save(folder / names[2])
    return WrittenRegions(out / names[0], out / names[1], out / names[2], rows)


def print_regions(rows: Sequence[RegionReport]) -> None:
    """The table of regions."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("region of")
    for name in ("share of the picture", "parts", "margin", "stability", "estimate"):
        table.add_column(name, justify="right")
    for row in rows:
        each = row.quality
        figures = (each.margin, each.stability, each.estimate)
        # Text, not markup: a prompt may hold square brackets.
        table.add_row(
            Text(each.word),
            f"{each.area:.1%}",
            str(row.parts),
            *(f"{figure:.2f}" for figure in figures),
        )
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def parse_threshold(text: str | None) -> float | Literal["otsu"] | None:
    """`"0.3"` or `"otsu"`, read; None of None.

    Raises:
        UserError: if it is neither.
    """
    if text is None:
        return None
    if text.strip().casefold() == "otsu":
        return "otsu"
    try:
        level = float(text)
    except ValueError:
        level = -1.0
    if not 0 <= level <= 1:  # NaN is not either
        raise UserError(
            f"expected a --threshold from 0 to 1 or otsu, but came {shown(text)}; try 0.3"
        )
    return level
