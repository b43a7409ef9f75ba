"""What a command is held to unless `--no-limits` is given: sizes that no machine of today takes in
reasonable time, and texts that no model reads."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_xattn.asking.edit_request import EditRequest
from t2i_xattn.asking.request import Request
from t2i_xattn.errors import UserError, shown

PIXELS = 2048 * 2048
"""Of a picture: four times what the largest of the usual models paint."""
COUNT = 64
"""Pictures of a run; they are painted in one batch."""
GUIDANCE = 100.0
WEIGHT = 1000.0
"""Of a word; beyond it the others have nothing left."""
WALK = 100
"""Steps along self-attention; after a few, maps are the same everywhere."""
TEXT = 10_000
"""Characters of a text; the longest windows are of some hundred tokens."""
PHRASES = 100
"""Words, edits or boxes of one kind."""


def check_limits(request: Request, walk: int = 0) -> None:
    """Raises `UserError` for a request beyond the limits."""
    width, height = request.size or (0, 0)
    if width * height > PIXELS:
        raise _beyond(f"a --size of at most {PIXELS} pixels", f"{width} × {height}")
    _check_number("--count", request.count, COUNT)
    _check_number("--guidance", request.guidance, GUIDANCE)
    _check_number("--walk", walk, WALK)
    check_phrases("a prompt", [request.prompt])
    check_phrases("a --negative", [request.negative or ""])
    check_phrases("--words", request.words)


def check_edit_limits(asked: EditRequest) -> None:
    """Raises `UserError` for a request to edit beyond the limits."""
    check_limits(asked.request)
    for option, texts in (
        ("--replace", [*asked.replace, *asked.replace.values()]),
        ("--weight", list(asked.weights)),
        ("--box", list(asked.boxes)),
        ("--region", list(asked.regions)),
        ("--attend", list(asked.attend)),
    ):
        check_phrases(option, texts)
    for word, weight in asked.weights.items():
        _check_number(f"--weight {shown(word)}", abs(weight), WEIGHT)


def _check_number(name: str, value: float, most: float) -> None:
    if value > most:
        raise _beyond(f"{name} of at most {most:g}", f"{value:g}" if value < 1e9 else shown(value))


def check_phrases(name: str, texts: Sequence[str]) -> None:
    """Raises `UserError` for more phrases, or longer ones, than the limits allow."""
    if len(texts) > PHRASES:
        raise _beyond(f"{name} of at most {PHRASES} phrases", str(len(texts)))
    if longest := max((len(text) for text in texts), default=0):
        _check_number(f"{name} in characters", longest, TEXT)


def _beyond(expected: str, came: str) -> UserError:
    return UserError(f"expected {expected}, but came {came}; take less, or lift it by --no-limits")
