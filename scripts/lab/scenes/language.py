"""The small language of drawn scenes, read from ``language.json``: data, open to growth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Relation:
    """How a relation is said: between the two objects, or behind the second one."""

    between: tuple[str, ...]
    behind: tuple[str, ...]
    inverse: str


@dataclass(frozen=True)
class Language:
    """Every word that the scenes know. Radii are in pixels of a 128 pixel picture."""

    colours: dict[str, RGB]
    shapes: dict[str, tuple[str, ...]]
    size_names: dict[str, tuple[str, ...]]
    radii: dict[str, tuple[float, float]]
    grounds: dict[str, RGB]
    ground_names: dict[str, tuple[str, ...]]
    relations: dict[str, Relation]
    openings: tuple[str, ...]
    ground_phrases: tuple[str, ...]
    ground_tags: tuple[str, ...]
    adjectives: tuple[str, ...]
    common_words: tuple[str, ...]
    held_out_objects: frozenset[tuple[str, str]]
    held_out_pairs: frozenset[frozenset[str]]

    def is_held_out(self, objects: list[tuple[str, str]]) -> bool:
        """Whether ``(colour, shape)`` objects hold a combination kept from training."""
        if any(each in self.held_out_objects for each in objects):
            return True
        shapes = [shape for _, shape in objects]
        return any(
            frozenset((first, second)) in self.held_out_pairs
            for i, first in enumerate(shapes)
            for second in shapes[i + 1 :]
        )

    def vocabulary(self) -> list[str]:
        """Every word that a prompt of this language can hold, sorted, each once."""
        phrases: list[str] = ["a", "an", "and", "with", "on", *self.colours, *self.common_words]
        for names in (self.shapes, self.size_names, self.ground_names):
            phrases += [name for each in names.values() for name in each]
        for relation in self.relations.values():
            phrases += [*relation.between, *relation.behind]
        phrases += [*self.openings, *self.ground_phrases, *self.ground_tags, *self.adjectives]
        return sorted({word for phrase in phrases for word in phrase.split() if word != "{}"})


@cache
def language() -> Language:
    """The language in the package."""
    raw = json.loads(files("lab.scenes").joinpath("language.json").read_text("utf-8"))
    held_out = raw["held_out"]
    return Language(
        colours={name: tuple(rgb) for name, rgb in raw["colours"].items()},
        shapes={name: tuple(names) for name, names in raw["shapes"].items()},
        size_names={name: tuple(each["names"]) for name, each in raw["sizes"].items()},
        radii={name: tuple(each["radius"]) for name, each in raw["sizes"].items()},
        grounds={name: tuple(each["rgb"]) for name, each in raw["grounds"].items()},
        ground_names={name: tuple(each["names"]) for name, each in raw["grounds"].items()},
        relations={
            name: Relation(tuple(each["between"]), tuple(each["behind"]), each["inverse"])
            for name, each in raw["relations"].items()
        },
        openings=tuple(raw["openings"]),
        ground_phrases=tuple(raw["ground_phrases"]),
        ground_tags=tuple(raw["ground_tags"]),
        adjectives=tuple(raw["adjectives"]),
        common_words=tuple(raw["common_words"]),
        held_out_objects=frozenset((colour, shape) for colour, shape in held_out["colour_shape"]),
        held_out_pairs=frozenset(frozenset(pair) for pair in held_out["shape_pairs"]),
    )
