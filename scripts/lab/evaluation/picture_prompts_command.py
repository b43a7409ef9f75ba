"""`scripts/evaluate.py picture-prompts`: pictures as prompts, as a table and a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from lab.evaluation.figures import Mean
from lab.evaluation.picture_prompts import (
    TASKS,
    WAYS,
    Case,
    PictureFigures,
    evaluate_pictures,
    picture_cases,
)
from lab.evaluation.report import check_writable, circumstances, write_json
from lab.judge.segmenter import WEIGHTS, load_segmenter
from t2i_xattn.conditioning.picture_tokens import PictureTokens
from t2i_xattn.errors import UserError
from t2i_xattn.models.default import load_default
from t2i_xattn.models.picture_prompts import PICTURE_PROMPTS

Found = Mapping[tuple[str, str], PictureFigures]

ON_SHEET, GAP = 8, 4

SAID = {"alone": "the picture alone", "elsewhere": "its object where the text says"}


def add_picture_prompts(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def picture_prompts(
        adapters: Annotated[
            Path, typer.Option(help="Folder of the encoder and the adapters.")
        ] = PICTURE_PROMPTS,
        steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 20,
        guidance: Annotated[float, typer.Option(help="Classifier-free guidance.")] = 5.0,
        batch: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 10,
        limit: Annotated[int, typer.Option(min=1, help="Pictures as prompts.")] = 100,
        ways: Annotated[
            str | None, typer.Option(help=f"Some of {', '.join(WAYS)}.", show_default="all")
        ] = None,
        held_out: Annotated[
            bool, typer.Option("--held-out", help="Of combinations that training never showed.")
        ] = False,
        keep: Annotated[Path | None, typer.Option(help="Folder for what is painted.")] = None,
        sheet: Annotated[
            Path | None, typer.Option(help="PNG of the first given and painted ones.")
        ] = None,
        json: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    ) -> None:
        """Pictures as prompts: what is taken over from them, and where their maps point."""
        chosen = list(WAYS) if ways is None else [each.strip() for each in ways.split(",")]
        for each in chosen:
            if each not in WAYS:
                raise UserError(f"expected ways of {', '.join(WAYS)}, but came {each!r}")
        for path in (json, sheet):
            if path is not None:
                check_writable(path)
        cases = picture_cases(limit, "held_out" if held_out else "train")
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for number, case in enumerate(cases):
                case.picture.save(keep / f"{number:03}-given.png")

        painted: dict[tuple[str, str, int], Image.Image] = {}

        def kept(task: str, way: str, number: int, picture: Image.Image) -> None:
            if number < ON_SHEET:
                painted[task, way, number] = picture
            if keep is not None:
                picture.save(keep / f"{number:03}-{task}-{way}.png")

        plain, separate = load_default(), load_default()
        separate.load_ip_adapter(
            str(adapters),
            subfolder="",
            weight_name="separate.safetensors",
            image_encoder_folder="image_encoder",
        )
        for pipe in (plain, separate):
            pipe.set_progress_bar_config(disable=True)
        settings = {"steps": steps, "guidance": guidance, "batch": batch}
        found: Found = {}
        try:
            tokens, segmenter = PictureTokens.from_pretrained(adapters), load_segmenter(WEIGHTS)
            every = (separate, plain, tokens, segmenter, cases, chosen)
            for found in evaluate_pictures(*every, **settings, keep=kept):  # type: ignore[arg-type]
                if json is not None:
                    told: dict[str, dict[str, object]] = {task: {} for task in TASKS}
                    for (task, way), figures in found.items():
                        told[task][way] = figures.as_json()
                    about = settings | {"limit": limit, "held_out": held_out}
                    write_json(json, {"settings": about, **told, **circumstances()})
        finally:
            if found:
                Console().print(*(_table(found, task) for task in TASKS), _sites(found))
                if sheet is not None:
                    _sheet(cases[:ON_SHEET], painted).save(sheet, optimize=True)


def _sheet(
    cases: Sequence[Case], painted: Mapping[tuple[str, str, int], Image.Image]
) -> Image.Image:
    """A column a case: the given picture, then what each way made of it where the text says."""
    ways = [way for way in WAYS if way != "text" and ("elsewhere", way, 0) in painted]
    width, height = cases[0].picture.size
    sheet = Image.new(
        "RGB", (len(cases) * (width + GAP), (len(ways) + 1) * (height + GAP)), "white"
    )
    for number, case in enumerate(cases):
        column = [case.picture, *(painted["elsewhere", way, number] for way in ways)]
        for row, picture in enumerate(column):
            sheet.paste(picture, (number * (width + GAP), row * (height + GAP)))
    return sheet


def _table(found: Found, task: str) -> Table:
    own = {way: each for (of, way), each in found.items() if of == task and each.verdicts}
    count = max((len(each.verdicts) for each in own.values()), default=0)
    table = Table(title=f"{SAID[task]}: {count} pictures; right in % (95 % interval)")
    table.add_column("way")
    names = ["object", "once", "kind", "place", "light", "object and place", "peak inside"]
    for name in (*names, "area of the boxes", "picture's part"):
        table.add_column(name, justify="right")
    for way, figures in own.items():
        shares = figures.shares
        row = [str(shares[name]) if shares[name].n else "" for name in names]
        area, part = Mean.of(figures.areas), Mean.of(figures.parts)
        row += [
            f"{100 * area.value:.0f} %" if area.n else "",
            f"{part.value:.2f}" if part.n else "",
        ]
        table.add_row(way, *row)
    return table


def _sites(found: Found) -> Table:
    table = Table(title="the picture's part of what the places of each site take, elsewhere")
    table.add_column("site")
    own = {w: each for (of, w), each in found.items() if of == "elsewhere" and each.by_site}
    for way in own:
        table.add_column(way, justify="right")
    for name in next((each.by_site for each in own.values()), {}):
        row = [f"{Mean.of(each.by_site[name]).value:.2f}" for each in own.values()]
        table.add_row(name.replace(".transformer_blocks.0.attn2", ""), *row)
    return table
