"""Pictures as tokens that stand behind a text's, in one sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from t2i_xattn.errors import UserError, shown, shown_path
from t2i_xattn.files import is_file
from t2i_xattn.models.fitting import check_finite_part, check_fit
from t2i_xattn.models.part_configs import check_configs
from t2i_xattn.models.picture_prompts import PICTURE_PROMPTS
from t2i_xattn.models.quiet import quiet
from t2i_xattn.models.weight_files import read_headers
from t2i_xattn.pictures import MAX_PIXELS, check_aspect, checked_picture
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.words import Word

CONCATENATED = "concatenated.safetensors"
"""The file of the adapter in the box."""


class PictureTokens:
    """A vision encoder, and a projection of what it sees to tokens like the text encoder's.

    The tokens are concatenated with the text's: the denoiser's own keys and values, one softmax
    over both. The folder is like one of IP-Adapter's (arXiv 2308.06721): `image_encoder/`, and a
    file whose `image_proj` is the projection.

    Attributes:
        tokens: how many a picture becomes.
        channels: of each.
    """

    def __init__(self, image_encoder: Any, image_processor: Any, projection: Any) -> None:
        self._encoder, self._processor, self._projection = (
            image_encoder,
            image_processor,
            projection,
        )
        self.tokens = int(projection.num_image_text_embeds)
        self.channels = int(projection.norm.weight.shape[0])

    @classmethod
    def from_pretrained(
        cls,
        folder: str | PathLike[str] = PICTURE_PROMPTS,
        *,
        weight_name: str = CONCATENATED,
        image_encoder_folder: str = "image_encoder",
    ) -> PictureTokens:
        """From a folder; without one, those for the model in the box.

        Raises:
            UserError: if the folder has no such files, or they are something else, damaged, or
                lack weights.
        """
        from transformers import CLIPImageProcessor

        named = {"weight_name": weight_name, "image_encoder_folder": image_encoder_folder}
        for name, value in {"folder": folder, **named}.items():
            if not isinstance(value, str | PathLike):
                raise UserError(
                    f"expected a path as {name} of an adapter, but came {shown(value)}; give "
                    "nothing for the one in the box"
                )
        weights, encoder = Path(folder) / weight_name, Path(folder) / image_encoder_folder
        for each in (weights, encoder / "config.json"):
            if not is_file(each):
                raise UserError(
                    f"expected a file {shown_path(each)} of an adapter, but there is none; give "
                    "the folder, weight_name= and image_encoder_folder="
                )
        projection = _projection(weights)
        image_encoder = _vision_encoder(Path(folder), image_encoder_folder)
        entering, given = (
            projection.image_embeds.in_features,
            image_encoder.config.projection_dim,
        )
        if entering != given:
            raise UserError(
                f"expected the vision encoder that {shown_path(weights)} was trained with, whose "
                f"embedding has {entering} numbers, but that in {shown_path(encoder)} has "
                f"{given}; give image_encoder_folder= of the same adapter"
            )
        size = image_encoder.config.image_size
        processor = CLIPImageProcessor(size=size, crop_size=size)
        return cls(image_encoder, processor, projection)

    @torch.no_grad()
    def __call__(
        self,
        pictures: Sequence[Image.Image | str | PathLike[str]],
        *,
        max_pixels: int | None = MAX_PIXELS,
    ) -> Tensor:
        """fp32 `(pictures, tokens, channels)`.

        Each picture is seen as CLIP's are: its shorter side brought to the encoder's size, the
        middle cut out.

        Args:
            pictures: one or more.
            max_pixels: width × height that each may have at most; None: any.

        Raises:
            UserError: for what is no picture, or too large or too narrow a one.
        """
        one = isinstance(pictures, str | PathLike) or not isinstance(pictures, Iterable)
        seen = [] if one else [checked_picture(each, max_pixels) for each in pictures]
        if not seen:
            raise UserError(
                f"expected a list of one picture or more, but came {shown(pictures)}; write "
                "[picture]"
            )
        for each in seen:
            check_aspect(each.size)
        pixels = self._processor(images=seen, return_tensors="pt").pixel_values
        embeddings: Tensor = self._encoder(pixels.to(self._encoder.dtype)).image_embeds
        return self._projected(embeddings)

    @torch.no_grad()
    def of_none(self, count: int) -> Tensor:
        """The tokens of no picture `(count, tokens, channels)`, for the negative prompt: those of
        an embedding of zeros."""
        width = self._encoder.config.projection_dim
        return self._projected(torch.zeros(count, width))

    def _projected(self, embeddings: Tensor) -> Tensor:
        projected: Tensor = self._projection(embeddings)
        return projected.float()


def _projection(weights: Path) -> Any:
    """The projection that a file holds, in fp32.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    from diffusers.models.embeddings import ImageProjection
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        read = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"expected safetensors in {shown_path(weights)}, but they cannot be read; copy "
            "the file again"
        ) from error
    names = {"proj.weight", "proj.bias", "norm.weight", "norm.bias"}
    found = {
        key.removeprefix("image_proj."): value
        for key, value in read.items()
        if key.startswith("image_proj.")
    }
    if set(found) != names:
        raise UserError(
            f"expected the tensors image_proj.{{{', '.join(sorted(names))}}} in "
            f"{shown_path(weights)}, but came {shown(sorted(found) or sorted(read), 120)}; "
            "give an adapter whose tokens are a projection of one embedding"
        )
    weight, width = found["proj.weight"], found["norm.weight"].numel()
    rows, entering = weight.shape if weight.ndim == 2 else (0, 0)
    shapes = {"proj.weight": (rows, entering), "proj.bias": (rows,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    came = {name: tuple(each.shape) for name, each in sorted(found.items())}
    if came != shapes or not width or not rows or not entering or rows % width:
        raise UserError(
            "expected an image_proj of (tokens × channels, embedding) and (channels) in "
            f"{shown_path(weights)}, but came {shown(came, 80)}; copy the file anew from where the "
            "adapter came from"
        )
    for name, each in sorted(found.items()):
        if not each.is_floating_point() or not bool(each.isfinite().all()):
            raise UserError(
                f"expected numbers as weights, but image_proj.{name} in {shown_path(weights)} has "
                "a NaN or an infinity, or whole numbers; copy the file anew from where the adapter "
                "came from"
            )
    projection = ImageProjection(int(entering), width, int(rows) // width)
    projection.load_state_dict(
        {key.replace("proj.", "image_embeds."): value for key, value in found.items()}
    )
    return projection.eval()


def _vision_encoder(folder: Path, part: str) -> Any:
    """The encoder in a folder of an adapter, in fp32, held against what a model's parts are.

    Raises:
        UserError: it lacks weights, which would be made up, or is damaged.
    """
    from transformers import CLIPVisionModelWithProjection

    check_configs(folder, part, CLIPVisionModelWithProjection)
    check_fit(CLIPVisionModelWithProjection, folder, part, read_headers(folder, part), None)
    with quiet():
        encoder = CLIPVisionModelWithProjection.from_pretrained(
            folder / part, local_files_only=True, use_safetensors=True
        )
    check_finite_part(part, encoder)
    return encoder.float().eval()


def picture_word(columns: tuple[int, ...]) -> Word:
    """A picture among a text's words."""
    return Word("picture 1", 0, 0, columns, source="picture")


def text_and_picture(text: Text, length: int, tokens: int) -> Text:
    """A text with a picture's tokens behind its columns, of which it has so many."""
    columns = tuple(range(length, length + tokens))
    # Between the text's last token and the picture's stands what fills the text up.
    gap = length - len(text.tokens)
    ids = None if text.ids is None else (*text.ids, *(-1,) * (length - len(text.ids) + tokens))
    return replace(
        text,
        words=(*text.words, picture_word(columns)),
        tokens=(*text.tokens, *("",) * gap, *("picture 1",) * tokens),
        ids=ids,
    )
