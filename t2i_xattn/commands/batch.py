"""`t2i-xattn batch`: a file of prompts, painted and recorded, over processes and machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from t2i_xattn.asking.parsing import parse_size
from t2i_xattn.asking.request import Request
from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config
from t2i_xattn.errors import UserError

if TYPE_CHECKING:
    from t2i_xattn.batch.processes import Process
    from t2i_xattn.batch.running import BatchRun

STANDARD_INPUT = Path("-")


@options.one_sentence
def batch_command(
    context: typer.Context,
    prompts: Annotated[
        Path,
        typer.Argument(
            help="Prompts: .jsonl, .csv with a header, or .txt, one a line; - from standard input."
        ),
    ],
    model: options.Model = None,
    seed: Annotated[int, typer.Option(help="To which each line's number is added.")] = 0,
    steps: options.Steps = 25,
    guidance: options.Guidance = 5.0,
    size: options.Size = None,
    negative: options.Negative = None,
    walk: options.Walk = 1,
    traces: Annotated[
        Literal["none", "words", "all"],
        typer.Option(help="Traces to keep: of the words looked into, or of every column."),
    ] = "words",
    maps: Annotated[
        bool, typer.Option("--maps/--no-maps", help="Look into words, or paint pictures only.")
    ] = True,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each word does, of lines without edits.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(help="Lines of one size, steps and guidance in one call, at most.")
    ] = 1,
    strict: Annotated[bool, typer.Option(help="Stop at a line that fails.")] = False,
    retry: Annotated[bool, typer.Option(help="Try lines again that failed before.")] = False,
    form: Annotated[
        Literal["jsonl", "csv", "txt"] | None,
        typer.Option(
            "--format",
            help="What the prompts are; by default told by the name, or by the first line that "
            "comes from standard input.",
            show_default=False,
        ),
    ] = None,
    out: options.Out = Path("out"),
    device: options.Device = None,
    config: Config = None,
    no_limits: options.NoLimits = False,
) -> None:
    """Paint and record a file of prompts; what was stopped goes on.

    A line may say prompt, negative, seed, steps, guidance, size, words, id, replace, weight and
    region; for what it does not say, the options hold. Over processes:
    accelerate launch --multi_gpu --num_processes 2 -m t2i_xattn batch prompts.jsonl
    """
    from t2i_xattn.batch.line import Defaults
    from t2i_xattn.batch.processes import this_process
    from t2i_xattn.batch.running import BatchRun, run_batch

    if not maps and (said := options.given(context, "traces", "walk", "explain")):
        raise UserError(
            f"expected no {' and '.join(said)} beside --no-maps, which records nothing; leave one "
            "of them out"
        )
    defaults = Defaults(seed, steps, guidance, parse_size(size), negative)
    Request("a prompt", seed, steps, guidance).check()
    run = BatchRun(
        prompts,
        out,
        model or "world",
        defaults,
        walk if maps else 0,
        traces if maps else "none",
        batch_size=batch_size,
        strict=strict,
        retry=retry,
        no_limits=no_limits,
        form=form,
        maps=maps,
        explains=explain,
    )
    with this_process(device) as process, ExitStack() as stack:
        if prompts == STANDARD_INPUT:
            run = stack.enter_context(_from_standard_input(run, process))
        outcome = run_batch(run, process, lambda: options.load(model, process.device))
    of = "" if process.world == 1 else f"process {process.rank} of {process.world}: "
    before = f", {outcome.before} before" if outcome.before else ""
    failed = f", {outcome.failed} of them failed, see error in the index" if outcome.failed else ""
    unknown = ""
    if outcome.unknown:
        unknown = (
            f", {outcome.unknown} of them with words that the model was never taught, see "
            "unknown_words in the index"
        )
    typer.echo(f"{of}{outcome.done} lines done{before}{failed}{unknown}")
    if outcome.index:
        typer.echo(out / "index.parquet")


@contextmanager
def _from_standard_input(run: BatchRun, process: Process) -> Iterator[BatchRun]:
    """The batch with what standard input says as its prompts."""
    from t2i_xattn.batch.incoming import written_down

    if process.world > 1:
        raise UserError(
            f"expected a file of prompts for {process.world} processes, but came -, and standard "
            "input can be read by one only; write the prompts into a file first"
        )
    with written_down(sys.stdin.buffer, run.form) as (path, form):
        yield replace(run, prompts=path, form=form, keep_prompts=True)
