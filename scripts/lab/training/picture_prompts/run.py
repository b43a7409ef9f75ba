"""All stages of pictures as prompts: the vision encoder, then the two adapters."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionModelWithProjection

from lab.training.loop import new_accelerator, train_stage
from lab.training.picture_prompts.adapters import (
    adapter_loss,
    as_ip_adapter,
    begin_projection,
    new_concatenated,
    new_projection,
    new_separate,
)
from lab.training.picture_prompts.asked import Encoded, encoded
from lab.training.picture_prompts.drawn import DrawnPictures, draw_pictures
from lab.training.picture_prompts.recipe import PicturePromptRecipe
from lab.training.picture_prompts.vision import Seer, new_vision_encoder, vision_loss
from t2i_xattn.models.default import load_default

WAYS = ("separate", "concatenated")


@dataclass(frozen=True, eq=False)
class PicturePrompts:
    """What is trained: the encoder, and by way an adapter's weights by IP-Adapter's names."""

    encoder: CLIPVisionModelWithProjection
    adapters: dict[str, dict[str, torch.Tensor]]


def train_vision(
    recipe: PicturePromptRecipe, drawn: DrawnPictures, folder: Path, max_steps: int | None = None
) -> nn.Module | None:
    """The encoder and its heads, averaged; None where `max_steps` came before the end."""
    torch.manual_seed(recipe.seed)
    module = nn.Module()
    module.encoder, module.seer = new_vision_encoder(recipe.vision), Seer(recipe.vision)
    rate = recipe.vision.learning_rate
    result = train_stage(
        "vision",
        module,
        vision_loss(recipe, drawn),
        recipe.vision,
        folder,
        rates={"encoder": rate, "seer": rate},
        matrix_rates={"encoder": recipe.vision.matrix_learning_rate},
        accelerator=new_accelerator(recipe.mixed_precision),
        max_steps=max_steps,
    )
    trained: nn.Module = result.averaged.eval()
    return trained if result.finished else None


def train_adapter(
    recipe: PicturePromptRecipe,
    way: str,
    seen: Encoded,
    folder: Path,
    max_steps: int | None = None,
) -> dict[str, torch.Tensor] | None:
    """An adapter to the model in the box; None where `max_steps` came before the end."""
    settings = getattr(recipe, way)
    torch.manual_seed(recipe.seed)
    # A model of its own, since the adapter is set on it.
    pipe: Any = load_default()
    pipe.unet.requires_grad_(False).train()
    projection = new_projection(settings, seen, pipe.unet.config.cross_attention_dim)
    begin_projection(projection, seen, pipe, recipe.seed)
    module = nn.Module()
    if way == "separate":
        module.adapter = new_separate(settings, seen, pipe.unet, projection)
    else:
        module.adapter = new_concatenated(pipe.unet, projection)
    pipe.unet.to(memory_format=torch.channels_last)
    result = train_stage(
        way,
        module,
        adapter_loss(recipe.seed, way, settings, seen, pipe),
        settings,
        folder,
        rates={"adapter": settings.learning_rate},
        accelerator=new_accelerator(recipe.mixed_precision),
        max_steps=max_steps,
    )
    return as_ip_adapter(result.averaged.adapter) if result.finished else None


def train_picture_prompts(
    recipe: PicturePromptRecipe, folder: Path, *, max_steps: int | None = None
) -> PicturePrompts | None:
    """Train all stages, going on where the last call with this folder stopped.

    Args:
        recipe: the settings.
        folder: for the checkpoints.
        max_steps: train at most this many steps of the stage that is next.

    Returns:
        What was trained, or None where `max_steps` came before the end.
    """
    drawn = draw_pictures(recipe.seed, recipe.scenes)
    module: Any = train_vision(recipe, drawn, folder, max_steps)
    if module is None:
        return None
    seen = encoded(drawn, load_default(), module.encoder)
    adapters = {}
    for way in WAYS:
        adapter = train_adapter(recipe, way, seen, folder, max_steps)
        if adapter is None:
            return None
        adapters[way] = adapter
    return PicturePrompts(module.encoder, adapters)


def export_picture_prompts(trained: PicturePrompts, folder: Path, card: str) -> None:
    """Write the encoder and the adapters as IP-Adapter's folders are, fp16, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".export-", dir=folder.parent))
    try:
        trained.encoder.half().save_pretrained(work / "image_encoder")
        config = work / "image_encoder" / "config.json"
        # As for the model in the box: a plain load computes in fp32.
        values = json.loads(config.read_text("utf-8")) | {"dtype": "float32"}
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")
        for way, weights in trained.adapters.items():
            save_file(weights, work / f"{way}.safetensors")
        (work / "README.md").write_text(card, "utf-8")
        work.chmod(0o755)  # mkdtemp's folders are private
        if folder.exists():
            shutil.rmtree(folder)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
