"""What can be inverted, and how: looked at before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from PIL import Image

from t2i_xattn.errors import UserError

Method = Literal["direct", "fixed-point", "null-text", "ddim"]


def check_parts(pipe: Any) -> None:
    """Raises `UserError` unless a pipeline has Stable Diffusion's parts."""
    name = type(pipe).__name__
    missing = [
        part
        for part in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
        if getattr(pipe, part, None) is None
    ]
    if missing:
        raise UserError(
            f"expected a pipeline with a {missing[0]}, but {name} has none; invert with one of "
            "Stable Diffusion's parts"
        )
    if getattr(pipe, "text_encoder_2", None) is not None:
        raise UserError(
            f"expected a pipeline with one text encoder, but {name} has two, and inversion does "
            "not go through both; invert with one of Stable Diffusion's parts"
        )


def check_arguments(
    pipe: Any, pictures: Sequence[Any], prompts: Sequence[str], method: str, guidance: float
) -> None:
    """Raises `UserError` for what `invert` cannot take."""
    if method not in get_args(Method):
        raise UserError(f"expected a method of {', '.join(get_args(Method))}, but came {method!r}")
    if method == "null-text" and guidance <= 1:
        raise UserError(
            f"expected guidance_scale above 1 for null-text inversion, but came {guidance}; "
            'without guidance there is no unconditional half, and method="ddim" will do'
        )
    if method == "null-text" and any(each.is_inference() for each in pipe.unet.parameters()):
        raise UserError(
            "expected weights that gradients can pass through for null-text inversion, but the "
            "pipeline was loaded inside of torch.inference_mode(); load it outside"
        )
    if not pictures or len(pictures) != len(prompts):
        raise UserError(
            f"expected a prompt for each picture, but came {len(pictures)} pictures and "
            f"{len(prompts)} prompts"
        )
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise UserError(f"expected PIL pictures, but came {type(picture).__name__}")
    sizes = {picture.size for picture in pictures}
    side = pipe.vae_scale_factor
    if len(sizes) > 1:
        raise UserError(f"expected pictures of one size, but came {sorted(sizes)}; resize them")
    width, height = sizes.pop()
    if width % side or height % side:
        raise UserError(
            f"expected a size in multiples of {side}, but came {width} × {height}; resize or crop "
            f"it to {max(1, width // side) * side} × {max(1, height // side) * side}"
        )
