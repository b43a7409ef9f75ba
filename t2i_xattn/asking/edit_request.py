"""What `t2i-xattn edit` is asked for, checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from t2i_xattn.asking.parsing import parse_pairs, unquoted
from t2i_xattn.asking.request import Request, check_text, tokenizer_of
from t2i_xattn.errors import UserError, shown
from t2i_xattn.prompts.words import check_whole, find_phrase

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.traces.regions import Box


@dataclass(frozen=True)
class EditRequest:
    """A prompt and what is to be done to its picture.

    Attributes:
        request: the prompt and its settings; one picture.
        replace: phrases of the prompt, and what is to stand in their place.
        weights: phrases of the prompt after the replacement, and their weights.
        boxes: phrases of the prompt, and boxes (top, left, bottom, right) in fractions.
        regions: texts of their own, and the boxes where they are looked at.
        attend: phrases of which none may be left out.
        image: a picture to edit instead of a painted one; it must show what the prompt says.
    """

    request: Request
    replace: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    boxes: Mapping[str, Box] = field(default_factory=dict)
    attend: Sequence[str] = ()
    image: Image.Image | None = None
    regions: Mapping[str, Box] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The prompt after the replacements, all at once; of two that overlap, the first one's, and
        the longer one's where they begin together.

        Raises:
            UserError: if syntax stands inside a phrase that is replaced.
        """
        from t2i_xattn.conditioning.syntax import phrase_places, weighed_alike

        prompt = self.request.prompt
        places = sorted(
            (spans[0][0], -spans[-1][1], len(spans), new)
            for old, new in self.replace.items()
            for spans in phrase_places(prompt, old)
        )
        parts, end = [], 0
        for start, minus_stop, count, new in places:
            if start < end:
                continue
            if count > 1:
                raise UserError(
                    f"expected words without syntax between them to put {shown(new)} in their "
                    f"place, but came {shown(prompt[start:-minus_stop])}; replace each word by "
                    "itself"
                )
            parts += [prompt[end:start], weighed_alike(prompt, -minus_stop, new)]
            end = -minus_stop
        return "".join([*parts, prompt[end:]])

    @property
    def told(self) -> str:
        """What is done, in a line."""
        parts = [f"{old} → {new}" for old, new in self.replace.items()]
        parts += [f"{word} × {weight:g}" for word, weight in self.weights.items()]
        parts += [f"{word} into its box" for word in self.boxes]
        parts += [f"{text} in a box of its own" for text in self.regions]
        if self.attend:
            parts.append(f"none left out of {', '.join(self.attend)}")
        return "; ".join(parts)

    def check(self) -> None:
        """What can be known without the model.

        Raises:
            UserError: there is nothing to do, or two things that cannot be done together.
        """
        self.request.check()
        for text in (*self.replace.values(), *self.regions):
            check_text(text)
        guided = bool(self.boxes or self.attend)
        if not (self.replace or self.weights or self.regions or guided):
            raise UserError(
                "expected something to edit, but came nothing; give --replace old=new, "
                '--weight word=1.5, --box "word=top,left,bottom,right", --attend word,word or '
                '--region "top,left,bottom,right=text"'
            )
        if guided and (self.replace or self.image is not None):
            raise UserError(
                "expected --box and --attend without --replace and --image, since they lay the "
                "picture out anew; do one after the other"
            )

    def check_against(self, pipe: Any) -> None:
        """What depends on the model.

        Raises:
            UserError: a phrase is not in the prompt, a region's text is too long, or see
                `Request.check_against`.
        """
        from t2i_xattn.conditioning.within import words_read

        self.request.check_against(pipe)
        tokenizer = tokenizer_of(pipe)
        words = words_read(pipe, tokenizer, self.request.prompt)
        for phrase in (*self.replace, *self.boxes, *self.attend):
            find_phrase(words, phrase)
        words = words_read(pipe, tokenizer, self.target)
        check_whole(self.target, words)
        for phrase in (*self.replace.values(), *self.weights):
            find_phrase(words, phrase)
        for text in self.regions:
            check_whole(text, words_read(pipe, tokenizer, text))


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """`["red=1.5", …]` as a mapping.

    Raises:
        UserError: a weight that is not a finite number.
    """
    weights = {}
    for word, text in parse_pairs("weight", texts).items():
        try:
            weights[word] = float(text)
        except ValueError:
            weights[word] = math.nan
        if not math.isfinite(weights[word]):
            raise UserError(
                f"expected a finite number as --weight {shown(word)}=…, but came {shown(text)}"
            )
    return weights


def parse_boxes(texts: Sequence[str]) -> dict[str, Box]:
    """`["circle=0.1,0.2,0.4,0.5", …]` as a mapping.

    Raises:
        UserError: a box that is not four numbers inside the picture.
    """
    return {
        word: _box(f"--box {shown(word)}=top,left,bottom,right", text)
        for word, text in parse_pairs("box", texts).items()
    }


def parse_regions(texts: Sequence[str]) -> dict[str, Box]:
    """`["0.1,0.2,0.4,0.5=a red circle", …]` as a mapping from the text to its box.

    Raises:
        UserError: a text without a box or without words, or twice the same.
    """
    regions: dict[str, Box] = {}
    for text in texts:
        box, _, prompt = (unquoted(part) for part in text.partition("="))
        if not prompt or prompt in regions:
            raise UserError(
                'expected --region "top,left,bottom,right=text", each with a text of its own, but '
                f"came {shown(text)}"
            )
        regions[prompt] = _box(f"--region top,left,bottom,right={shown(prompt)}", box)
    return regions


def _box(option: str, text: str) -> Box:
    from t2i_xattn.edits.picture import checked_box
    from t2i_xattn.traces.regions import Box

    try:
        sides = [float(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) != 4:
        raise UserError(f"expected {option} with four numbers from 0 to 1, but came {shown(text)}")
    return Box(*checked_box(sides))
