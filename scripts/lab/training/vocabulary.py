"""The words that the world's model is trained with, by what they say: a file beside the model."""

from __future__ import annotations

import json
from collections.abc import Iterable

from lab.scenes.language import language
from lab.scenes.world import world_language
from lab.training.sources import source_named


def vocabulary_as_json() -> str:
    """Every word that the world's prompts are made of, once: under the first of its meanings."""
    world, shapes, source = world_language(), language(), source_named("world")
    lights = [[*each.nouns, *each.adjectives, *each.phrases] for each in world.lights.values()]
    things = [
        [name for pair in each.names for name in pair if name] for each in world.things.values()
    ]
    meanings: dict[str, Iterable[Iterable[str]]] = {
        "colours": [world.colours, *world.colour_names.values(), *shapes.ground_names.values()],
        "shapes": shapes.shapes.values(),
        "sizes": [*(names for names, _ in world.sizes.values()), *shapes.size_names.values()],
        "numbers": world.counts.values(),
        "styles": world.styles.values(),
        "lights": lights,
        "things": things,
        "places": [each.names for each in world.places.values()],
    }
    # "In", "of" and such say nothing of what the phrases around them say.
    left = set(source.vocabulary()) - world.fillers
    words = {}
    for meaning, several in meanings.items():
        said = {word for phrases in several for phrase in phrases for word in phrase.split()}
        words[meaning] = sorted(said & left)
        left -= said
    words["others"] = sorted(left | (world.fillers & set(source.vocabulary())))
    about = "Every word that this model was trained with. It was taught no others."
    return json.dumps({"about": about, "words": words}, indent=1) + "\n"
