"""The denoisers of a pipeline."""

from __future__ import annotations

from typing import Any

from torch import nn

from t2i_xattn.errors import UserError

NAMES = ("unet", "transformer", "transformer_2", "prior")
"""Where pipelines keep the denoiser of their sampling loop."""


def denoiser_of(pipe: Any) -> nn.Module:
    """The denoiser that a pipeline calls in its sampling loop.

    Raises:
        UserError: if it has none that is known.
    """
    for name in NAMES:
        found = getattr(pipe, name, None)
        if isinstance(found, nn.Module):
            return found
    raise UserError(
        f"expected a diffusers pipeline with a denoiser ({', '.join(NAMES)}), but came "
        f"{type(pipe).__name__}; take a text-to-image pipeline of the Stable Diffusion family"
    )


def controlnets(pipe: Any) -> list[tuple[str, nn.Module]]:
    """The ControlNets of a pipeline, each with what is set before the names of its sites.

    Raises:
        UserError: if it has none.
    """
    net = getattr(pipe, "controlnet", None)
    if not isinstance(net, nn.Module):
        raise UserError(
            f"expected a pipeline with a ControlNet, but {type(pipe).__name__} has none; "
            "leave controlnet=True out"
        )
    nets: Any = getattr(net, "nets", None)  # of several together
    if nets is None:
        return [("controlnet.", net)]
    return [(f"controlnet.{index}.", each) for index, each in enumerate(nets)]
