"""The files of a model's folder: whole ones, within it, and no code among them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from t2i_xattn.errors import UserError, shown, shown_path

MOST = 10_000
"""Files and folders; models have dozens."""
LARGEST_VOCABULARY = 64 * 2**20
"""Bytes of a file that is read whole, whatever it holds: a vocabulary; weights are mapped."""


def check_files(folder: Path, parts: Iterable[str]) -> None:
    """Holds everything at the top of the folder and within its parts against what may be there.

    Nothing is opened: a pipe would never answer.

    Raises:
        UserError: something is neither a file nor a folder, a link leads elsewhere, a file is
            Python code or too large, or there are too many.
    """
    # The hub's cache keeps a snapshot's files beside it, under the name of their content.
    home = folder.resolve()
    within = [home]
    if home.parent.name == "snapshots":
        within.append(home.parents[1] / "blobs")
    for number, entry in enumerate(_entries(folder, parts)):
        where = shown_path(os.path.relpath(entry.path, folder))
        if number >= MOST:
            raise UserError(
                f"expected at most {MOST:,} files in the folder of a model, but {folder.name} has "
                "more; name the folder that save_pretrained wrote"
            )
        try:
            real = Path(entry.path).resolve(strict=True)
            found = real.stat()
        # A loop of links is a RuntimeError.
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"expected a file at {where} of the model, but it cannot be read (a link that "
                "leads nowhere, or no permission); copy the file itself there"
            ) from error
        if entry.is_symlink() and (
            not any(real.is_relative_to(each) for each in within) or stat.S_ISDIR(found.st_mode)
        ):
            raise UserError(
                f"expected the files of a model within its own folder, but {where} is a link to "
                "a folder or out of it; copy there what it points to"
            )
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise UserError(
                f"expected files and folders in a model, but {where} is a pipe, a socket or a "
                "device; take it out of the folder"
            )
        if entry.name.endswith((".py", ".pyc")):
            raise UserError(
                f"expected a model without code, but it holds {where}, which is never run here; "
                "take the file out, or load the model with diffusers yourself if you trust it"
            )
        if found.st_size > LARGEST_VOCABULARY and entry.name.endswith((".json", ".txt", ".model")):
            raise UserError(
                f"expected at most {LARGEST_VOCABULARY:,} bytes in {where}, but it has "
                f"{found.st_size:,}; copy the file anew from where the model came from"
            )


def _entries(folder: Path, parts: Iterable[str]) -> Iterator[os.DirEntry[str]]:
    """What lies at the top, and all that lies in the parts; links are not followed."""
    waiting = [folder]
    wanted = set(parts)
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"expected a folder that can be read, but {shown(here.name)} gave "
                f"{error.strerror}; allow yourself to read it"
            ) from error
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False) and (here != folder or entry.name in wanted):
                waiting.append(Path(entry.path))


def plain_name(value: object) -> bool:
    """Whether it names a file right in its folder, on any system."""
    return (
        isinstance(value, str) and value not in {"", ".", ".."} and not set(value) & set("/\\:\0")
    )
