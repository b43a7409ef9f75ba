"""`t2i-xattn inspect`: what each word did in a picture, as a table and as files of a folder."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from t2i_xattn.commands import options
from t2i_xattn.commands.output import output_folder
from t2i_xattn.commands.request import Request, paint, parse_list, parse_size

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.traces.heat_map import HeatMap
    from t2i_xattn.traces.regions import Box
    from t2i_xattn.traces.trace import Trace


@options.one_sentence
def inspect_command(
    prompt: options.Prompt,
    model: options.Model = None,
    seed: options.Seed = 0,
    steps: options.Steps = 25,
    guidance: options.Guidance = 5.0,
    size: options.Size = None,
    count: options.Count = 1,
    negative: options.Negative = None,
    words: options.Words = None,
    walk: options.Walk = 1,
    out: options.Out = Path("out"),
    device: options.Device = None,
) -> None:
    """Paint a prompt and show where each of its words acted."""
    phrases = parse_list(words)
    request = Request(prompt, seed, steps, guidance, parse_size(size), count, negative, phrases)
    request.check()
    with output_folder(out, "inspect") as folder:
        pipe = options.load(model, device)
        request.check_against(pipe)
        from t2i_xattn.recording.record import record

        with record(pipe, walk=walk) as trace:
            pictures = paint(pipe, request)
        trace.save(folder / "trace.safetensors")
        tables = []
        for number, picture in enumerate(pictures):
            # One picture lies in the folder itself, several in a folder each.
            place = folder / f"seed-{seed + number}" if len(pictures) > 1 else folder
            place.mkdir(exist_ok=True)
            maps = heatmaps(trace, number, phrases)
            tables.append((place, write_inspection(place, picture, maps, prompt)))
    for place, reports in tables:
        _print_table(out / place.relative_to(folder), reports)


@dataclass(frozen=True)
class WordReport:
    """One row of the table.

    Attributes:
        word: the word or phrase.
        share: its share of attention, 0 to 1, mean over the picture.
        box: where it looked: the box of the map's mask (top, left, bottom, right), in fractions of
            the picture; None for a flat map.
        peak: row and column of the highest value, in pixels.
        peakedness: 0 the same everywhere, 1 a single point.
    """

    word: str
    share: float
    box: Box | None
    peak: tuple[int, int]
    peakedness: float


def heatmaps(trace: Trace, image: int = 0, phrases: Sequence[str] = ()) -> list[HeatMap]:
    """The maps of some phrases, or of every word of the prompt once, in its order."""
    if not phrases:
        # A word that stands several times is shown once, where it stands first.
        once: dict[str, str] = {}
        for word in trace.words_of(image):
            if word.columns:
                once.setdefault(word.text.casefold(), word.text)
        phrases = tuple(once.values())
    return [trace.heatmap(phrase, image=image) for phrase in phrases]


def word_reports(maps: Sequence[HeatMap]) -> list[WordReport]:
    """The rows of the table, in the order of the maps."""
    return [
        WordReport(
            word=heat.word,
            share=heat.share,
            box=heat.box(),
            peak=heat.peak(),
            peakedness=heat.peakedness,
        )
        for heat in maps
    ]


def write_inspection(
    folder: Path, picture: Image.Image, maps: Sequence[HeatMap], prompt: str
) -> list[WordReport]:
    """Write the picture, an overlay a word, the sheet of all words, and the table as JSON."""
    from t2i_xattn.showing.render import contact_sheet

    reports = word_reports(maps)
    picture.save(folder / "picture.png")
    for number, heat in enumerate(maps, start=1):
        name = re.sub(r"[^\w-]+", "-", heat.word.casefold()).strip("-")[:40]
        heat.overlay(picture).save(folder / f"word-{number:02d}-{name}.png")
    contact_sheet(picture, maps, prompt=prompt).save(folder / "words.png")
    table = {"prompt": prompt, "words": [asdict(report) for report in reports]}
    (folder / "words.json").write_text(json.dumps(table, indent=2, ensure_ascii=False), "utf-8")
    return reports


def shown_box(box: Box | None) -> str:
    """A box as `edit --box` takes it; rounded outwards, so that a thin one does not vanish."""
    if box is None:
        return "-"
    # Inside, since 100 · 0.29 is a little less than 29.
    first = [math.floor(100 * each + 1e-6) / 100 for each in (box.top, box.left)]
    last = [math.ceil(100 * each - 1e-6) / 100 for each in (box.bottom, box.right)]
    return ",".join(f"{each:.2f}" for each in (*first, *last))


def _print_table(place: Path, reports: Sequence[WordReport]) -> None:
    """The table of words, and where its pictures lie."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("word")
    for name in ("share of attention", "box (top,left,bottom,right)", "peakedness"):
        table.add_column(name, justify="right")
    for each in reports:
        # Text, not markup: a prompt may hold square brackets.
        row = (f"{each.share:.2%}", shown_box(each.box), f"{each.peakedness:.3f}")
        table.add_row(Text(each.word), *row)
    Console(soft_wrap=not sys.stdout.isatty()).print(table)
    typer.echo(f"picture: {place / 'picture.png'}")
    typer.echo(f"words:   {place / 'words.png'}")
