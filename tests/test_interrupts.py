"""A KeyboardInterrupt at any line of the package while a context opens or closes: it comes out as
it is, and the pipeline is as it was found.

Of each line the first and the last time that it runs are taken, of nested contexts the last; the
times between, of lines that run in a loop, are left out.
"""

from __future__ import annotations

import dis
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

import pytest
import torch

import t2i_xattn as tx
from conftest import make_pipeline, make_unet, state_of
from probe import Probe, all_rows
from right_maps import assert_right_maps
from t2i_xattn import edits, losses, variants
from tiny_pipelines import Run, runner, sharpened

PACKAGE = str(Path(str(tx.__file__)).parent) + os.sep

Line = tuple[str, int]
Open = Callable[[Any], AbstractContextManager[Any]]
Phase = Literal["opening", "closing"]

MOST_FAULTS = 20


def drop(pipe: Any) -> AbstractContextManager[Any]:
    return tx.edit(pipe, edits.Drop("red"))


def excite(pipe: Any) -> AbstractContextManager[Any]:
    return tx.guide(pipe, losses.AttendAndExcite(["red"]))


def kept(pipe: Any) -> AbstractContextManager[Any]:
    return tx.cheaper(pipe, variants.KeptKeys())


CONTEXTS: dict[str, tuple[Open, ...]] = {
    "record": (tx.record,),
    "edit": (drop,),
    "guide": (excite,),
    "edit in record": (tx.record, drop),
    "cheaper": (kept,),
}


@cache
def ends_of_with(code: CodeType) -> frozenset[int]:
    """Where a `with` block is left in the ordinary way, as offsets into the bytecode.

    A tracer is asked there too, outside of what the block protects; but no interrupt comes there,
    since CPython looks for signals only at calls, at jumps backward and where a function begins.
    """
    instructions = list(dis.get_instructions(code))
    return frozenset(
        one.offset
        for one, *others in zip(instructions, instructions[1:], instructions[2:], strict=False)
        if all(each.opname == "LOAD_CONST" and each.argval is None for each in (one, *others))
    )


class Interrupts:
    """Counts the lines of the package that run; interrupts one of them.

    Attributes:
        at: the line to interrupt, and which time it runs (1 the first); None: none.
        ran: how often each line ran.
        raised: what was raised.
    """

    def __init__(self, at: tuple[Line, int] | None = None) -> None:
        self.at = at
        self.ran: Counter[Line] = Counter()
        self.raised: KeyboardInterrupt | None = None

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and frame.f_lasti not in ends_of_with(code):
            line = code.co_filename, frame.f_lineno
            self.ran[line] += 1
            if self.at is not None and (line, self.ran[line]) == self.at:
                self.raised = KeyboardInterrupt()
                raise self.raised  # after which Python traces no more
        return self


class Traced:
    """Opens contexts one inside the other, runs the pipeline in them, and closes them; the lines of
    one of the two phases are traced."""

    def __init__(self, contexts: Sequence[Open], phase: Phase) -> None:
        self.contexts, self.phase = contexts, phase

    def __call__(self, pipe: Any, draw: Run, interrupts: Interrupts) -> None:
        tracing = sys.gettrace()
        try:
            with ExitStack() as stack:
                if self.phase == "opening":
                    sys.settrace(interrupts)
                for each in self.contexts:
                    stack.enter_context(each(pipe))
                sys.settrace(tracing)
                draw()
                if self.phase == "closing":
                    sys.settrace(interrupts)
        finally:
            sys.settrace(tracing)


def make() -> tuple[Any, Run]:
    """A pipeline with four sites, and a picture of one step: all is done a thousand times."""
    pipe = make_pipeline()
    torch.manual_seed(1)
    pipe.unet = make_unet(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    sharpened(pipe)
    small = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 16, "width": 16}
    return pipe, runner(pipe, output_type="latent", **small)


