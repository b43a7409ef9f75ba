"""`t2i-xattn generate`: paint a prompt."""

from __future__ import annotations

from pathlib import Path

import typer

from t2i_xattn.commands import options
from t2i_xattn.commands.output import output_folder
from t2i_xattn.commands.request import Request, paint, parse_size


@options.one_sentence
def generate_command(
    prompt: options.Prompt,
    model: options.Model = None,
    seed: options.Seed = 0,
    steps: options.Steps = 25,
    guidance: options.Guidance = 5.0,
    size: options.Size = None,
    count: options.Count = 1,
    negative: options.Negative = None,
    out: options.Out = Path("out"),
    device: options.Device = None,
) -> None:
    """Paint a prompt."""
    request = Request(prompt, seed, steps, guidance, parse_size(size), count, negative)
    request.check()
    with output_folder(out, "generate", beside=True) as folder:
        pipe = options.load(model, device)
        request.check_against(pipe)
        pictures = paint(pipe, request)
        names = [f"picture-{seed + number}.png" for number in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            picture.save(folder / name)
    for name in names:
        typer.echo(out / name)
