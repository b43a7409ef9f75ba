"""Pictures as tokens that stand behind a text's, in one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from t2i_xattn.errors import UserError, shown, shown_path
from t2i_xattn.models.picture_prompts import PICTURE_PROMPTS
from t2i_xattn.pictures import checked_picture
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
            UserError: if the folder has no such files, or they are something else.
        """
        from diffusers.models.embeddings import ImageProjection
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        weights, encoder = Path(folder) / weight_name, Path(folder) / image_encoder_folder
        for each in (weights, encoder / "config.json"):
            if not each.is_file():
                raise UserError(
                    f"expected a file {shown_path(each)} of an adapter, but there is none; give "
                    "the folder, weight_name= and image_encoder_folder="
                )
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
        width = int(found["norm.weight"].shape[0])
        rows, entering = found["proj.weight"].shape
        projection = ImageProjection(int(entering), width, int(rows) // width)
        projection.load_state_dict(
            {key.replace("proj.", "image_embeds."): value for key, value in found.items()}
        )
        image_encoder = CLIPVisionModelWithProjection.from_pretrained(
            encoder, local_files_only=True, use_safetensors=True
        )
        size = image_encoder.config.image_size
        processor = CLIPImageProcessor(size=size, crop_size=size)
        return cls(image_encoder.eval(), processor, projection.eval())

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image | str | PathLike[str]]) -> Tensor:
        """fp32 `(pictures, tokens, channels)`.

        Each picture is seen as CLIP's are: its shorter side brought to the encoder's size, the
        middle cut out.

        Raises:
            UserError: for what is no picture, or too large a one.
        """
        seen = [checked_picture(each) for each in pictures]
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


def text_and_picture(text: Text, length: int, tokens: int) -> Text:
    """A text with a picture's tokens behind its columns, of which it has so many."""
    columns = tuple(range(length, length + tokens))
    # Between the text's last token and the picture's stands what fills the text up.
    gap = length - len(text.tokens)
    ids = None if text.ids is None else (*text.ids, *(-1,) * (length - len(text.ids) + tokens))
    return replace(
        text,
        words=(*text.words, Word("picture 1", 0, 0, columns, source="picture")),
        tokens=(*text.tokens, *("",) * gap, *("picture 1",) * tokens),
        ids=ids,
    )
