"""The denoisers of a pipeline."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from t2i_xattn.errors import UserError

NAMES = ("unet", "transformer", "transformer_2", "prior")
"""Where pipelines keep the denoisers of their sampling loop."""


class OfPipeline(NamedTuple):
    """A denoiser of a pipeline.

    Attributes:
        module: the denoiser.
        prefix: what is set before the names of its sites, where there are several.
        beside: whether it runs beside the one of the sampling loop, in the same steps.
    """

    module: nn.Module
    prefix: str = ""
    beside: bool = False


def main_denoiser(pipe: Any) -> Any:
    """The UNet or transformer of a pipeline, as it lies there; None if it has neither. Not told by
    its truth value, which a compiled one does not have."""
    unet = getattr(pipe, "unet", None)
    return getattr(pipe, "transformer", None) if unet is None else unet


def denoisers_of(pipe: Any, controlnet: bool = False) -> list[OfPipeline]:
    """The denoisers that a pipeline calls in its sampling loop.

    One, mostly. Some (Wan 2.2) have a second one that takes over in later steps: the names of its
    sites begin with `transformer_2.`. What paints latents from a text before that (`prior`) counts
    where there is nothing else.

    Args:
        pipe: the pipeline.
        controlnet: whether its ControlNets are wanted too.

    Raises:
        UserError: if it has none that is known.
    """
    parts = {name: getattr(pipe, name, None) for name in NAMES}
    found = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    if not found:
        raise UserError(
            f"expected a diffusers pipeline with a denoiser ({', '.join(NAMES)}), but came "
            f"{type(pipe).__name__}; take a text-to-image pipeline"
        )
    first = next(iter(found))
    denoisers = [OfPipeline(found[first])]
    if first == "transformer" and "transformer_2" in found:
        denoisers.append(OfPipeline(found["transformer_2"], "transformer_2."))
    return denoisers + (_controlnets(pipe) if controlnet else [])


def _controlnets(pipe: Any) -> list[OfPipeline]:
    net = getattr(pipe, "controlnet", None)
    if not isinstance(net, nn.Module):
        raise UserError(
            f"expected a pipeline with a ControlNet, but {type(pipe).__name__} has none; "
            "leave controlnet=True out"
        )
    nets: Any = getattr(net, "nets", None)  # of several together
    if nets is None:
        return [OfPipeline(net, "controlnet.", True)]
    return [OfPipeline(each, f"controlnet.{index}.", True) for index, each in enumerate(nets)]
