"""`t2i-xattn app`: a page in the browser to paint, look, change and explain."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config


@options.one_sentence
def app_command(
    model: options.Model = None,
    device: options.Device = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="The port.", show_default="the first free from 7860"),
    ] = None,
    max_side: Annotated[
        int, typer.Option(min=8, max=2048, help="Pixels of a picture's width and height.")
    ] = 1024,
    max_steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps of a run.")] = 100,
    max_queue: Annotated[
        int, typer.Option(min=1, max=1000, help="Requests that wait; more are refused.")
    ] = 8,
    config: Config = None,
) -> None:
    """Open a page on this machine to paint, look, change words and explain."""
    from t2i_xattn.app.bounds import Bounds
    from t2i_xattn.app.serving import LOCAL, check_installed, free_port, served
    from t2i_xattn.app.studio import Studio

    check_installed()
    port = free_port(host, port)
    bounds = Bounds(side=max_side, steps=max_steps, queue=max_queue)
    studio = Studio(options.load(model, device), model, bounds)
    with _ended_as_by_hand(), served(studio, host, port) as address:
        if host not in LOCAL:
            typer.echo(
                f"t2i-xattn: whoever reaches {host} can use the app, and there is no password",
                err=True,
            )
        typer.echo(f"{address} (end with Ctrl+C)")
        threading.Event().wait()


@contextmanager
def _ended_as_by_hand() -> Iterator[None]:
    """Ended from outside, it ends as by Ctrl+C, so that what was uploaded goes with it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
