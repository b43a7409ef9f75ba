"""What an adapter is asked at a step: pictures, texts, and what is to be painted for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from lab.scenes.world import WorldScene
from lab.training.denoiser import new_scheduler
from lab.training.loop import generator_for, seed_for
from lab.training.picture_prompts.drawn import DrawnPictures, place_alone
from lab.training.picture_prompts.recipe import AdapterRecipe
from lab.training.picture_prompts.vision import preprocessed
from lab.training.sources import WorldScenes
from lab.training.text import tokenize


@dataclass(frozen=True, eq=False)
class Encoded:
    """The drawn scenes as the frozen models see them.

    Attributes:
        drawn: the scenes.
        latents: `(scenes, channels, 16, 16)`.
        embeddings: of the pictures, by the vision encoder: `(scenes, embedding)`.
    """

    drawn: DrawnPictures
    latents: Tensor
    embeddings: Tensor


@torch.no_grad()
def encoded(drawn: DrawnPictures, pipe: StableDiffusionPipeline, vision: Any) -> Encoded:
    """Latents and embeddings of all that was drawn; a picture is seen as it is, never flipped."""
    latents, embeddings = [], []
    for start in tqdm(range(0, len(drawn.scenes), 64), "encoding", leave=False, disable=None):
        pixels = torch.from_numpy(drawn.pixels[start : start + 64])
        latents.append(pipe.vae.encoder(pixels.float() / 127.5 - 1))
        embeddings.append(vision(preprocessed(pixels)).image_embeds)
    scale = pipe.vae.config.scaling_factor
    return Encoded(drawn, torch.cat(latents) * scale, torch.cat(embeddings))


@dataclass(frozen=True, eq=False)
class Asked:
    """A step's question.

    Attributes:
        pictures: embeddings `(batch, embedding)`; zeros where the picture is dropped, as
            classifier-free guidance has it.
        text: embeddings `(batch, tokens, width)`.
        noisy, velocity: `(batch, channels, 16, 16)`; timesteps: `(batch,)`.
        weights: of the places in the loss, `(batch, 1, 16, 16)`, with a mean of 1.
    """

    pictures: Tensor
    text: Tensor
    noisy: Tensor
    timesteps: Tensor
    velocity: Tensor
    weights: Tensor


def questions(
    seed: int, stage: str, settings: AdapterRecipe, seen: Encoded, pipe: StableDiffusionPipeline
) -> Callable[[int], Asked]:
    """The question of each step, a function of the seed and of the step alone."""
    source, scheduler = WorldScenes(), new_scheduler()
    scenes = seen.drawn.scenes
    shares = np.cumsum([settings.elsewhere, settings.alone, settings.with_text])

    def one(rng: np.random.Generator) -> tuple[int | None, int, str]:
        """The picture's scene, or none; the one to be painted; the text."""
        way = int(np.searchsorted(shares, rng.random()))
        if way in (0, 2):
            same = seen.drawn.same[int(rng.integers(len(seen.drawn.same)))]
            shown, painted = (int(each) for each in rng.choice(same, 2, replace=False))
            scene = scenes[painted]
            assert isinstance(scene, WorldScene)
            if way == 0:
                return shown, painted, place_alone(scene, rng)
            return shown, painted, source.describe(scene, rng, 0.06).prompt
        painted = int(rng.integers(len(scenes)))
        if way == 1:
            return painted, painted, ""
        if rng.random() < 0.5:
            return None, painted, ""
        return None, painted, source.describe(scenes[painted], rng, 0.06).prompt

    def at(step: int) -> Asked:
        rng = np.random.default_rng(seed_for(seed, stage, step))
        asked = [one(rng) for _ in range(settings.batch)]
        painted = [each[1] for each in asked]
        pictures = torch.stack(
            [
                torch.zeros_like(seen.embeddings[0]) if shown is None else seen.embeddings[shown]
                for shown, _, _ in asked
            ]
        )
        with torch.no_grad():
            ids = tokenize(pipe.tokenizer, [each[2] for each in asked])
            text = pipe.text_encoder(ids).last_hidden_state
        latents = seen.latents[painted]
        random = generator_for(seed, stage, step)
        noise = torch.randn(latents.shape, generator=random)
        uniform = torch.rand(settings.batch, generator=random)
        most = scheduler.config.num_train_timesteps
        timesteps = (most * uniform.pow(settings.timestep_power)).long().clamp(max=most - 1)
        things = torch.from_numpy(seen.drawn.things[painted])[:, None]
        weights = 1 + (settings.thing_weight - 1) * things.float()
        return Asked(
            pictures,
            text,
            scheduler.add_noise(latents, noise, timesteps),
            timesteps,
            scheduler.get_velocity(latents, noise, timesteps),
            weights / weights.mean(),
        )

    return at
