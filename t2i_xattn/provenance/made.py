"""How a command made its pictures: enough to make them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from t2i_xattn.errors import UserError
from t2i_xattn.provenance.fingerprint import fingerprint
from t2i_xattn.provenance.versions import versions

KEY = "t2i_xattn"
"""Of the JSON in a picture's text."""

_LONGEST = 1_000_000
"""Characters of it that are read."""


@dataclass(frozen=True)
class Made:
    """A run of a command.

    Attributes:
        command: `generate`, `inspect` or `edit`.
        options: what it was asked for, by the option's name; not where to write.
        pipeline, scheduler: the names of their classes.
        model: its fingerprint; None if there is none.
        size: width and height of the pictures.
        versions: by package.
        files: the SHA-256 of each file that an option names, by the option's name.
    """

    command: str
    options: dict[str, Any]
    pipeline: str
    scheduler: str
    model: str | None
    size: tuple[int, int]
    versions: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def by(cls, pipe: Any, command: str, options: Mapping[str, Any], size: tuple[int, int]) -> Made:
        """What a command with these options has made with a pipeline."""
        return cls(
            command=command,
            options={name: _told(value) for name, value in options.items()},
            pipeline=type(pipe).__name__,
            scheduler=type(getattr(pipe, "scheduler", None)).__name__,
            model=fingerprint(pipe),
            size=size,
            versions=versions(),
            files=_digests(options),
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        told = asdict(self) | {"size": list(self.size)}
        return told if self.files else {name: told[name] for name in told if name != "files"}

    def as_json(self) -> str:
        """The same, as text."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def parameters(self, number: int = 0) -> str:
        """The same of one picture as most programs for Stable Diffusion write and read it: the
        prompt, the negative prompt, and a line of settings with commas between.

        Args:
            number: of the picture in the run; the seeds follow each other.
        """
        options = self.options
        seed = options.get("seed")
        lines = [str(options.get("prompt", ""))]
        if options.get("negative"):
            lines.append(f"Negative prompt: {options['negative']}")
        width, height = self.size
        settings = {
            "Steps": options.get("steps"),
            "Sampler": self.scheduler,
            "CFG scale": options.get("guidance"),
            "Seed": seed + number if isinstance(seed, int) else None,
            "Size": f"{width}x{height}",
            "Model hash": self.model,
            "Model": Path(str(options.get("model") or "world")).name,
            "Version": f"t2i-xattn {self.versions['t2i-xattn']}",
        }
        told = [f"{name}: {value}" for name, value in settings.items() if value is not None]
        return "\n".join([*lines, ", ".join(told)])

    @classmethod
    def read(cls, text: str | Mapping[str, Any], where: object) -> Made:
        """What `as_json` or `as_dict` gave.

        Args:
            text: that.
            where: the file, for messages.

        Raises:
            UserError: if it is something else.
        """
        try:
            if isinstance(text, str):
                if len(text) > _LONGEST:
                    raise ValueError("it is too long")
                text = json.loads(text)
            fields = dict(text)  # type: ignore[arg-type]
            width, height = fields.pop("size")
            made = cls(**fields, size=(int(width), int(height)))
            told = [made.command, made.pipeline, made.scheduler, made.versions["t2i-xattn"]]
            dicts = (made.options, made.files)
            if not all(isinstance(each, str) for each in told) or not all(
                isinstance(each, dict) for each in dicts
            ):
                raise TypeError("its parts are of other types")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(
                f"expected in {where} what made it, as t2i-xattn writes it, but that is damaged; "
                "take a file that it wrote"
            ) from error
        return made


def _digests(options: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in options.items():
        if isinstance(value, Path) and value.is_file():  # no pipe, which would block
            # One that has gone meanwhile is no reason to lose the run.
            with suppress(OSError), value.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _told(value: Any) -> Any:
    """An option's value as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_told(each) for each in value]
    return value
