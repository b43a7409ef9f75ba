"""What a context held is let go with it, not when the garbage collector comes: loops over thousands
of edits would grow until then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

import t2i_xattn as tx
from conftest import make_pipeline
from t2i_xattn import edits, losses, variants
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.errors import UserError
from tiny import text_first
from tiny_pipelines import runner

Open = Callable[[Any], AbstractContextManager[Any]]

ANYWHERE: dict[str, Open] = {
    "nothing": lambda pipe: nullcontext(),
    "record": tx.record,
    "record each step": lambda pipe: tx.record(pipe, steps="each", heads="each"),
    "concepts": lambda pipe: tx.record(pipe, concepts=["red", "blue"]),
    "edit": lambda pipe: tx.edit(pipe, edits.Reweight("red", 2.0), edits.Drop("circle")),
    "top": lambda pipe: tx.cheaper(pipe, variants.TopKeys(2)),
    "pruned": lambda pipe: tx.cheaper(pipe, variants.PrunedKeys(padding=False, share=0.3)),
}
IN_UNETS: dict[str, Open] = {
    "contributions": lambda pipe: tx.record(pipe, contributions=True, walk=1),
    "guide": lambda pipe: tx.guide(pipe, losses.AttendAndExcite(["red", "circle"])),
    "kept": lambda pipe: tx.cheaper(pipe, variants.KeptKeys()),
    "late": lambda pipe: tx.cheaper(pipe, variants.SkipLate(after=1)),
    "merged": lambda pipe: tx.cheaper(pipe, variants.MergedPlaces()),
}


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def new_tensors(run: Callable[[], object]) -> list[torch.Tensor]:
    """Those that are there after some runs and were not after the first."""
    run()
    before = {id(each): each for each in _tensors()}
    for _ in range(3):
        run()
    return [each for each in _tensors() if id(each) not in before]


def _tensors() -> list[torch.Tensor]:
    kinds = torch.Tensor, torch.nn.Parameter
    return [each for each in gc.get_objects() if type(each) in kinds]


OF_THE_SCHEDULER = 2
"""Its timesteps and noise levels, of the last run."""


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("name", [*ANYWHERE, *IN_UNETS])
def test_nothing_waits_for_the_collector(name: str) -> None:
    pipe = make_pipeline()
    draw, opened = runner(pipe), (ANYWHERE | IN_UNETS)[name]

    def run() -> None:
        with opened(pipe):
            draw()

    assert len(new_tensors(run)) <= OF_THE_SCHEDULER


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("name", ANYWHERE)
def test_nothing_waits_where_attention_is_joint(name: str) -> None:
    case = text_first.CASES[0]
    pipe = case.make()

    def run() -> None:
        with ANYWHERE[name](pipe):
            case.run(pipe)

    assert len(new_tensors(run)) <= OF_THE_SCHEDULER


@pytest.mark.usefixtures("uncollected")
def test_nothing_waits_after_a_mistake() -> None:
    pipe = make_pipeline()
    draw = runner(pipe)

    def run() -> None:
        with pytest.raises(UserError), tx.record(pipe), tx.edit(pipe, edits.Drop("green")):
            draw()

    assert len(new_tensors(run)) <= OF_THE_SCHEDULER


@pytest.mark.usefixtures("uncollected")
def test_a_model_that_was_recorded_and_edited_goes_with_its_pipeline() -> None:
    pipe = make_pipeline()
    with tx.record(pipe) as trace, tx.edit(pipe, edits.Drop("red")):
        runner(pipe)()
    gone = weakref.ref(pipe.unet)
    del pipe
    assert gone() is None
    assert trace.words


@pytest.mark.usefixtures("uncollected")
def test_a_trace_s_maps_go_with_it() -> None:
    pipe = make_pipeline()
    with tx.record(pipe) as trace:
        runner(pipe)()
    kept = next(iter(trace.run.maps[TEXT].values()))
    gone = weakref.ref(trace.run), weakref.ref(kept)
    del trace, kept
    assert [each() for each in gone] == [None, None]
