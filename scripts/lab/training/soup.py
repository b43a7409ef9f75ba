"""The mean of the weights of two models of one training: "model soups" (arXiv 2203.05482)."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from t2i_xattn.errors import UserError
from t2i_xattn.models.default import load_pipeline


def average_denoiser(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Give the denoiser the mean of its weights and of those of the pipeline in ``folder``.

    Where a later sitting went on from an earlier one, their mean is often better than either: each
    forgets a little of what the other does well. The text encoders have to be the same, as a mean
    of two denoisers is of no use where they are told different things.

    Raises:
        UserError: there is no pipeline in the folder, or its denoiser or text encoder is another.
    """
    other = load_pipeline(str(folder))
    theirs, mine = other.unet.state_dict(), pipeline.unet.state_dict()
    shapes = [{name: each.shape for name, each in state.items()} for state in (mine, theirs)]
    if shapes[0] != shapes[1] or not _same(pipeline.text_encoder, other.text_encoder):
        raise UserError(
            f"expected a model in {folder} with the denoiser's shape and the text encoder of the "
            "trained one, but it has others; average with one that the training began from"
        )
    pipeline.unet.load_state_dict(
        {name: torch.lerp(each, theirs[name].to(each), 0.5) for name, each in mine.items()}
    )


def _same(first: nn.Module, second: nn.Module) -> bool:
    """Whether all weights are equal as they ship, in fp16."""
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(
        mine[name].shape == theirs[name].shape
        and torch.equal(mine[name].half(), theirs[name].to(mine[name].device).half())
        for name in mine
    )
