"""All stages of pictures as prompts: the vision encoder, then the two adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionModelWithProjection

from lab.training.export import CARD, edit_json, replaced_whole
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
from lab.training.picture_prompts.distilling import distilling_loss
from lab.training.picture_prompts.drawn import DrawnPictures, draw_pictures
from lab.training.picture_prompts.recipe import AdapterRecipe, PicturePromptRecipe
from lab.training.picture_prompts.vision import Seer, new_vision_encoder, vision_loss
from t2i_xattn.models.default import load_default


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
    stage: str,
    seen: Encoded,
    folder: Path,
    before: nn.Module | None = None,
    max_steps: int | None = None,
) -> nn.Module | None:
    """An adapter to the model in the box.

    Args:
        recipe: the settings.
        stage: `"concatenated"`; `"distilled"`, in which the separate one learns from it;
            `"separate"` and `"refined"`, in which it learns by the denoising loss.
        seen: what is drawn.
        folder: for the checkpoint.
        before: what the stage before has given.
        max_steps: at most this many steps.

    Returns:
        Its averaged weights, or None where `max_steps` came before the end.
    """
    settings: AdapterRecipe = getattr(recipe, stage)
    torch.manual_seed(recipe.seed)
    # A model of its own, since the adapter is set on it.
    pipe: Any = load_default()
    pipe.unet.requires_grad_(False).train()
    projection = new_projection(settings, seen, pipe.unet.config.cross_attention_dim)
    module = nn.Module()
    if stage == "concatenated":
        begin_projection(projection, seen, pipe, recipe.seed)
        module.adapter = new_concatenated(pipe.unet, projection)
    else:
        assert before is not None, "the stage before"
        module.adapter = new_separate(pipe.unet, projection)
        # From the concatenated one there is the projection alone.
        module.adapter.load_state_dict(before.state_dict(), strict=stage != "distilled")
    if stage == "distilled":
        assert before is not None, "the concatenated adapter"
        teacher: Any = before.projection
        loss = distilling_loss(recipe.seed, settings, seen, pipe, module.adapter, teacher)
    else:
        loss = adapter_loss(recipe.seed, stage, settings, seen, pipe)
    pipe.unet.to(memory_format=torch.channels_last)
    result = train_stage(
        stage,
        module,
        loss,
        settings,
        folder,
        rates={"adapter": settings.learning_rate},
        accelerator=new_accelerator(recipe.mixed_precision),
        max_steps=max_steps,
    )
    trained: nn.Module = result.averaged.adapter
    return trained if result.finished else None


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
    adapters: dict[str, nn.Module] = {}
    before = None
    for stage in ("concatenated", "distilled", "separate", "refined"):
        before = train_adapter(recipe, stage, seen, folder, before, max_steps)
        if before is None:
            return None
        adapters[stage] = before
    found = {"separate": adapters["refined"], "concatenated": adapters["concatenated"]}
    weights = {way: as_ip_adapter(each) for way, each in found.items()}
    return PicturePrompts(module.encoder, weights)


def export_picture_prompts(trained: PicturePrompts, folder: Path, card: str) -> None:
    """Write the encoder and the adapters as IP-Adapter's folders are, fp16, whole or not at all."""
    with replaced_whole(folder) as work:
        trained.encoder.half().save_pretrained(work / "image_encoder")
        # As for the model in the box: a plain load computes in fp32.
        edit_json(work / "image_encoder" / "config.json", dtype="float32")
        for way, weights in trained.adapters.items():
            save_file(weights, work / f"{way}.safetensors")
        (work / CARD).write_text(card, "utf-8")
