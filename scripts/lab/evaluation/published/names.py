"""`--names FILE`: what the classes of a test are called in prompts."""

from __future__ import annotations

import json
from pathlib import Path

from t2i_xattn.errors import UserError, shown, shown_path
from t2i_xattn.files import is_file

MOST_BYTES = 10_000_000


def read_names(path: Path | None) -> dict[str, str]:
    """A JSON object from classes to words, or lines of a class and its words.

    Of a line, the part up to the first blank is the class, and what follows up to a comma is its
    word: so are ImageNet's own lists, `n01440764 tench, Tinca tinca`.

    Raises:
        UserError: if there is no such file, or it is neither.
    """
    if path is None:
        return {}
    if not is_file(path) or path.stat().st_size > MOST_BYTES:
        raise UserError(
            f"expected a file of names at {shown_path(path)}, but there is none, or a larger one "
            f"than {MOST_BYTES:,} bytes; check --names"
        )
    try:
        text = path.read_text("utf-8")
        if text.lstrip().startswith("{"):
            names = json.loads(text)
        else:
            pairs = [line.split(None, 1) for line in text.splitlines() if line.strip()]
            names = {name: words.split(",")[0].strip() for name, words in pairs}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"expected a JSON object, or lines of a class and its word, in {shown_path(path)}, but "
            f"came something else ({shown(str(error), 60)}); see docs/regions.md"
        ) from error
    for name, word in names.items():
        if not isinstance(word, str) or not any(each.isalnum() for each in word):
            raise UserError(
                f"expected a word for the class {shown(name)} in {shown_path(path)}, but came "
                f"{shown(word)}; give one such as 'tench'"
            )
    return dict(names)
