"""A trace on disk: one safetensors file, with a JSON header in its metadata.

The metadata has one key, `t2i_xattn`, with `format_version`, `axes`, `streams`, `shape` (of each
tensor), `counts`, `sites`, `groups`, `walked_columns`, `branches`, `steps`, `prompts`, `words`,
`tokens`, `frames`, `latent_size`, `picture_size`, `crop` and `settings`; see `RecordedRun`.
`kinds` and `concepts`, which came later, may be missing. The tensors are fp32 and named
`STREAM/SITE`, the weights of sites `site weight/SITE`.
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
from t2i_xattn.denoisers.streams import BETWEEN, CONCEPTS
from t2i_xattn.errors import TraceFileError, UserError
from t2i_xattn.prompts.words import Word
from t2i_xattn.traces.recorded_run import RecordedRun

FORMAT_VERSION = 4
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
        "axes": run.axes,
        "streams": list(run.maps),
        "shape": {name: list(array.shape) for name, array in tensors.items()},
        "counts": {
            f"{stream}/{name}": array.tolist()
            for stream, of_sites in run.counts.items()
            for name, array in of_sites.items()
        },
        "sites": [asdict(site) for site in run.sites],
        "groups": run.groups,
        "walked_columns": run.walked_columns,
        "branches": run.branches,
        "steps": run.steps,
        "prompts": run.prompts,
        "words": {
            branch: [[asdict(word) for word in words] for words in of_branch]
            for branch, of_branch in run.words.items()
        },
        "tokens": run.tokens,
        "kinds": run.kinds,
        "frames": run.frames,
        "latent_size": run.latent_size,
        "picture_size": run.picture_size,
        "crop": run.crop,
        "settings": run.settings,
        "concepts": run.concepts,
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


def _run(tensors: dict[str, NDArray[np.float32]], header: dict[str, Any]) -> RecordedRun:
    sites = tuple(AttentionSite(**site) for site in header["sites"])
    branches = tuple(header["branches"])
    steps = tuple((int(first), int(end)) for first, end in header["steps"])
    words = {
        branch: tuple(tuple(_word(word) for word in of_image) for of_image in of_branch)
        for branch, of_branch in header["words"].items()
    }
    groups, walked = header["groups"], header["walked_columns"]
    if groups is not None:
        groups = {branch: _tuples(of_branch) for branch, of_branch in groups.items()}
    maps: dict[str, dict[str, NDArray[np.float32]]] = {each: {} for each in header["streams"]}
    counts: dict[str, dict[str, NDArray[np.int64]]] = {each: {} for each in header["streams"]}
    weights: dict[str, NDArray[np.float32]] = {}
    for name, array in tensors.items():
        stream, _, site = name.partition("/")
        if stream == _WEIGHT:
            weights[site] = array
        else:
            maps[stream][site] = array
            counts[stream][site] = np.array(header["counts"][name], dtype=np.int64)
    order = {site.name: place for place, site in enumerate(sites)}
    run = RecordedRun(
        maps={s: dict(sorted(m.items(), key=lambda each: order[each[0]])) for s, m in maps.items()},
        counts=counts,
        sites=sites,
        groups=groups,
        walked_columns=None if walked is None else tuple(walked),
        branches=branches,
        steps=steps,
        prompts=_of_branches(header["prompts"]),
        words=words,
        tokens=_of_branches(header["tokens"]),
        frames=int(header["frames"]),
        latent_size=_size(header["latent_size"]),
        picture_size=_size(header["picture_size"]),
        crop=None if header["crop"] is None else tuple(header["crop"]),
        settings=header["settings"],
        site_weights=weights or None,
        kinds=_of_branches(header.get("kinds", {})),
        concepts=tuple(header.get("concepts", ())),
    )
    _check(run)
    return run


def _check(run: RecordedRun) -> None:
    """Raises `ValueError` if the parts of a run do not fit each other."""
    if tuple(run.words) != run.branches or set(run.maps["text"]) != {s.name for s in run.sites}:
        raise ValueError("its branches or sites differ from place to place")
    for told in (run.words, run.prompts, run.tokens, run.groups):
        if told is not None and {b: len(each) for b, each in told.items()} != dict.fromkeys(
            run.branches, run.images
        ):
            raise ValueError("its branches or images differ from place to place")
    known = (run.images, len(run.branches), len(run.steps))
    frames = () if run.frames == 1 else (run.frames,)
    for stream, of_sites in run.maps.items():
        if not of_sites:
            raise ValueError(f"{stream} has no maps")
        for name, array in of_sites.items():
            fits = array.ndim == len(run.axes) and array.shape[:3] == known
            of_frames = tuple(1 for _ in frames) if stream == BETWEEN else frames
            fits = fits and array.shape[4 : 4 + len(frames)] == of_frames
            if not fits or run.counts[stream][name].shape != known[1:]:
                raise ValueError(f"{stream}/{name} is {array.shape}")
            if stream == CONCEPTS and array.shape[-1] != len(run.concepts):
                raise ValueError(f"{stream}/{name} is {array.shape}")
    for name, array in (run.site_weights or {}).items():
        if array.shape != known:
            raise ValueError(f"{_WEIGHT}/{name} is {array.shape}")


def _size(size: list[int]) -> tuple[int, int]:
    height, width = size
    return int(height), int(width)


def _of_branches(told: dict[str, list[Any]]) -> dict[str, tuple[Any, ...]]:
    return {branch: _tuples(of_branch) for branch, of_branch in told.items()}


def _tuples(given: Any) -> Any:
    """Lists as tuples, however deep."""
    return tuple(map(_tuples, given)) if isinstance(given, list) else given


def _word(fields: dict[str, Any]) -> Word:
    listed = {"columns", "encoders", "cut"} & fields.keys()
    return Word(**{**fields, **{name: tuple(fields[name]) for name in listed}})
