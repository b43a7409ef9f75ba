"""Runs that commands wrote, read again: a trace with the picture that it is of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from t2i_xattn.errors import UserError, shown_path
from t2i_xattn.files import is_file, is_folder
from t2i_xattn.pictures import read_picture
from t2i_xattn.provenance.made import KEY, Made
from t2i_xattn.traces.trace import Trace

if TYPE_CHECKING:
    from PIL import Image

TRACE, PICTURE = "trace.safetensors", "picture.png"
"""What `inspect` calls them."""


@dataclass(frozen=True, eq=False)
class SavedRun:
    """One picture of a run.

    Attributes:
        path: where its trace lies.
        trace: of the run.
        image: which of its pictures.
        picture: this one.
    """

    path: Path
    trace: Trace
    image: int
    picture: Image.Image


def saved_run(path: Path, picture: Path | None, max_pixels: int | None) -> SavedRun:
    """
    Args:
        path: a folder that `inspect` wrote, one of a picture within it (`seed-4`), or a trace.
        picture: of it, which by default lies beside the trace.
        max_pixels: see `read_picture`.

    Raises:
        UserError: there is no trace, no picture, or another one; or the trace is of several
            pictures and it is not said which one is meant.
    """
    folder = path if is_folder(path) else path.parent
    file = path / TRACE if folder == path else path
    seed = None
    if folder == path and not is_file(file):  # of several pictures each has a folder of its own
        seed = re.fullmatch(r"seed-(\d{1,20})", folder.resolve().name)
        file = folder.resolve().parent / TRACE if seed else file
    if not is_file(file):
        raise UserError(
            f"expected a folder that inspect wrote, or a trace, at {shown_path(path)}, but there "
            f"is no {TRACE if folder == path else 'such file'}; check the path, or write one with "
            "t2i-xattn inspect"
        )
    trace = Trace.load(file)
    if seed is not None:
        image = _image_of_seed(trace, int(seed[1]), path)
    elif trace.run.images == 1:
        image = 0
    else:
        raise UserError(
            f"expected one picture, but the trace at {shown_path(path)} is of {trace.run.images}; "
            "name the folder of one, such as that of its seed, or take tx.report(trace, picture, "
            "image=…)"
        )
    beside = folder / PICTURE
    if picture is None and not is_file(beside):
        raise UserError(
            f"expected the picture of the run at {shown_path(beside)}, but there is none; give it "
            "with --picture"
        )
    read = read_picture(picture or beside, max_pixels)
    _check_same(trace, read, picture or beside)
    return SavedRun(file, trace, image, read)


def _image_of_seed(trace: Trace, seed: int, path: Path) -> int:
    seeds = (trace.settings.get("arguments") or {}).get("seeds")
    if not isinstance(seeds, list) or seed not in seeds:
        raise UserError(
            f"expected a picture of the trace beside {shown_path(path)}, but that has none of seed "
            f"{seed}; take a folder that inspect wrote"
        )
    return seeds.index(seed)


def _check_same(trace: Trace, picture: Image.Image, path: Path) -> None:
    """Raises `UserError` for a picture that says that it is of another run."""
    said, known = picture.info.get(KEY), trace.settings.get("made")
    if said is not None and known is not None:
        made = Made.read(said, path), Made.read(known, "the trace")
        if made[0] != made[1]:
            raise UserError(
                f"expected the picture of the trace, but {shown_path(path)} says that another run "
                f"made it ({made[0].command}); give the right one with --picture"
            )
