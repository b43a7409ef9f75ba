"""Print the lowest versions that pyproject.toml allows, as pip takes constraints."""

from __future__ import annotations

import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def main() -> None:
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    for requirement in project["dependencies"]:
        name, floor = requirement.split(">=")
        print(f"{name}=={floor}")


if __name__ == "__main__":
    main()
