"""Trace files on bad days and in hostile hands: what is told on loading them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

import corrupting
from conftest import make_pipeline
from t2i_xattn.errors import TraceFileError, UserError
from t2i_xattn.recording.record import record
from t2i_xattn.traces import file
from t2i_xattn.traces.trace import Trace
from test_trace import make_run
from tiny.text_first import CASES

MID = "text/mid.attn2"
Header = dict[str, Any]


@pytest.fixture
def trace() -> Trace:
    return Trace(make_run())


@pytest.fixture
def path(trace: Trace, tmp_path: Path) -> Path:
    trace.save(tmp_path / "run.safetensors")
    return tmp_path / "run.safetensors"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of a UNet with all columns, steps, heads and branches, and with chosen words; of FLUX with
    all that joint attention has."""
    folder, pipe = tmp_path_factory.mktemp("recorded"), make_pipeline()
    branches = ("conditional", "unconditional")
    everything = {"walk": 1, "steps": "each", "heads": "each", "branches": branches}
    chosen: dict[str, Any] = {"words": ["red", "circle"], "heads": "auto"}
    runs = [(["a red circle"], everything), (["a red circle", "a circle, red"], chosen)]
    for number, (prompts, keep) in enumerate(runs):
        with record(pipe, **keep) as trace:
            pipe(prompts, num_inference_steps=2, height=64, width=64, output_type="latent")
        trace.save(folder / f"{number}.safetensors")
    flux = next(case for case in CASES if case.name == "FluxPipeline")
    pipe = flux.make()
    with record(pipe, text_looks=True, concepts=["sky", "grass"]) as trace:
        flux.run(pipe)
    trace.save(folder / "joint.safetensors")
    return sorted(folder.iterdir())


def test_corrupted_files_are_told_or_harmless(recorded: list[Path]) -> None:
    """Bit flips, cuts, insertions, and headers and tensors that were changed with their checksum:
    loaded, and used where they can be."""
    came = corrupting.run(120, recorded)
    assert came.keys() <= corrupting.SOUND
    assert min(came["spoilt told"], came["hostile told"]) > 30


