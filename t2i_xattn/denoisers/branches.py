"""Which rows of a UNet's batch belong to which branch of the guidance.

The one place that knows. A branch is a block of rows, prompt-major within: two prompts a and p with
two images each give `a a p p`.
"""

from __future__ import annotations

from typing import Any

from t2i_xattn.errors import UserError

CONDITIONAL = "conditional"
UNCONDITIONAL = "unconditional"
IMAGE = "image"
PERTURBED = "perturbed"

BRANCHES = (CONDITIONAL, UNCONDITIONAL, IMAGE, PERTURBED)
"""`conditional`: the prompt (and the picture, where there is one). `unconditional`: the negative
prompt, or none. `image`: the picture without the prompt, of InstructPix2Pix. `perturbed`: the
prompt, with self-attention spoilt, of perturbed-attention guidance."""


def split_branches(
    pipe: Any, batch: int, guided: bool, images: int | None = None
) -> dict[str, slice]:
    """The rows of each branch in a batch of the UNet, one row an image.

    - Stable Diffusion and SDXL stack unconditional, conditional (classifier-free guidance, Ho and
      Salimans 2022, arXiv 2207.12598).
    - InstructPix2Pix: conditional, image, unconditional (Brooks et al., arXiv 2211.09800, eq. 3).
    - Perturbed-attention guidance: unconditional, conditional, perturbed, the first only where
      guidance is on as well (Ahn et al., arXiv 2403.17377).
    - A guider (Modular Diffusers) calls the UNet once a branch, and says which it is.

    Args:
        pipe: the pipeline that calls.
        batch: rows of the UNet's input.
        guided: whether classifier-free guidance is on.
        images: pictures in this run (prompts × images a prompt), if known; guards against
            pipelines that stack otherwise.

    Raises:
        UserError: if the batch is not made of these branches; cutting it up would give the wrong
            rows.
    """
    names = _names(pipe, guided)
    size = batch // len(names)
    if batch % len(names) or (images is not None and size != images):
        wanted = f"{images * len(names)} rows" if images is not None else "equal parts"
        raise UserError(
            f"expected {wanted} in the UNet's batch (branches: {', '.join(names)}), but came "
            f"{batch}; this pipeline stacks its batch in a way that recording does not know, so "
            "run it without its other branches"
        )
    return {name: slice(at * size, (at + 1) * size) for at, name in enumerate(names)}


def _names(pipe: Any, guided: bool) -> tuple[str, ...]:
    guider: Any = getattr(pipe, "guider", None)
    if hasattr(guider, "is_conditional"):
        return (CONDITIONAL if guider.is_conditional else UNCONDITIONAL,)
    if guided and "InstructPix2Pix" in type(pipe).__name__:
        return (CONDITIONAL, IMAGE, UNCONDITIONAL)
    names = (UNCONDITIONAL, CONDITIONAL) if guided else (CONDITIONAL,)
    perturbed = getattr(pipe, "do_perturbed_attention_guidance", False)
    return (*names, PERTURBED) if perturbed else names
