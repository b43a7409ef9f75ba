"""A trained pipeline as the folder that ships: small, plain to load, with its card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline

CARD = "README.md"
VOCABULARY = "vocabulary.json"


def export_pipeline(
    pipe: StableDiffusionPipeline, folder: Path, card: str, vocabulary: str | None = None
) -> None:
    """Write the pipeline, its card and the list of its words.

    An earlier folder is replaced, whole or not at all.

    The weights are fp16 to be small. Without ``dtype=`` diffusers computes in fp32 from them, and
    the text encoder's config asks transformers for the same, so that a plain ``from_pretrained``
    works.
    """
    with replaced_whole(folder) as work:
        pipe.to(torch.float16).save_pretrained(work)
        edit_json(work / "text_encoder" / "config.json", dtype="float32")
        if isinstance(pipe.vae, AutoencoderTiny):
            # It derives this one, writes it, and warns when it reads it again.
            edit_json(work / "vae" / "config.json", block_out_channels=None)
        for each in ("unet", "vae", "text_encoder"):
            # The folder that it was trained in is nobody's business.
            edit_json(work / each / "config.json", _name_or_path=None)
        (work / CARD).write_text(card, "utf-8")
        if vocabulary is not None:
            (work / VOCABULARY).write_text(vocabulary, "utf-8")


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which then stands in the place of another, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".export-", dir=folder.parent))
    try:
        yield work
        work.chmod(0o755)  # mkdtemp's folders are private
        if folder.exists():
            shutil.rmtree(folder)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; ``None`` removes one."""
    values = json.loads(path.read_text("utf-8")) | changes
    kept = {key: value for key, value in values.items() if key not in changes or value is not None}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", "utf-8")
