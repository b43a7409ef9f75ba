"""The last stage: the UNet learns to denoise latents under a prompt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTokenizer

from lab.scenes import Description
from lab.scenes.layout import SIDE
from lab.training.drawing import Drawers
from lab.training.encoded import EncodedScenes
from lab.training.hidden_words import shown_keys
from lab.training.loop import LossFunction, generator_for, seed_for
from lab.training.mask_loss import mask_loss, noun_targets, site_probs
from lab.training.reading_dropout import reading_dropout
from lab.training.recipe import Recipe
from lab.training.segmentation_loss import LateFeatures, segmentation_loss
from lab.training.sources import SceneSource
from lab.training.text import tokenize


def new_denoiser(recipe: Recipe) -> UNet2DConditionModel:
    """Fresh weights: cross-attention at 16 × 16, 8 × 8 and, in the middle, 4 × 4."""
    settings = recipe.denoiser
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        in_channels=recipe.autoencoder.latent_channels,
        out_channels=recipe.autoencoder.latent_channels,
        layers_per_block=settings.layers,
        block_out_channels=tuple(settings.channels),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=recipe.text.width,
        # Groups of few channels would take the plain grounds for means and norm them away.
        norm_num_groups=settings.norm_groups,
        resnet_time_scale_shift="scale_shift",
        # The number of heads, in spite of its name.
        attention_head_dim=tuple(settings.heads),
    )


def ready_to_train(
    unet: UNet2DConditionModel, accelerator: Accelerator, *, compiled: bool = False
) -> None:
    """Move a denoiser to its device, in the form in which it trains fastest there.

    On a CPU that is diffusers' step-by-step attention, as the fused kernel's backward pass is
    slow: a training step takes 14 ms a picture with the one and 20 ms with the other (2 cores,
    bf16). What is learned is the same.
    """
    if accelerator.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())
    unet.to(accelerator.device, memory_format=torch.channels_last)
    if compiled:
        unet.compile()


def new_scheduler() -> DDIMScheduler:
    """Velocity with zero terminal signal (Lin et al., arXiv 2305.08891)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
    )


@dataclass(frozen=True, eq=False)
class NoisedScenes:
    """What a denoiser is asked at a step.

    Attributes:
        scenes, said: what was drawn, and the descriptions, some of them empty; where the recipe
            has a use for them.
        ids: the prompts, `(batch, tokens)`.
        shown: which of their tokens are not hidden, bool `(batch, tokens)`; where the recipe hides
            any.
        noisy: latents with noise, `(batch, channels, height, width)`.
        timesteps: how much of it, `(batch,)`.
        velocity: what is to be told, shaped like `noisy`.
        labels: of the pixels, where the recipe has a use for them.
    """

    scenes: list[Any]
    said: list[Description]
    ids: Tensor
    shown: Tensor | None
    noisy: Tensor
    timesteps: Tensor
    velocity: Tensor
    labels: Tensor | None


def noised_scenes(
    recipe: Recipe,
    autoencoder: AutoencoderTiny,
    tokenizer: CLIPTokenizer,
    accelerator: Accelerator,
    drawers: Drawers,
) -> Callable[[int], NoisedScenes]:
    """The question of each step, a function of the recipe's seed and the step alone.

    Args:
        recipe: for all stages.
        autoencoder: encodes.
        tokenizer: of the descriptions.
        accelerator: device.
        drawers: who draws.
    """
    settings, device = recipe.denoiser, accelerator.device
    scheduler = new_scheduler()
    encoded = EncodedScenes(recipe, autoencoder, accelerator, drawers)
    nothing = tokenize(tokenizer, [""]).to(device)

    def at(step: int) -> NoisedScenes:
        seen = encoded.at(step)
        rng = np.random.default_rng(seed_for(recipe.seed, "denoiser dropped", step))
        dropped = rng.random(settings.batch) < settings.drop_prompt
        said = [
            Description("", ()) if empty else each
            for each, empty in zip(seen.said, dropped, strict=False)
        ]
        ids = torch.where(torch.from_numpy(dropped).to(device)[:, None], nothing, seen.ids)
        shown = None
        if settings.hide_words:
            shown = shown_keys(ids, int(tokenizer.eos_token_id), settings.hide_words, rng)
        random = generator_for(recipe.seed, "denoiser", step, device)
        noise = torch.randn(seen.latents.shape, generator=random, device=device)
        uniform = torch.rand(settings.batch, generator=random, device=device)
        steps = scheduler.config.num_train_timesteps
        timesteps = (steps * uniform.pow(settings.timestep_power)).long().clamp(max=steps - 1)
        noisy = scheduler.add_noise(seen.latents, noise, timesteps)
        velocity = scheduler.get_velocity(seen.latents, noise, timesteps)
        return NoisedScenes(seen.scenes, said, ids, shown, noisy, timesteps, velocity, seen.labels)

    return at


def denoiser_loss(
    recipe: Recipe,
    questions: Callable[[int], NoisedScenes],
    source: SceneSource[Any],
    tokenizer: CLIPTokenizer,
) -> LossFunction:
    """Mean squared error of the velocity.

    With ``mask_loss`` above 0 in the recipe, TokenCompose's supervision of the noun maps is added,
    with ``segmentation_loss`` that of what each pixel shows.
    """
    settings = recipe.denoiser
    watched: list[LateFeatures] = []

    def loss(module: Any, step: int) -> Tensor:
        asked = questions(step)
        if asked.labels is not None and not watched:
            watched.append(LateFeatures(module.unet))
        seed = generator_for(recipe.seed, "reading", step).initial_seed()
        gaps = reading_dropout(module.text_encoder, settings.reading_dropout, seed)
        with torch.set_grad_enabled(settings.text_learning_rate > 0), gaps:
            embeddings = module.text_encoder(asked.ids).last_hidden_state
        watching: AbstractContextManager[list[Any]] = (
            site_probs(module.unet) if settings.mask_loss else nullcontext([])
        )
        with watching as probs:
            told = module.unet(
                asked.noisy, asked.timesteps, embeddings, encoder_attention_mask=asked.shown
            ).sample
        total = functional.mse_loss(told.float(), asked.velocity)
        if settings.mask_loss:
            size = (told.shape[-2], told.shape[-1])
            targets = noun_targets(tokenizer, source, asked.scenes, asked.said, size[0])
            total = total + settings.mask_loss * mask_loss(probs, targets, size)
        if asked.labels is not None:
            seen = segmentation_loss(module.segmentation, watched[0].taken(), asked.labels)
            total = total + settings.segmentation_loss * seen
        return total

    return loss
