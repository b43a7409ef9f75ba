"""What the app takes at most, and how it says so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from t2i_xattn.asking.edit_request import EditRequest
from t2i_xattn.asking.limits import GUIDANCE, PHRASES, WEIGHT
from t2i_xattn.asking.request import Request
from t2i_xattn.errors import UserError, shown
from t2i_xattn.pictures import own_area


@dataclass(frozen=True)
class Bounds:
    """What one request may ask of the machine; it is shared, and nobody asks it twice.

    Attributes:
        side: pixels of a picture's width, and of its height.
        steps: of the sampler.
        queue: requests that wait or run at a time; further ones are refused.
        upload: bytes of a picture of one's own.
        text: characters of a prompt.
    """

    side: int = 1024
    steps: int = 100
    queue: int = 8
    upload: int = 20_000_000
    text: int = 2000

    def check(self, request: Request) -> None:
        """
        Raises:
            UserError: for a request beyond them.
        """
        for name, text in (("prompt", request.prompt), ("negative prompt", request.negative or "")):
            self._check_text(f"a {name}", text)
        if request.steps > self.steps:
            raise UserError(
                f"expected at most {self.steps} steps, but came {shown(request.steps)}; take "
                "fewer, or start the app with a larger --max-steps"
            )
        for name, side in zip(("width", "height"), request.size or (), strict=False):
            if side > self.side:
                raise UserError(
                    f"expected a {name} of at most {self.side} pixels, but came {shown(side)}; "
                    "take a smaller one, or start the app with a larger --max-side"
                )
        if request.guidance > GUIDANCE:
            raise UserError(
                f"expected a guidance of at most {GUIDANCE:g}, but came {request.guidance:g}; take "
                "a smaller one"
            )

    def check_edit(self, asked: EditRequest) -> None:
        """
        Raises:
            UserError: for a change beyond them.
        """
        self.check(asked.request)
        for name, phrases in (("words to replace", asked.replace), ("boxes", asked.boxes)):
            if len(phrases) > PHRASES:
                raise UserError(
                    f"expected at most {PHRASES} {name}, but came {len(phrases)}; take fewer"
                )
        for text in (*asked.replace.values(), asked.target):
            self._check_text("other words", text)
        for word, weight in asked.weights.items():
            if abs(weight) > WEIGHT:
                raise UserError(
                    f"expected a weight of at most {WEIGHT:g} for {shown(word)}, but came "
                    f"{weight:g}; take a smaller one"
                )

    def check_own_size(self, pipe: Any) -> None:
        """
        Raises:
            UserError: for a model whose own pictures are larger than they allow.
        """
        area = own_area(pipe)
        if area > self.side**2:
            least = -(-int(area**0.5) // 8) * 8
            raise UserError(
                f"expected a model that paints at most {self.side} × {self.side} pixels by itself, "
                f"but this one paints {area} pixels; start the app with --max-side {least}"
            )

    def _check_text(self, what: str, text: str) -> None:
        if len(text) > self.text:
            raise UserError(
                f"expected {what} of at most {self.text} characters, but came {len(text)}; shorten "
                "it"
            )


_OF_COMMANDS = re.compile(
    r"(?<![\w-])--(?!max-)(?=[a-z])"  # how their options begin; those of the app's own keep it
    r"|, or raise the limit with [^;]*$"  # what the app has no way to do
)


def in_the_form(sentence: object) -> str:
    """A sentence of the commands as one for whoever looks at the form, where `--size` is a size."""
    return _OF_COMMANDS.sub("", str(sentence))
