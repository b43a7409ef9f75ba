"""The fixed prompts that models of the small language are measured on.

The list is a file of the package, so that figures of different days can be compared. It was made
by `make_prompts` and is made again, the same, by `python scripts/make_prompts.py --scenes shapes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any

import numpy as np

from lab.scenes import Scene, describe, language, sample_scene

SEED = 30_000_000
FILE_NAME = "shapes_prompts.json"


@dataclass(frozen=True)
class Prompt:
    """One prompt of the list.

    Attributes:
        prompt: the text.
        objects: `(colour, shape)` of each object that it names.
        relation: `(first, name, second)`, with indices into `objects`, or None.
        seed: of the picture's own noise.
    """

    prompt: str
    objects: tuple[tuple[str, str], ...]
    relation: tuple[int, str, int] | None
    seed: int


@cache
def benchmark_prompts() -> dict[str, tuple[Prompt, ...]]:
    """The prompts by group, in a fixed order.

    `singles` (100) and `pairs` (200, with a relation) hold no combination that was kept from
    training, `triples` (50) neither. `held_out_singles` (24) and `held_out_objects` (50 pairs)
    have a colour × shape that was, `held_out_pairs` (50) two shapes that never met.
    """
    raw = json.loads(files(__package__).joinpath(FILE_NAME).read_text("utf-8"))
    return {
        group: tuple(
            Prompt(
                prompt=each["prompt"],
                objects=tuple((colour, shape) for colour, shape in each["objects"]),
                relation=each["relation"] and tuple(each["relation"]),
                seed=each["seed"],
            )
            for each in prompts
        )
        for group, prompts in raw.items()
    }


def make_prompts(seed: int = SEED) -> dict[str, list[Prompt]]:
    """The groups of `benchmark_prompts`, made anew from a seed; no prompt comes twice."""
    rng = np.random.default_rng(seed)
    words = language()
    new_objects = words.held_out_objects

    def always(scene: Scene) -> bool:
        return True

    def new_object(scene: Scene) -> bool:
        return any(kind in new_objects for kind in scene.kinds())

    def new_pair(scene: Scene) -> bool:
        return not new_object(scene)

    maker = _Maker(rng)
    groups = {
        "singles": maker.some(100, lambda: sample_scene(rng, 1, "train"), always),
        "pairs": maker.some(200, lambda: sample_scene(rng, 2, "train"), always),
        "triples": maker.some(50, lambda: sample_scene(rng, 3, "train"), always),
        "held_out_singles": [],
        "held_out_objects": maker.some(50, lambda: sample_scene(rng, 2, "held_out"), new_object),
        "held_out_pairs": maker.some(50, lambda: sample_scene(rng, 2, "held_out"), new_pair),
    }
    for kind in sorted(new_objects):
        groups["held_out_singles"] += maker.some(
            4, lambda: sample_scene(rng, 1, "held_out"), partial(_is_just, kind)
        )
    return groups


def _is_just(kind: tuple[str, str], scene: Scene) -> bool:
    return scene.kinds() == [kind]


def prompts_as_json(groups: Mapping[str, Sequence[Any]]) -> str:
    """The text of a prompts' file: one prompt, a dataclass, a line."""
    parts = []
    for group, prompts in groups.items():
        lines = ",\n".join("    " + json.dumps(asdict(each)) for each in prompts)
        parts.append(f'  "{group}": [\n{lines}\n  ]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


class _Maker:
    """Draws prompts, none of them twice, each with the next seed."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.made: list[str] = []

    def some(
        self, count: int, sample: Callable[[], Scene], wanted: Callable[[Scene], bool]
    ) -> list[Prompt]:
        found: list[Prompt] = []
        while len(found) < count:
            scene = sample()
            if not wanted(scene):
                continue
            said = describe(scene, self.rng, relation=len(scene.objects) == 2)
            # Pairs always say where they stand; where a direction is too oblique to say, draw on.
            if (len(scene.objects) == 2 and said.relation is None) or said.prompt in self.made:
                continue
            seed = 1000 + len(self.made)
            self.made.append(said.prompt)
            found.append(Prompt(said.prompt, tuple(scene.kinds()), said.relation, seed))
        return found
