"""One prompt, placed in the columns of its text encoders and put together as its pipeline does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from t2i_xattn.conditioning.chunks import chunks_of
from t2i_xattn.conditioning.encoders import Encoder, Scheme
from t2i_xattn.conditioning.reader import Way
from t2i_xattn.conditioning.reading import Placed
from t2i_xattn.conditioning.syntax import Parsed, Part, Phase
from t2i_xattn.conditioning.weighting import embedded, empty_of


@dataclass(frozen=True)
class Assembly:
    """What a prompt says in one phase, placed in the columns of a pipeline's text.

    Attributes:
        scheme: of the pipeline.
        parsed, phase: the prompt.
        way: what weights do.
        streams: for each stream of encoders, the texts that stand in it, in columns of the stream.
        pooled: the texts of the pooled ones.
    """

    scheme: Scheme
    parsed: Parsed
    phase: Phase
    way: Way
    streams: tuple[tuple[Placed, ...], ...]
    pooled: tuple[Placed, ...]

    @classmethod
    def of(cls, scheme: Scheme, parsed: Parsed, phase: Phase, way: Way) -> Assembly:
        """Places a prompt; nothing is encoded yet."""
        blend = parsed.kind == "blend"
        streams = tuple(_placed(each, phase.parts, blend, way) for each in scheme.streams)
        # The pooled text of a conjunction is that of all its texts together.
        stretches = tuple(stretch for part in phase.parts for stretch in part.stretches)
        texts = phase.parts if blend else (Part(stretches),)
        pooled = tuple(
            Placed.of(encoder.name, encoder.tokenizer, part, n, found, 0, 0)
            for encoder in scheme.pooled
            for n, part in enumerate(texts)
            for found in [chunks_of(encoder.tokenizer, part, encoder.window, "compel", whole=True)]
        )
        return cls(scheme, parsed, phase, way, streams, pooled)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Columns of each stream."""
        return tuple(max(each.end for each in placed) for placed in self.streams)

    def in_sequence(self, lengths: Sequence[int]) -> list[Placed]:
        """The texts in columns of the whole sequence, whose streams have these lengths."""
        offsets = [sum(lengths[:number]) for number in range(len(lengths))]
        return [
            replace(each, column=each.column + offset)
            for offset, placed in zip(offsets, self.streams, strict=True)
            for each in placed
        ]

    def embedding(self, lengths: Sequence[int]) -> Tensor:
        """`(1, tokens, channels)`, each stream filled up to its length."""
        every = zip(self.scheme.streams, self.streams, lengths, strict=True)
        parts = [_padded(self._stream(e, p), e, length, self.way) for e, p, length in every]
        if (width := self.scheme.width) is not None:
            parts = [torch.nn.functional.pad(e, (0, width - e.shape[-1])) for e in parts]
        if self.scheme.filling:
            parts.append(parts[0].new_zeros(1, self.scheme.filling, parts[0].shape[-1]))
        return torch.cat(parts, dim=1)

    def pooled_embedding(self) -> Tensor | None:
        """`(1, channels)`; None where the pipeline takes none."""
        found = []
        for encoder in self.scheme.pooled:
            own = [each for each in self.pooled if each.encoder == encoder.name]
            texts = [encoder(each.chunks[0].ids)[1] for each in own]
            there = [text for text in texts if text is not None]
            found.append(_mean(there, self._shares) if len(there) > 1 else there[0])
        return torch.cat(found, dim=-1) if found else None

    @property
    def _shares(self) -> list[float]:
        """Of each text, in a blend."""
        weights = [part.weight for part in self.phase.parts]
        total = sum(weights) if self.parsed.normalised else 1.0
        return [weight / total for weight in weights]

    def _stream(self, encoders: Sequence[Encoder], placed: Sequence[Placed]) -> Tensor:
        """The states of encoders beside each other."""
        blend = self.parsed.kind == "blend"
        states = []
        for number, part in enumerate(self.phase.parts):
            weight = 1.0 if blend else part.weight
            own = [each for each in placed if each.number == number]
            length = max(each.end - each.column for each in own)
            beside = [
                _padded(
                    embedded(encoder, each.chunks, weight, self.way), [encoder], length, self.way
                )
                for encoder, each in zip(encoders, own, strict=True)
            ]
            states.append(torch.cat(beside, dim=-1))
        if not blend:
            return torch.cat(states, dim=1)
        length = max(each.shape[1] for each in states)
        return _mean([_padded(e, encoders, length, self.way) for e in states], self._shares)


def _placed(
    encoders: Sequence[Encoder], parts: Sequence[Part], blend: bool, way: Way
) -> tuple[Placed, ...]:
    """Where the texts of encoders beside each other stand: blended ones in the same columns."""
    placed: list[Placed] = []
    column = chunk = 0
    for number, part in enumerate(parts):
        own = []
        for each in encoders:
            found = chunks_of(each.tokenizer, part, each.window, way, each.whole)
            own.append(Placed.of(each.name, each.tokenizer, part, number, found, column, chunk))
        placed += own
        if not blend:
            column = max(each.end for each in own)
            chunk += max(len(each.chunks) for each in own)
    return tuple(placed)


def _padded(states: Tensor, stream: Sequence[Encoder], length: int, way: Way) -> Tensor:
    """A stream's text, filled up with windows that have none `(1, length, channels)`."""
    if states.shape[1] == length:
        return states
    empty = torch.cat([empty_of(each, way) for each in stream], dim=-1).to(states)
    count, rest = divmod(length - states.shape[1], empty.shape[1])
    assert rest == 0
    return torch.cat([states, *[empty] * count], dim=1)


def _mean(texts: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([text * share for text, share in zip(texts, shares, strict=True)]).sum(0)
