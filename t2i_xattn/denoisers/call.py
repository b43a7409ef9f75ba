"""One call of a denoiser: what it is given, by what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from t2i_xattn.kernel.shares import Portion
from t2i_xattn.prompts.encoded import Text

Grid = tuple[int, int, int]
"""Frames, height and width; one frame for stills."""

Extra = Literal["none", "front", "between", "behind"]
"""Where the keys stand that are neither the picture's nor the text's."""


@dataclass(frozen=True, eq=False)
class TextPart:
    """A text among several that stand in one sequence.

    Attributes:
        states: what each row is given, `(tokens, channels)`.
        columns: for each row, the column of each of these tokens.
    """

    states: Tensor | Sequence[Tensor]
    columns: Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class DenoiserCall:
    """One call of a denoiser.

    Attributes:
        given: its arguments, by name.
        sample: the latents, one a row of the batch.
        text: what each row is given to look at, `(tokens, channels)`: the text by which rows are
            known, where there are several.
        tokens: columns of the text; of texts of different lengths, those of the longest.
        lengths: columns of each row's own text, where they differ; None: all have as many.
        timestep: the noise level.
        latent: frames, height and width of the latents; of those that are joined into sequences,
            what they were before.
        places: frames, height and width of the grid of places at a site, where all sites have the
            same; None where each has its own.
        frames_as_rows: whether each frame of a video is a row of its own at the sites.
        before: keys in front of the text's that are no columns of it.
        extra: where there may be keys of others.
        perturbed: by what the call is one more with the prompt, and something spoilt or skipped.
        parts: gives all texts, where there are several; None: there is one, in its own order.
        ahead: queries in front of the picture's, where others ask too; None: none of others.
        connected: the column of each token of a text, where it is given through connectors, so that
            its rows are known by their order alone; None: it is given as it was encoded.
        row_by_row: whether the kernel is called for each row by itself.
        layout: where picture and text stand, where it depends on the lengths of the texts.
    """

    given: Mapping[str, Any]
    sample: Tensor | Sequence[Tensor]
    text: Tensor | Sequence[Tensor]
    tokens: int
    timestep: Any
    latent: Grid
    places: Grid | None = None
    frames_as_rows: bool = False
    before: int = 0
    extra: Extra = "none"
    perturbed: str | None = None
    parts: Callable[[], Sequence[TextPart]] | None = None
    lengths: Sequence[int] | None = None
    ahead: int | None = None
    connected: Callable[[Text], Sequence[int]] | None = None
    row_by_row: bool = False
    layout: Callable[[int, Sequence[int]], tuple[Portion, int]] | None = None

    def tokens_of(self, rows: Sequence[int]) -> int:
        """Columns of the text in some rows: those of the longest."""
        return self.tokens if self.lengths is None else max(self.lengths[row] for row in rows)

    @property
    def rows(self) -> int:
        """Rows of the batch, frames that are rows of their own not counted."""
        return len(self.sample)

    @property
    def row_frames(self) -> int:
        """Rows at a site for each row of the batch."""
        return self.latent[0] if self.frames_as_rows else 1

    @property
    def frames(self) -> int:
        """Frames of a picture, as rows or in one row; 1 for stills."""
        in_row = 1 if self.places is None else self.places[0]
        return self.row_frames * in_row

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.latent[1:]
