"""The command line: ``t2i-xattn generate``, ``inspect`` and ``edit``."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2i_xattn.commands.edit import (
    EditRequest,
    paint_edited,
    parse_boxes,
    parse_pairs,
    parse_regions,
    parse_weights,
)
from t2i_xattn.commands.generate import Request, generate
from t2i_xattn.commands.one_sentence import mistakes_told
from t2i_xattn.commands.output import output_folder
from t2i_xattn.errors import UserError

if TYPE_CHECKING:
    from t2i_xattn.commands.inspect import WordReport

app = typer.Typer(
    help="See what every word of a prompt does inside a text-to-image diffusion model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Prompt = Annotated[str, typer.Argument(help="What to paint.", show_default=False)]
Model = Annotated[
    str | None,
    typer.Option(help="world, a folder, or a hub name.", show_default="world"),
]
Seed = Annotated[int, typer.Option(help="Of the first picture; the next take the next.")]
Steps = Annotated[int, typer.Option(help="Steps of the sampler.")]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance; 1 is without.")]
Size = Annotated[
    str | None,
    typer.Option(help="Pixels: 128, or 160x128 (width x height).", show_default="the model's own"),
]
Count = Annotated[int, typer.Option(help="How many pictures.")]
Negative = Annotated[str | None, typer.Option(help="What to keep away from.", show_default=False)]
Words = Annotated[
    str | None,
    typer.Option(
        help="Words or phrases to look into, with commas between.", show_default="every word"
    ),
]
Walk = Annotated[
    int,
    typer.Option(min=0, help="Steps along self-attention that maps are held against; 0 for none."),
]
Out = Annotated[Path, typer.Option(help="Folder to write into.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps.", show_default="cuda if there, or cpu")
]


def _one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """A mistake of the user ends with one sentence on the error stream and exit code 2."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        with mistakes_told("t2i-xattn"):
            command(*args, **kwargs)

    return wrapper


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``"128"`` or ``"160x128"`` as width and height."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text.strip().lower())
    if not match:
        raise UserError(f"expected a --size like 128 or 160x128, but came {text!r}")
    width = int(match[1])
    return width, int(match[2] or width)


def _load(model: str | None, device: str | None) -> Any:
    """The pipeline on its device, without the libraries' own chatter."""
    import diffusers
    import torch
    import transformers

    from t2i_xattn.models.default import load_pipeline

    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"expected a --device of this machine, but {chosen!r} is not to be had ({reason}); "
            "try cpu"
        ) from error
    pipe = load_pipeline(model).to(chosen)
    pipe.set_progress_bar_config(desc="painting", leave=False)
    return pipe


def _request(
    prompt: str,
    seed: int,
    steps: int,
    guidance: float,
    size: str | None,
    count: int,
    negative: str | None,
    words: str | None = None,
) -> Request:
    phrases = tuple(part.strip() for part in (words or "").split(",") if part.strip())
    request = Request(prompt, seed, steps, guidance, parse_size(size), count, negative, phrases)
    request.check()
    return request


@app.command("generate")
@_one_sentence
def generate_command(
    prompt: Prompt,
    model: Model = None,
    seed: Seed = 0,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    size: Size = None,
    count: Count = 1,
    negative: Negative = None,
    out: Out = Path("out"),
    device: Device = None,
) -> None:
    """Paint a prompt."""
    request = _request(prompt, seed, steps, guidance, size, count, negative)
    with output_folder(out) as folder:
        pipe = _load(model, device)
        request.check_against(pipe)
        pictures = generate(pipe, request)
        names = [f"picture-{request.seed + number}.png" for number in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            picture.save(folder / name)
    for name in names:
        typer.echo(out / name)


@app.command("inspect")
@_one_sentence
def inspect_command(
    prompt: Prompt,
    model: Model = None,
    seed: Seed = 0,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    size: Size = None,
    count: Count = 1,
    negative: Negative = None,
    words: Words = None,
    walk: Walk = 1,
    out: Out = Path("out"),
    device: Device = None,
) -> None:
    """Paint a prompt and show where each of its words acted."""
    request = _request(prompt, seed, steps, guidance, size, count, negative, words)
    with output_folder(out) as folder:
        pipe = _load(model, device)
        request.check_against(pipe)
        from t2i_xattn.commands.inspect import heatmaps, write_inspection
        from t2i_xattn.recording.record import record

        with record(pipe, walk=walk) as trace:
            pictures = generate(pipe, request)
        trace.save(folder / "trace.safetensors")
        tables = []
        for number, picture in enumerate(pictures):
            # One picture lies in the folder itself, several in a folder each.
            place = folder / f"seed-{request.seed + number}" if len(pictures) > 1 else folder
            place.mkdir(exist_ok=True)
            maps = heatmaps(trace, number, request.words, agreed=walk > 0)
            tables.append((place, write_inspection(place, picture, maps, request.prompt)))
    for place, reports in tables:
        _print_table(out / place.relative_to(folder), reports)


@app.command("edit")
@_one_sentence
def edit_command(
    prompt: Prompt,
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
    model: Model = None,
    seed: Seed = 0,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    size: Size = None,
    negative: Negative = None,
    out: Out = Path("out"),
    device: Device = None,
) -> None:
    """Change what words do in a picture: before, after, and the difference."""
    asked = EditRequest(
        _request(prompt, seed, steps, guidance, size, 1, negative),
        parse_pairs("replace", replace or ()),
        parse_weights(weight or ()),
        parse_boxes(box or ()),
        [part.strip() for part in (attend or "").split(",") if part.strip()],
        image,
        parse_regions(region or ()),
    )
    asked.check()
    with output_folder(out) as folder:
        pipe = _load(model, device)
        asked.check_against(pipe)
        from t2i_xattn.showing.render import comparison, contact_sheet

        edited = paint_edited(pipe, asked)
        edited.before.save(folder / "before.png")
        edited.after.save(folder / "after.png")
        comparison(edited.before, edited.after, (prompt, asked.target)).save(folder / "edit.png")
        for name, picture, maps, text in (
            ("before", edited.before, edited.maps_before, prompt),
            ("after", edited.after, edited.maps_after, asked.target),
        ):
            contact_sheet(picture, maps, prompt=text).save(folder / f"words-{name}.png")
    for name in ("edit", "before", "after", "words-before", "words-after"):
        typer.echo(out / f"{name}.png")


def _print_table(place: Path, reports: list[WordReport]) -> None:
    """The table of words, and where its pictures lie."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("word")
    for name in ("share of attention", "box (top, left, bottom, right)", "peakedness"):
        table.add_column(name, justify="right")
    for each in reports:
        box = ", ".join(str(side) for side in each.box) if each.box else "-"
        # Text, not markup: a prompt may hold square brackets.
        table.add_row(Text(each.word), f"{each.share:.2%}", box, f"{each.peakedness:.3f}")
    Console(soft_wrap=not sys.stdout.isatty()).print(table)
    typer.echo(f"picture: {place / 'picture.png'}")
    typer.echo(f"words:   {place / 'words.png'}")


def main() -> None:
    """Entry point of ``t2i-xattn``."""
    app()


if __name__ == "__main__":
    main()
