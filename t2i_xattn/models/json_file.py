"""JSON that came with a model: small, flat, of one meaning, or refused in one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2i_xattn.errors import UserError, shown

LARGEST = 8 * 2**20
"""Bytes of one file; the largest that models come with are of one or two million."""
DEEPEST = 32
"""Lists and objects within each other."""


def read_json(path: Path, shown: str) -> dict[str, Any]:
    """The object that a file holds.

    Args:
        path: a regular file.
        shown: how a sentence names it, such as `unet/config.json`.

    Raises:
        UserError: it cannot be read, is too large or too deep, is not UTF-8 or JSON, is no object,
            or holds a key twice or a NaN.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        found = json.loads(
            data.decode("utf-8"), object_pairs_hook=_without_doubles, parse_constant=_constant
        )
        if not isinstance(found, dict):
            raise ValueError(f"it is a {type(found).__name__}")
        if any(len(keys) > DEEPEST for keys, _ in leaves(found)):
            raise ValueError(f"it is nested more than {DEEPEST} deep")
    except UnicodeDecodeError as error:
        raise _refused(shown, f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise _refused(shown, f"it is nested more than {DEEPEST} deep") from error
    except OSError as error:
        raise _refused(shown, f"reading it gave {error.strerror}") from error
    except ValueError as error:
        raise _refused(shown, str(error)) from error
    return found


def leaves(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every entry of an object that is neither an object nor a list, and every empty one, with the
    keys on its way; a list's own are named by their place.

    Without recursion, since how deep it goes is up to who wrote it.
    """
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        keys, here = waiting.pop()
        # Deeper than is taken is told by its first entry alone.
        if not isinstance(here, dict | list) or not here or len(keys) > DEEPEST:
            yield keys, here
        elif isinstance(here, dict):
            waiting += [((*keys, key), each) for key, each in here.items()]
        else:
            waiting += [((*keys, str(place)), each) for place, each in enumerate(here)]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(double)} stands in it twice")
    return found


def _constant(text: str) -> float:
    # Schedulers of diffusers are saved with -Infinity for a limit that is none.
    if text == "NaN":
        raise ValueError("it holds NaN")
    return math.inf if text == "Infinity" else -math.inf


def _refused(shown: str, reason: str) -> UserError:
    return UserError(
        f"expected a JSON object in UTF-8 in {shown}, but {reason[:120]}; "
        "copy the file anew from where the model came from"
    )
