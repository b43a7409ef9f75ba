"""Files of prompts, read line by line: JSON lines, CSV with a header, or a prompt a line."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from t2i_xattn.batch.line import KEYS, Defaults, Line, line_of
from t2i_xattn.errors import UserError, nearest

LONGEST = 1 << 16
"""Bytes of the longest line: a file of another kind is told and not read whole."""

Form = Literal["jsonl", "csv", "txt"]
"""What a file of prompts may be: JSON lines, CSV with a header, or a prompt a line."""

_ENDINGS: dict[str, Form] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "txt"}

Numbered = Iterator[tuple[int, str]]
"""Lines with their numbers, 1 the first, and with what ends them."""


@dataclass(frozen=True)
class Survey:
    """What is known of a file before anything runs.

    Attributes:
        lines: how many prompts it has.
        sha256: of its bytes.
    """

    lines: int
    sha256: str


def form_of(path: Path) -> Form:
    """What a file of prompts is, by the end of its name.

    Raises:
        UserError: an ending that says nothing.
    """
    form = _ENDINGS.get(path.suffix.lower())
    if form is None:
        raise UserError(
            f"expected a file of prompts that ends with {', '.join(_ENDINGS)}, but came "
            f"{path.name!r}; name it by what it holds, or say it with --format"
        )
    return form


def detected(first: bytes) -> Form:
    """What prompts without a name are, by the first line that is not empty."""
    text = first.decode("utf-8-sig", errors="replace").strip()
    if text.startswith("{"):
        return "jsonl"
    names = [cell.strip() for cell in next(csv.reader([text]), [])]
    return "csv" if "prompt" in names and set(names) <= set(KEYS) else "txt"


def check_length(number: int, raw: bytes, name: object) -> None:
    """Raises `UserError` for a line that is too long, of prompts with a name."""
    if len(raw) > LONGEST:
        raise UserError(
            f"expected lines of at most {LONGEST} bytes, but line {number} of {name} is longer; "
            "write a prompt a line"
        )


def survey(path: Path, defaults: Defaults, form: Form | None = None) -> Survey:
    """Reads the whole file once, line by line, and keeps none.

    Raises:
        UserError: see `read_lines`; two lines of one id; no prompt at all.
    """
    ids: dict[str, int] = {}
    count = 0
    digest = hashlib.sha256()
    for line in read_lines(path, defaults, form, digest):
        count += 1
        if line.id is not None and ids.setdefault(line.id, line.number) != line.number:
            raise UserError(
                f"expected an id of its own in line {line.number} of the prompts, but line "
                f"{ids[line.id]} has {line.id!r} too; give another one"
            )
    if not count:
        raise UserError(f"expected prompts in {path}, but it has none; write one a line")
    return Survey(count, digest.hexdigest())


def read_lines(
    path: Path, defaults: Defaults, form: Form | None = None, digest: Any = None
) -> Iterator[Line]:
    """The lines of a file.

    Empty lines are left out, and counted. A byte order mark and CRLF are taken as what they are.

    Args:
        path: the file.
        defaults: what holds for a line that does not say it.
        form: what it is; None: told by the end of its name.
        digest: of `hashlib`; gets every byte of the file.

    Raises:
        UserError: a file that cannot be read or is of another kind; by the number of the line, one
            that is too long, not UTF-8, or not what the kind of file has; see `line_of`.
    """
    read = {"jsonl": _json_lines, "csv": _csv_lines, "txt": _texts}[form or form_of(path)]
    for number, fields in read(_numbered(path, digest)):
        yield line_of(number, fields, defaults)


def _numbered(path: Path, digest: Any) -> Numbered:
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(LONGEST + 1):
                number += 1
                check_length(number, raw, path)
                if digest is not None:
                    digest.update(raw)
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UserError(
                        f"expected UTF-8, but line {number} of {path} is none; save it as UTF-8"
                    ) from None
    except OSError as error:
        raise UserError(
            f"expected a file of prompts at {path}, but: {error.strerror}; check its name"
        ) from error


def _json_lines(lines: Numbered) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in lines:
        if not text.strip():
            continue
        try:
            fields = _parsed(text)
        except (ValueError, RecursionError) as error:
            raise _of_another_form(
                number, 'an object like {"prompt": "a red circle"}', error
            ) from (None)
        if not isinstance(fields, dict):
            raise _of_another_form(number, 'an object like {"prompt": "a red circle"}', text)
        yield number, fields


def _csv_lines(lines: Numbered) -> Iterator[tuple[int, dict[str, Any]]]:
    first, header = 1, None
    read = 0

    def counted() -> Iterator[str]:
        nonlocal read
        for number, text in lines:
            read = number
            yield text

    rows = csv.reader(counted(), strict=True)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise _of_another_form(first, "a row of CSV", error) from None
        number, first = first, read + 1
        if not any(cell.strip() for cell in row):
            continue
        if header is None:
            header = _header(number, row)
        elif len(row) != len(header):
            raise _of_another_form(number, f"{len(header)} cells, as in the header", len(row))
        else:
            yield (
                number,
                {key: _cell(key, cell) for key, cell in zip(header, row, strict=True) if cell},
            )


def _header(number: int, row: list[str]) -> list[str]:
    names = [name.strip() for name in row]
    for name in names:
        if name not in KEYS or names.count(name) > 1:
            twice = " twice" if name in KEYS else nearest(name, KEYS)
            raise UserError(
                f"expected a header with columns of {', '.join(KEYS)} in line {number} of the "
                f"prompts, but came {name!r}{twice}; leave it out or write it right"
            )
    return names


def _cell(key: str, text: str) -> Any:
    """A cell by its column: numbers as such, JSON where the line would have a list or an object."""
    try:
        if key in ("seed", "steps"):
            return int(text)
        if key == "guidance":
            return float(text)
        if key in ("words", "replace", "weight", "region") and text.lstrip()[:1] in ("{", "["):
            return _parsed(text)
    except (ValueError, RecursionError):
        pass  # told as what it is by `line_of`
    return text


def _texts(lines: Numbered) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in lines:
        if text.strip():
            yield number, {"prompt": text.strip()}


def _parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key stands twice")
    return fields


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _of_another_form(number: int, form: str, came: object) -> UserError:
    shown = " ".join(str(came).split())
    return UserError(
        f"expected {form} in line {number} of the prompts, but came "
        f"{shown[:80]}{'…' * (len(shown) > 80)}; put the line right"
    )
