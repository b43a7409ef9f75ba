"""One prompt or negative prompt of a call, in all the phases of its schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from t2i_xattn.conditioning.assembling import Assembly
from t2i_xattn.conditioning.encoders import Scheme
from t2i_xattn.conditioning.picture_tokens import text_and_picture
from t2i_xattn.conditioning.reader import Way
from t2i_xattn.conditioning.reading import Reading, readings_of, text_of
from t2i_xattn.conditioning.syntax import parse, unknown_embedding
from t2i_xattn.errors import UserError, listed
from t2i_xattn.prompts.encoded import Text


class Row:
    """One prompt.

    Attributes:
        prompt: as typed.
        branch: `"conditional"` or `"unconditional"`.
        image: the number of the prompt.
        way: what weights do.
        zeros: whether zeros stand in its place.
        starts: from which steps on it says something else; 0 the first.
        picture: tokens of a picture behind the text's `(tokens, channels)`; None: none.
    """

    def __init__(
        self,
        scheme: Scheme,
        prompt: str,
        branch: str,
        image: int,
        way: Way,
        zeros: bool = False,
        picture: Tensor | None = None,
    ) -> None:
        """
        Raises:
            UserError: see `condition`.
        """
        self.prompt, self.branch, self.image = prompt, branch, image
        self.way, self.zeros, self.picture = way, zeros, picture
        encoders = [each for stream in scheme.streams for each in stream]
        added = [name for each in encoders for name in each.tokenizer.added_tokens_encoder]
        if (wrong := unknown_embedding(prompt, added)) is not None:
            raise wrong
        self._scheme = scheme
        parsed = parse(prompt, way)
        self._phases = {e.start: Assembly.of(scheme, parsed, e, way) for e in parsed.phases}
        self.starts = tuple(self._phases)
        self._texts: dict[tuple[int, ...], dict[float, Text]] = {}
        self.is_plain = parsed.is_plain

    def check_whole(self) -> None:
        """Raises `UserError` for words that no encoder has room for."""
        for phase in self._phases.values():
            words = [w for placed in phase.streams for each in placed for w in each.words()]
            kept = {(word.start, word.stop) for word in words if word.columns}
            if cut := [w for w in words if w.cut and (w.start, w.stop) not in kept]:
                raise UserError(
                    f"expected a prompt that fits into the window of {cut[0].cut[0]}, but these "
                    f"words lie beyond: {listed(word.text for word in cut)}; shorten it, or give a "
                    "larger max_sequence_length"
                )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Columns of each stream, the longest of the phases."""
        every = [each.lengths for each in self._phases.values()]
        return tuple(max(of_stream) for of_stream in zip(*every, strict=True))

    @property
    def is_blank(self) -> bool:
        """Whether it is nothing but zeros, of which nothing is known."""
        return self.zeros and self.picture is None

    def at(self, start: float) -> Assembly:
        """What it says from a step on."""
        return self._phases[max(each for each in self.starts if each <= start)]

    def embedding(self, start: float, lengths: Sequence[int]) -> Tensor:
        """The whole text `(1, tokens, channels)`."""
        found = self.at(start).embedding(lengths)
        text = torch.zeros_like(found) if self.zeros else found
        if self.picture is None:
            return text
        if text.shape[-1] != self.picture.shape[-1]:
            raise UserError(
                f"expected tokens of pictures with {text.shape[-1]} channels, as the text's have, "
                f"but came {self.picture.shape[-1]}; take an adapter that was trained for this "
                "pipeline"
            )
        return torch.cat([text, self.picture[None].to(text)], dim=1)

    def pooled(self, start: float) -> Tensor | None:
        """The pooled text `(1, channels)`; None where the pipeline takes none."""
        found = self.at(start).pooled_embedding()
        return torch.zeros_like(found) if found is not None and self.zeros else found

    def text(self, start: float, lengths: Sequence[int]) -> Text:
        """What is known of its columns (of zeros nothing but the picture's); with it, how other
        prompts are embedded like it."""
        key = tuple(lengths)
        if key not in self._texts:
            self._texts[key] = {each: self._text(each, key) for each in self.starts}
        phases = self._texts[key]
        found = phases[max(each for each in self.starts if each <= start)]
        every = tuple(each.words for each in phases.values()) if len(phases) > 1 else ()
        return replace(found, again=self._again(start, key), phases=every)

    def _text(self, start: float, lengths: Sequence[int]) -> Text:
        """The same, for one phase by itself."""
        length = sum(lengths) + self._scheme.filling
        found = Text(torch.empty(0), None, 0)
        if not self.zeros:
            found = text_of(self.at(start).in_sequence(lengths), self.prompt, length)
        if self.picture is not None:
            found = text_and_picture(found, length, len(self.picture))
        return found

    def _again(self, start: float, lengths: tuple[int, ...]) -> Callable[[str], Tensor]:
        scheme, way, branch, image = self._scheme, self.way, self.branch, self.image
        picture = self.picture

        def again(prompt: str) -> Tensor:
            row = Row(scheme, prompt, branch, image, way, picture=picture)
            longest = [max(pair) for pair in zip(row.lengths, lengths, strict=True)]
            return row.embedding(start, longest)[0]

        return again

    def readings(self, lengths: Sequence[int]) -> list[Reading]:
        """How each encoder reads it, in each of its phases."""
        found = []
        for start, phase in self._phases.items():
            placed = phase.in_sequence(lengths)
            alone = {each.encoder for each in placed}
            pooled = [each for each in phase.pooled if each.encoder not in alone]
            own = self.prompt, self.branch, self.image, start
            found += [*readings_of(placed, *own, False), *readings_of(pooled, *own, True)]
        return found
