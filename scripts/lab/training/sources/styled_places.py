"""The world's places that come in styles, as nouns."""

from __future__ import annotations

from lab.scenes.world import world_language
from lab.training.sources.source import StyledNouns


def styled_places() -> StyledNouns:
    """Their names of one word, and beginnings that hold no combination that is held out."""
    words = world_language()
    places = {name: each for name, each in words.places.items() if each.styles}
    nouns = {
        name: [noun for noun in dict.fromkeys(one.names) if noun.count(" ") == 1]
        for name, one in places.items()
    }
    kept = words.kept_from_a_style()
    said = {
        style: tuple(dict.fromkeys(word for one in places.values() for word in one.styles[style]))
        for style in words.styles
        if not words.is_held_out((style, name) for name in places)
    }
    lights = [
        light
        for name, light in words.lights.items()
        if not words.is_held_out((name, place) for place in places)
    ]
    where = {"ground": "in front of", "air": "over"}
    before = [
        *("", "a", *(f"{opening} a" for opening in words.openings)),
        *(
            f"the {one} {where[kind.stand]} a"
            for kind in words.things.values()
            for one, _ in kind.names[:1]
            if kind.stand in where and set(places) & {*kind.places, *kind.visits}
        ),
        *(f"a {word}" for light in lights for word in light.adjectives),
        *(f"{word} ," for light in lights for word in light.nouns),
    ]
    return StyledNouns(
        kept=tuple(noun.split()[1] for name in places if name in kept for noun in nouns[name]),
        others=tuple(
            noun.split()[1] for name in places if name not in kept for noun in nouns[name]
        ),
        styles=tuple(word for words_of in said.values() for word in words_of),
        before=tuple(each.replace("the the ", "the ") for each in before),
    )
