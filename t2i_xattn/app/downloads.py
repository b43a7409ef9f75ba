"""What can be downloaded of a run: the picture, its trace, its numbers."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_xattn.models.vocabulary import as_json
from t2i_xattn.provenance.png import save_png
from t2i_xattn.provenance.repeating import REPEATED, arguments_of
from t2i_xattn.traces.word_reports import word_reports

if TYPE_CHECKING:
    from t2i_xattn.app.studio import Changed, Explained, Painted
    from t2i_xattn.provenance.made import Made


def write_painted(folder: Path, painted: Painted) -> list[Path]:
    """Writes `picture.png`, which says how it was made, `trace.safetensors` and `words.json`."""
    picture, trace = folder / "picture.png", folder / "trace.safetensors"
    save_png(painted.image, picture, painted.made)
    painted.trace.save(trace)
    reports = [asdict(each) for each in word_reports(painted.maps)]
    table = {
        "prompt": painted.source.request.prompt,
        "words": reports,
        "unknown_words": as_json(painted.unknown),
    }
    return [picture, trace, _write_json(folder / "words.json", table, painted.made)]


def write_changed(folder: Path, changed: Changed) -> list[Path]:
    """Writes `before.png`, `after.png` and `change.json`."""
    edited, asked = changed.edited, changed.asked
    before, after = folder / "before.png", folder / "after.png"
    save_png(edited.before, before, changed.made)
    save_png(edited.after, after, changed.made)
    sides = (("before", edited.maps_before), ("after", edited.maps_after))
    words = {name: [asdict(each) for each in word_reports(maps)] for name, maps in sides}
    table = {
        "prompt": asked.request.prompt,
        "target": asked.target,
        "words": words,
        "unknown_words": as_json(changed.unknown),
    }
    return [before, after, _write_json(folder / "change.json", table, changed.made)]


def write_explained(folder: Path, explained: Explained) -> list[Path]:
    """Writes `picture.png` and `explanation.json`."""
    picture = folder / "picture.png"
    save_png(explained.found.pictures[0].image, picture, explained.made)
    table = explained.found.as_json() | {"unknown_words": as_json(explained.unknown)}
    return [picture, _write_json(folder / "explanation.json", table, explained.made)]


def command_of(made: Made) -> str:
    """The command line that makes the same; empty where there is none, as for a picture of one's
    own."""
    if made.command not in REPEATED:
        return ""
    return shlex.join(["t2i-xattn", *arguments_of(made)])


def _write_json(path: Path, table: dict[str, Any], made: Made) -> Path:
    whole = table | {"made": made.as_dict()}
    path.write_text(json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False), "utf-8")
    return path
