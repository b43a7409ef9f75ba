"""Prompts that come by a pipe, which can be read once only: written down as they come."""

from __future__ import annotations

import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from t2i_xattn.batch.reading import Form, check_length, detected


@contextmanager
def written_down(stream: IO[bytes], form: Form | None) -> Iterator[tuple[Path, Form]]:
    """A file with all that comes, and what kind of file it is; it is gone afterwards.

    Args:
        stream: read to its end.
        form: of the prompts; None: told by their first line.

    Raises:
        UserError: a line that is too long.
        OSError: there is no room.
    """
    with tempfile.TemporaryDirectory(prefix="t2i-xattn-") as folder:
        path = Path(folder) / "prompts"
        with path.open("wb") as file:
            for number, raw in enumerate(iter(lambda: stream.readline(1 << 20), b""), 1):
                check_length(number, raw, "standard input")
                if form is None and raw.removeprefix(BOM_UTF8).strip():
                    form = detected(raw)
                file.write(raw)
        yield path, form or "txt"
