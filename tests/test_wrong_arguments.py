"""Every public function and class, called with wrong types, NaN, infinities, huge and empty values
in the place of each argument: it does what it says, or one sentence tells, and nothing changes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from conftest import make_pipeline, state_of
from t2i_xattn import edits, losses
from t2i_xattn.errors import UserError

BOX = (0.0, 0.0, 0.5, 1.0)


class Odd:
    """An object of no use."""

    def __repr__(self) -> str:
        return "<odd>"


JUNK: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "-1": lambda: -1,
    "0": lambda: 0,
    "3": lambda: 3,
    "10**30": lambda: 10**30,
    "1.5": lambda: 1.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "'': str": lambda: "",
    "a long text": lambda: "red " * 50_000,
    "b'red'": lambda: b"red",
    "[]": list,
    "[None]": lambda: [None],
    "[nan]": lambda: [math.nan],
    "nested": lambda: [[[["red"]]]],
    "{}": dict,
    "{'red': nan}": lambda: {"red": math.nan},
    "{None: None}": lambda: {None: None},
    "an object": Odd,
    "a class": lambda: Odd,
    "a function": lambda: lambda *args: math.nan,
    "a tensor of NaN": lambda: torch.full((2, 2), math.nan),
    "an empty array": lambda: np.zeros((0,)),
    "a set": lambda: {1, "red"},
    "a generator": lambda: iter([1, 2]),
}

MAKE: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Reweight": (edits.Reweight, {"word": "red", "weight": 1.5}),
    "Drop": (edits.Drop, {"word": "red"}),
    "Add": (edits.Add, {"word": "red", "share": 0.2}),
    "Restrict": (edits.Restrict, {"word": "red", "region": BOX}),
    "RegionalPrompts": (edits.RegionalPrompts, {"regions": {"blue": BOX}, "base_weight": 0.5}),
    "Replace": (edits.Replace, {}),
    "Refine": (edits.Refine, {}),
    "SelfReplace": (edits.SelfReplace, {}),
    "SwapMaps": (edits.SwapMaps, {"first": "red", "second": "circle"}),
    "InjectMap": (edits.InjectMap, {"word": "red", "map": np.ones((8, 8), np.float32)}),
    "Temperature": (edits.Temperature, {"temperature": 0.5}),
    "TopK": (edits.TopK, {"k": 3}),
    "MaskPadding": (edits.MaskPadding, {}),
    "EditFunction": (edits.EditFunction, {"function": lambda probs, context: probs}),
    "AttendAndExcite": (losses.AttendAndExcite, {"words": ["red"]}),
    "Layout": (losses.Layout, {"boxes": {"red": BOX}}),
    "BoxDiff": (losses.BoxDiff, {"boxes": {"red": BOX}}),
    "Binding": (losses.Binding, {}),
    "Segregation": (losses.Segregation, {"words": ["red", "circle"]}),
}


def parameters(made: Callable[..., Any]) -> list[str]:
    return [
        name
        for name, each in inspect.signature(made).parameters.items()
        if name != "pipe" and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]


FAST = ("nan", "{None: None}")
EACH = [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in JUNK]


def short(error: UserError) -> None:
    """One sentence that says what was expected and what came."""
    assert len(str(error)) < 700
    assert "\n" not in str(error)


@pytest.fixture(scope="module")
def one() -> Any:
    pipe = make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    run(pipe)  # the pipeline keeps settings of its last run
    return pipe


def run(pipe: Any) -> None:
    pipe("a red circle", num_inference_steps=1, output_type="latent")


def attempt(pipe: Any, inside: Callable[[], Any]) -> None:
    before = state_of(pipe)
    try:
        with inside():
            run(pipe)
    except UserError as error:
        short(error)
    assert state_of(pipe) == before


@pytest.mark.parametrize("junk", EACH)
@pytest.mark.parametrize("name", parameters(tx.record))
def test_record(one: Any, name: str, junk: str) -> None:
    attempt(one, lambda: tx.record(one, **{name: JUNK[junk]()}))


@pytest.mark.parametrize("junk", EACH)
@pytest.mark.parametrize("name", [n for n in parameters(tx.record_many) if n != "pipe"])
def test_record_many(one: Any, name: str, junk: str) -> None:
    usual: dict[str, Any] = {"prompts": ["a red circle"], "num_inference_steps": 1}
    before = state_of(one)
    try:
        for _ in tx.record_many(one, **(usual | {name: JUNK[junk]()})):
            break
    except UserError as error:
        short(error)
    assert state_of(one) == before


@pytest.mark.parametrize("junk", EACH)
@pytest.mark.parametrize("name", parameters(tx.explain))
def test_explain(one: Any, name: str, junk: str) -> None:
    usual: dict[str, Any] = {"prompt": "a red circle", "words": ["red"], "steps": (0, 1)}
    given = usual | {"num_inference_steps": 1, name: JUNK[junk]()}
    before = state_of(one)
    try:
        tx.explain(one, **given)
    except UserError as error:
        short(error)
    assert state_of(one) == before


@pytest.mark.parametrize("junk", EACH)
@pytest.mark.parametrize(
    "verb",
    [tx.record, tx.record_many, tx.edit, tx.guide, tx.swap, tx.invert, tx.find_sites, tx.explain],
)
def test_no_pipeline(verb: Any, junk: str) -> None:
    more: tuple[Any, ...] = {
        tx.edit: (edits.Drop("red"),),
        tx.guide: (losses.Layout({"red": BOX}),),
        tx.invert: (np.zeros((64, 64, 3), np.uint8), "red"),
        tx.swap: (Odd,),
        tx.record_many: (["red"],),
        tx.explain: ("red",),
    }.get(verb, ())
    try:
        found = verb(JUNK[junk](), *more)
        if hasattr(found, "__enter__"):
            with found:
                pass
        elif verb is tx.record_many:
            next(found)
    except UserError as error:
        short(error)


@pytest.mark.parametrize("junk", EACH)
@pytest.mark.parametrize(
    ("name", "parameter"),
    [(name, parameter) for name, (made, _) in MAKE.items() for parameter in parameters(made)],
)
def test_edits_and_losses(one: Any, name: str, parameter: str, junk: str) -> None:
    made, usual = MAKE[name]
    try:
        change = made(**(usual | {parameter: JUNK[junk]()}))
    except UserError as error:
        short(error)
        return
    verb = tx.guide if isinstance(change, losses.GuidanceLoss) else tx.edit
    attempt(one, lambda: verb(one, change))


@pytest.mark.parametrize("junk", EACH)
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        (verb, name)
        for verb in (tx.edit, tx.guide, tx.swap)
        for name in ("first", *parameters(verb))
    ],
)
def test_the_other_verbs(one: Any, verb: Any, name: str, junk: str) -> None:
    if name in ("first", "processor"):
        attempt(one, lambda: verb(one, JUNK[junk]()))
        return
    first = {tx.edit: edits.Drop("red"), tx.guide: losses.Layout({"red": BOX})}.get(verb)
    if first is None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        first = AttnProcessor2_0
    attempt(one, lambda: verb(one, first, **{name: JUNK[junk]()}))
