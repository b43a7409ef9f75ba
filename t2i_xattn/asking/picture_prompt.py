"""A picture that stands beside the prompt, as the commands are asked for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from t2i_xattn.errors import UserError, shown

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.prompts.words import Word

Way = Literal["separate", "concatenated"]

SCALE = 10.0
"""Of a picture, the most; beyond it nothing of the text is left."""


@dataclass(frozen=True)
class PicturePrompt:
    """See the module.

    Attributes:
        file: of the picture.
        way: whether it has a softmax of its own, or its tokens stand among the text's.
        scale: how much it has its way; see `edits.ScalePicture`.
        no_limits: whether the file may be however large.
    """

    file: Path
    way: Way = "separate"
    scale: float = 1.0
    no_limits: bool = False

    @cached_property
    def picture(self) -> Image.Image:
        """What the file holds; read once.

        Raises:
            UserError: there is no such picture.
        """
        from t2i_xattn.pictures import MAX_PIXELS, read_picture

        return read_picture(self.file, None if self.no_limits else MAX_PIXELS)

    def check(self) -> None:
        """What can be known without the model.

        Raises:
            UserError: the scale is out of range, there is no such picture, or it is too narrow.
        """
        if not math.isfinite(self.scale) or not 0 <= self.scale <= SCALE:
            raise UserError(
                f"expected a --picture-scale from 0 to {SCALE:g}, but came {self.scale:g}; 1 is "
                "as it was trained"
            )
        from t2i_xattn.pictures import check_aspect

        check_aspect(self.picture.size)

    def load_into(self, pipe: Any) -> None:
        """Load what takes the picture.

        Raises:
            UserError: the pipeline is not the model in the box, whose adapters these are.
        """
        from t2i_xattn.models.default import WORLD
        from t2i_xattn.models.picture_prompts import load_separate

        came = getattr(getattr(pipe, "config", None), "_name_or_path", None)
        if came is None or Path(str(came)).resolve() != WORLD.resolve():
            raise UserError(
                "expected the model in the box for --picture-prompt, whose adapters were trained "
                f"for it, but came {shown(str(came))}; leave --model out, or load an IP-Adapter "
                "of your model in Python"
            )
        if self.way == "separate":
            load_separate(pipe, self.way)
            pipe.set_ip_adapter_scale(self.scale)

    @property
    def words(self) -> tuple[Word, ...]:
        """What it adds to the words of the prompt, to look names up in."""
        if self.way == "separate":
            return ()
        from t2i_xattn.conditioning.picture_tokens import picture_word

        return (picture_word((0,)),)  # where it stands depends on the model

    def arguments(self, pipe: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call, with the picture beside their prompt."""
        from t2i_xattn.conditioning.condition import condition
        from t2i_xattn.conditioning.picture_tokens import PictureTokens
        from t2i_xattn.conditioning.within import is_scheduled

        prompt, negative = given["prompt"], given.get("negative_prompt")
        if self.way == "separate" and not is_scheduled(pipe, prompt, negative):
            return given | {"ip_adapter_image": self.picture}
        tokens = None if self.way == "separate" else PictureTokens.from_pretrained()
        rest = {k: v for k, v in given.items() if k not in ("prompt", "negative_prompt")}
        # The picture was read under its own limit.
        beside: dict[str, Any] = {"picture": self.picture, "max_pixels": None}
        return rest | condition(pipe, prompt, negative, picture_tokens=tokens, **beside)

    @contextmanager
    def scaled(self, pipe: Any) -> Iterator[None]:
        """While it is open, tokens among the text's have the scale."""
        if self.way == "separate" or self.scale == 1:
            yield
            return
        from t2i_xattn.editing.edit import edit
        from t2i_xattn.edits.picture_prompt import ScalePicture

        with edit(pipe, ScalePicture(self.scale)):
            yield


def picture_prompt(
    file: Path | None, way: Way | None, scale: float | None, no_limits: bool
) -> PicturePrompt | None:
    """What the options ask for; None without a picture.

    Raises:
        UserError: for options of a picture without one.
    """
    if file is not None:
        return PicturePrompt(file, way or "separate", 1.0 if scale is None else scale, no_limits)
    if way is not None or scale is not None:
        option = "--picture-way" if way is not None else "--picture-scale"
        raise UserError(
            f"expected --picture-prompt beside {option}, but came none; give a picture, or leave "
            f"{option} out"
        )
    return None
