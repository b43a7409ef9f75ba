"""`t2i-xattn edit`: a picture before and after words do something else in it."""

from __future__ import annotations

from dataclasses import replace as replace_fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2i_xattn.asking.edit_request import EditRequest, parse_boxes, parse_regions, parse_weights
from t2i_xattn.asking.edited import Edited, paint_edited
from t2i_xattn.asking.fitting import check_edit_fits
from t2i_xattn.asking.limits import check_edit_limits
from t2i_xattn.asking.parsing import parse_list, parse_pairs, parse_size
from t2i_xattn.asking.request import Request
from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config
from t2i_xattn.commands.json_output import Json, print_json
from t2i_xattn.commands.output import output_folder
from t2i_xattn.commands.unknown_words import told_unknown
from t2i_xattn.errors import UserError
from t2i_xattn.models.vocabulary import as_json as unknown_as_json
from t2i_xattn.prompts.function_words import is_function_word
from t2i_xattn.provenance.made import Made
from t2i_xattn.provenance.png import save_png

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.showing.report.report import Report


FILES = ("edit", "before", "after", "words-before", "words-after", "words-both")
"""What is written, as PNG files."""


@options.one_sentence
def edit_command(
    context: typer.Context,
    prompt: options.Prompt,
    replace: Annotated[
        list[str] | None, typer.Option(help="cat=dog: other words in the prompt; may be repeated.")
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="red=1.5: more or less of a word; may be repeated.")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(help="circle=0.1,0.2,0.4,0.5: top, left, bottom, right; may be repeated."),
    ] = None,
    attend: Annotated[
        str | None, typer.Option(help="circle,star: words of which none may be left out.")
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            help="0.1,0.2,0.4,0.5=a red circle: a text of its own for a box; may be repeated."
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture of your own that shows what the prompt says.")
    ] = None,
    model: options.Model = None,
    seed: options.Seed = 0,
    steps: options.Steps = 25,
    guidance: options.Guidance = 5.0,
    size: options.Size = None,
    negative: options.Negative = None,
    scale: options.Scale = "each",
    dpi: options.Dpi = 96,
    out: options.Out = Path("out"),
    device: options.Device = None,
    as_json: Json = False,
    config: Config = None,
    no_limits: options.NoLimits = False,
) -> None:
    """Change what words do in a picture: before, after, and the difference."""
    if image is not None and options.given(context, "seed"):
        raise UserError(
            "expected --image without --seed, since the noise is that of the picture; leave one out"
        )
    asked = EditRequest(
        Request(prompt, seed, steps, guidance, parse_size(size), 1, negative),
        parse_pairs("replace", replace or ()),
        parse_weights(weight or ()),
        parse_boxes(box or ()),
        parse_list(attend),
        None if image is None else _read(image, no_limits),
        parse_regions(region or ()),
    )
    if not no_limits:
        check_edit_limits(asked)
    asked.check()
    names = [f"{name}.png" for name in FILES]
    with output_folder(out, "edit", read=[image], names=names) as folder:
        pipe = options.load(model, device)
        asked.check_against(pipe)
        unknown = told_unknown(pipe, prompt, asked.target, negative, *asked.regions)
        asked = with_fitted_picture(pipe, asked)
        if not no_limits:
            check_edit_fits(pipe, asked)
        from t2i_xattn.showing.comparison import comparison, pair_sheet, paired
        from t2i_xattn.showing.sheet import contact_sheet

        edited = paint_edited(pipe, asked)
        given = options.asked(context)
        if image is not None:
            del given["seed"]
        made = Made.by(pipe, "edit", given, edited.after.size)
        save_png(edited.before, folder / "before.png", made)
        save_png(edited.after, folder / "after.png", made)
        texts = (prompt, asked.target)
        both = comparison(
            edited.before,
            edited.after,
            texts,
            edit=asked.told,
            boxes=[*asked.boxes.items(), *asked.regions.items()],
            unknown=unknown or (),
            dpi=dpi,
        )
        save_png(both, folder / "edit.png", made, dpi=dpi)
        edited_page(edited, asked.told, made).save(folder / "report.html")
        named = [
            [heat for heat in maps if not is_function_word(heat.word)] or maps
            for maps in (edited.maps_before, edited.maps_after)
        ]
        sheet = pair_sheet(
            (edited.before, edited.after),
            paired(named[0], named[1], asked.replace),
            (f"before: {texts[0]}", f"after: {texts[1]}"),
            scale=scale,
            unknown=unknown or (),
            dpi=dpi,
        )
        save_png(sheet, folder / "words-both.png", made, dpi=dpi)
        for name, picture, maps, shown, text in (
            ("before", edited.before, edited.maps_before, named[0], texts[0]),
            ("after", edited.after, edited.maps_after, named[1], texts[1]),
        ):
            quiet = [heat for heat in maps if heat not in shown]
            sheet = contact_sheet(
                picture, shown, text, scale=scale, quiet=quiet, unknown=unknown or (), dpi=dpi
            )
            save_png(sheet, folder / f"words-{name}.png", made, dpi=dpi)
    files = {name: out / f"{name}.png" for name in FILES}
    files["report"] = out / "report.html"
    if as_json:
        by_name = {name.replace("-", "_"): file for name, file in files.items()}
        told = {"target": asked.target, **by_name, "unknown_words": unknown_as_json(unknown)}
        print_json({"command": "edit", "prompt": prompt, **told})
        return
    for file in files.values():
        typer.echo(file)


def edited_page(edited: Edited, told: str, made: Made) -> Report:
    """The page to hover over, before and after beside each other on one scale.

    Args:
        edited: both runs.
        told: what was done.
        made: how, which the page says of both.
    """
    from t2i_xattn.showing.report.report import report

    for trace in edited.traces:
        trace.settings["made"] = made.as_dict()
    before, after = edited.traces
    then = report(after, edited.after, name=f"after: {told}")
    return report(before, edited.before, name="before", against=then)


def with_fitted_picture(pipe: Any, asked: EditRequest) -> EditRequest:
    """The request with its picture in a size that the model can take; says so where it changes.

    Raises:
        UserError: the picture is too narrow.
    """
    if asked.image is None:
        return asked
    from t2i_xattn.pictures import fitted

    picture = fitted(pipe, asked.image, asked.request.size)
    if picture.size != asked.image.size:
        was, now = (f"{each.width} × {each.height}" for each in (asked.image, picture))
        typer.echo(f"t2i-xattn: the picture of {was} pixels is edited at {now}", err=True)
    return replace_fields(asked, image=picture)


def _read(path: Path, no_limits: bool) -> Image.Image:
    from t2i_xattn.pictures import MAX_PIXELS, read_picture

    return read_picture(path, None if no_limits else MAX_PIXELS)
