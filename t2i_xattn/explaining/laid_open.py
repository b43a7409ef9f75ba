"""What one layer of attention did at one place of a picture, step by step, as it really ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.kernel.reference import Steps

MOST = 8
"""Tokens that are told by name."""


class Told(NamedTuple):
    """What there is to say of a step.

    Attributes:
        name: of the step, as in `kernel.reference`.
        equation: how it follows.
        meaning: what it is, in words.
        axes: of its values here: those of one place, and of the text's tokens or the word's.
        values: fp64, with these axes.
    """

    name: str
    equation: str
    meaning: str
    axes: str
    values: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LaidOpen:
    """One layer at one place, in one step of a run.

    Attributes:
        word: the word that is followed.
        columns: its columns of the text.
        tokens: the text of each column; empty if it is not known.
        site: where.
        step, timestep: of the sampler, 0 the first; the noise level.
        place: row and column of the place on the site's grid.
        size: height and width of that grid.
        scale: of the products, usually 1 / √d.
        steps: `kernel.reference.attend` of the very queries, keys and values that the kernel got:
            fp64, of this one place and all keys.
        keys: where the text's columns stand among the keys; all there are in cross-attention.
        picture, text: what the layer was called with, `(channels,)` of the place and
            `(tokens, channels)`; None where it is called otherwise.
        out: what the layer gave for the place, `(channels,)`; None where it cannot be told.
        map: the word's share at every place, 0 to 1, mean over the heads, `(height, width)`.
        difference: the largest between `steps.taken` and what the kernel gave, next to the largest
            value of that: the kernel's rounding.
    """

    word: str
    columns: tuple[int, ...]
    tokens: tuple[str, ...]
    site: AttentionSite
    step: int
    timestep: float
    place: tuple[int, int]
    size: tuple[int, int]
    scale: float
    steps: Steps
    keys: range
    picture: Tensor | None
    text: Tensor | None
    out: Tensor | None
    map: NDArray[np.float32]
    difference: float

    @property
    def share(self) -> float:
        """What the place gives to the word, 0 to 1, mean over the heads."""
        return float(self.by_head.mean())

    @property
    def by_head(self) -> NDArray[np.float64]:
        """What each head gives to the word at the place, `(heads,)`."""
        return self._of_text(self.steps.probs)[:, list(self.columns)].sum(axis=1)

    @property
    def most(self) -> list[tuple[str, float]]:
        """The tokens that get the most at the place, mean over the heads, with their shares."""
        means = self._of_text(self.steps.probs).mean(axis=0)
        order = np.argsort(-means, kind="stable")[:MOST]
        return [(self._named(int(column)), float(means[column])) for column in order]

    def _named(self, column: int) -> str:
        return self.tokens[column] if self.tokens else f"column {column}"

    def _of_text(self, values: Tensor) -> NDArray[np.float64]:
        """`(heads, tokens)` of the text's columns."""
        return _array(values[0, :, 0, self.keys.start : self.keys.stop])

    def _of_word(self, values: Tensor) -> NDArray[np.float64]:
        """`(columns, heads, d)` of the word's."""
        at = [self.keys[column] for column in self.columns]
        return _array(values[0, :, at].transpose(0, 1))

    def told(self) -> Iterator[Told]:
        """The steps in their order."""
        steps, word = self.steps, repr(self.word)
        if self.picture is not None:
            values = _array(self.picture)
            yield Told("picture", "φ(z)", "what the place brings", "channels", values)
        if self.text is not None:
            values = _array(self.text[list(self.columns)])
            yield Told("text", "τ(y)", f"what {word} brings", "columns channels", values)
        for told in (
            ("query", "Q = φ(z) W_Qᵀ, dealt out to heads", "what the place asks", "heads d"),
            ("key", "K = τ(y) W_Kᵀ", f"what {word} offers to be found by", "columns heads d"),
            ("value", "V = τ(y) W_Vᵀ", f"what {word} gives", "columns heads d"),
        ):
            values = getattr(steps, told[0])
            word_s = told[0] != "query"
            yield Told(*told, self._of_word(values) if word_s else _array(values[0, :, 0]))
        for told in (
            ("products", "Q Kᵀ", "how well question and offers fit", "heads tokens"),
            ("scores", f"Q Kᵀ · {self.scale:.4g}", "the same, scaled", "heads tokens"),
            ("masked", "scores + mask", "hidden where it may not look", "heads tokens"),
            ("probs", "exp(s) / Σ exp(s)", "the softmax: shares of attention", "heads tokens"),
        ):
            yield Told(*told, self._of_text(getattr(steps, told[0])))
        values = _array(steps.taken[0, :, 0])
        yield Told("taken", "probs · V", "what each head takes", "heads d", values)
        values = _array(steps.joined[0, 0])
        yield Told("joined", "the heads side by side", "what all take", "channels", values)
        if self.out is not None:
            values = _array(self.out)
            yield Told("out", "joined W_Oᵀ + b", "what the layer gives", "channels", values)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON has it; −∞ is null."""
        return {
            "word": self.word,
            "columns": list(self.columns),
            "tokens": list(self.tokens),
            "site": {**vars(self.site)},
            "step": self.step,
            "timestep": self.timestep,
            "place": list(self.place),
            "size": list(self.size),
            "scale": self.scale,
            "share": self.share,
            "by_head": self.by_head.tolist(),
            "most": [{"token": token, "share": share} for token, share in self.most],
            "difference_from_the_kernel": self.difference,
            "steps": [_as_json(each) for each in self.told()],
            "map": self.map.tolist(),
        }

    def __str__(self) -> str:
        """A line a step, with its numbers."""
        height, width = self.size
        row, column = self.place
        heads = f"{self.site.heads} heads of width {self.steps.query.shape[-1]}"
        lines = [
            f"{self.word!r} at row {row}, column {column} of {height} × {width} places, in step "
            f"{self.step} (noise level {self.timestep:g}),",
            f"at {self.site.name}: {self.site.kind}-attention, {heads}, "
            f"{self.steps.key.shape[2]} keys",
            "",
        ]
        for number, told in enumerate(self.told(), 1):
            shape = " × ".join(str(length) for length in told.values.shape)
            numbers = f"{told.axes}: {shape}, {_span(told.values)}"
            lines.append(f"{number:2} {told.name:9} {told.equation:34} {told.meaning:36} {numbers}")
        by_head = ", ".join(f"{each:.1%}" for each in self.by_head)
        most = ", ".join(f"{token!r} {share:.1%}" for token, share in self.most)
        lines += [
            "",
            f"{self.word!r} gets {self.share:.1%} of this place, the mean of the heads ({by_head})",
            f"the most get {most}",
            f"in the picture {self.word!r} gets {self.map.min():.1%} to {self.map.max():.1%} of a "
            f"place, {self.map.mean():.1%} in the mean",
            f"the kernel's own output differs from these steps by {self.difference:.1e} of its "
            "largest value",
        ]
        return "\n".join(lines)


def _array(values: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.detach().double().cpu().numpy()
    return found


def _span(values: NDArray[np.float64]) -> str:
    """The range of a step's values, and how many are −∞."""
    finite = values[np.isfinite(values)]
    hidden = values.size - finite.size
    span = f"{finite.min():.3g} to {finite.max():.3g}" if finite.size else "none may be looked at"
    return f"{span}, {hidden} of −∞" if hidden else span


def _as_json(told: Told) -> Mapping[str, Any]:
    values = told.values.astype(object)
    values[~np.isfinite(told.values)] = None
    return {**told._asdict(), "shape": list(told.values.shape), "values": values.tolist()}
