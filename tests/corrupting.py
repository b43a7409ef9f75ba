"""Traces that something happened to: bad days of disks, and hostile hands.

Run as a script it loads and uses many of them in a process whose memory and time are limited:
`corrupting.py COUNT FILE …`.
"""

from __future__ import annotations

import json
import math
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load, save

from t2i_xattn.errors import UserError
from t2i_xattn.traces.file import checksum
from t2i_xattn.traces.recorded_run import RecordedRun
from t2i_xattn.traces.trace import Trace

MOST_MEMORY = 2**30
MOST_SECONDS = 2.0

SOUND = {f"{change} {told}" for change in ("spoilt", "hostile") for told in ("told", "harmless")}
"""What may come of a corrupted file."""

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, math.nan, math.inf, -math.inf, -1, 0, 1, 2, 77, 2**15, 10**9, 10**30),
    *(2**63, -(2**63), 1.5, 1e308, "", "x", "text", "\0\n", "\ud800", "x" * 10_000, [], [[]], {}),
    *({"a": 1}, [0], [0] * 1000, [1e9, 1e9], [1, 2, 3, 4], [-1, 0], [[[10**9]]], ["red"] * 3),
)


def spoilt(data: bytes, chance: random.Random) -> bytes:
    """A file of which some bytes were changed, lost or added."""
    begin = 8 + int.from_bytes(data[:8], "little")
    # As often in the header as in the tensors, which are longer.
    at = chance.randrange(chance.choice((8, begin, len(data))))
    run = chance.choice((1, 2, 16, 300))
    noise = chance.randbytes(run)
    changed = bytearray(data)
    match chance.choice(("bit", "bit", "run", "cut", "lost", "more", "zeros")):
        case "bit":
            changed[at] ^= 1 << chance.randrange(8)
        case "run":
            changed[at : at + run] = noise[: len(data) - at]
        case "cut":
            del changed[at:]
        case "lost":
            del changed[at : at + run]
        case "more":
            changed[at:at] = noise
        case _:
            changed[at : at + run] = bytes(len(changed[at : at + run]))
    return bytes(changed)


def hostile(data: bytes, chance: random.Random) -> bytes:
    """A file with another header or other tensors, and a checksum that is right."""
    header, tensors = parts_of(data)
    for _ in range(chance.choice((1, 1, 2))):
        if chance.random() < 0.2:
            _change_a_tensor(header, tensors, chance)
            continue
        # Each part as often as any other, however long it is.
        part = chance.choice(sorted(header))
        inner = list(_places(header[part])) if isinstance(header[part], dict | list) else []
        holder, key = chance.choice(inner) if inner and chance.random() < 0.8 else (header, part)
        old = holder[key]
        if chance.random() < 0.15 and isinstance(holder, dict):
            del holder[key]
        elif chance.random() < 0.3 and type(old) is int:
            holder[key] = old + chance.choice((-1, 1, 1000, 10**6))
        elif chance.random() < 0.3 and isinstance(old, list) and old:
            holder[key] = chance.choice((old[:-1], old + old[-1:], old[::-1], old * 50))
        else:
            holder[key] = chance.choice(HOSTILE)
    return file_of(header, tensors)


def parts_of(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A trace's header and tensors."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["t2i_xattn"])
    return header, load(data)


def file_of(header: Any, tensors: dict[str, np.ndarray], text: str | None = None) -> bytes:
    """A trace's file, with the checksum of what it holds."""
    text = json.dumps(header) if text is None else text
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return save(whole, metadata={"t2i_xattn": text, "sha256": checksum(text, whole)})


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or object of a header, with each index or key of it."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _change_a_tensor(
    header: dict[str, Any], tensors: dict[str, np.ndarray], chance: random.Random
) -> None:
    name = chance.choice(sorted(tensors))
    array = tensors[name].copy()
    match chance.choice(("value", "all", "slice", "none", "turned", "twice", "moved")):
        case "value":
            array.flat[0] = chance.choice((math.nan, math.inf, -math.inf, 3e38, -3e38, 1e9))
        case "all":
            array[...] = chance.choice((math.nan, 3e38, -1, 0, 1e9))
        case "slice":
            array = array.take([0], axis=chance.randrange(array.ndim))
        case "none":
            array = array.take([], axis=chance.randrange(array.ndim))
        case "turned":
            array = array.swapaxes(chance.randrange(array.ndim), chance.randrange(array.ndim))
        case "twice":
            array = array.repeat(2, axis=chance.randrange(array.ndim))
        case _:
            tensors[f"{name}x"] = tensors.pop(name)
            header["shape"][f"{name}x"] = header["shape"].pop(name, None)
            return
    tensors[name] = np.ascontiguousarray(array)
    if isinstance(header.get("shape"), dict):
        header["shape"][name] = list(array.shape)