@pytest.mark.slow
def test_a_thousand_corrupted_files(recorded: list[Path]) -> None:
    """The same in a process that may take a gigabyte more than it has."""
    done = subprocess.run(
        [sys.executable, corrupting.__file__, "1000", *map(str, recorded)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(int(line.split()[0]) for line in done.stdout.splitlines()) == 1000


@pytest.mark.slow
def test_the_largest_picture_that_a_file_may_tell_of(trace: Trace, path: Path) -> None:
    """Its maps, masks and overlays take less than a gigabyte, however many sites there are."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import corrupting\n"
        "from t2i_xattn import Trace\n"
        "small, large = map(Trace.load, sys.argv[1:])\n"
        "corrupting.look_at(small, 'cat')\n"
        "corrupting.limit()\n"
        "corrupting.look_at(large, 'cat')\n"
    )
    largest, run = path.parent / "largest.safetensors", trace.run
    sites = tuple(replace(site, level=None) for site in run.sites)
    Trace(replace(run, sites=sites, latent_size=(96, 128), picture_size=(4096, 8192))).save(largest)
    subprocess.run(
        [sys.executable, "-c", code, str(path), str(largest)],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with pytest.raises(UserError, match="picture is 4097 × 8192, more than 33,554,432 in all"):
        Trace(replace(run, latent_size=(96, 160), picture_size=(4097, 8192))).save(largest)


class TestChecksum:
    def test_every_byte_counts(self, path: Path) -> None:
        """One bit of any byte: it is told, or (in the padding) nothing is changed."""
        data, run = path.read_bytes(), Trace.load(path).run
        for at in range(0, len(data), 7):
            changed = bytearray(data)
            changed[at] ^= 1 << at % 8
            path.write_bytes(changed)
            try:
                assert corrupting.same(Trace.load(path).run, run), at
            except TraceFileError:
                continue

    def test_the_sentence(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(TraceFileError, match=r"its checksum says that it is damaged; copy it"):
            Trace.load(path)

    def test_files_of_before_have_none(self, path: Path, trace: Trace) -> None:
        header, tensors = corrupting.parts_of(path.read_bytes())
        del header["checksum"]
        save_file(tensors, path, metadata={"t2i_xattn": json.dumps(header)})
        assert corrupting.same(Trace.load(path).run, trace.run)

    def test_it_cannot_be_left_out(self, path: Path) -> None:
        header, tensors = corrupting.parts_of(path.read_bytes())
        save_file(tensors, path, metadata={"t2i_xattn": json.dumps(header)})
        with pytest.raises(TraceFileError, match="checksum"):
            Trace.load(path)


def _site(**changes: Any) -> Callable[[Header], None]:
    return lambda header: header["sites"][0].update(changes)


def _word(**changes: Any) -> Callable[[Header], None]:
    return lambda header: header["words"]["conditional"][0][0].update(changes)


def _put(**changes: Any) -> Callable[[Header], None]:
    return lambda header: header.update(changes)


HOSTILE: dict[str, tuple[Callable[[Header], None], str]] = {
    "a level beyond all": (_site(level=10**9), "level of a site is 1000000000, no whole number"),
    "another level": (_site(level=1), r"text/down.attn2 is \(2, 1, 1, 1, 3, 5, 6\)"),
    "a level of true": (_site(level=True), "level of a site is True"),
    "a level of NaN": (_site(level=math.nan), "level of a site is nan"),
    "a negative depth": (_site(depth=-1), "depth of a site is -1"),
    "no heads": (_site(heads=0), "heads of a site is 0"),
    "half a head": (_site(heads=1.5), r"heads of a site is 1\.5"),
    "a kind": (_site(kind="crooked"), "kind of a site is 'crooked', none of cross, joint, self"),
    "a place": (_site(place=0), "place of a site is 0"),
    "one site twice": (lambda h: h["sites"].append(h["sites"][0]), "steps or sites"),
    "a picture of 512 GB": (_put(picture_size=[10**9, 128]), "picture_size is 1000000000"),
    "a picture beyond its latent": (_put(picture_size=[24, 330]), r"picture of \(24, 330\) has"),
    "a picture of infinite size": (_put(picture_size=[math.inf, 40]), "picture_size is inf"),
    "no picture": (_put(picture_size=[0, 40]), "picture_size is 0"),
    "a picture in one number": (_put(picture_size=24), "picture_size is 24, no list of 2"),
    "another latent": (_put(latent_size=[4, 5]), r"is \(2, 1, 1, 1, 3, 5, 6\)"),
    "a huge latent": (_put(latent_size=[30_000, 30_000]), "latent is 30000 × 30000, more than"),
    "steps backwards": (_put(steps=[[2, 0]]), "a window of steps is from 2 to 0"),
    "more steps": (_put(steps=[[0, 1], [1, 2]]), "down.attn2 is"),
    "no steps": (_put(steps=[]), "steps or sites"),
    "steps of false": (_put(steps=[[False, 2]]), "steps is False"),
    "negative counts": (lambda h: h["counts"].update({MID: [[-1]]}), "counts of .* is -1"),
    "counts of NaN": (lambda h: h["counts"].update({MID: [[math.nan]]}), "counts of .* is nan"),
    "uneven counts": (lambda h: h["counts"].update({MID: [[1], []]}), "are no table"),
    "a column beyond": (_word(columns=[1, 6]), "words of column 6, but 6 columns"),
    "a negative column": (_word(columns=[-1]), "columns of a word is -1"),
    "a column of true": (_word(columns=[True]), "columns of a word is True"),
    "a start of NaN": (_word(start=math.nan), "start of a word is nan"),
    "words without end": (
        lambda h: h["words"]["conditional"].__setitem__(0, h["words"]["conditional"][0] * 5000),
        "has 15000 words, more than 10000",
    ),
    "a word of numbers": (_word(text=5), "text of a word is 5"),
    "groups beyond": (_put(groups={"conditional": [[[1]] * 7] * 2}), "do not fit its 6 maps"),
    "empty groups": (_put(groups={"conditional": [[[]]] * 2}), "do not fit its 6 maps"),
    "a huge group": (_put(groups={"conditional": [[[10**9]]] * 2}), "groups .* is 1000000000"),
    "walked columns": (_put(walked_columns=[6]), "the walked column 6, but 6 columns"),
    "a crop inside out": (_put(crop=[48, 4, 8, 28]), r"crop is \[48, 4, 8, 28\]"),
    "a crop of three": (_put(crop=[0, 0, 8]), "no list of 4"),
    "a crop beyond all": (_put(crop=[0, 0, 10**9, 8]), "crop is 1000000000"),
    "no frames": (_put(frames=0), "frames is 0"),
    "frames": (_put(frames=10**6), "axes"),
    "frames of true": (_put(frames=True), "frames is True"),
    "settings in a list": (_put(settings=[1]), r"settings is \[1\], no object"),
    "other axes": (_put(axes=["image"]), "axes are not image, branch"),
    "other kinds": (_put(kinds={"conditional": [["words"], []]}), "'words', none of word"),
    "version true": (_put(format_version=True), "format version 4, but .* has True"),
    "a branch twice": (_put(branches=["conditional"] * 2), "branches differ"),
    "prompts of numbers": (_put(prompts={"conditional": [1, 2]}), "prompts of 'conditional' is 1"),
    "a concept too many": (_put(concepts=[None]), "concepts is None"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_told(path: Path, name: str) -> None:
    change, message = HOSTILE[name]
    header, tensors = corrupting.parts_of(path.read_bytes())
    change(header)
    path.write_bytes(corrupting.file_of(header, tensors))
    with pytest.raises(TraceFileError, match=message) as told:
        Trace.load(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_maps_of_no_numbers(path: Path, value: float) -> None:
    header, tensors = corrupting.parts_of(path.read_bytes())
    tensors[MID] = tensors[MID].copy()
    tensors[MID].flat[3] = value
    path.write_bytes(corrupting.file_of(header, tensors))
    with pytest.raises(TraceFileError, match=r"mid\.attn2 has a value that is no share"):
        Trace.load(path)


@pytest.mark.parametrize("depth", [70, 900, 50_000])
def test_json_that_is_nested_deep(path: Path, depth: int) -> None:
    header, tensors = corrupting.parts_of(path.read_bytes())
    header["settings"] = {"deep": "HERE"}
    text = json.dumps(header).replace('"HERE"', "[" * depth + "]" * depth)
    path.write_bytes(corrupting.file_of(header, tensors, text))
    with pytest.raises(TraceFileError, match=r"damaged \((it|settings) is nested"):
        Trace.load(path)


@pytest.mark.parametrize("numeral", ["9" * 5000, "1e999", "-" + "9" * 4000])
def test_numerals_beyond_all_bounds(path: Path, numeral: str) -> None:
    header, tensors = corrupting.parts_of(path.read_bytes())
    header["frames"] = "HERE"
    text = json.dumps(header).replace('"HERE"', numeral)
    path.write_bytes(corrupting.file_of(header, tensors, text))
    with pytest.raises(TraceFileError, match="damaged") as told:
        Trace.load(path)
    assert len(str(told.value)) < 500


def test_a_header_is_no_longer_than_stated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What JSON takes in memory is bounded before it is read."""
    monkeypatch.setattr(file, "MOST_OF_A_HEADER", 1000)
    with pytest.raises(TraceFileError, match=r"a header of at most 1,000 bytes, .* is larger"):
        Trace.load(path)
    with pytest.raises(UserError, match=r"take 1,000 bytes at most, .* trace.select"):
        Trace(make_run()).save(path)


def test_a_header_that_asks_for_more_than_the_file_has(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes((2**60).to_bytes(8, "little") + data[8:])
    with pytest.raises(TraceFileError, match="of another kind or cut short"):
        Trace.load(path)


def test_tensors_as_the_file_says(path: Path) -> None:
    """Shapes are held against the header before anything is read."""
    header, tensors = corrupting.parts_of(path.read_bytes())
    header["shape"][MID] = [2, 1, 1, 1, 10**9, 3, 6]
    path.write_bytes(corrupting.file_of(header, tensors))
    with pytest.raises(TraceFileError, match=r"F32 \[2, 1, 1, 1, 1000000000, 3, 6\]"):
        Trace.load(path)
    assert load_file(path)[MID].shape == (2, 1, 1, 1, 2, 3, 6)


def test_the_same_run_has_the_same_bytes(trace: Trace, tmp_path: Path) -> None:
    written = set()
    for number in range(8):
        trace.save(tmp_path / f"{number}.safetensors")
        written.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(written) == 1
