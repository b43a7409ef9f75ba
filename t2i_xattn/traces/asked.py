"""What the user asks a trace for, held against what it is to be and what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from t2i_xattn.denoisers.branches import CONDITIONAL
from t2i_xattn.denoisers.streams import BETWEEN, CONCEPTS
from t2i_xattn.errors import UserError, shown
from t2i_xattn.traces.recorded_run import RecordedRun

_MOST = 1_000_000


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, python's or numpy's; `True` is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole_numbers(values: Any) -> list[int] | None:
    """A list, range or array of whole numbers as a list; None for anything else, and for more than
    any text has."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        return None
    try:
        numbers = list(islice(values, _MOST + 1))
    except TypeError:  # an array of numpy without axes
        return None
    sound = len(numbers) <= _MOST and all(map(is_whole, numbers))
    return [int(each) for each in numbers] if sound else None


def checked_image(run: RecordedRun, image: int) -> int:
    """Raises `UserError` unless the run made such an image."""
    count = run.images
    if not is_whole(image) or not 0 <= image < count:
        raise UserError(
            f"expected an image from 0 to {count - 1}, but came {shown(image)}; this run made "
            f"{count}"
        )
    return int(image)


def checked_frame(run: RecordedRun, frame: int | None) -> int | None:
    """Raises `UserError` unless the run made such a frame."""
    if frame is None:
        return None
    if not is_whole(frame) or not 0 <= frame < run.frames:
        raise UserError(
            f"expected a frame from 0 to {run.frames - 1}, but came {shown(frame)}; this run made "
            f"{run.frames} of each picture"
        )
    return int(frame)


def checked_columns(columns: Any) -> tuple[int, ...]:
    """Each column once; raises `UserError` unless they are whole numbers."""
    numbers = whole_numbers(columns)
    if numbers is None:
        raise UserError(
            f"expected columns=[…] of whole numbers, but came {shown(columns)}; trace.tokens "
            "lists the columns of the text"
        )
    return tuple(dict.fromkeys(numbers))


def checked_phrase(phrase: Any) -> str:
    """Raises `UserError` unless it is text."""
    if not isinstance(phrase, str):
        raise UserError(
            f"expected a word or phrase as text, but came {shown(phrase)}; trace.words lists the "
            "words, and columns=[…] asks by number"
        )
    return phrase


def checked_phrases(name: str, phrases: Any) -> list[str]:
    """Raises `UserError` unless it is a list of texts."""
    found: list[Any] = [None]
    # A text would be taken for its letters.
    if isinstance(phrases, Iterable) and not isinstance(phrases, str | bytes | Mapping):
        with suppress(TypeError):  # an array of numpy without axes
            found = list(islice(phrases, 1000))  # more than may compete
    if not all(isinstance(each, str) for each in found):
        raise UserError(
            f"expected {name}= as a list of words or phrases, but came {shown(phrases)}; give "
            "one such as ['red circle', 'blue square']"
        )
    return [str(each) for each in found]


def checked_stream(run: RecordedRun, stream: Any) -> str:
    """Raises `UserError` unless the run has such a stream."""
    if not isinstance(stream, str) or stream not in run.maps:
        raise UserError(
            f"expected a stream of {', '.join(run.maps)}, but came {shown(stream)}; record with "
            "walk=1 for walked, contributions=True for contribution, with edits for edited, "
            "self_attention=… for self, concepts=… for concepts, modalities=True for what is given "
            "by each, and an IP-Adapter for pictures"
        )
    return stream


def checked_stream_of_places(run: RecordedRun, stream: Any) -> str | None:
    """Raises `UserError` unless it is None, or the run has such a stream with maps of places."""
    if stream is None:
        return None
    if checked_stream(run, stream) == BETWEEN:
        raise UserError(
            "expected a stream of the picture's places, but came 'between', which is of words "
            "alone; ask trace.between(word, other)"
        )
    if stream == CONCEPTS and run.branches[0] != CONDITIONAL:
        raise UserError(
            f"expected the branch {CONDITIONAL!r} for concepts, which are read in it alone, "
            f"but came {run.branches[0]!r}; take trace.select(branch={CONDITIONAL!r})"
        )
    return str(stream)


def check_which(occurrence: Any, encoder: Any) -> None:
    """Raises `UserError` unless they are a number and a name, where they are given."""
    if occurrence is not None and not is_whole(occurrence):
        raise UserError(
            f"expected occurrence= as a whole number, but came {shown(occurrence)}; 0 is the "
            "first, and without it all are taken together"
        )
    if encoder is not None and not isinstance(encoder, str):
        raise UserError(
            f"expected encoder= as the name of a text encoder, but came {shown(encoder)}; give "
            "one such as 'text_encoder_3', or leave it out for all of them"
        )
