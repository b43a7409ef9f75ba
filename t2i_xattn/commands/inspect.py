"""`t2i-xattn inspect`: what each word did in a picture, as a table and as files of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2i_xattn.asking.fitting import check_fits
from t2i_xattn.asking.limits import check_limits, check_phrases
from t2i_xattn.asking.parsing import parse_list, parse_size
from t2i_xattn.asking.picture_prompt import picture_prompt as asked_picture
from t2i_xattn.asking.recording import recorded, with_negative
from t2i_xattn.asking.request import Request, check_text, paint
from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config
from t2i_xattn.commands.inspection import Inspection, Look, write_inspection, write_report
from t2i_xattn.commands.json_output import Json, print_json
from t2i_xattn.commands.output import output_folder
from t2i_xattn.commands.regions import RegionsRequest, regions_request, write_regions
from t2i_xattn.commands.unknown_words import told_unknown
from t2i_xattn.errors import UserError, shown_path
from t2i_xattn.files import is_file
from t2i_xattn.models.vocabulary import vocabulary_of_model
from t2i_xattn.provenance.made import Made
from t2i_xattn.provenance.reading import made_of
from t2i_xattn.traces.broken_off import broken_off
from t2i_xattn.traces.word_reports import heatmaps

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.traces.heat_map import HeatMap
    from t2i_xattn.traces.trace import Trace

OF_A_RUN = (
    *("model", "seed", "steps", "guidance", "size", "count", "negative", "walk", "device"),
    *("picture_prompt", "picture_way", "picture_scale"),
)
"""Options that say how a picture is painted, which a saved trace has behind it."""


@options.one_sentence
def inspect_command(
    context: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="What to paint; none with --trace.", show_default=False)
    ] = None,
    model: options.Model = None,
    seed: options.Seed = 0,
    steps: options.Steps = 25,
    guidance: options.Guidance = 5.0,
    size: options.Size = None,
    count: options.Count = 1,
    negative: options.Negative = None,
    picture_prompt: options.PictureFile = None,
    picture_way: options.PictureWay = None,
    picture_scale: options.PictureScale = None,
    words: options.Words = None,
    walk: options.Walk = 1,
    regions: Annotated[
        bool,
        typer.Option(
            "--regions", help="Which of --words each place belongs to, as PNG, JSON and NPZ."
        ),
    ] = False,
    background: Annotated[
        str | None,
        typer.Option(help="With --regions: words whose places are background.", show_default=False),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            help="With --regions: 0 to 1 of a word's map, or otsu.",
            show_default="0.3, or 0.5 with --walk 0",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="A saved trace to look into, instead of painting.", show_default=False),
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option(
            help="With --trace: its picture; one each, where it has several.", show_default="grey"
        ),
    ] = None,
    scale: options.Scale = "each",
    dpi: options.Dpi = 96,
    out: options.Out = Path("out"),
    device: options.Device = None,
    as_json: Json = False,
    config: Config = None,
    no_limits: options.NoLimits = False,
) -> None:
    """Paint a prompt and show where each of its words acted; or look into a saved trace."""
    phrases = parse_list(words)
    wanted = regions_request(regions, phrases, background, threshold)
    look = Look(scale, dpi, every=bool(phrases))
    if wanted is not None and not no_limits:
        check_phrases("--background", wanted.background)
    if trace is not None:
        if prompt is not None or (ignored := options.given(context, *OF_A_RUN)):
            came = "a prompt" if prompt is not None else ", ".join(ignored)
            raise UserError(
                f"expected --trace alone, whose run is over, but came {came} beside it; leave one "
                "of them out"
            )
        if not no_limits:
            check_phrases("--words", phrases)
        found = inspect_trace(trace, picture or [], phrases, out, no_limits, wanted, look)
    elif prompt is None:
        raise UserError('expected a prompt, such as "a red circle", or --trace, but came neither')
    elif picture:
        raise UserError("expected --picture with --trace only, but came no --trace; leave it out")
    else:
        beside = asked_picture(picture_prompt, picture_way, picture_scale, no_limits)
        side = parse_size(size)
        request = Request(prompt, seed, steps, guidance, side, count, negative, phrases, beside)
        every = replace(request, words=(*phrases, *(wanted.background if wanted else ())))
        if not no_limits:
            check_limits(every, walk)
        every.check()
        given = options.asked(context)
        found = inspect_run(request, model, walk, out, device, given, wanted, look, no_limits)
    if as_json:
        print_json({"command": "inspect", **found.as_json()})
    else:
        found.print()


def inspect_run(
    request: Request,
    model: str | None,
    walk: int,
    out: Path,
    device: str | None,
    asked: Mapping[str, Any],
    wanted: RegionsRequest | None = None,
    look: Look | None = None,
    no_limits: bool = False,
) -> Inspection:
    """Paints a request, records it, and writes what its words did; `asked` are the options."""
    beside = None if request.picture is None else request.picture.file
    seeds = range(request.seed, request.seed + request.count)
    names = [f"seed-{each}/picture.png" for each in seeds] if request.count > 1 else ["picture.png"]
    with output_folder(out, "inspect", read=[beside], names=names) as folder:
        pipe = options.load(model, device)
        others = wanted.background if wanted else ()
        replace(request, words=(*request.words, *others)).check_against(pipe)
        if not no_limits:
            check_fits(pipe, request)
        unknown = told_unknown(pipe, request.prompt, request.negative)
        with recorded(pipe, walk, with_negative(pipe, request)) as trace:
            pictures = paint(pipe, request)
        made = Made.by(pipe, "inspect", asked, pictures[0].size)
        trace.settings["made"] = made.as_dict()
        trace.save(folder / "trace.safetensors")
        found = Inspection(request.prompt, out / "trace.safetensors")
        of_words = _maps(trace, request.words)
        for number, (picture, maps) in enumerate(zip(pictures, of_words, strict=True)):
            # One picture lies in the folder itself, several in a folder each.
            place = Path(f"seed-{request.seed + number}") if len(pictures) > 1 else Path()
            text = request.prompt
            each = write_inspection(
                folder, out, place, picture, maps, text, made, number, look, unknown
            )
            page = write_report(folder, place, trace, picture, number, request.words)
            each = replace(each, report=out / page)
            if wanted is not None:
                its = write_regions(folder, out, place, trace, number, wanted, made)
                each = replace(each, regions=its)
            found.add(each)
    return found


def inspect_trace(
    path: Path,
    pictures: list[Path],
    phrases: tuple[str, ...],
    out: Path,
    no_limits: bool,
    wanted: RegionsRequest | None = None,
    look: Look | None = None,
) -> Inspection:
    """Writes what the words of a saved trace did, over its pictures or over grey.

    Raises:
        UserError: there is no trace, it is not of that many pictures, or it lies in `out`, where
            it would be replaced with the earlier run.
    """
    for phrase in (*phrases, *(wanted.background if wanted else ())):
        check_text(phrase)
    from t2i_xattn.pictures import MAX_PIXELS, read_picture
    from t2i_xattn.traces.trace import Trace

    if not is_file(path):
        raise UserError(
            f"expected a trace file at {shown_path(path)}, but there is none; check the path"
        )
    trace = Trace.load(path)
    images = trace.run.images
    if len(pictures) not in (0, images):
        raise UserError(
            f"expected one --picture for each of the {images} of the trace, or none, but came "
            f"{len(pictures)}; give them in their order"
        )
    if path.resolve().parent == out.resolve():
        raise UserError(
            "expected another folder than that of the trace, whose files would be replaced, but "
            "came the same; choose another --out"
        )
    limit = None if no_limits else MAX_PIXELS
    read: list[Image.Image | None] = [read_picture(each, limit) for each in pictures]
    if how := broken_off(trace.run):
        typer.echo(
            f"t2i-xattn: the run of this trace was {how}, so its maps are of no finished picture",
            err=True,
        )
    found = Inspection(trace.prompts[0] or "", path)
    vocabulary = vocabulary_of_model(trace.settings.get("model"))
    with output_folder(out, "inspect", read=[path, *pictures]) as folder:
        for number, maps in enumerate(_maps(trace, phrases)):
            place = Path(f"image-{number}") if images > 1 else Path()
            picture = read[number] if read else None
            text = trace.prompts[number] or ""
            made = _made_with(trace, pictures[number] if pictures else None)
            unknown = None if vocabulary is None else vocabulary.unknown(text)
            each = write_inspection(
                folder, out, place, picture, maps, text, made, number, look, unknown
            )
            if picture is not None:
                page = write_report(folder, place, trace, picture, number, phrases)
                each = replace(each, report=out / page)
            if wanted is not None:
                its = write_regions(folder, out, place, trace, number, wanted, made)
                each = replace(each, regions=its)
            found.add(each)
    return found


def _made_with(trace: Trace, picture: Path | None) -> Made | None:
    """How a saved trace was made, unless a picture that is laid under it is of something else."""
    try:
        made = Made.read(trace.settings["made"], "the trace")
        return made if picture is None or made_of(picture) == made else None
    except (KeyError, UserError):
        return None


def _maps(trace: Trace, phrases: tuple[str, ...]) -> list[list[HeatMap]]:
    return [heatmaps(trace, number, phrases) for number in range(trace.run.images)]