def use(trace: Trace, folder: Path) -> None:
    """All that is done with a trace; only `UserError` may come of it."""
    run = trace.run
    asked: list[Callable[[], Any]] = [
        lambda: (trace.words, trace.tokens, trace.prompts, trace.sites, trace.settings),
        lambda: (repr(trace), trace.maps, trace.concepts, trace.picture_size),
        lambda: trace.select(steps=(0, 1.0), images=0, heads=0, branch=run.branches[-1]).maps,
        lambda: trace.select(sites=[run.sites[0].name]).heatmap(columns=[0]),
        lambda: trace - trace,
        lambda: Trace.mean([trace, trace]).heatmap(columns=[0]),
        lambda: trace.between("red", "circle"),
        lambda: _saved(trace, folder),
    ]
    for stream in run.maps:
        asked.append(lambda stream=stream: trace.to_numpy(stream))  # type: ignore[misc]
        asked.append(lambda stream=stream: trace.heatmap("red", stream=stream).box())  # type: ignore[misc]
        asked.append(lambda stream=stream: trace.heatmap(columns=[0], stream=stream))  # type: ignore[misc]
    for image in range(run.images):
        asked.append(lambda image=image: trace.shares(image=image))  # type: ignore[misc]
        for word in run.words[run.branches[0]][image]:
            asked.append(lambda word=word, image=image: look_at(trace, word.text, image))  # type: ignore[misc]
    for each in asked:
        try:
            each()
        except UserError as error:
            _check_sentence(error)


def look_at(trace: Trace, word: str, image: int = 0) -> None:
    """A word's map, and all that is read off it."""
    heat = trace.heatmap(word, image=image)
    assert np.isfinite(heat.array).all()
    _ = heat.share, heat.peakedness, heat.peak(), heat.mask(), heat.mask("otsu"), heat.box()
    height, width = trace.picture_size
    heat.overlay(Image.new("RGB", (width, height)))


def _saved(trace: Trace, folder: Path) -> None:
    trace.save(folder / "again.safetensors")
    assert same(Trace.load(folder / "again.safetensors").run, trace.run)


def _check_sentence(error: UserError) -> None:
    text = str(error)
    assert text, "nothing is said"
    assert "\n" not in text, text


def same(one: RecordedRun, other: RecordedRun) -> bool:
    """Whether two runs are equal in every part."""
    for name, value in vars(one).items():
        beside = getattr(other, name)
        if name not in ("maps", "counts", "site_weights"):
            if json.dumps(value, default=str) != json.dumps(beside, default=str):
                return False
            continue
        first, second = (dict(_arrays(each)) for each in (value or {}, beside or {}))
        if list(first) != list(second):
            return False
        if not all(np.array_equal(first[key], second[key], equal_nan=True) for key in first):
            return False
    return True


def _arrays(value: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, each in value.items():
        if isinstance(each, dict):
            for inner, array in _arrays(each):
                yield f"{name}/{inner}", array
        else:
            yield name, each


def run(count: int, paths: list[Path], prepare: Callable[[], None] = lambda: None) -> Counter[str]:
    """What came of so many corruptions, and how often: `told` and `harmless`, by the way it was
    corrupted, or what went wrong, with the number of the corruption.

    Args:
        count: how many.
        paths: of sound traces.
        prepare: called when all that is imported on the way is there.
    """
    whole = [(path.read_bytes(), Trace.load(path).run) for path in paths]
    came: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in paths:
            use(Trace.load(path), folder)
        prepare()
        for number in range(count):
            chance = random.Random(number)
            data, original = whole[number % len(whole)]
            change = chance.choice((spoilt, hostile))
            (folder / "changed.safetensors").write_bytes(change(data, chance))
            began = time.process_time()
            try:
                told = _tried(folder, None if change is hostile else original)
                took = time.process_time() - began
                assert took < MOST_SECONDS, f"{took:.1f} s"
            except BaseException as error:
                told = f"{number} {type(error).__name__}: {error}"
            came[f"{change.__name__} {told}"] += 1
    return came


def _tried(folder: Path, original: RecordedRun | None) -> str:
    try:
        trace = Trace.load(folder / "changed.safetensors")
    except UserError as error:
        _check_sentence(error)
        return "told"
    assert original is None or same(trace.run, original), "changed, and nobody noticed"
    use(trace, folder)
    return "harmless"


def limit() -> None:
    """From now on this process may take a gigabyte more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> int:
    """The exit code is 1 if anything came of a corrupted file but `UserError`, or nobody noticed
    that it was changed."""
    came = run(int(sys.argv[1]), [Path(each) for each in sys.argv[2:]], limit)
    for told, times in came.items():
        print(times, told)
    return int(not came.keys() <= SOUND)


if __name__ == "__main__":
    sys.exit(main())
