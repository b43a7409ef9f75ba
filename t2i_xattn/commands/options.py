"""What the commands share: their options, their mistakes, and the pipeline that they load."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from t2i_xattn.asking.picture_prompt import Way
from t2i_xattn.commands.one_sentence import failures_told, mistakes_told
from t2i_xattn.errors import UserError, shown
from t2i_xattn.provenance.repeating import NOT_OF_THE_RUN

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
    typer.Option(min=0, help="Steps along self-attention that maps are carried; 0: plain shares."),
]
PictureFile = Annotated[
    Path | None,
    typer.Option(
        "--picture-prompt", help="A picture that stands beside the prompt.", show_default=False
    ),
]
PictureWay = Annotated[
    Way | None,
    typer.Option(
        help="Whether the picture has a softmax of its own, or one with the text.",
        show_default="separate",
    ),
]
PictureScale = Annotated[
    float | None,
    typer.Option(
        help="How much the picture has its way; 0: nothing is taken from it.", show_default="1"
    ),
]
Out = Annotated[Path, typer.Option(help="Folder to write into.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps.", show_default="cuda if there, or cpu")
]
Scale = Annotated[
    Literal["each", "all"],
    typer.Option(help="Whether each word's map has its own scale of colours, or all have one."),
]
Dpi = Annotated[
    int, typer.Option(min=24, max=1200, help="Dots per inch of sheets; 300 is for print.")
]
NoLimits = Annotated[
    bool,
    typer.Option("--no-limits", help="Take sizes, counts and texts however large they are."),
]


def given(context: typer.Context, *names: str) -> list[str]:
    """Those of some arguments that were typed, as options, not taken from defaults or a file."""
    sources = {name: context.get_parameter_source(name) for name in names}
    typed = [name for name, source in sources.items() if getattr(source, "name", "") == _TYPED]
    return ["--" + name.replace("_", "-") for name in typed]


_TYPED = "COMMANDLINE"


def asked(context: typer.Context) -> dict[str, Any]:
    """What a command was asked for, by the name of the option, wherever it came from: enough to ask
    for the same again. Not where to write, and on what to compute."""
    # In the order of the options, not in that in which they were typed.
    names = [str(each.name) for each in context.command.params]
    values = {name: context.params.get(name) for name in names if name not in NOT_OF_THE_RUN}
    return {
        name: value
        for name, value in values.items()
        if value is not None and value is not False and value not in ([], ())
    }


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """A mistake of the user, a full disk or memory end with one sentence on the error stream and
    an exit code; an interrupt ends quietly."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        with failures_told("t2i-xattn"), mistakes_told("t2i-xattn"):
            command(*args, **kwargs)

    return wrapper


def load(model: str | None, device: str | None) -> Any:
    """The pipeline on its device, without the libraries' own chatter."""
    import diffusers
    import torch
    import transformers

    from t2i_xattn.conditioning.within import cover_of, reads_syntax
    from t2i_xattn.models.default import load_pipeline

    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0][:100]
        raise UserError(
            f"expected a --device of this machine, but {shown(chosen)} is not to be had "
            f"({reason}); try cpu"
        ) from error
    pipe = load_pipeline(model).to(chosen)
    pipe.set_progress_bar_config(desc="painting", leave=False)
    if reads_syntax(pipe):
        cover_of(pipe).put()  # to the end of the command, whose own pipeline it is
    return pipe
