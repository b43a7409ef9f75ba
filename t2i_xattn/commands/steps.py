"""`t2i-xattn steps`: one layer of attention of a real run, every step with its numbers and a
picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from t2i_xattn.asking.limits import check_limits
from t2i_xattn.asking.parsing import parse_size, unquoted
from t2i_xattn.asking.request import Request, paint, tokenizer_of
from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config
from t2i_xattn.commands.json_output import Json, print_json
from t2i_xattn.commands.output import output_folder
from t2i_xattn.errors import UserError, shown
from t2i_xattn.prompts.roles import CONDITIONAL
from t2i_xattn.provenance.made import Made
from t2i_xattn.provenance.png import save_png


@options.one_sentence
def steps_command(
    context: typer.Context,
    prompt: options.Prompt,
    word: Annotated[
        str | None,
        typer.Option(help="A word or phrase of the prompt.", show_default="the last word"),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            help="Name or number of an attention layer that reads the text, 0 the first.",
            show_default="the last",
        ),
    ] = None,
    place: Annotated[str, typer.Option(help="In the picture: down,right from 0 to 1.")] = "0.5,0.5",
    step: Annotated[
        int | None,
        typer.Option(help="Step of the sampler, 0 the first.", show_default="the middle"),
    ] = None,
    model: options.Model = None,
    seed: options.Seed = 0,
    steps: options.Steps = 25,
    guidance: options.Guidance = 5.0,
    size: options.Size = None,
    negative: options.Negative = None,
    out: options.Out = Path("out"),
    device: options.Device = None,
    as_json: Json = False,
    config: Config = None,
    no_limits: options.NoLimits = False,
) -> None:
    """Walk through one attention layer of a run: Q, K, V, scores, softmax and what comes of it."""
    asked = () if word is None else (unquoted(word),)
    request = Request(prompt, seed, steps, guidance, parse_size(size), 1, negative, asked)
    if not no_limits:
        check_limits(request)
    request.check()
    where = parse_place(place)
    at = steps // 2 if step is None else step
    if not 0 <= at < steps:
        raise UserError(
            f"expected a --step from 0 to {steps - 1} of {steps} --steps, but came {shown(step)}"
        )
    with output_folder(out, "steps") as folder:
        pipe = options.load(model, device)
        request.check_against(pipe, scheduled=True)
        from t2i_xattn.explaining.opening import lay_open
        from t2i_xattn.showing.steps_sheet import steps_sheet

        (phrase,) = asked or (_last_word(pipe, prompt),)
        with lay_open(pipe, phrase, site, where, at) as opened:
            picture = paint(pipe, request)[0]
        found = opened.one
        made = Made.by(pipe, "steps", options.asked(context), picture.size)
        save_png(picture, folder / "picture.png", made, 0)
        save_png(steps_sheet(found, picture), folder / "steps.png", made, 0)
        told = found.as_json() | {"prompt": prompt, "made": made.as_dict()}
        text = json.dumps(told, ensure_ascii=False, allow_nan=False)
        (folder / "steps.json").write_text(text, "utf-8")
        (folder / "steps.txt").write_text(f"{found}\n", "utf-8")
    files = {name: out / f"{name}.png" for name in ("picture", "steps")}
    files |= {"numbers": out / "steps.json", "text": out / "steps.txt"}
    if as_json:
        print_json({"command": "steps", "files": files, **told})
        return
    typer.echo(found)
    for file in files.values():
        typer.echo(file)


def parse_place(text: str) -> tuple[float, float]:
    """`"0.5,0.25"` as (down, right), in fractions of the picture.

    Raises:
        UserError: it is none, or lies outside.
    """
    parts = [part.strip() for part in text.split(",")]
    number = r"\d{0,20}(\.\d{1,20})?"
    if len(parts) == 2 and all(part and re.fullmatch(number, part, re.ASCII) for part in parts):
        down, right = (float(part) for part in parts)
        if down <= 1 and right <= 1:
            return down, right
    raise UserError(
        f"expected a --place like 0.5,0.25 (down,right from 0 to 1), but came {shown(text)}"
    )


def _last_word(pipe: Any, prompt: str) -> str:
    """The last word of a prompt as it is read; where it changes on the way, the last one that is
    there all along, if there is one."""
    from t2i_xattn.conditioning.within import read, words_read

    texts: dict[float, list[str]] = {}
    for each in read(pipe, prompt) or ():
        if each.branch == CONDITIONAL and not each.pooled:
            texts.setdefault(each.start, []).extend(word.text for word in each.words)
    if not texts:
        texts[0] = [each.text for each in words_read(pipe, tokenizer_of(pipe), prompt)]
    every = [word for text in texts.values() for word in text]
    always = [word for word in every if all(word in text for text in texts.values())]
    return (always or every or [prompt])[-1]
