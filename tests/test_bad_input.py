"""Mistakes of a user in steering: one sentence each, before the first step, and the pipeline left
as it was found. The whole list; what an edit or a loss refuses at once is tested beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest

import t2i_xattn as tx
from conftest import state_of
from t2i_xattn.edits import (
    Add,
    Drop,
    InjectMap,
    Refine,
    RegionalPrompts,
    Replace,
    Restrict,
    Reweight,
    SelfReplace,
    SwapMaps,
    Temperature,
    TopK,
)
from t2i_xattn.errors import UserError
from t2i_xattn.losses import AttendAndExcite, Binding, BoxDiff, Layout

BOX, WHOLE = (0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0)
PAIR = ["a red circle", "a blue circle left of red"]
LONG = "a " * 80 + "red circle"
BOXES: dict[str, tuple[float, ...]] = {
    "outside of the picture": (0.0, 0.0, 1.0, 1.5),
    "above it": (-0.1, 0.0, 1.0, 1.0),
    "inside out": (0.5, 0.0, 0.2, 1.0),
    "empty": (0.2, 0.2, 0.2, 0.6),
    "not a number": (0.0, 0.0, math.nan, 1.0),
    "of three sides": (0.0, 0.0, 1.0),
}
TALL = np.ones((16, 8))

Steer = Callable[[Any], Any]
"""Given a pipeline, the context to run it in."""


def edits(*make: Callable[[], Any]) -> Steer:
    return lambda pipe: tx.edit(pipe, *(each() for each in make))


def losses(*make: Callable[[], Any]) -> Steer:
    return lambda pipe: tx.guide(pipe, *(each() for each in make))


def recorded(**keep: Any) -> Steer:
    return lambda pipe: tx.record(pipe, **keep)


CASES: dict[str, tuple[Steer, Any, str]] = {
    # Words that are not there.
    "reweight": (edits(lambda: Reweight("green", 2.0)), None, "'green' is not in the prompt"),
    "drop": (edits(lambda: Drop("rde")), None, "did you mean 'red'"),
    "add": (edits(lambda: Add("green", 0.1)), None, "'green' is not in the prompt"),
    "restrict": (edits(lambda: Restrict("green", BOX)), None, "'green' is not in"),
    "swap maps": (edits(lambda: SwapMaps("red", "green")), None, "'green' is not in"),
    "inject": (edits(lambda: InjectMap("green", np.ones((8, 8)))), None, "'green' is not in"),
    "words=": (edits(lambda: TopK(2, words=["green"])), None, "'green' is not in"),
    "swaps": (edits(lambda: Replace({"green": "blue"})), PAIR, "'green' is not in"),
    "attend": (losses(lambda: AttendAndExcite(["green"])), None, "'green' is not in"),
    "layout": (losses(lambda: Layout({"green": BOX})), None, "'green' is not in"),
    "boxdiff": (losses(lambda: BoxDiff({"green": BOX})), None, "'green' is not in"),
    "binding": (losses(lambda: Binding([("green", "circle")])), None, "'green' is not in"),
    "no pair": (losses(lambda: Binding()), ["red", "blue"], "found none in 'red'"),
    "record": (recorded(words=["green"]), None, "'green' is not in"),
    "record, negative": (
        recorded(words=["red"], branches=["conditional", "unconditional"]),
        None,
        "'red' is not in the prompt, which has no words",
    ),
    "drop, negative": (edits(lambda: Drop("red", branches="unconditional")), None, "'red' is not"),
    # However late they are to act.
    "drop, late": (edits(lambda: Drop("green", steps=(1, 2))), None, "'green' is not in"),
    "words=, late": (
        edits(lambda: TopK(2, words=["green"], steps=(0.5, 1.0))),
        None,
        "'green' is not in",
    ),
    "mask, late": (edits(lambda: Restrict("red", TALL, steps=(1, 2))), None, "aspect, 8:8"),
    # In one prompt only.
    "one of two": (edits(lambda: Drop("left")), PAIR, r"\(in image 0 of the batch; images="),
    # Prompts of different length without an alignment.
    "replace": (edits(lambda: Replace()), PAIR, "as many words, .* came 3 words and 6"),
    "no target": (edits(lambda: Refine()), None, "a source and other prompts"),
    # Masks of another size.
    "mask": (edits(lambda: Restrict("red", TALL)), None, "picture's aspect, 8:8"),
    "map": (edits(lambda: InjectMap("red", TALL)), None, "picture's aspect, 8:8"),
    "regional mask": (edits(lambda: RegionalPrompts({"red": TALL})), None, "aspect, 8:8"),
    "no mask": (edits(lambda: Restrict("red", np.ones(8))), None, r"came shape \(8,\)"),
    # Rows of the batch that are not there.
    "row 1": (edits(lambda: Drop("red", images=[1])), None, "images from 0 to 0 for Drop"),
    "row 2": (edits(lambda: RegionalPrompts({"red": BOX}, images=[2])), PAIR, "from 0 to 1"),
    "row -1": (edits(lambda: Drop("red", images=[-1])), None, "from 0 to 0 .* came -1"),
    "row 0.5": (
        edits(partial(Drop, "red", images=[0.5])),  # type: ignore[list-item]
        None,
        r"images of Drop, but came \[0.5\]",
    ),
    "no list": (edits(partial(Drop, "red", images=1)), None, "images of Drop, but came 1"),  # type: ignore[arg-type]
    "source": (edits(lambda: SelfReplace(source=2)), PAIR, "source=2"),
    # Beyond the window of the text encoder.
    "drop, far": (edits(lambda: Drop("red")), LONG, "beyond the window"),
    "attend, far": (losses(lambda: AttendAndExcite(["circle"])), LONG, "beyond the window"),
    "region, far": (edits(lambda: RegionalPrompts({LONG: BOX})), None, "into the window"),
    "binding, far": (losses(lambda: Binding()), LONG, "found none in"),
    "replace, far": (edits(lambda: Replace({"red": "red"})), [LONG] * 2, "beyond the window"),
}
for name, box in BOXES.items():
    match = r"a box \(top, left, bottom, right\) inside the picture.* y comes first"
    CASES |= {
        f"restrict, {name}": (edits(partial(Restrict, "red", box)), None, match),
        f"region, {name}": (edits(partial(RegionalPrompts, {"a": box})), None, match),
        f"layout, {name}": (losses(partial(Layout, {"red": box})), None, match),
        f"boxdiff, {name}": (losses(partial(BoxDiff, {"red": box})), None, match),
    }
for wrong in (math.nan, math.inf, -math.inf):
    CASES |= {
        f"reweight {wrong}": (edits(partial(Reweight, "red", wrong)), None, "number as"),
        f"add {wrong}": (edits(partial(Add, "red", wrong)), None, "number as"),
        f"temperature {wrong}": (edits(partial(Temperature, wrong)), None, "number as"),
        f"inject {wrong}": (
            edits(partial(InjectMap, "red", np.ones((8, 8)), strength=wrong)),
            None,
            "strength",
        ),
        f"map of {wrong}": (
            edits(partial(InjectMap, "red", np.full((8, 8), wrong))),
            None,
            "values from 0 to 1",
        ),
        f"regional {wrong}": (
            edits(partial(RegionalPrompts, {"red": WHOLE}, base_weight=wrong)),
            None,
            "number as base_weight",
        ),
        f"scale {wrong}": (
            losses(partial(AttendAndExcite, ["red"], scale=wrong)),
            None,
            "scale",
        ),
    }


@pytest.fixture(scope="module")
def used() -> Any:
    """A pipeline that has run once: some attributes of it appear in its first run."""
    from conftest import make_pipeline

    pipe = make_pipeline()
    pipe(["a red circle"], num_inference_steps=1, output_type="latent")
    return pipe


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_before_the_first_step(used: Any, draw: Any, name: str) -> None:
    steer, prompt, match = CASES[name]
    before = state_of(used)
    scheduler = set(vars(used.scheduler))
    with ExitStack() as stack:
        handle = used.unet.conv_in.register_forward_pre_hook(lambda *_: pytest.fail("a step"))
        stack.callback(handle.remove)
        told = stack.enter_context(pytest.raises(UserError, match=match))
        with steer(used):
            draw(used, prompt or "a red circle", height=64, width=64)
    assert state_of(used) == before
    assert set(vars(used.scheduler)) == scheduler
    message = str(told.value)
    assert "\n" not in message
    assert not message.endswith(".")
