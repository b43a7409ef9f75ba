"""Branches of the guidance, and the order in which pipelines are known to stack them."""

from __future__ import annotations

from typing import Any

from t2i_xattn.prompts.roles import CONDITIONAL as CONDITIONAL
from t2i_xattn.prompts.roles import UNCONDITIONAL as UNCONDITIONAL

IMAGE = "image"
PERTURBED = "perturbed"

BRANCHES = (CONDITIONAL, UNCONDITIONAL, IMAGE, PERTURBED)
"""`conditional`: the prompt (and the picture, where there is one). `unconditional`: the negative
prompt, or none. `image`: the picture without the prompt, of InstructPix2Pix. `perturbed`: the
prompt, with self-attention spoilt or layers skipped."""

ROLES = {
    CONDITIONAL: CONDITIONAL,
    UNCONDITIONAL: UNCONDITIONAL,
    IMAGE: UNCONDITIONAL,
    PERTURBED: CONDITIONAL,
}
"""Which text each branch is given."""

_GUIDED = {"pred_cond": CONDITIONAL, "pred_uncond": UNCONDITIONAL, "pred_cond_skip": PERTURBED}


def stacked(pipe: Any, guided: bool) -> tuple[str, ...]:
    """The branches in a batch of a pipeline, in the order of diffusers' pipelines.

    - Stable Diffusion and SDXL stack unconditional, conditional (classifier-free guidance, Ho and
      Salimans 2022, arXiv 2207.12598).
    - InstructPix2Pix: conditional, image, unconditional (Brooks et al., arXiv 2211.09800, eq. 3).
    - Perturbed-attention guidance: unconditional, conditional, perturbed, the first only where
      guidance is on as well (Ahn et al., arXiv 2403.17377).
    - A guider (Modular Diffusers) calls the denoiser once a branch, and says which it is.

    Args:
        pipe: the pipeline that calls; None for a loop by hand.
        guided: whether classifier-free guidance is on.
    """
    guider: Any = getattr(pipe, "guider", None)
    if hasattr(guider, "is_conditional"):
        return (_of_guider(guider),)
    if guided and "InstructPix2Pix" in type(pipe).__name__:
        return (CONDITIONAL, IMAGE, UNCONDITIONAL)
    names = (UNCONDITIONAL, CONDITIONAL) if guided else (CONDITIONAL,)
    perturbed = getattr(pipe, "do_perturbed_attention_guidance", False)
    return (*names, PERTURBED) if perturbed else names


def _of_guider(guider: Any) -> str:
    """The branch that a guider has prepared last."""
    names = getattr(guider, "_input_predictions", None) or ()
    count, conditions = getattr(guider, "_count_prepared", 0), getattr(guider, "num_conditions", 0)
    if 0 < count <= len(names) and conditions == len(names):
        return _GUIDED.get(names[count - 1], CONDITIONAL)
    return CONDITIONAL if guider.is_conditional else UNCONDITIONAL
