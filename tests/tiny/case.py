"""A tiny random pipeline of a real class, and rules, written in the tests, that say where its
picture and its text stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

PROMPT = "a red circle left of a blue square"
NEGATIVE = "dull green star"


@dataclass(frozen=True)
class Seen:
    """One call of `scaled_dot_product_attention` inside an attention module.

    Attributes:
        site: the module's name in the denoiser.
        call: number of the denoiser's call, from 0.
        number: of this kernel call inside that call of the module, from 0.
        query, key, mask, scale: what the kernel was given, grouped keys repeated for each head.
        given: the arguments of the denoiser's call, by name.
    """

    site: str
    call: int
    number: int
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float
    given: Mapping[str, Any]

    @property
    def queries(self) -> int:
        return int(self.query.shape[-2])

    @property
    def keys(self) -> int:
        return int(self.key.shape[-2])

    @property
    def rows(self) -> int:
        return int(self.query.shape[0])


@dataclass(frozen=True)
class Heard:
    """One call of a text encoder.

    Attributes:
        encoder: its name in the pipeline, `text_encoder`, `text_encoder_2` …
        ids: the tokens it was given, one list a row.
    """

    encoder: str
    ids: list[list[int]]


@dataclass(frozen=True)
class Picture:
    """Where one picture of the prompt's (conditional) branch stands in a kernel call.

    Attributes:
        row: of the batch.
        queries: where its places stand among the queries, in reading order (a video's frame by
            frame).
        keys: where the columns of its text stand among the keys, in the order of the columns.
    """

    row: int
    queries: range
    keys: range


Column = tuple[str, int] | None
"""What stands in a column of the text: the name of the pipeline's tokenizer and the token's id;
None for what is no token's (padding that the pipeline has put there, learnt registers)."""


@dataclass(frozen=True)
class Case:
    """A pipeline and what the tests know about it.

    Attributes:
        name: of the pipeline's class, and of the circumstance.
        make: a new tiny random pipeline, the same each time, progress bar off.
        grid: `(height, width)` of the places at its sites, or `(frames, height, width)`.
        pictures: the pictures of the conditional branch in a kernel call, in their order; None for
            one that is none of the text (self-attention, a refiner) or not of the branch.
        columns: what stands in each column of the conditional text of the first picture.
        options: of the pipeline's call, beside `prompt` and `generator`.
        negative: whether it takes `negative_prompt=`.
        denoiser: its attribute.
        negatives: the same as `pictures` for the unconditional branch; None where it follows from
            that: in the other half of the batch, or in the call behind.
    """

    name: str
    make: Callable[[], Any]
    grid: tuple[int, ...]
    pictures: Callable[[Seen], Sequence[Picture] | None]
    columns: Callable[[Sequence[Heard]], Sequence[Column]]
    options: Mapping[str, Any] = field(default_factory=dict)
    negative: bool = False
    denoiser: str = "transformer"
    negatives: Callable[[Seen], Sequence[Picture] | None] | None = None

    def __str__(self) -> str:
        return self.name

    def run(self, pipe: Any, **more: Any) -> Any:
        """The picture or video, always the same, as a tensor or an array."""
        options: dict[str, Any] = {
            "prompt": PROMPT,
            "num_inference_steps": 2,
            "output_type": "pt",
            "generator": torch.Generator().manual_seed(0),
        }
        if self.negative:
            options["negative_prompt"] = NEGATIVE
        output = pipe(**(options | dict(self.options) | more))
        return output.images if hasattr(output, "images") else output.frames
