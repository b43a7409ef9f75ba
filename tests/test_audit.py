"""What the audit of the dependencies says of what pip-audit found."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit import CONSTRAINTS, verdict

SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited"}
BROKEN = {
    "name": "requests",
    "version": "2.31.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.32.0"]}, {"id": "GHSA-2", "fix_versions": []}],
}
OFFLINE = "Traceback …\nrequests.exceptions.ConnectionError: Failed to resolve 'pypi.org'"


def of(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


@pytest.mark.parametrize(
    ("printed", "errors", "code", "told"),
    [
        (of(SOUND), "", 0, "1 of 1 packages of constraints.txt were audited, with no known"),
        (of(SOUND, SKIPPED), "", 0, "1 of 2 packages"),
        (of(SKIPPED, SKIPPED), "", 0, "nothing was audited, since the vulnerability data cannot"),
        (of(SOUND, BROKEN, SKIPPED), "", 1, "requests 2.31.0: PYSEC-1, mended in 2.32.0"),
        (of(SOUND, BROKEN), "", 1, "requests 2.31.0: GHSA-2"),
        ("", OFFLINE, 0, "nothing was audited"),
        ("", "No module named pip_audit", 2, "but it said: No module named pip_audit"),
        ("[]", "", 2, "expected pip-audit to audit constraints.txt"),
    ],
)
def test_what_is_known_is_told(printed: str, errors: str, code: int, told: str) -> None:
    ended, lines = verdict(printed, errors)
    assert ended == code
    assert told in lines
    assert ("\n" in lines) == (code == 1)


def test_the_script_asks_pip_audit_and_ends_as_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def answer(command: list[str], **_: Any) -> Any:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, of(BROKEN), "")

    monkeypatch.setattr(subprocess, "run", answer)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(CONSTRAINTS.parent / "scripts" / "audit.py"), run_name="__main__")
    assert ended.value.code == 1
    assert "PYSEC-1" in capsys.readouterr().out
    assert asked[0][:5] == [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS)]


def test_every_version_is_pinned_so_that_nothing_is_resolved() -> None:
    lines = [each for each in CONSTRAINTS.read_text("utf-8").splitlines() if each[:1] != "#"]
    assert all(each.count("==") == 1 for each in lines)
    assert Path(CONSTRAINTS).name == "constraints.txt"
