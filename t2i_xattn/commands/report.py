"""`t2i-xattn report`: saved runs as a page to hover over, two of them beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2i_xattn.asking.limits import check_phrases
from t2i_xattn.asking.parsing import parse_list
from t2i_xattn.asking.request import check_text
from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config
from t2i_xattn.commands.json_output import Json, print_json
from t2i_xattn.commands.output import output_folder
from t2i_xattn.errors import UserError, WordNotFoundError
from t2i_xattn.prompts.words import find_phrase

if TYPE_CHECKING:
    from t2i_xattn.commands.saved_runs import SavedRun

PAGE = "report.html"


@options.one_sentence
def report_command(
    run: Annotated[
        Path,
        typer.Argument(help="A folder that inspect wrote, or a trace with its picture beside it."),
    ],
    other: Annotated[
        Path | None,
        typer.Argument(help="Another one, to lay beside it on one scale.", show_default=False),
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option(
            help="The picture of the run; one each, where there are two.",
            show_default="picture.png beside the trace",
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            help="Phrases to show beside the words, with commas between.", show_default=False
        ),
    ] = None,
    out: options.Out = Path("report"),
    as_json: Json = False,
    config: Config = None,
    no_limits: options.NoLimits = False,
) -> None:
    """Lay two saved runs beside each other in one page to hover over; or show one."""
    phrases = parse_list(words)
    if not no_limits:
        check_phrases("--words", phrases)
    for phrase in phrases:
        check_text(phrase)
    paths = [run] if other is None else [run, other]
    if picture and len(picture) != len(paths):
        raise UserError(
            f"expected one --picture for each of {len(paths)} runs, or none, but came "
            f"{len(picture)}; give them in their order"
        )
    from t2i_xattn.commands.saved_runs import saved_run
    from t2i_xattn.pictures import MAX_PIXELS
    from t2i_xattn.showing.report.report import report

    limit = None if no_limits else MAX_PIXELS
    with output_folder(out, "report") as folder:
        runs = [
            saved_run(path, picture[number] if picture else None, limit)
            for number, path in enumerate(paths)
        ]
        _check_elsewhere(runs, out)
        of_runs = phrases_of(runs, phrases)
        page = None
        for number in reversed(range(len(runs))):  # the first is laid against the second
            each = runs[number]
            page = report(
                each.trace,
                each.picture,
                image=each.image,
                words=of_runs[number],
                against=page,
                name=str(paths[number]),
            )
        assert page is not None, "there is a run"
        page.save(folder / PAGE)
    if as_json:
        told = [
            {"path": path, "image": each.image, "prompt": each.trace.prompts[each.image]}
            for path, each in zip(paths, runs, strict=True)
        ]
        print_json({"command": "report", "report": out / PAGE, "runs": told})
        return
    typer.echo(out / PAGE)


def phrases_of(runs: Sequence[SavedRun], phrases: Sequence[str]) -> list[list[str]]:
    """By run, those of some phrases that its prompt has.

    Raises:
        UserError: for a phrase that none of them has.
    """
    found: list[list[str]] = [[] for _ in runs]
    for phrase in phrases:
        missing: WordNotFoundError | None = None
        for each, some in zip(runs, found, strict=True):
            try:
                find_phrase(each.trace.words_of(each.image), phrase)
                some.append(phrase)
            except WordNotFoundError as error:
                missing = error
        if missing is not None and not any(phrase in some for some in found):
            raise missing
    return found


def _check_elsewhere(runs: Sequence[SavedRun], out: Path) -> None:
    """Raises `UserError` for the folder of a run, whose own page would be replaced."""
    if any(out.resolve() == each.path.resolve().parent for each in runs):
        raise UserError(
            "expected another folder than that of a run, whose own page would be replaced, but "
            "came the same; choose another --out"
        )
