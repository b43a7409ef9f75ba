"""What the form says, as a request: every value may be missing, or come from elsewhere than the
page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t2i_xattn.asking.edit_request import EditRequest, parse_boxes, parse_weights
from t2i_xattn.asking.parsing import parse_pairs
from t2i_xattn.asking.request import Request
from t2i_xattn.errors import UserError, shown

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Source:
    """A picture that was made, as far as it takes to make it anew.

    Attributes:
        request: what was asked for.
        words: of its prompt, each once, as typed.
        picture: the picture of one's own; None of a painted one.
    """

    request: Request
    words: tuple[str, ...]
    picture: Image.Image | None = None


def request_of(
    prompt: Any,
    seed: Any = 0,
    steps: Any = 25,
    guidance: Any = 5.0,
    width: Any = None,
    height: Any = None,
    negative: Any = "",
) -> Request:
    """
    Args:
        prompt, negative: texts; of an empty negative prompt there is none.
        seed, steps: whole numbers.
        guidance: a number.
        width, height: whole numbers of pixels; both empty or 0: the model's own size.

    Raises:
        UserError: for what is missing or of another kind.
    """
    sides = [_whole(name, side or 0) for name, side in (("width", width), ("height", height))]
    if any(sides) and min(sides) < 1:
        raise UserError(
            "expected both a width and a height, or neither, but came "
            f"{sides[0]} × {sides[1]}; leave both empty for the model's own size"
        )
    request = Request(
        prompt=_text("prompt", prompt),
        seed=_whole("seed", seed),
        steps=_whole("steps", steps),
        guidance=_number("guidance", guidance),
        size=(sides[0], sides[1]) if any(sides) else None,
        negative=_text("negative prompt", negative or "").strip() or None,
    )
    request.check()
    return request


def edit_of(
    source: Source | None, weights: Mapping[str, Any], replace: Mapping[str, Any], boxes: Any
) -> EditRequest:
    """
    Args:
        source: the picture that is to be changed.
        weights: by word; 1 changes nothing. That of a word that is replaced is for the new one.
        replace: by word, what is to stand in its place; empty: the word itself.
        boxes: a line a phrase, such as `circle=0.1,0.2,0.4,0.5`: top, left, bottom, right.

    Raises:
        UserError: there is no picture yet, nothing to change, or something that cannot be read.
    """
    if source is None:
        raise UserError("expected a picture to change, but there is none yet; paint one first")
    others = [(word, _text("other words", new or "").strip()) for word, new in replace.items()]
    replaced = parse_pairs("replace", [f"{word}={new}" for word, new in others if new])
    asked = {
        replaced.get(word, word): each
        for word, weight in weights.items()
        if (each := _number(f"weight of {shown(word)}", weight)) != 1
    }
    lines = [line for line in _text("boxes", boxes or "").splitlines() if line.strip()]
    if not (replaced or asked or lines):
        raise UserError(
            "expected something to change, but all is as it was; move a word's slider, put another "
            "word in its place, or give it a box"
        )
    if lines and (replaced or source.picture is not None):
        came = "other words" if replaced else "a picture of your own"
        raise UserError(
            f"expected boxes alone, which lay the picture out anew, but came {came} beside them; "
            "do one after the other"
        )
    made = EditRequest(
        source.request,
        replace=replaced,
        weights=parse_weights([f"{word}={weight}" for word, weight in asked.items()]),
        boxes=parse_boxes(lines),
        image=source.picture,
    )
    made.check()
    return made


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"expected a {name} as text, but came {shown(value)}; type one")
    return value


def _number(name: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        found = float(value) if number else math.nan
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise UserError(f"expected a number as {name}, but came {shown(value)}; type one")
    return found


def _whole(name: str, value: Any) -> int:
    number = _number(name, value)
    if number != int(number):
        raise UserError(f"expected a whole number as {name}, but came {shown(value)}; type one")
    return int(value)
