"""One line of a file of prompts: the prompt, its settings and its edits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t2i_xattn.asking.edit_request import (
    EditRequest,
    parse_regions,
    parse_weights,
)
from t2i_xattn.asking.parsing import parse_list, parse_pairs, parse_size
from t2i_xattn.asking.request import Request, tokenizer_of
from t2i_xattn.errors import UserError, nearest, shown
from t2i_xattn.prompts.words import find_phrase

if TYPE_CHECKING:
    from t2i_xattn.traces.regions import Box


@dataclass(frozen=True)
class Defaults:
    """What holds for a line that does not say it.

    Attributes:
        seed: of a line, with its number added.
        steps, guidance, size, negative: see `Request`.
    """

    seed: int = 0
    steps: int = 25
    guidance: float = 5.0
    size: tuple[int, int] | None = None
    negative: str | None = None


@dataclass(frozen=True)
class Line:
    """A prompt and what is asked of it.

    Attributes:
        number: of the line in its file, 1 the first.
        id: the user's own name for it; None without.
        asked: the prompt, its settings and its edits.
        words: phrases to look into, of the prompt after its replacements; empty means every word.
    """

    number: int
    id: str | None
    asked: EditRequest
    words: tuple[str, ...] = ()

    @property
    def request(self) -> Request:
        """The prompt and its settings."""
        return self.asked.request

    @property
    def edited(self) -> bool:
        """Whether it has edits."""
        return bool(self.asked.replace or self.asked.weights or self.asked.regions)

    @property
    def edits(self) -> str | None:
        """Its edits as JSON, with the keys of the file; None without."""
        if not self.edited:
            return None
        asked = self.asked
        given = {"replace": asked.replace, "weight": asked.weights, "region": asked.regions}
        return json.dumps({key: each for key, each in given.items() if each}, ensure_ascii=False)

    def check(self, pipe: Any) -> None:
        """Whether the pipeline can paint it.

        Raises:
            UserError: see `Request` and `EditRequest`.
        """
        from t2i_xattn.conditioning.within import words_read

        if self.edited:
            self.asked.check()
            self.asked.check_against(pipe)
        else:
            self.request.check()
            self.request.check_against(pipe)
        words = words_read(pipe, tokenizer_of(pipe), self.asked.target)
        for phrase in self.words:
            find_phrase(words, phrase)


def line_of(number: int, fields: Mapping[str, Any], defaults: Defaults) -> Line:
    """A line by its keys; what is null is as if it was not there.

    Raises:
        UserError: an unknown key, a value of another type, or no prompt.
    """
    for key in fields:
        if key not in KEYS:
            raise UserError(
                f"expected keys of {', '.join(KEYS)} in line {number} of the prompts, but came "
                f"{key!r}{nearest(str(key), KEYS)}; leave it out or write it right"
            )
    given = {k: _read(number, k, value) for k, value in fields.items() if value is not None}
    if "prompt" not in given:
        raise UserError(
            f"expected a 'prompt' in line {number} of the prompts, but it has none; say what to "
            "paint there"
        )
    request = Request(
        given["prompt"],
        given.get("seed", defaults.seed + number),
        given.get("steps", defaults.steps),
        given.get("guidance", defaults.guidance),
        given.get("size", defaults.size),
        1,
        given.get("negative", defaults.negative),
    )
    asked = EditRequest(
        request,
        given.get("replace", {}),
        given.get("weight", {}),
        regions=given.get("region", {}),
    )
    return Line(number, given.get("id"), asked, given.get("words", ()))


def _read(number: int, key: str, value: Any) -> Any:
    kind, read = _KINDS[key]
    try:
        return read(value)
    except UserError as error:
        raise UserError(f"{error} (in line {number} of the prompts)") from None
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"expected {kind} as {key!r} in line {number} of the prompts, but came "
            f"{shown(value)}; write it so, or leave it out"
        ) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    # A lone surrogate is no character, and could not be written into the index.
    value.encode()
    return value


def _name(value: Any) -> str:
    return str(value) if _is_whole(value) else _text(value)


def _whole(value: Any) -> int:
    if not _is_whole(value) or abs(value) >= 2**63:
        raise TypeError
    return int(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _size(value: Any) -> tuple[int, int] | None:
    return parse_size(str(_whole(value)) if _is_whole(value) else _text(value))


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return parse_list(_text(value))
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_text, value))


def _given(value: Any) -> list[str]:
    """An edit as the command line takes it: one text, or a list of such."""
    return [_text(value)] if isinstance(value, str) else list(map(_text, _list(value)))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _replace(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return parse_pairs("replace", _given(value))
    if not all(_text(old).strip() and _text(new).strip() for old, new in value.items()):
        raise ValueError
    return value


def _weight(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        return parse_weights(_given(value))
    return {_text(word): _number(weight) for word, weight in value.items()}


def _region(value: Any) -> dict[str, Box]:
    if isinstance(value, dict):
        sides = {text: ",".join(repr(_number(x)) for x in _list(b)) for text, b in value.items()}
        value = [f"{box}={text}" for text, box in sides.items()]
    return parse_regions(_given(value))


_KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "prompt": ("a text", _text),
    "negative": ("a text", _text),
    "seed": ("a whole number", _whole),
    "steps": ("a whole number", _whole),
    "guidance": ("a number", _number),
    "size": ("pixels like 128 or '160x128'", _size),
    "words": ("a list of texts, or one with commas between", _words),
    "id": ("a text or a whole number", _name),
    "replace": ("an object of texts, or old=new", _replace),
    "weight": ("an object of numbers, or word=1.5", _weight),
    "region": ("an object of four numbers for each text, or top,left,bottom,right=text", _region),
}

KEYS = tuple(_KINDS)
"""What a line may say."""
