"""Recordings in recordings, in edits and around them, in a plain UNet and in compiled ones: each
trace is held against a run of a pipeline whose processors were written for the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from conftest import make_pipeline, state_of
from probe import Probe, change_attention, second_half, without
from right_maps import WORDS, assert_right_heat, assert_right_maps
from t2i_xattn import edits
from tiny_pipelines import COMPILED, compile_unet, runner

pytestmark = pytest.mark.usefixtures("more_graphs")

CLOSE = 5e-5
"""How far maps of an edited run may be from those of the processors of the test, which are unfused:
what differs by rounding goes through the layers behind it."""

Open = Callable[[Any], Any]


@dataclass(frozen=True)
class Nest:
    """Contexts to open one inside the other.

    Attributes:
        contexts: the outermost first.
        edited: whether the word "red" is dropped by one of them.
    """

    contexts: tuple[Open, ...]
    edited: bool = False

    @contextmanager
    def __call__(self, pipe: Any) -> Iterator[list[Any]]:
        """Opens them; gives the traces."""
        with ExitStack() as stack:
            opened = [stack.enter_context(each(pipe)) for each in self.contexts]
            yield [each for each in opened if each is not None]


def nothing(pipe: Any) -> Any:
    return tx.edit(pipe, lambda probs, _: probs)


def drop(pipe: Any) -> Any:
    return tx.edit(pipe, edits.Drop("red"))


NESTS = {
    "record in record": Nest((tx.record, tx.record)),
    "record in a do-nothing edit": Nest((nothing, tx.record)),
    "a do-nothing edit in record": Nest((tx.record, nothing)),
    "record in edit": Nest((drop, tx.record), edited=True),
    "edit in record": Nest((tx.record, drop), edited=True),
    "edit between two recordings": Nest((tx.record, drop, tx.record), edited=True),
    "record between two edits": Nest((nothing, tx.record, drop), edited=True),
}


@cache
def oracle(edited: bool) -> tuple[Probe, np.ndarray]:
    """What the layers see, and the picture, in a run without the package."""
    pipe = make_pipeline()
    if edited:
        change_attention(pipe.unet, without(2), second_half)
    with Probe(pipe.unet) as probe:
        picture = runner(pipe)()
    return probe, picture


def assert_right(nest: Nest, traces: list[Any], drawn: np.ndarray, plain: np.ndarray) -> None:
    probe, expected = oracle(nest.edited)
    tolerance = CLOSE if nest.edited else 1e-5
    if nest.edited:
        assert np.allclose(drawn, expected, atol=1e-4)
        assert not np.allclose(drawn, plain, atol=1e-3)
    else:
        assert drawn.tobytes() == plain.tobytes()
    assert traces
    for trace in traces:
        assert trace.prompts == ("a red circle",)
        assert trace.settings["calls"] == 3
        assert_right_maps(trace, probe, second_half, tolerance=tolerance)
        assert_right_heat(trace, probe, second_half, WORDS, tolerance=tolerance)
        if nest.edited:
            found = trace.to_numpy("edited")
            for layer in probe.layers:
                each = [without(2)(probs[1:]).mean(1) for probs in probe.probs[layer]]
                edited = torch.stack(each).mean(0).numpy()
                assert np.abs(found[layer].reshape(edited.shape) - edited).max() < tolerance


def test_the_two_oracles_differ() -> None:
    """So that an edit that does not act, or acts in the maps alone, would be noticed."""
    (plain, one), (edited, two) = oracle(False), oracle(True)
    assert not np.allclose(one, two, atol=1e-3)
    last = plain.layers[-1]
    away = np.abs(plain.mean(last, second_half) - edited.mean(last, second_half)).max()
    assert away > 100 * CLOSE


@pytest.mark.parametrize("name", NESTS)
def test_nested(name: str) -> None:
    pipe, nest = make_pipeline(), NESTS[name]
    draw = runner(pipe)
    plain = draw()
    before = state_of(pipe)
    with nest(pipe) as traces:
        drawn = draw()
    assert state_of(pipe) == before
    assert_right(nest, traces, drawn, plain)
    assert draw().tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", NESTS)
def test_left_in_the_order_in_which_they_were_opened(name: str) -> None:
    """What stays goes on; what has left does nothing more."""
    pipe, nest = make_pipeline(), NESTS[name]
    draw = runner(pipe)
    plain = draw()
    before = state_of(pipe)
    contexts = [each(pipe) for each in nest.contexts]
    opened = [context.__enter__() for context in contexts]
    traces = [each for each in opened if each is not None]
    drawn = draw()
    for context in contexts:
        context.__exit__(None, None, None)
        # No other context is disturbed by it, and what a trace holds stays as it is.
        assert_right(nest, traces, drawn, plain)
    assert state_of(pipe) == before
    assert draw().tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", ["record in edit", "edit in record"])
def test_a_run_after_the_outer_context_has_left(name: str) -> None:
    """The inner one alone is there."""
    pipe, nest = make_pipeline(), NESTS[name]
    draw = runner(pipe)
    plain = draw()
    before = state_of(pipe)
    outer, inner = (each(pipe) for each in nest.contexts)
    traces = [outer.__enter__(), inner.__enter__()]
    outer.__exit__(None, None, None)
    drawn = draw()
    inner.__exit__(None, None, None)
    assert state_of(pipe) == before
    if name == "record in edit":
        assert_right(Nest(nest.contexts), [traces[1]], drawn, plain)
    else:
        assert np.allclose(drawn, oracle(True)[1], atol=1e-4)
        with pytest.raises(tx.UserError):
            _ = traces[0].maps
    assert draw().tobytes() == plain.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("how", COMPILED)
def test_nested_in_a_compiled_unet(how: str) -> None:
    pipe = make_pipeline()
    draw = runner(pipe)
    uncompiled = draw()
    compile_unet(pipe, how)
    # Each combination of contexts may take graphs of its own, for each of three shapes of blocks.
    with torch._dynamo.config.patch(recompile_limit=64):
        plain = draw()
        assert np.allclose(plain, uncompiled, atol=1e-5)
        before = state_of(pipe)
        for name in ("record in record", "a do-nothing edit in record", "record in edit"):
            nest = NESTS[name]
            with nest(pipe) as traces:
                drawn = draw()
            assert state_of(pipe) == before
            assert_right(nest, traces, drawn, plain)
        assert draw().tobytes() == plain.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("how", COMPILED)
@pytest.mark.parametrize("name", ["record in record", "edit in record"])
def test_compiled_inside(name: str, how: str) -> None:
    pipe, nest = make_pipeline(), NESTS[name]
    draw = runner(pipe)
    plain = draw()
    with nest(pipe) as traces:
        compile_unet(pipe, how)
        drawn = draw()
    assert_right(nest, traces, drawn, plain)
    assert np.allclose(draw(), plain, atol=1e-5)
