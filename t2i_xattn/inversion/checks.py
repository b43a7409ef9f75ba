"""What can be inverted, and how: looked at before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, Literal, get_args

from PIL import Image

from t2i_xattn.denoisers.pictures import has_ip_adapter
from t2i_xattn.errors import UserError
from t2i_xattn.inversion.flow import PIPELINES, is_of_flow
from t2i_xattn.pictures import check_pixels, side_of

Method = Literal["direct", "fixed-point", "null-text", "ddim"]

OF_FLOW: tuple[Method, ...] = ("direct", "fixed-point")
"""The methods for flow matching."""


def check_parts(pipe: Any) -> None:
    """Raises `UserError` unless a pipeline has Stable Diffusion's parts and no further input, or is
    one of flow matching that can be run backwards."""
    name, flow = type(pipe).__name__, is_of_flow(pipe)
    parts = ("vae",) if flow else ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    missing = [part for part in parts if getattr(pipe, part, None) is None]
    if missing:
        raise UserError(
            f"expected a pipeline with a {missing[0]}, but {name} has none; invert with one of "
            f"Stable Diffusion's parts, or with one of {', '.join(PIPELINES)}"
        )
    if not flow and getattr(pipe, "text_encoder_2", None) is not None:
        raise UserError(
            f"expected a pipeline with one text encoder, but {name} has two, and inversion does "
            "not go through both; invert with one of Stable Diffusion's parts"
        )
    if not flow and has_ip_adapter(pipe):
        raise UserError(
            f"expected a pipeline without an IP-Adapter, but {name} has one, whose UNet wants a "
            "picture in every call, and inversion gives none; call pipe.unload_ip_adapter() first"
        )


def check_arguments(
    pipe: Any, pictures: Sequence[Any], prompts: Sequence[str], method: str, guidance: float
) -> None:
    """Raises `UserError` for what `invert` cannot take."""
    for picture in pictures:
        if not isinstance(picture, (Image.Image, str, PathLike)):
            raise UserError(
                f"expected PIL pictures or paths of picture files, but came "
                f"{type(picture).__name__}; for an array take PIL.Image.fromarray"
            )
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise UserError(
                f"expected prompts as text, but came {type(prompt).__name__}; say in words what "
                "the picture shows"
            )
    if method not in get_args(Method):
        raise UserError(f"expected a method of {', '.join(get_args(Method))}, but came {method!r}")
    if is_of_flow(pipe) and method not in OF_FLOW:
        raise UserError(
            f"expected a method of {', '.join(OF_FLOW)} for {type(pipe).__name__}, but came "
            f"{method!r}, which is for Stable Diffusion"
        )
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


def check_sizes(pipe: Any, pictures: Sequence[Image.Image], max_pixels: int | None) -> None:
    """Raises `UserError` for pictures of different sizes, or of one that is not for the model."""
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        several = ", ".join(f"{width} × {height}" for width, height in sorted(sizes)[:5])
        raise UserError(f"expected pictures of one size, but came {several}; resize them")
    width, height = size = sizes.pop()
    check_pixels(size, max_pixels, "pictures", "max_pixels=…")
    side = side_of(pipe)
    if width % side or height % side:
        raise UserError(
            f"expected a size in multiples of {side}, but came {width} × {height}; resize or crop "
            f"it to {max(1, width // side) * side} × {max(1, height // side) * side}"
        )


def sequence_of(given: Any, what: str) -> list[Any]:
    """The members of a list, or of what else can be gone through.

    Raises:
        UserError: it cannot.
    """
    if isinstance(given, Iterable) and not isinstance(given, bytes):
        return list(given)
    raise UserError(
        f"expected {what}, one or a list of them, but came {type(given).__name__}; put them in a "
        "list"
    )
