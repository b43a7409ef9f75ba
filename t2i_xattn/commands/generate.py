"""`t2i-xattn generate`: paint a prompt."""

from __future__ import annotations

from pathlib import Path

import typer

from t2i_xattn.asking.fitting import check_fits
from t2i_xattn.asking.limits import check_limits
from t2i_xattn.asking.parsing import parse_size
from t2i_xattn.asking.picture_prompt import picture_prompt as asked_picture
from t2i_xattn.asking.request import Request, paint
from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config
from t2i_xattn.commands.json_output import Json, print_json
from t2i_xattn.commands.output import output_folder
from t2i_xattn.commands.unknown_words import told_unknown
from t2i_xattn.models.vocabulary import as_json as unknown_as_json
from t2i_xattn.provenance.made import Made
from t2i_xattn.provenance.png import save_png


@options.one_sentence
def generate_command(
    context: typer.Context,
    prompt: options.Prompt,
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
    out: options.Out = Path("out"),
    device: options.Device = None,
    as_json: Json = False,
    config: Config = None,
    no_limits: options.NoLimits = False,
) -> None:
    """Paint a prompt."""
    beside = asked_picture(picture_prompt, picture_way, picture_scale, no_limits)
    side = parse_size(size)
    request = Request(prompt, seed, steps, guidance, side, count, negative, picture=beside)
    if not no_limits:
        check_limits(request)
    request.check()
    names = [f"picture-{seed + number}.png" for number in range(count)]
    with output_folder(out, "generate", beside=True, read=[picture_prompt], names=names) as folder:
        pipe = options.load(model, device)
        request.check_against(pipe, scheduled=True)
        if not no_limits:
            check_fits(pipe, request)
        unknown = told_unknown(pipe, prompt, negative)
        pictures = paint(pipe, request)
        seeds = range(seed, seed + len(pictures))
        made = Made.by(pipe, "generate", options.asked(context), pictures[0].size)
        for number, picture in enumerate(pictures):
            save_png(picture, folder / f"picture-{seed + number}.png", made, number)
    files = {each: out / f"picture-{each}.png" for each in seeds}
    if as_json:
        found = [{"seed": each, "picture": file} for each, file in files.items()]
        told = {"prompt": prompt, "pictures": found, "unknown_words": unknown_as_json(unknown)}
        print_json({"command": "generate", **told})
        return
    for file in files.values():
        typer.echo(file)
