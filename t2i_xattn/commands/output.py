"""An output folder whose files appear together or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t2i_xattn.errors import UserError


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """A fresh folder to write into; on success its files move to ``out``, else they vanish.

    Files of the same name in ``out`` are replaced, others stay.

    Raises:
        UserError: before anything is computed, where ``out`` cannot be written to.
    """
    made = [each for each in (out, *out.parents) if not each.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Beside its target, so that moving a file is a rename.
        work = Path(tempfile.mkdtemp(prefix=".t2i-xattn-", dir=out))
    except OSError as error:
        raise UserError(
            f"expected a folder that can be written to at {out}, but: {error.strerror}; "
            "choose another --out"
        ) from error
    try:
        yield work
        made = []
        for path in sorted(work.rglob("*")):
            target = out / path.relative_to(work)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                path.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for each in made:  # the innermost first
            each.rmdir()
