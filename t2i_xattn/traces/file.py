"""A trace on disk: one safetensors file, with a JSON header and a checksum in its metadata.

The metadata has two keys: `t2i_xattn`, the header (`traces.header`), and `sha256`, the checksum
over it and all tensors. The tensors are fp32 and named `STREAM/SITE`, the weights of sites
`site weight/SITE`.

A file is taken for hostile: nothing that it says is used before it is held against the rest of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from t2i_xattn.errors import TraceFileError, UserError, shown, shown_path
from t2i_xattn.traces.disk import kind_of, path_of, write_whole
from t2i_xattn.traces.fields import Damaged, field
from t2i_xattn.traces.fitting import check
from t2i_xattn.traces.header import CHECKSUM, FORMAT_VERSION, WEIGHT, header_of, run_of
from t2i_xattn.traces.recorded_run import RecordedRun

_KEY = "t2i_xattn"

MOST_OF_A_HEADER = 2**23
"""Bytes of all that is not a tensor. What JSON gives takes up to thirty times as much memory."""


def write_trace(run: RecordedRun, path: str | PathLike[str]) -> None:
    """Writes a run to `path`; the file appears whole or not at all.

    Raises:
        UserError: if the path cannot be written to, or the run would not be read again.
    """
    path = path_of(path)
    tensors = {
        f"{stream}/{name}": np.ascontiguousarray(array)
        for stream, of_sites in run.maps.items()
        for name, array in of_sites.items()
    }
    for name, array in (run.site_weights or {}).items():
        tensors[f"{WEIGHT}/{name}"] = np.ascontiguousarray(array)
    try:
        header = header_of(run, tensors)
        # As it will be read, so that no file is left that is refused then.
        check(run_of(json.loads(header), tensors))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"expected a run that can be written, but {_told(error)}; record it again, with "
            "settings that JSON has"
        ) from error
    data = _in_order(save(tensors, {_KEY: header, CHECKSUM: checksum(header, tensors)}))
    if int.from_bytes(data[:8], "little") > MOST_OF_A_HEADER:
        raise UserError(
            f"expected a run whose words, steps and settings take {MOST_OF_A_HEADER:,} bytes at "
            "most, but it takes more; save a part of it, trace.select(…)"
        )
    write_whole(path, data)


def _in_order(data: bytes) -> bytes:
    """A safetensors file whose metadata stand in the order of their names, so that the same run has
    the same bytes; as the library writes them, they stand in any."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[end:]))


def read_trace(path: str | PathLike[str]) -> RecordedRun:
    """Reads a run that `write_trace` wrote.

    Raises:
        UserError: if `path` is no path.
        TraceFileError: if the file is missing, not a safetensors file or cut short, not a trace, of
            another version, changed since it was written, or has tensors that do not match its
            header.
    """
    path = path_of(path)
    _check_place(path)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            header = _header(path, metadata)
            names = list(file.keys())
            _check_names(path, names, header)
            for name in names:
                _check_slice(path, name, file.get_slice(name), header)
            tensors = {name: file.get_tensor(name) for name in names}
        _check_sum(path, header, metadata, tensors)
        run = run_of(header, tensors)
        check(run)
        return run
    except TraceFileError:
        raise
    except (SafetensorError, OSError) as error:
        raise TraceFileError(
            f"expected a whole safetensors file, but {shown_path(path)} is of another kind or cut "
            f"short ({_told(error)}); record and save it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise TraceFileError(
            f"expected a trace's header in {shown_path(path)}, but it is damaged ({_told(error)}); "
            "record and save it again"
        ) from error


def checksum(header: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """The SHA-256 of a header and of the bytes of all tensors, in the order of their names."""
    sha = hashlib.sha256(header.encode("utf-8", "surrogatepass"))
    for _, array in sorted(tensors.items()):
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _check_place(path: Path) -> None:
    """What can be told before the file is looked into."""
    try:
        kind = kind_of(path)
        size, first = 0, b""
        if kind is None:
            with path.open("rb") as file:
                first, size = file.read(8), path.stat().st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TraceFileError(
            f"expected a trace file, but there is no file {shown_path(path)}; save one with "
            "trace.save(path)"
        ) from error
    except OSError as error:
        raise TraceFileError(
            f"expected a trace file, but {shown_path(path)} gave {error.strerror}; give a file "
            "that trace.save wrote and that you may read"
        ) from error
    if kind is not None:
        raise TraceFileError(
            f"expected a trace file, but {shown_path(path)} is {kind}; give a file that trace.save "
            "wrote"
        )
    # Beyond the end of the file, it is of another kind or cut short.
    if MOST_OF_A_HEADER < int.from_bytes(first, "little") <= size:
        raise TraceFileError(
            f"expected a header of at most {MOST_OF_A_HEADER:,} bytes, but that of "
            f"{shown_path(path)} is larger; give a file that trace.save wrote"
        )


def _header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise TraceFileError(
            f"expected a trace, but {shown_path(path)} is a safetensors file without a trace's "
            "header; give a file that trace.save wrote"
        )
    header: dict[str, Any] = json.loads(metadata[_KEY])
    version = field(header, "format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise TraceFileError(
            f"expected a trace of format version {FORMAT_VERSION}, but {shown_path(path)} has "
            f"{shown(version)}; read it with the release of t2i-xattn that wrote it, or record it "
            "again"
        )
    return header


def _check_names(path: Path, names: list[str], header: dict[str, Any]) -> None:
    shapes = field(header, "shape")
    if not isinstance(shapes, dict):
        raise Damaged("shape is no object")
    if differing := sorted(shapes.keys() ^ set(names)):
        raise TraceFileError(
            f"expected the {len(shapes)} tensors that the header of {shown_path(path)} names, but "
            f"{shown(differing[0])} is in one of the two only; record and save it again"
        )


def _check_slice(path: Path, name: str, tensor: Any, header: dict[str, Any]) -> None:
    """A tensor against the header, before it is read."""
    expected, dtype, shape = header["shape"][name], tensor.get_dtype(), tensor.get_shape()
    if shape != expected or dtype != "F32" or 4 * math.prod(shape) > path.stat().st_size:
        raise TraceFileError(
            f"expected {shown(name)} of {shown_path(path)} to be F32 {shown(expected)} as its "
            f"header says, but came {dtype} {shown(shape)}; record and save it again"
        )


def _check_sum(
    path: Path,
    header: dict[str, Any],
    metadata: dict[str, str],
    tensors: Mapping[str, NDArray[Any]],
) -> None:
    """Files that were written before there was one have no checksum."""
    if "checksum" not in header and CHECKSUM not in metadata:
        return
    if metadata.get(CHECKSUM) != checksum(metadata[_KEY], tensors):
        raise TraceFileError(
            f"expected {shown_path(path)} as it was saved, but its checksum says that it is "
            "damaged; copy it again from where it was whole, or record and save it again"
        )


def _told(error: BaseException) -> str:
    """What an exception says, in part of a sentence."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return " ".join(str(error).split()) if isinstance(error, Damaged) else shown(error)
