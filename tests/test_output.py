"""The folder that a run writes into: one run in it, whole or not at all, whatever happens."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_xattn.commands import moving
from t2i_xattn.commands.output import output_folder
from t2i_xattn.commands.run_files import NAME
from t2i_xattn.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != NAME
    }


def write(
    out: Path, files: dict[str, bytes], command: str = "inspect", beside: bool = False
) -> None:
    with output_folder(out, command, beside=beside) as folder:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


NAMES = st.sampled_from(["a.png", "b.png", "word.png", "seed-0/a.png", "seed-0/b.png", "x/y/z"])
FILES = st.dictionaries(NAMES, st.binary(max_size=1), max_size=4)
RUNS = st.lists(st.tuples(st.sampled_from("ie"), FILES), max_size=4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(runs=RUNS, own=FILES)
def test_a_folder_holds_what_was_there_and_the_last_run_of_each_command(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[str, dict[str, bytes]]],
    own: dict[str, bytes],
) -> None:
    out = tmp_path_factory.mktemp("out")
    for name, data in own.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    expected, last = dict(own), dict[str, set[str]]()
    for command, files in runs:
        write(out, files, command)
        for name in last.get(command, set()):
            expected.pop(name, None)
        expected |= files
        last[command] = set(files)
    assert contents(out) == expected
    assert not list(out.glob(".t2i-xattn-*"))
    assert all(any(each.iterdir()) for each in out.rglob("*") if each.is_dir())


def test_files_that_stand_for_themselves_stay(tmp_path: Path) -> None:
    write(tmp_path, {"0.png": b"0"}, beside=True)
    write(tmp_path, {"1.png": b"1"}, beside=True)
    assert contents(tmp_path) == {"0.png": b"0", "1.png": b"1"}
    write(tmp_path, {"2.png": b"2"})
    assert contents(tmp_path) == {"2.png": b"2"}


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[]",
        "null",
        "[" * 5000,
        '{"inspect": 1}',
        '{"inspect": {"files": "../mine"}}',
        '{"inspect": {"files": ["../mine", "/etc/hosts", "", ".", "link/mine", 1, "a\\u0000"]}}',
    ],
)
def test_a_list_of_files_that_leads_elsewhere_takes_nothing_away(tmp_path: Path, note: str) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "mine").write_text("mine", "utf-8")
    mine.write_text("mine", "utf-8")
    out.mkdir()
    (out / "link").symlink_to(tmp_path / "far")
    (out / NAME).write_text(note, "utf-8")
    write(out, {"a.png": b"a"})
    assert mine.read_text("utf-8") == (tmp_path / "far" / "mine").read_text("utf-8") == "mine"
    assert json.loads((out / NAME).read_text("utf-8"))["inspect"] == {"files": ["a.png"]}


@pytest.mark.parametrize("place", ["b.png", "seed-0/b.png"])
def test_a_folder_in_a_file_s_place_is_told_before_the_first_move(
    tmp_path: Path, place: str
) -> None:
    write(tmp_path, {"a.png": b"old", "word.png": b"old"})
    (tmp_path / place).mkdir(parents=True)
    with pytest.raises(UserError, match=r"a folder stands there"):
        write(tmp_path, {"a.png": b"new", place: b"new", "z.png": b"new"})
    assert contents(tmp_path) == {"a.png": b"old", "word.png": b"old"}


def test_a_file_in_a_folder_s_place_is_told_before_the_first_move(tmp_path: Path) -> None:
    (tmp_path / "seed-0").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"a file stands there"):
        write(tmp_path, {"a.png": b"new", "seed-0/b.png": b"new"})
    assert contents(tmp_path) == {"seed-0": b"mine"}


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", range(7))
def test_a_move_that_breaks_off_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, at: int
) -> None:
    before = {"a.png": b"old", "seed-0/b.png": b"old", "gone.png": b"old"}
    write(tmp_path, before)
    moves, move = [], moving._move

    def breaking(was: Path, now: Path, undo: list[tuple[Path, Path]]) -> None:
        moves.append(was)
        if len(moves) == at + 1:
            raise fault
        move(was, now, undo)

    monkeypatch.setattr(moving, "_move", breaking)
    with pytest.raises(type(fault)):
        write(tmp_path, {"a.png": b"new", "new/c.png": b"new"})
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".t2i-xattn-*"))


def test_what_killed_runs_left_is_cleared_and_what_runs_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from t2i_xattn.commands.output import output_folder\n"
        "with output_folder(Path(sys.argv[1])) as folder:\n"
        "    print(folder.parent, flush=True)\n"
        "    time.sleep(60)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        killed, running = (Path(_line(each)) for each in started)
        started[0].kill()
        started[0].wait()
        (tmp_path / ".t2i-xattn-mine").mkdir()
        assert killed.is_dir()
        with output_folder(tmp_path) as outer:
            write(tmp_path, {"a.png": b"a"})
            assert outer.is_dir()
        assert not killed.exists()
        assert running.is_dir()
        assert (tmp_path / ".t2i-xattn-mine").is_dir()
        # Another process may be given the number of one that was killed, ours among them.
        twin = tmp_path / killed.name.replace(f"-{started[0].pid}-", f"-{os.getpid()}-")
        twin.mkdir()
        write(tmp_path, {"a.png": b"a"})
        assert not twin.exists()
    finally:
        for each in started:
            each.kill()
            each.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_takes_nothing_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refusing(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.mkdtemp", refusing)
    with pytest.raises(UserError, match=os.strerror(number)), output_folder(tmp_path / "a" / "b"):
        raise AssertionError("it began")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 300, "zero\0character", "file", "file/in it"])
def test_a_folder_that_cannot_be_made_is_told_in_short(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine", "utf-8")
    with (
        pytest.raises(UserError, match="can be written to") as told,
        output_folder(tmp_path / "new" / name if "file" not in name else tmp_path / name),
    ):
        raise AssertionError("it began")
    assert len(str(told.value)) < 250
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
