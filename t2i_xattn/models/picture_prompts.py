"""The adapters in the box, which let the model in the box read pictures as prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from t2i_xattn.errors import UserError, shown

PICTURE_PROMPTS = Path(__file__).parent / "world_pictures"
"""Like a folder of IP-Adapter's: `image_encoder`, `separate.safetensors` for `load_ip_adapter`, and
`concatenated.safetensors` for `PictureTokens`."""

Pictures = Literal["separate"]


def load_separate(pipe: Any, pictures: Any) -> None:
    """Load the IP-Adapter in the box into the model in the box.

    Raises:
        UserError: for another way.
    """
    if pictures != "separate":
        raise UserError(
            f"expected pictures='separate' or None, but came {shown(pictures)}; tokens of pictures "
            "among the text's need nothing loaded: condition(pipe, …, picture=…, "
            "picture_tokens=PictureTokens.from_pretrained())"
        )
    pipe.load_ip_adapter(
        str(PICTURE_PROMPTS),
        subfolder="",
        weight_name="separate.safetensors",
        image_encoder_folder="image_encoder",
    )
