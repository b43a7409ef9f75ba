"""The whole training, from nothing to a pipeline of the averaged weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn
from transformers import CLIPTokenizer

from lab.training.autoencoder import (
    autoencoder_loss,
    decoder_loss,
    finish_autoencoder,
    new_autoencoder,
)
from lab.training.denoiser import (
    denoiser_loss,
    new_denoiser,
    new_scheduler,
    noised_scenes,
    ready_to_train,
)
from lab.training.drawing import Drawers
from lab.training.even_styles import even_styles
from lab.training.grown import go_on_reading
from lab.training.loop import Curve, LossFunction, new_accelerator, train_stage
from lab.training.recipe import Recipe, Schedule
from lab.training.segmentation_loss import SegmentationHead
from lab.training.sources import SceneSource, source_named
from lab.training.text import Reader, new_text_encoder, source_tokenizer, text_loss
from t2i_xattn.errors import UserError
from t2i_xattn.models.default import load_pipeline


class _Unfinished(Exception):
    """The steps that this call may train are used up before the last stage ended."""


class _Stages:
    """Trains the stages of one run one after the other, within its steps."""

    def __init__(
        self, folder: Path, accelerator: Accelerator, drawers: Drawers, max_steps: int | None
    ) -> None:
        self.folder, self.accelerator, self.left = folder, accelerator, max_steps
        self.drawers = drawers
        self.curves: dict[str, Curve] = {}

    def train(
        self,
        name: str,
        loss: LossFunction,
        schedule: Schedule,
        rates: dict[str, float],
        matrix_rates: dict[str, float] | None = None,
        **children: nn.Module,
    ) -> Any:
        """The averaged weights of a stage; its children are those given by name."""
        module = nn.Module()
        for child_name, child in children.items():
            module.add_module(child_name, child)
        result = train_stage(
            name,
            module,
            loss,
            schedule,
            self.folder,
            rates=rates,
            matrix_rates=matrix_rates,
            accelerator=self.accelerator,
            max_steps=self.left,
        )
        if self.left is not None:
            self.left -= result.trained
        if not result.finished:
            raise _Unfinished
        self.curves[name] = result.curve
        (self.folder / "curves.json").write_text(json.dumps(self.curves), "utf-8")
        return result.averaged


def train_pipeline(
    recipe: Recipe,
    folder: Path,
    *,
    init: Path | None = None,
    read_on: bool = False,
    decode_on: bool = False,
    max_steps: int | None = None,
    workers: int = 0,
    compiled: bool = False,
) -> StableDiffusionPipeline | None:
    """Train what is not trained yet and return the pipeline of the averaged weights.

    Args:
        recipe: the settings.
        folder: checkpoints, one a stage, and ``curves.json``, the losses of the finished stages. A
            call with the same folder goes on where the last one stopped.
        init: a pipeline's folder to begin from: its autoencoder and text encoder are kept as they
            are, and the denoiser begins with its weights.
        read_on: with ``init``, whether its text encoder goes through the stage of reading again;
            the words that the scenes have gained since are new to it.
        decode_on: with ``init``, whether its autoencoder's decoder goes through its own stage, for
            scenes that it has not seen; the latents stay as they are.
        max_steps: train at most this many steps, over all stages, in this call.
        workers: processes that draw ahead; with 0 this one draws. What is drawn is the same.
        compiled: whether the denoiser runs compiled, which pays on an accelerator.

    Returns:
        The pipeline, or ``None`` where ``max_steps`` came before the end.

    Raises:
        UserError: ``init`` is not a pipeline of this recipe's shape, or there are no scenes of
            the recipe's name; or maps are supervised and the denoiser is to run compiled; or
            ``read_on`` or ``decode_on`` without ``init``; or the scenes have other words without
            ``read_on``.
    """
    if (read_on or decode_on) and init is None:
        raise UserError(
            "expected a pipeline to begin from, whose text encoder or decoder is trained on; give "
            "--init, or leave --read-on and --decode-on out"
        )
    if compiled and recipe.denoiser.mask_loss:
        raise UserError(
            "expected a recipe without mask_loss, as a compiled denoiser does not show its maps; "
            "leave --compile out"
        )
    source = source_named(recipe.scenes)
    accelerator = new_accelerator(recipe.mixed_precision)
    tokenizer = source_tokenizer(recipe.scenes)
    with Drawers(workers) as drawers:
        stages = _Stages(folder, accelerator, drawers, max_steps)
        try:
            torch.manual_seed(recipe.seed + 2)
            denoiser = new_denoiser(recipe)
            if init is None:
                autoencoder = _trained_autoencoder(recipe, source, stages)
                text_encoder = _trained_text_encoder(recipe, source, stages, tokenizer)
            else:
                begun = _begin_from(init, denoiser)
                autoencoder, text_encoder = begun.vae.eval(), begun.text_encoder
                if read_on:
                    text_encoder = _trained_text_encoder(recipe, source, stages, tokenizer, begun)
                elif begun.tokenizer.get_vocab() != tokenizer.get_vocab():
                    raise UserError(
                        f"expected a text encoder that knows the words of {recipe.scenes!r} in "
                        f"{init}, but it knows others; let it learn them with --read-on"
                    )
            text_encoder.requires_grad_(recipe.denoiser.text_learning_rate > 0)
            ready_to_train(denoiser, accelerator, compiled=compiled)
            questions = noised_scenes(recipe, autoencoder, tokenizer, accelerator, drawers)
            loss = denoiser_loss(recipe, questions, source, tokenizer)
            averaged = _trained_denoiser(recipe, loss, source, stages, text_encoder, denoiser)
            if init is None or decode_on:
                autoencoder.decoder = _trained_decoder(recipe, stages, autoencoder)
        except _Unfinished:
            return None
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=averaged.text_encoder.eval(),
        tokenizer=tokenizer,
        unet=averaged.unet.eval(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _trained_autoencoder(
    recipe: Recipe, source: SceneSource[Any], stages: _Stages
) -> AutoencoderTiny:
    torch.manual_seed(recipe.seed)
    model = new_autoencoder(recipe).to(memory_format=torch.channels_last)
    averaged = stages.train(
        "autoencoder",
        autoencoder_loss(recipe, stages.accelerator, stages.drawers),
        recipe.autoencoder,
        {"model": recipe.autoencoder.learning_rate},
        {"model": recipe.autoencoder.matrix_learning_rate},
        model=model,
    )
    return finish_autoencoder(averaged.model, recipe, source, stages.accelerator)


def _trained_decoder(recipe: Recipe, stages: _Stages, autoencoder: AutoencoderTiny) -> nn.Module:
    """Last, as nothing waits for it."""
    averaged = stages.train(
        "decoder",
        decoder_loss(recipe, autoencoder, stages.accelerator, stages.drawers),
        recipe.decoder,
        {"decoder": recipe.decoder.learning_rate},
        {"decoder": recipe.decoder.matrix_learning_rate},
        decoder=autoencoder.decoder.requires_grad_(True).train(),
    )
    decoder: nn.Module = averaged.decoder.eval()
    return decoder


def _trained_text_encoder(
    recipe: Recipe,
    source: SceneSource[Any],
    stages: _Stages,
    tokenizer: CLIPTokenizer,
    begun: StableDiffusionPipeline | None = None,
) -> Any:
    """From that of ``begun``, or from nothing, as the reader begins in either case."""
    torch.manual_seed(recipe.seed + 1)
    text_encoder = new_text_encoder(recipe, tokenizer)
    if begun is not None:
        go_on_reading(text_encoder, tokenizer, begun.text_encoder, begun.tokenizer)
    averaged = stages.train(
        "text",
        text_loss(recipe, source, tokenizer, stages.accelerator, stages.drawers),
        recipe.text,
        dict.fromkeys(("text_encoder", "reader"), recipe.text.learning_rate),
        {"text_encoder": recipe.text.matrix_learning_rate},
        text_encoder=text_encoder,
        reader=Reader(recipe.text, source.quiz()),
    )
    if recipe.text.even_styles and (nouns := source.styled_nouns()):
        even_styles(averaged.text_encoder, tokenizer, nouns, recipe.text.even_styles)
    return averaged.text_encoder


def _trained_denoiser(
    recipe: Recipe,
    loss: LossFunction,
    source: SceneSource[Any],
    stages: _Stages,
    text_encoder: nn.Module,
    denoiser: UNet2DConditionModel,
) -> Any:
    """The averaged ``unet`` and ``text_encoder``."""
    heads = {}
    rates = {
        "text_encoder": recipe.denoiser.text_learning_rate,
        "unet": recipe.denoiser.learning_rate,
    }
    if recipe.denoiser.segmentation_loss:
        heads["segmentation"] = SegmentationHead(recipe.denoiser, source.pixel_values())
        rates["segmentation"] = recipe.denoiser.learning_rate
    averaged = stages.train(
        "denoiser",
        loss,
        recipe.denoiser,
        rates,
        {"unet": recipe.denoiser.matrix_learning_rate},
        text_encoder=text_encoder,
        unet=denoiser,
        **heads,
    )
    averaged.unet.set_attn_processor(AttnProcessor2_0())
    return averaged


def _begin_from(folder: Path, denoiser: UNet2DConditionModel) -> StableDiffusionPipeline:
    """A pipeline; its denoiser's weights go into ``denoiser``."""
    try:
        pipe = load_pipeline(str(folder))
        denoiser.load_state_dict(pipe.unet.state_dict())
    except RuntimeError as error:
        raise UserError(
            f"expected a denoiser of the recipe's shape in {folder}, but its weights do not fit; "
            "train it with the recipe that it was made with"
        ) from error
    return pipe
