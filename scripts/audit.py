"""Hold the versions of constraints.txt against the known vulnerabilities, as pip-audit finds them.

Ends with 0 where none is known or nobody can be asked, and says which of the two; with 1 where one
is known; with 2 where pip-audit fails otherwise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
# The file has every package with its version, so that nothing is resolved or installed.
COMMAND = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]

_UNREACHABLE = ("ConnectionError", "Timeout", "timed out", "Failed to resolve", "ServiceError")
"""What stands in the errors where the data cannot be had."""


def main() -> None:
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), *COMMAND]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    code, told = verdict(ran.stdout, ran.stderr)
    print(told)
    raise SystemExit(code)


def verdict(printed: str, errors: str) -> tuple[int, str]:
    """The exit code, and the lines that say why.

    Args:
        printed: what pip-audit printed, as JSON.
        errors: what it wrote on its error stream.
    """
    try:
        found = json.loads(printed)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = errors.strip().split("\n")[-1][:300]
        if any(sign in errors for sign in _UNREACHABLE):
            return 0, "audit: nothing was audited, since the vulnerability data cannot be reached"
        return 2, f"audit: expected pip-audit to audit {CONSTRAINTS.name}, but it said: {last}"
    audited = [each for each in found if "skip_reason" not in each]
    # A mirror without the data knows no package and no vulnerability: no sign of being sound.
    if not audited:
        return 0, "audit: nothing was audited, since the vulnerability data cannot be reached"
    count = f"audit: {len(audited)} of {len(found)} packages of {CONSTRAINTS.name} were audited"
    known = [
        f"{each['name']} {each['version']}: {one['id']}"
        + (f", mended in {', '.join(one['fix_versions'])}" if one.get("fix_versions") else "")
        for each in audited
        for one in each["vulns"]
    ]
    if known:
        return 1, "\n".join([f"{count}, with known vulnerabilities:", *known])
    return 0, f"{count}, with no known vulnerability"


if __name__ == "__main__":
    main()