def lines_of(traced: Traced) -> list[tuple[Line, int]]:
    """The lines that run, each with the times at which it is to be interrupted."""
    pipe, draw = make()
    for _ in range(2):  # at the first time, modules are imported
        counted = Interrupts()
        traced(pipe, draw, counted)
    nested = len(traced.contexts) > 1
    return [
        (line, time)
        for line, times in counted.ran.items()
        for time in ([times] if nested else sorted({1, times}))
    ]


def fault(
    traced: Traced, pipe: Any, draw: Run, at: tuple[Line, int], before: Any, plain: bytes
) -> str | None:
    """What is wrong after an interrupt; None if nothing is."""
    interrupts = Interrupts(at)
    try:
        traced(pipe, draw, interrupts)
    except KeyboardInterrupt as error:
        if error is not interrupts.raised:
            return "another interrupt came out"
    except BaseException as error:
        return f"it was hidden by {type(error).__name__}: {error}"
    else:
        return "it did not come out" if interrupts.raised else "the line did not run again"
    after = state_of(pipe)
    if changed := [key for key, value in before.items() if after[key] != value]:
        return f"left in another state: {', '.join(changed)}"
    return None if draw().numpy().tobytes() == plain else "the next picture is another one"


@pytest.mark.parametrize("phase", ["opening", "closing"])
@pytest.mark.parametrize("name", CONTEXTS)
def test_an_interrupt_at_any_line(name: str, phase: Phase) -> None:
    traced = Traced(CONTEXTS[name], phase)
    lines = lines_of(traced)
    assert len({line for line, _ in lines}) > (100 if phase == "opening" else 10)
    faults: list[str] = []
    pipe, draw = make()
    plain = draw().numpy().tobytes()
    before = state_of(pipe)
    for at in lines:
        wrong = fault(traced, pipe, draw, at, before, plain)
        if wrong is not None:
            (file, line), time = at
            faults.append(f"{file.removeprefix(PACKAGE)}:{line}, time {time}: {wrong}")
            if len(faults) == MOST_FAULTS:
                break
            pipe, draw = make()
            draw()
            before = state_of(pipe)
    assert not faults, "\n".join(faults)
    assert_usable(pipe, draw)


def assert_usable(pipe: Any, draw: Run) -> None:
    """No lock is held and nobody goes on following: a thread of its own records as ever."""
    with Probe(pipe.unet) as probe:
        plain = draw()
    traces: list[Any] = []

    def run() -> None:
        with tx.record(pipe) as trace:
            assert draw().numpy().tobytes() == plain.numpy().tobytes()
        traces.append(trace)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=60)
    (trace,) = traces
    assert trace.settings["calls"] == 1
    assert_right_maps(trace, probe, all_rows, (2, 2))


def test_what_interrupts_are_found_by() -> None:
    """A context that is careless about them does not pass."""

    class Careless:
        def __init__(self, pipe: Any) -> None:
            self.pipe = pipe

        def __enter__(self) -> None:
            vars(self.pipe)["careless"] = True
            vars(self.pipe)["more"] = True

        def __exit__(self, *_: object) -> None:
            del vars(self.pipe)["careless"]
            del vars(self.pipe)["more"]

    global PACKAGE
    found, PACKAGE = PACKAGE, __file__
    try:
        for phase, expected in (("opening", [False, False, True]), ("closing", [True, True])):
            traced = Traced((Careless,), phase)  # type: ignore[arg-type]
            lines = [at for at in lines_of(traced) if "__init__" not in str(at)]
            pipe, draw = make()
            plain = draw().numpy().tobytes()
            before = state_of(pipe)
            wrong = []
            for at in lines:
                wrong.append(fault(traced, pipe, draw, at, before, plain))
                vars(pipe).pop("careless", None)
                vars(pipe).pop("more", None)
            assert [each is not None for each in wrong][-len(expected) :] == expected, wrong
    finally:
        PACKAGE = found
