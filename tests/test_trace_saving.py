"""Saving traces on bad days: what is told, and what is left on the disk."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corrupting
from t2i_xattn.errors import TraceFileError, UserError
from t2i_xattn.traces.trace import Trace
from test_trace import make_run


@pytest.fixture
def trace() -> Trace:
    return Trace(make_run())


@pytest.fixture
def path(trace: Trace, tmp_path: Path) -> Path:
    trace.save(tmp_path / "run.safetensors")
    return tmp_path / "run.safetensors"


WRONG_PATHS: list[Any] = [
    None,
    5,
    5.0,
    True,
    b"run.safetensors",
    ["run"],
    ("a", "b"),
    {},
    "",
    "a\0b",
]


@pytest.mark.parametrize("wrong", WRONG_PATHS, ids=repr)
def test_what_is_no_path(trace: Trace, wrong: Any) -> None:
    for use in (trace.save, Trace.load):
        with pytest.raises(UserError, match=r"expected the path of a file, but came") as told:
            use(wrong)
        assert "\n" not in str(told.value)


def test_paths_that_cannot_be(trace: Trace, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    with pytest.raises(UserError, match="File name too long; choose a shorter name"):
        trace.save(long)
    with pytest.raises(TraceFileError, match="File name too long"):
        Trace.load(long)
    with pytest.raises(UserError, match="is a folder; choose another name"):
        trace.save(tmp_path)
    with pytest.raises(TraceFileError, match="is a folder; give a file"):
        Trace.load(tmp_path)
    with pytest.raises(TraceFileError, match="there is no file"):
        Trace.load(tmp_path / "none" / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """One like /dev/full; where root runs the tests it is a copy, since root could replace it."""
    if os.geteuid():
        return Path("/dev/full")
    try:
        os.mknod(tmp_path / "full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("this container makes no devices")
    return tmp_path / "full"


class TestSaving:
    """What a save leaves, whatever comes in between."""

    def test_only_files_are_written(self, trace: Trace, tmp_path: Path) -> None:
        pipe, loop = tmp_path / "pipe", tmp_path / "loop"
        os.mkfifo(pipe)
        loop.symlink_to(loop)
        for place, kind in ((pipe, "pipe"), (loop, "link that leads back")):
            with pytest.raises(UserError, match=f"is a {kind}.*; choose another name"):
                trace.save(place)
            with pytest.raises(TraceFileError, match=f"is a {kind}"):
                Trace.load(place)
        assert stat.S_ISFIFO(pipe.lstat().st_mode)
        assert loop.is_symlink()

    def test_a_device_stays_one(self, trace: Trace, device: Path, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(device)
        for place in (device, link):
            with pytest.raises(UserError, match="is a device; choose another name"):
                trace.save(place)
            with pytest.raises(TraceFileError, match="is a device"):
                Trace.load(place)
        assert stat.S_ISCHR(device.lstat().st_mode)
        assert link.is_symlink()

    def test_a_link_is_written_through(self, trace: Trace, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        target, link = tmp_path / "folder" / "run", tmp_path / "link"
        link.symlink_to(target)
        for _ in range(2):  # where there is none yet, and where there is one
            trace.save(link)
            assert link.is_symlink()
            assert corrupting.same(Trace.load(target).run, trace.run)
        assert sorted(each.name for each in tmp_path.rglob("*")) == ["folder", "link", "run"]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
    @pytest.mark.parametrize("call", ["fsync", "replace", "open"])
    def test_a_disk_that_fails(
        self, path: Path, trace: Trace, number: int, call: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = path.read_bytes()

        def fail(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
        with pytest.raises(UserError, match=f"{os.strerror(number)}; (make room|choose)") as told:
            trace.save(path)
        assert "\n" not in str(told.value)
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_a_disk_that_fills_up(self, path: Path, trace: Trace) -> None:
        """In earnest: the system lets no file grow beyond a few bytes."""
        before = path.read_bytes()
        code = (
            "import resource, signal, sys\n"
            "from t2i_xattn import Trace, UserError\n"
            "trace = Trace.load(sys.argv[1])\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "try:\n    trace.save(sys.argv[1])\nexcept UserError as error:\n    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        assert "gave File too large; choose" in done.stdout
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_a_read_only_file(
        self, path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Root may write to all files, so it is the system's answer that is changed."""
        before = path.read_bytes()
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(UserError, match="is read-only; choose another name or make it"):
            trace.save(path)
        assert path.read_bytes() == before

    def test_permissions_stay(self, path: Path, trace: Trace) -> None:
        path.chmod(0o640)
        trace.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_what_a_killed_save_left_is_cleared(self, path: Path, trace: Trace) -> None:
        child = _stopped_while_saving(path)
        try:
            [left] = _unfinished(path.parent)
            trace.save(path)  # while the other is still running
            assert _unfinished(path.parent) == [left]
        finally:
            child.kill()
            child.wait()
        assert _unfinished(path.parent) == [left]
        foreign = path.parent / ".t2i-xattn-notes"
        foreign.touch()
        trace.save(path.parent / "other.safetensors")
        assert sorted(path.parent.iterdir()) == sorted(
            [path, foreign, path.parent / "other.safetensors"]
        )

    def test_an_interrupt_leaves_nothing(
        self, path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = path.read_bytes()

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trace.save(path)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_settings_that_json_does_not_have(self, path: Path, trace: Trace) -> None:
        before = path.read_bytes()
        deep: list[Any] = []
        for _ in range(5000):
            deep = [deep]
        for wrong in (object(), {1, 2}, deep):
            trace.settings["mine"] = wrong
            with pytest.raises(UserError, match="expected a run that can be written, but") as told:
                trace.save(path)
            assert "\n" not in str(told.value)
        assert path.read_bytes() == before
        trace.settings["mine"] = np.float32(0.5)
        trace.save(path)
        assert Trace.load(path).settings["mine"] == 0.5

    def test_no_file_is_written_that_cannot_be_read(self, path: Path, trace: Trace) -> None:
        before = path.read_bytes()
        trace.run.maps["text"]["mid.attn2"][0] = np.nan
        with pytest.raises(UserError, match="no share of attention; record it again"):
            trace.save(path)
        assert path.read_bytes() == before


def _unfinished(folder: Path) -> list[Path]:
    return list(folder.glob(".t2i-xattn-*.part"))


def _stopped_while_saving(path: Path) -> subprocess.Popen[bytes]:
    """A process that is halfway through a save, for as long as it is let."""
    code = (
        "import os, sys, time\n"
        "from t2i_xattn import Trace\n"
        "os.fsync = lambda _: time.sleep(600)\n"
        "Trace.load(sys.argv[1]).save(sys.argv[1])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)])
    while not any(each.stat().st_size for each in _unfinished(path.parent)):
        assert child.poll() is None
        time.sleep(0.01)
    return child
