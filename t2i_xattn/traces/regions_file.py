"""Regions on disk: a PNG with a palette, all arrays as NPZ, or COCO's JSON.

The PNG is as those of PASCAL VOC: the value of a pixel is its label, the colours are VOC's, and a
text named `t2i_xattn_regions` says which word a label is. The NPZ has `labels`, `maps`, `cuts`,
`words`, `background` and `crop`, and nothing in it is pickled; it alone is read again, and is taken
for hostile then.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.errors import UserError, shown_path
from t2i_xattn.files import is_file
from t2i_xattn.traces.disk import path_of, write_whole
from t2i_xattn.traces.segmentation import MOST_WORDS, VOID, Regions

if TYPE_CHECKING:
    from PIL import Image

LEGEND = "t2i_xattn_regions"
"""The name of the PNG's text."""

MOST_BYTES = 2**31
"""Of all arrays of a file that is read."""

_ARRAYS = {"labels": 2, "maps": 3, "cuts": 1, "words": 1, "background": 1, "crop": 1}
"""By name, how many axes."""


def write_regions(found: Regions, path: str | PathLike[str]) -> None:
    """Writes regions in the format that the name ends in; the file appears whole or not at all.

    Raises:
        UserError: if it ends in none of `.png`, `.npz` and `.json`, or cannot be written.
    """
    path = path_of(path)
    writers: dict[str, Callable[[Regions], bytes]] = {
        ".png": _png,
        ".npz": _npz,
        ".json": lambda found: json.dumps(found.coco(file_name=f"{path.stem}.png")).encode(),
    }
    if path.suffix.lower() not in writers:
        raise UserError(
            f"expected a name that ends in .png, .npz or .json, but came {shown_path(path)}; "
            "choose one of them"
        )
    write_whole(path, writers[path.suffix.lower()](found))


def read_regions(path: str | PathLike[str]) -> Regions:
    """Reads the NPZ that `write_regions` wrote.

    Raises:
        UserError: if there is no such file, or it is damaged or of another kind.
    """
    path = path_of(path)
    if not is_file(path):
        raise UserError(
            f"expected a file of regions at {shown_path(path)}, but there is none; check the path"
        )
    try:
        arrays = _arrays(path)
        _check(arrays)
    # What zipfile and numpy raise depends on what is damaged.
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"expected regions that were saved as .npz, but {shown_path(path)} is of another kind "
            f"or damaged ({reason}); save them again with regions.save('x.npz')"
        ) from error
    for name in ("labels", "maps"):
        arrays[name].flags.writeable = False
    return Regions(
        words=tuple(arrays["words"].tolist()),
        labels=arrays["labels"],
        maps=arrays["maps"],
        cuts=tuple(arrays["cuts"].tolist()),
        background=tuple(arrays["background"].tolist()),
        crop=tuple(arrays["crop"].tolist()) or None,
    )


def palette_picture(found: Regions) -> Image.Image:
    """The labels as a picture of mode P, in the colours of PASCAL VOC."""
    from PIL import Image

    picture = Image.fromarray(found.labels)
    picture.putpalette([each for label in range(256) for each in colour(label)])
    return picture


def legend(found: Regions) -> dict[str, Any]:
    """What each label of the PNG is, as JSON has it."""
    rows = [
        {"label": label, "word": word, "colour": list(colour(label))}
        for label, word in enumerate(found.words, start=1)
    ]
    rows = [{"label": 0, "word": None, "colour": [0, 0, 0]}, *rows]
    return {"labels": rows, "void": VOID, "background": list(found.background)}


def colour(label: int) -> tuple[int, int, int]:
    """Red, green and blue of a label, as PASCAL VOC's own tools choose them: three bits of the
    number at a time go to the three colours, to their highest bits first."""
    red = green = blue = 0
    for place in range(7, -1, -1):
        red |= (label & 1) << place
        green |= (label >> 1 & 1) << place
        blue |= (label >> 2 & 1) << place
        label >>= 3
    return red, green, blue


def _png(found: Regions) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(LEGEND, json.dumps(legend(found)))  # ASCII, by JSON's escapes
    file = io.BytesIO()
    palette_picture(found).save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def _npz(found: Regions) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(
        file,
        labels=found.labels,
        maps=found.maps,
        cuts=np.array(found.cuts, dtype=np.float64),
        words=np.array(found.words, dtype=np.str_),
        background=np.array(found.background, dtype=np.str_),
        crop=np.array(found.crop or (), dtype=np.int64),
    )
    return file.getvalue()


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        sizes = {each.filename: each.file_size for each in archive.infolist()}
        if sorted(sizes) != sorted(f"{name}.npy" for name in _ARRAYS):
            raise ValueError(f"it has {len(sizes)} files of other names")
        if sum(sizes.values()) > MOST_BYTES:
            raise ValueError(f"its arrays take more than {MOST_BYTES:,} bytes")
        for name in _ARRAYS:
            with archive.open(f"{name}.npy") as file:
                # What a header says is held against the bytes that there are, before memory is
                # taken for it.
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError(f"{name} is of another version")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                if dtype.hasobject or math.prod(shape) * dtype.itemsize > sizes[f"{name}.npy"]:
                    raise ValueError(f"{name} is not what its header says")
            with archive.open(f"{name}.npy") as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def _check(arrays: dict[str, NDArray[Any]]) -> None:
    """Raises `ValueError` for arrays that are not those of regions, or do not fit each other."""
    kinds = {"labels": "u1", "maps": "f4", "cuts": "f8", "crop": "i8"}
    for name, axes in _ARRAYS.items():
        array = arrays[name]
        kind = array.dtype.str[1:]
        if array.ndim != axes or (kind != kinds[name] if name in kinds else kind[0] != "U"):
            raise ValueError(f"{name} is {array.dtype} of {array.ndim} axes")
    words, background = arrays["words"].tolist(), arrays["background"].tolist()
    maps, cuts, labels = arrays["maps"], arrays["cuts"], arrays["labels"]
    names = [word.casefold() for word in (*words, *background)]
    if not 1 <= len(words) <= MOST_WORDS or len(set(names)) < len(names):
        raise ValueError("its words are none, too many, or some of them the same")
    if maps.shape != (len(names), *labels.shape) or cuts.shape != (len(names),) or not labels.size:
        raise ValueError("its maps, labels, thresholds and words do not fit each other")
    # NaN is not between them.
    if not ((maps >= 0) & (maps <= 1)).all() or not ((cuts >= 0) & (cuts <= 1)).all():
        raise ValueError("its maps or thresholds are not from 0 to 1")
    if ((labels > len(words)) & (labels != VOID)).any():
        raise ValueError("it has labels that are no word's")
    if len(arrays["crop"]) not in (0, 4):
        raise ValueError("its crop has no four sides")
