"""Which rows of a UNet's batch are the conditional ones.

The one place that knows. Stock Stable Diffusion and SDXL stack the unconditional rows first and
the conditional ones after them, each half prompt-major: two prompts a and p with two images each
give `n n n n a a p p` (classifier-free guidance, Ho and Salimans 2022, arXiv 2207.12598).
"""

from __future__ import annotations

from t2i_xattn.errors import UserError


def conditional_rows(batch: int, guided: bool, images: int | None = None) -> slice:
    """The rows of the batch that were conditioned on the prompt, one row an image.

    Args:
        batch: rows of the UNet's input.
        guided: whether the pipeline stacks an unconditional half in front.
        images: pictures in this run (prompts × images a prompt), if known; guards against
            pipelines that stack otherwise.

    Raises:
        UserError: if the batch is not made of one or two rows an image, as with pipelines that
            have a third branch; halving it would record the wrong rows.
    """
    branches = 2 if guided else 1
    expected = None if images is None else images * branches
    if batch % branches or (expected is not None and batch != expected):
        wanted = f"{expected} rows" if expected is not None else "an even number of rows"
        raise UserError(
            f"expected {wanted} in the UNet's batch (guidance is {'on' if guided else 'off'}), but "
            f"came {batch}; recording knows the unconditional and the conditional half only, so "
            "run this pipeline without its other branches"
        )
    return slice(batch - batch // branches, batch)
