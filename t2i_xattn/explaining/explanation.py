"""What an explanation says of a prompt's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.errors import UserError, WordNotFoundError, listed, nearest, shown
from t2i_xattn.explaining.effect_map import EffectMap, region_map
from t2i_xattn.explaining.evidence import Evidence, Grade, Interval
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.trace import Trace

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class ExplainedPicture:
    """One picture, and what its words do to it.

    Attributes:
        seed: of its noise.
        image: the picture; a video's first frame.
        trace: the recording of its run.
        effects: by word and intervention, its effect map.
        carriers: by word, the share of its effect that each group of columns carries.
        painted: by word and intervention, the picture that is painted to the end without the word
            (by `text` with the first other word), from the same noise; empty unless asked for.
    """

    seed: int
    image: Image.Image
    trace: Trace
    effects: Mapping[str, Mapping[str, EffectMap]]
    carriers: Mapping[str, Mapping[str, float]]
    painted: Mapping[str, Mapping[str, Image.Image]]

    def change(self, word: str, intervention: str = "text") -> HeatMap:
        """Where the finished picture is another one without the word: the mean difference of the
        colours, 0 to 1. It is wider than the effect along the picture's own way, since each step
        builds on the one before.

        Raises:
            UserError: unless such pictures were painted.
        """
        painted = self.painted.get(word, {})
        if intervention not in painted:
            raise UserError(
                f"expected a picture painted without {shown(word)} by {shown(intervention)}, but "
                "there is none; call explain with paint=True"
            )
        one, other = (
            np.asarray(each.convert("RGB"), dtype=np.float32) / 255
            for each in (self.image, painted[intervention])
        )
        return HeatMap(word, np.abs(one - other).mean(axis=2))

    def attention(self, word: str) -> HeatMap:
        """The word's attention map, as `trace.heatmap` gives it by default."""
        return self.trace.heatmap(word)


@dataclass(frozen=True, eq=False)
class ExplainedWord:
    """One word or phrase of a prompt, over all the pictures.

    Attributes:
        word: as typed.
        kind: such as `"colour"`; None if it is not known (see `explaining.other_words`).
        others: what stood in its place under `text`, one after the other; None: it was left out.
        share: its share of attention, 0 to 1.
        sizes: by intervention, how much the denoiser's answer changes (see `EffectMap.size`), with
            an interval over the seeds.
        floor: the same of the placebo; None without one.
        evidence: what speaks for its region and against it.
        probability: that its region is right, see `explaining.trust`.
        carriers: by group of columns, the share of its effect that it carries; empty unless asked
            for.
        grade: how far to trust its region, see `explaining.trust`.
        sentence: all of it, in plain words.
    """

    word: str
    kind: str | None
    others: tuple[str | None, ...]
    share: float
    sizes: Mapping[str, Interval]
    floor: Interval | None
    evidence: Evidence
    probability: float
    carriers: Mapping[str, float]
    grade: Grade
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """The word as JSON has it."""
        return {
            "word": self.word,
            "kind": self.kind,
            "instead": list(self.others),
            "share": self.share,
            "sizes": {name: each._asdict() for name, each in self.sizes.items()},
            "floor": None if self.floor is None else self.floor._asdict(),
            "evidence": self.evidence._asdict(),
            "probability": self.probability,
            "carriers": dict(self.carriers),
            "grade": self.grade,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the words of a prompt do to its pictures; see `explain`.

    Attributes:
        prompt: of the run.
        pictures: one a seed.
        words: in their order in the prompt.
        steps: the steps that were asked about, first and end.
    """

    prompt: str
    pictures: tuple[ExplainedPicture, ...]
    words: tuple[ExplainedWord, ...]
    steps: tuple[int, int]

    def __repr__(self) -> str:
        return f"<Explanation of {shown(self.prompt)}: {len(self.words)} words>"

    def __str__(self) -> str:
        return "\n".join(each.sentence for each in self.words)

    def _repr_html_(self) -> str:
        """The table of the words, for notebooks."""
        from t2i_xattn.showing.notebook import explanation_html

        return explanation_html(self)

    def word(self, phrase: str) -> ExplainedWord:
        """What is said of a word or phrase.

        Raises:
            UserError: if it was not asked about.
        """
        found = {each.word.casefold(): each for each in self.words}
        if phrase.casefold() not in found:
            raise WordNotFoundError(
                f"expected a word that was explained, but came {shown(phrase)}"
                f"{nearest(phrase, [each.word for each in self.words])}; there are "
                f"{listed(each.word for each in self.words)}"
            )
        return found[phrase.casefold()]

    def effect(self, phrase: str, intervention: str | None = None, picture: int = 0) -> EffectMap:
        """The effect map of a word in one of the pictures.

        Args:
            phrase: the word or phrase.
            intervention: which; by default the one that finds most of it.
            picture: number of the picture, 0 the first.

        Raises:
            UserError: if there is none.
        """
        word = self.word(phrase)
        effects = self.pictures[picture].effects[word.word]
        name = (
            word.evidence.found_by or next(iter(effects))
            if intervention is None
            else (intervention)
        )
        if name not in effects:
            raise UserError(
                f"expected an intervention that was asked for, but came {shown(name)}; there are "
                f"{listed(effects)}"
            )
        return effects[name]

    def region(self, phrase: str, picture: int = 0) -> HeatMap:
        """Where a word acts in one of the pictures, see `effect_map.region_map`: the best that
        attention and effect together say, brought to the edges of the picture.

        Raises:
            UserError: if the word was not asked about.
        """
        chosen = self.pictures[picture]
        word = self.word(phrase).word
        return region_map(self.effect(word, None, picture), chosen.attention(word), chosen.image)

    def leakage(
        self, names: Sequence[str] | None = None, picture: int | None = None
    ) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """How much taking one word away moves the regions of the others.

        The region of a word is where its own effect is largest: its effect map by `text`, cut by
        Otsu's threshold; a pixel in several is that word's whose map is the higher there, each
        taken from 0 to 1.

        Args:
            names: words or phrases that were explained; by default all whose effect is above the
                placebo's.
            picture: number of the picture; None: the mean over all.

        Returns:
            The names, and `(names, names)`: in row A and column B the mean change in the region of
            B when A is taken away, as a part of that in A's own region. The diagonal is 1; NaN
            where a region is empty.
        """
        from t2i_xattn.explaining.leakage import leakage

        chosen = (
            [self.word(each).word for each in names]
            if names is not None
            else [each.word for each in self.words if each.evidence.found_by is not None]
        )
        numbers = range(len(self.pictures)) if picture is None else [picture]
        found = [
            leakage([self.effect(each, None, number) for each in chosen]) for number in numbers
        ]
        return tuple(chosen), np.nanmean(found, axis=0) if found else np.empty((0, 0))

    def as_json(self) -> dict[str, Any]:
        """All numbers and sentences, as JSON has them; maps are left out."""
        names, matrix = self.leakage()
        return {
            "prompt": self.prompt,
            "seeds": [each.seed for each in self.pictures],
            "steps": list(self.steps),
            "words": [each.as_json() for each in self.words],
            "leakage": {
                "words": list(names),
                "matrix": [[None if np.isnan(v) else float(v) for v in row] for row in matrix],
            },
        }
