"""What `inspect` shows of a picture: the maps of its words, as files and as a table."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from t2i_xattn.commands.regions import WrittenRegions, print_regions
from t2i_xattn.errors import UserError, shown
from t2i_xattn.models.vocabulary import UnknownWord
from t2i_xattn.models.vocabulary import as_json as unknown_as_json
from t2i_xattn.prompts.function_words import is_function_word
from t2i_xattn.provenance.made import Made
from t2i_xattn.provenance.png import save_png
from t2i_xattn.traces.word_reports import WordReport, word_reports

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.showing.colours import Scaling
    from t2i_xattn.traces.heat_map import HeatMap
    from t2i_xattn.traces.regions import Box
    from t2i_xattn.traces.trace import Trace


@dataclass(frozen=True)
class Inspected:
    """What was written of one picture.

    Attributes:
        prompt: its prompt.
        picture: the picture's file; None where there was none.
        sheet, table: the files of all words, as a picture and as JSON.
        overlays: a file a word.
        report: the page to hover over; None where there was no picture.
        words: the rows of the table.
        unknown_words: those that the model was never taught; None where that is not known.
        regions: which word each place belongs to, where that was asked for.
    """

    prompt: str
    picture: Path | None
    sheet: Path
    table: Path
    overlays: tuple[Path, ...]
    words: tuple[WordReport, ...]
    unknown_words: list[dict[str, Any]] | None = None
    report: Path | None = None
    regions: WrittenRegions | None = None


@dataclass(frozen=True)
class Look:
    """How the sheet of all words looks.

    Attributes:
        scale: whether each word's map has its own scale of colours, or all have one.
        dpi: dots per inch.
        every: whether words such as "of" have a map there too, since they were asked for.
    """

    scale: Scaling = "each"
    dpi: int = 96
    every: bool = False


@dataclass(frozen=True)
class Inspection:
    """What was written of a run.

    Attributes:
        prompt: of the run, or of its first picture.
        trace: the trace's file.
        pictures: in their order.
    """

    prompt: str
    trace: Path
    pictures: list[Inspected] = field(default_factory=list)

    def add(self, picture: Inspected) -> None:
        """One more picture."""
        self.pictures.append(picture)

    def as_json(self) -> dict[str, Any]:
        """All of it, as `--json` prints it."""
        return asdict(self)

    def print(self) -> None:
        """The tables of words, and where their pictures lie."""
        for each in self.pictures:
            _print_table(each.words)
            if each.picture is not None:
                typer.echo(f"picture: {each.picture}")
            typer.echo(f"words:   {each.sheet}")
            if each.report is not None:
                typer.echo(f"report:  {each.report}")
            if each.regions is not None:
                print_regions(each.regions.words)
                typer.echo(f"regions: {each.regions.picture}")


def write_inspection(
    folder: Path,
    out: Path,
    place: Path,
    picture: Image.Image | None,
    maps: Sequence[HeatMap],
    prompt: str,
    made: Made | None = None,
    number: int = 0,
    look: Look | None = None,
    unknown: Sequence[UnknownWord] | None = None,
) -> Inspected:
    """Write the picture, an overlay a word, the sheet of all words, and the table as JSON.

    Args:
        folder: to write into for now.
        out: where it will be moved.
        place: within either.
        picture: None: the maps are laid over grey.
        maps: of the words.
        prompt: of the picture.
        made: how it was made, which is written into all files; None where that is not known.
        number: of the picture in its run.
        look: of the sheet.
        unknown: words that the model was never taught; None where that is not known.

    Raises:
        UserError: there are no maps, or a map has values that are no numbers.
    """
    from PIL import Image

    from t2i_xattn.showing.sheet import contact_sheet

    if not maps:
        raise UserError(
            "expected a trace of words, but this one has none, since its prompt came as "
            "embeddings; ask for columns in Python, with trace.heatmap(columns=[…])"
        )
    for heat in maps:
        if not math.isfinite(heat.share):
            raise UserError(
                f"expected a map of numbers, but that of {shown(heat.word)} has some that are not "
                "finite (NaN); check the model, or record the trace anew"
            )
    (folder / place).mkdir(exist_ok=True)
    written: Path | None = None
    if picture is None:
        height, width = maps[0].array.shape
        picture = Image.new("RGB", (width, height), (128, 128, 128))
    else:
        written = place / "picture.png"
        save_png(picture, folder / written, made, number)
    overlays = []
    for row, heat in enumerate(maps, start=1):
        name = re.sub(r"[^\w-]+", "-", heat.word.casefold()).strip("-")[:40]
        overlays.append(place / f"word-{row:02d}-{name}.png")
        save_png(heat.overlay(picture), folder / overlays[-1], made, number)
    look = look or Look()
    named = [heat for heat in maps if look.every or not is_function_word(heat.word)] or maps
    sheet = contact_sheet(
        picture,
        named,
        prompt=prompt,
        scale=look.scale,
        quiet=[heat for heat in maps if heat not in named],
        unknown=unknown or (),
        dpi=look.dpi,
    )
    save_png(sheet, folder / place / "words.png", made, number, dpi=look.dpi)
    reports = word_reports(maps)
    not_known = unknown_as_json(unknown)
    table: dict[str, Any] = {
        "prompt": prompt,
        "words": [asdict(each) for each in reports],
        "unknown_words": not_known,
    }
    if made is not None:
        table["made"] = made.as_dict()
    text = json.dumps(table, indent=2, ensure_ascii=False)
    (folder / place / "words.json").write_text(text, "utf-8")
    return Inspected(
        prompt,
        None if written is None else out / written,
        out / place / "words.png",
        out / place / "words.json",
        tuple(out / each for each in overlays),
        tuple(reports),
        not_known,
    )


def write_report(
    folder: Path,
    place: Path,
    trace: Trace,
    picture: Image.Image,
    number: int,
    phrases: Sequence[str],
) -> Path:
    """Writes the page to hover over, `report.html`, and gives its name within the folder.

    Args:
        folder: to write into.
        place: within it.
        trace: the run.
        picture: that it painted.
        number: of the picture in it.
        phrases: that are shown beside the words of the prompt.
    """
    from t2i_xattn.showing.report.report import report

    report(trace, picture, image=number, words=phrases).save(folder / place / "report.html")
    return place / "report.html"


def shown_box(box: Box | None) -> str:
    """A box as `edit --box` takes it; rounded outwards, so that a thin one does not vanish."""
    if box is None:
        return "-"
    # Inside, since 100 · 0.29 is a little less than 29.
    first = [math.floor(100 * each + 1e-6) / 100 for each in (box.top, box.left)]
    last = [math.ceil(100 * each - 1e-6) / 100 for each in (box.bottom, box.right)]
    return ",".join(f"{each:.2f}" for each in (*first, *last))


def _print_table(reports: Sequence[WordReport]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("word")
    # Numbers are never cut; names of columns are parted so that all fit a narrow terminal.
    names = "attention", "lowest to\nhighest", "peak /\nmean", "box: top,left,\nbottom,right"
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for each in reports:
        # Text, not markup: a prompt may hold square brackets.
        table.add_row(
            Text(each.word),
            f"{each.share:.2%}",
            f"{each.lowest:.2%} to {each.highest:.2%}",
            # A word that nothing looks at has neither.
            f"{each.highest / each.share:.2f}" if each.share else "-",
            shown_box(each.box),
        )
    Console(soft_wrap=not sys.stdout.isatty()).print(table)
