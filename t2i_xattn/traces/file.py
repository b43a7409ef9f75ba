"""A trace on disk: one safetensors file, with a JSON header in its metadata.

The metadata has one key, `t2i_xattn`, with `format_version`, `axes`, `streams`, `shape` (of each
tensor), `sites`, `groups`, `branches`, `steps`, `prompts`, `words`, `latent_size`, `picture_size`
and `settings`; see `RecordedRun`. The tensors are fp32 and named `STREAM/SITE`, the weights of
sites `site weight/SITE`.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import TraceFileError, UserError
from t2i_xattn.prompts.words import Word
from t2i_xattn.traces.recorded_run import AXES, RecordedRun

FORMAT_VERSION = 3
_KEY = "t2i_xattn"
_WEIGHT = "site weight"


def write_trace(run: RecordedRun, path: str | PathLike[str]) -> None:
    """Writes a run to `path`; the file appears whole or not at all.

    Raises:
        UserError: if the folder does not exist or cannot be written to.
    """
    path = Path(path)
    tensors = {
        f"{stream}/{name}": np.ascontiguousarray(array)
        for stream, of_sites in run.maps.items()
        for name, array in of_sites.items()
    }
    for name, array in (run.site_weights or {}).items():
        tensors[f"{_WEIGHT}/{name}"] = np.ascontiguousarray(array)
    header = {
        "format_version": FORMAT_VERSION,
        "axes": AXES,
        "streams": list(run.maps),
        "shape": {name: list(array.shape) for name, array in tensors.items()},
        "sites": [asdict(site) for site in run.sites],
        "groups": run.groups,
        "branches": run.branches,
        "steps": run.steps,
        "prompts": run.prompts,
        "words": [[asdict(word) for word in words] for words in run.words],
        "latent_size": run.latent_size,
        "picture_size": run.picture_size,
        "settings": run.settings,
    }
    data = save(tensors, metadata={_KEY: json.dumps(header)})
    try:
        # In the same folder, so that the last step is a rename within one file system.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            # mkstemp makes a private file; give it the permissions of any other new one.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        except BaseException:
            temporary.unlink()
            raise
    except OSError as error:
        raise UserError(
            f"expected a file that can be written, but {path} gave {error.strerror}; "
            "choose an existing folder that you may write to"
        ) from error


def read_trace(path: str | PathLike[str]) -> RecordedRun:
    """Reads a run that `write_trace` wrote.

    Raises:
        TraceFileError: if the file is missing, not a safetensors file or cut short, not a trace, of
            another version, or has tensors that do not match its header.
    """
    path = Path(path)
    if not path.is_file():
        raise TraceFileError(
            f"expected a trace file, but there is no file {path}; save one with trace.save(path)"
        )
    try:
        with safe_open(path, framework="np") as file:
            header = _header(path, file.metadata() or {})
            names = list(file.keys())
            _check_names(path, names, header)
            maps = {name: _checked(path, name, file.get_tensor(name), header) for name in names}
        return _run(maps, header)
    except TraceFileError:
        raise
    except (SafetensorError, OSError) as error:
        raise TraceFileError(
            f"expected a whole safetensors file, but {path} is of another kind or cut short "
            f"({error}); record and save it again"
        ) from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise TraceFileError(
            f"expected a trace's header in {path}, but it is damaged ({error!r}); "
            "record and save it again"
        ) from error


def _header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise TraceFileError(
            f"expected a trace, but {path} is a safetensors file without a trace's header; "
            "give a file that trace.save wrote"
        )
    header: dict[str, Any] = json.loads(metadata[_KEY])
    version = header["format_version"]
    if version != FORMAT_VERSION:
        raise TraceFileError(
            f"expected a trace of format version {FORMAT_VERSION}, but {path} has {version!r}; "
            "read it with the release of t2i-xattn that wrote it, or record it again"
        )
    return header


def _check_names(path: Path, names: list[str], header: dict[str, Any]) -> None:
    expected = set(header["shape"])
    if expected != set(names):
        differing = sorted(expected ^ set(names))[0]
        raise TraceFileError(
            f"expected the {len(expected)} tensors that the header of {path} names, but "
            f"{differing!r} is in one of the two only; record and save it again"
        )


def _checked(
    path: Path, name: str, array: NDArray[Any], header: dict[str, Any]
) -> NDArray[np.float32]:
    expected = header["shape"][name]
    if list(array.shape) != expected or array.dtype != np.float32:
        raise TraceFileError(
            f"expected {name} of {path} to be float32 {expected} as its header says, but came "
            f"{array.dtype} {list(array.shape)}; record and save it again"
        )
    return array


def _run(maps: dict[str, NDArray[np.float32]], header: dict[str, Any]) -> RecordedRun:
    sites = tuple(AttentionSite(**site) for site in header["sites"])
    latent_height, latent_width = header["latent_size"]
    picture_height, picture_width = header["picture_size"]
    prompts = tuple(header["prompts"])
    words = tuple(tuple(_word(word) for word in of_image) for of_image in header["words"])
    groups = header["groups"]
    if groups is not None:
        groups = tuple(tuple(tuple(each) for each in of_image) for of_image in groups)
    branches = tuple(header["branches"])
    steps = tuple((int(first), int(end)) for first, end in header["steps"])
    streams: dict[str, dict[str, NDArray[np.float32]]] = {}
    for stream in header["streams"]:
        streams[stream] = {site.name: maps[f"{stream}/{site.name}"] for site in sites}
        for site in sites:
            shape = streams[stream][site.name].shape
            size = site.size(latent_height, latent_width)
            expected = (len(prompts), len(branches), len(steps), shape[3], *size, shape[6])
            if shape != expected or len(words) != len(prompts):
                raise ValueError(f"{site.name} is {shape}, not {expected}")
    weights = {name: maps[name] for name in maps if name.startswith(f"{_WEIGHT}/")}
    for name, array in weights.items():
        if array.shape != (len(prompts), len(branches), len(steps)):
            raise ValueError(f"{name} is {array.shape}")
    return RecordedRun(
        maps=streams,
        sites=sites,
        groups=groups,
        branches=branches,
        steps=steps,
        prompts=prompts,
        words=words,
        latent_size=(latent_height, latent_width),
        picture_size=(picture_height, picture_width),
        settings=header["settings"],
        site_weights={site.name: weights[f"{_WEIGHT}/{site.name}"] for site in sites}
        if weights
        else None,
    )


def _word(fields: dict[str, Any]) -> Word:
    return Word(**{**fields, "columns": tuple(fields["columns"])})
