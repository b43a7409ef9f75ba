"""The language of the world, read from ``language.json``: data, open to growth."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from lab.scenes.language import RGB
from lab.scenes.language import language as first_language

Stand = Literal["ground", "water", "air"]


@dataclass(frozen=True)
class Light:
    """A light: how it is said, and what it does to the sky, the land and the things.

    ``sky`` are stops from the top to the horizon. ``land`` and ``things`` are the parts of red,
    green and blue that they reflect; things keep more, so that their colours can be told.
    ``haze`` is what far things fade into. ``dark`` says that windows are lit.
    """

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    phrases: tuple[str, ...]
    sky: tuple[tuple[float, RGB], ...]
    haze: RGB
    land: tuple[float, float, float]
    things: tuple[float, float, float]
    water: tuple[RGB, RGB]
    window: RGB
    dark: bool


@dataclass(frozen=True)
class Place:
    """A place: its names, how things stand in it, and where the horizon and the floor are.

    ``names`` begin with their article. ``horizon`` and ``floor`` are ranges of rows of a 128
    pixel picture; the bases of things stand on the floor, and above row ``clear`` is room in the
    air. ``parts`` are the classes of pixels
    that its names name, ``styled`` those that a style word names; ``styles`` are said by any of
    their words.
    """

    names: tuple[str, ...]
    holding: dict[Stand, tuple[str, ...]]
    clear: float
    horizon: tuple[float, float]
    floor: tuple[float, float]
    parts: tuple[str, ...]
    styled: tuple[str, ...]
    styles: dict[str, tuple[str, ...]]
    lights: tuple[str, ...]


@dataclass(frozen=True)
class ThingKind:
    """A kind of thing: singular and plural names, height, where it stands, what it comes in.

    ``height`` is that of the medium size, in pixels of a 128 pixel picture, ``width`` a share
    of the height. What has no plural comes alone. The first of ``places`` is where it is when
    no place is said; ``visits`` are places where it is not looked for, but may stand.
    """

    names: tuple[tuple[str, str | None], ...]
    stand: Stand
    height: float
    width: float
    colours: tuple[str, ...]
    styles: dict[str, tuple[str, ...]]
    places: tuple[str, ...]
    visits: tuple[str, ...]
    lights: tuple[str, ...]


@dataclass(frozen=True)
class WorldLanguage:
    """Every word that the world knows, and everything it can show.

    ``styles`` are all words of each style, of which places and things have some.
    """

    colours: dict[str, RGB]
    colour_names: dict[str, tuple[str, ...]]
    sizes: dict[str, tuple[tuple[str, ...], float]]
    counts: dict[int, tuple[str, ...]]
    styles: dict[str, tuple[str, ...]]
    lights: dict[str, Light]
    places: dict[str, Place]
    things: dict[str, ThingKind]
    openings: tuple[str, ...]
    fillers: frozenset[str]
    held_out: frozenset[tuple[str, str]]

    def is_held_out(self, combinations: Iterable[tuple[str, str]]) -> bool:
        """Whether any (thing, colour), (style, place) or (light, place) is kept from training."""
        return any(each in self.held_out for each in combinations)

    def kept_from_a_style(self) -> set[str]:
        """The places of which some style is held out."""
        return {place for style, place in self.held_out if style in self.styles}

    def vocabulary(self) -> list[str]:
        """Every word that a prompt of the world can hold, sorted, each once."""
        phrases = [*self.fillers, *self.openings]
        for named in (self.colour_names, self.counts):
            phrases += [name for names in named.values() for name in names]
        phrases += [name for names, _ in self.sizes.values() for name in names]
        for light in self.lights.values():
            phrases += [*light.nouns, *light.adjectives, *light.phrases]
        for place in self.places.values():
            phrases += [*place.names, *(each for held in place.holding.values() for each in held)]
            phrases += [name for names in place.styles.values() for name in names]
        for thing in self.things.values():
            phrases += [name for names in thing.names for name in names if name]
            phrases += [name for names in thing.styles.values() for name in names]
        for relation in first_language().relations.values():
            phrases += relation.between
        return sorted({word for phrase in phrases for word in phrase.split() if word != "{}"})


def _rgb(raw: list[int]) -> RGB:
    red, green, blue = raw
    return red, green, blue


@cache
def world_language() -> WorldLanguage:
    """The language in the package."""
    raw = json.loads(files("lab.scenes.world").joinpath("language.json").read_text("utf-8"))
    colours = dict(first_language().colours)
    colours |= {name: _rgb(rgb) for name, rgb in raw["more_colours"].items()}
    palettes = {name: tuple(names) for name, names in raw["palettes"].items()}
    styles = {
        family: {style: tuple(names) for style, names in each.items()}
        for family, each in raw["styles"].items()
    }
    all_styles: dict[str, tuple[str, ...]] = {}
    for family in styles.values():
        for style, names in family.items():
            all_styles[style] = tuple(dict.fromkeys((*all_styles.get(style, ()), *names)))
    lights = {
        name: Light(
            nouns=tuple(each["nouns"]),
            adjectives=tuple(each["adjectives"]),
            phrases=tuple(each["phrases"]),
            sky=tuple((stop, _rgb(rgb)) for stop, rgb in each["sky"]),
            haze=_rgb(each["haze"]),
            land=tuple(each["land"]),
            things=tuple(each["things"]),
            water=(_rgb(each["water"][0]), _rgb(each["water"][1])),
            window=_rgb(each["window"]),
            dark=each["dark"],
        )
        for name, each in raw["lights"].items()
    }
    places = {
        name: Place(
            names=tuple(each["names"]),
            holding={stand: tuple(phrases) for stand, phrases in each["holding"].items()},
            clear=each["clear"],
            horizon=tuple(each["horizon"]),
            floor=tuple(each["floor"]),
            parts=tuple(each["parts"]),
            styled=tuple(each.get("styled", ())),
            styles=styles.get(each.get("styles"), {}),
            lights=tuple(each.get("lights", lights)),
        )
        for name, each in raw["places"].items()
    }
    things = {
        name: ThingKind(
            names=tuple((one, many) for one, many in each["names"]),
            stand=each["stand"],
            height=each["height"],
            width=each["width"],
            colours=palettes[each["colours"]],
            styles=styles.get(each.get("styles"), {}),
            places=tuple(each["places"]),
            visits=tuple(each.get("visits", ())),
            lights=tuple(each.get("lights", lights)),
        )
        for name, each in raw["things"].items()
    }
    return WorldLanguage(
        colours=colours,
        colour_names={name: tuple(raw["colour_names"].get(name, [name])) for name in colours},
        sizes={
            name: (tuple(each["names"]), float(each["factor"]))
            for name, each in raw["sizes"].items()
        },
        counts={int(count): tuple(names) for count, names in raw["counts"].items()},
        styles=all_styles,
        lights=lights,
        places=places,
        things=things,
        openings=tuple(raw["openings"]),
        fillers=frozenset(raw["fillers"]),
        held_out=frozenset(
            (first, second) for pairs in raw["held_out"].values() for first, second in pairs
        ),
    )
