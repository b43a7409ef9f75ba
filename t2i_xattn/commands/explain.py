"""`t2i-xattn explain`: what every word of a prompt does, by attention and by intervention."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2i_xattn.asking.explained import NOTHING, Asked, explained
from t2i_xattn.asking.fitting import check_fits
from t2i_xattn.asking.limits import check_limits, check_phrases
from t2i_xattn.asking.parsing import parse_list, parse_pairs, parse_size
from t2i_xattn.asking.request import Request, check_text
from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config
from t2i_xattn.commands.json_output import Json, print_json
from t2i_xattn.commands.output import output_folder
from t2i_xattn.commands.unknown_words import told_unknown
from t2i_xattn.models.vocabulary import UnknownWord
from t2i_xattn.models.vocabulary import as_json as unknown_as_json
from t2i_xattn.provenance.made import Made
from t2i_xattn.provenance.png import save_png

if TYPE_CHECKING:
    from t2i_xattn.explaining.explanation import Explanation


@options.one_sentence
def explain_command(
    context: typer.Context,
    prompt: options.Prompt,
    model: options.Model = None,
    seed: options.Seed = 0,
    steps: options.Steps = 25,
    guidance: options.Guidance = 5.0,
    size: options.Size = None,
    count: options.Count = 1,
    negative: options.Negative = None,
    words: options.Words = None,
    instead: Annotated[
        list[str] | None,
        typer.Option(
            help=f'What to put in a word\'s place: "red=blue"; "red={NOTHING}" for nothing.',
            show_default="another word of its kind, or nothing",
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="How words are taken away: text, attention, embedding, only, carriers, with "
            "commas between."
        ),
    ] = "text,attention",
    placebo: Annotated[
        bool, typer.Option(help="Hold effects against attention taken from columns of no word.")
    ] = True,
    walk: options.Walk = 1,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Pictures at once.")] = 8,
    dpi: options.Dpi = 96,
    out: options.Out = Path("out"),
    device: options.Device = None,
    as_json: Json = False,
    config: Config = None,
    no_limits: options.NoLimits = False,
) -> None:
    """Say what each word of a prompt does, how much and where, and how far to trust it."""
    phrases = parse_list(words)
    request = Request(prompt, seed, steps, guidance, parse_size(size), count, negative, phrases)
    pairs = parse_pairs("instead", instead or [])
    for text in (*pairs, *pairs.values()):
        check_text(text)
    others = {word: None if other == NOTHING else other for word, other in pairs.items()}
    if not no_limits:
        check_limits(request, walk)
        check_phrases("--instead", [*pairs, *pairs.values()])
    request.check()
    asked = Asked(others, parse_list(by), placebo, batch)
    with output_folder(out, "explain") as folder:
        pipe = options.load(model, device)
        request.check_against(pipe)
        if not no_limits:
            check_fits(pipe, replace(request, count=1))  # one seed is painted after the other
        asked.check(pipe, request)
        unknown = told_unknown(pipe, prompt, negative)
        found = explained(pipe, request, asked, walk)
        made = Made.by(pipe, "explain", options.asked(context), found.pictures[0].image.size)
        for each in found.pictures:
            each.trace.settings["made"] = made.as_dict()
        files = _write(folder, found, made, phrases, unknown, dpi)
    if as_json:
        paths = {name: [str(out / each) for each in some] for name, some in files.items()}
        print_json(
            {
                "command": "explain",
                "files": paths,
                **found.as_json(),
                "unknown_words": unknown_as_json(unknown),
            }
        )
        return
    _print(found)
    for path in (path for some in files.values() for path in some):
        typer.echo(out / path)


def _write(
    folder: Path,
    found: Explanation,
    made: Made,
    phrases: Sequence[str],
    unknown: Sequence[UnknownWord] | None,
    dpi: int,
) -> dict[str, list[Path]]:
    """Pictures, a sheet of attention and effect maps each, a page each to hover over, and the table
    as JSON."""
    from t2i_xattn.showing.effects import effect_sheet
    from t2i_xattn.showing.report.report import report

    files: dict[str, list[Path]] = {"pictures": [], "sheets": [], "reports": [], "table": []}
    several = len(found.pictures) > 1
    for number, picture in enumerate(found.pictures):
        place = Path(f"seed-{picture.seed}") if several else Path()
        (folder / place).mkdir(exist_ok=True)
        files["pictures"].append(place / "picture.png")
        files["sheets"].append(place / "effects.png")
        save_png(picture.image, folder / files["pictures"][-1], made, number)
        sheet = effect_sheet(found, picture, unknown=unknown or (), dpi=dpi)
        save_png(sheet, folder / files["sheets"][-1], made, number, dpi=dpi)
        files["reports"].append(place / "report.html")
        report(found, image=number, words=phrases).save(folder / files["reports"][-1])
    table = found.as_json() | {
        "unknown_words": unknown_as_json(unknown),
        "made": made.as_dict(),
    }
    files["table"].append(Path("explanation.json"))
    text = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / files["table"][0]).write_text(text, "utf-8")
    return files


def _print(found: Explanation) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ways = list(found.words[0].sizes)
    table = Table("word", "instead")
    for name in ("attention", *ways, "placebo", "maps agree (IoU)"):
        table.add_column(name, justify="right")
    table.add_column("grade")
    for each in found.words:
        # Text, not markup: a prompt may hold square brackets.
        table.add_row(
            Text(each.word),
            Text(", ".join(other or NOTHING for other in each.others)),
            f"{each.share:.1%}",
            *(f"{each.sizes[way].mean:.1%}" for way in ways),
            "" if each.floor is None else f"{each.floor.mean:.1%}",
            f"{each.evidence.iou:.2f}",
            each.grade,
        )
    console = Console(soft_wrap=not sys.stdout.isatty())
    console.print(table)
    for each in found.words:
        console.print(Text(each.sentence))
