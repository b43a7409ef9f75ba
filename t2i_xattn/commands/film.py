"""`t2i-xattn film`: a picture's making, step by step, with the maps of its words over it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from t2i_xattn.asking.fitting import check_fits
from t2i_xattn.asking.limits import check_limits
from t2i_xattn.asking.parsing import parse_list, parse_size
from t2i_xattn.asking.request import Request, tokenizer_of
from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config
from t2i_xattn.commands.json_output import Json, print_json
from t2i_xattn.commands.output import output_folder
from t2i_xattn.commands.unknown_words import told_unknown
from t2i_xattn.models.vocabulary import as_json as unknown_as_json
from t2i_xattn.prompts.function_words import is_function_word
from t2i_xattn.provenance.made import Made
from t2i_xattn.provenance.png import save_png


@options.one_sentence
def film_command(
    context: typer.Context,
    prompt: options.Prompt,
    model: options.Model = None,
    seed: options.Seed = 0,
    steps: options.Steps = 25,
    guidance: options.Guidance = 5.0,
    size: options.Size = None,
    negative: options.Negative = None,
    words: Annotated[
        str | None,
        typer.Option(
            help="Words or phrases to show, with commas between.",
            show_default="every word but 'a', 'of' and such",
        ),
    ] = None,
    walk: options.Walk = 1,
    format: Annotated[Literal["gif", "webp", "mp4"], typer.Option(help="Of the file.")] = "gif",
    frames: Annotated[int, typer.Option(min=1, max=200, help="Frames at most.")] = 50,
    fps: Annotated[float, typer.Option(min=0.1, max=50, help="Frames a second.")] = 5.0,
    out: options.Out = Path("out"),
    device: options.Device = None,
    as_json: Json = False,
    config: Config = None,
    no_limits: options.NoLimits = False,
) -> None:
    """Film how a picture comes about, and where its words act meanwhile."""
    phrases = parse_list(words)
    request = Request(prompt, seed, steps, guidance, parse_size(size), 1, negative, phrases)
    if not no_limits:
        check_limits(request, walk)
    request.check()
    from t2i_xattn.showing.film import check_film, film_frames, save_film

    check_film(format)
    name = f"film.{format}"
    with output_folder(out, "film") as folder:
        from tqdm import tqdm

        from t2i_xattn.asking.filming import filmed

        pipe = options.load(model, device)
        request.check_against(pipe)
        if not no_limits:
            check_fits(pipe, request)
        unknown = told_unknown(pipe, prompt, negative)
        shown = phrases or _named(pipe, prompt)
        found = filmed(pipe, request, shown, walk, frames)
        windows = found.trace.run.steps
        maps = [
            [found.trace.select(steps=window).heatmap(word) for word in shown]
            for window in tqdm(windows, desc="filming", leave=False, disable=None)
        ]
        made = Made.by(pipe, "film", options.asked(context), found.picture.size)
        drawn = film_frames(found.frames, maps, windows, prompt)
        save_film(drawn, folder / name, format, fps, made.parameters())
        save_png(found.picture, folder / "picture.png", made)
    files = {"film": out / name, "picture": out / "picture.png"}
    if as_json:
        told = {"frames": len(windows), "unknown_words": unknown_as_json(unknown)}
        print_json({"command": "film", "prompt": prompt, "words": shown, **files, **told})
        return
    for file in files.values():
        typer.echo(file)


def _named(pipe: object, prompt: str) -> list[str]:
    """The words of a prompt that name something, each once; all where none does."""
    from t2i_xattn.conditioning.within import words_read

    read = words_read(pipe, tokenizer_of(pipe), prompt)
    every = [word.text for word in read if word.columns]
    once = list({word.casefold(): word for word in reversed(every)}.values())[::-1]
    return [word for word in once if not is_function_word(word)] or once
