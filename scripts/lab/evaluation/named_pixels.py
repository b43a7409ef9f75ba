"""What the words of a prompt of the world name: which pixels, as the judge sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from lab.evaluation.painted_regions import nouns
from lab.evaluation.world_prompts import WorldPrompt
from lab.judge.pixel_maps import STYLES, PixelMaps
from lab.judge.world import without_what_is_never_said
from lab.scenes.world import class_names, world_language
from t2i_xattn.prompts.words import word_spans

Kind = Literal["noun", "colour", "place", "light", "style"]
KINDS: tuple[Kind, ...] = ("noun", "colour", "place", "light", "style")


@dataclass(frozen=True)
class NamingWord:
    """A word that stands once in its prompt, and what it names.

    Attributes:
        kind: of word.
        text: as it stands in the prompt.
        values: of the judge's map of that kind, that are meant.
    """

    kind: Kind
    text: str
    values: tuple[int, ...]

    def pixels(self, maps: PixelMaps) -> int:
        """How many pixels of a picture are what the word names."""
        seen = without_what_is_never_said(maps)
        of = {"noun": "classes", "place": "classes"}.get(self.kind, f"{self.kind}s")
        return sum(int((getattr(seen, of) == value).sum()) for value in self.values)


def naming_words(prompt: WorldPrompt) -> Iterator[NamingWord]:
    """At most one word of each of `KINDS`, in their order."""
    known, asked = world_language(), prompt.asked
    words = [prompt.prompt[a:b] for a, b in word_spans(prompt.prompt)]

    def first(kind: Kind, phrases: Iterable[str], values: Iterable[int]) -> Iterator[NamingWord]:
        """By the last word of a phrase, as "skyline" of "a city skyline"."""
        lasts = {each.split()[-1] for each in phrases}
        said = [word for word in words if word in lasts and words.count(word) == 1]
        return (NamingWord(kind, word, tuple(values)) for word in said[:1])

    for kind, noun in list(nouns(prompt, words))[:1]:
        yield NamingWord("noun", noun, (class_names().index(kind),))
    for colour in [each.colour for each in asked.things if words.count(each.colour or "") == 1][:1]:
        assert colour is not None
        yield NamingWord("colour", colour, (list(known.colours).index(colour),))
    if asked.place is not None:
        place = known.places[asked.place]
        yield from first("place", place.names, map(class_names().index, place.parts))
    if asked.light is not None:
        light = known.lights[asked.light]
        phrases = (*light.nouns, *light.adjectives, *light.phrases)
        yield from first("light", phrases, [list(known.lights).index(asked.light)])
    if asked.style is not None:
        yield from first("style", known.styles[asked.style], [STYLES.index(asked.style)])
