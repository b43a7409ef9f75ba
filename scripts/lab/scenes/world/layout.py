"""What is to be seen: a place in a light, and up to three things in it."""

from __future__ import annotations

from dataclasses import dataclass

from lab.scenes.world.language import world_language


@dataclass(frozen=True)
class WorldThing:
    """A thing: ``x`` is its middle, ``base`` its foot, in pixels of a 128 pixel picture."""

    kind: str
    colour: str | None
    size: str
    style: str | None
    x: float
    base: float
    height: float
    flip: bool

    @property
    def width(self) -> float:
        return self.height * world_language().things[self.kind].width

    @property
    def centre(self) -> tuple[float, float]:
        return self.x, self.base - self.height / 2


@dataclass(frozen=True)
class WorldScene:
    """A place, its light, its style, and things; far ones first.

    ``orb`` is the sun or moon of the light: x, y and radius; ``None`` where there is none, or
    where it is one of the things. ``detail`` is the seed of everything that no word names.
    """

    place: str
    light: str
    style: str | None
    things: tuple[WorldThing, ...]
    horizon: float
    orb: tuple[float, float, float] | None
    clouds: bool
    water: bool
    detail: int

    def groups(self) -> list[tuple[int, ...]]:
        """Things that one phrase names, by index: those of one kind, colour and style."""
        found: dict[tuple[str, str | None, str | None], list[int]] = {}
        for index, each in enumerate(self.things):
            found.setdefault((each.kind, each.colour, each.style), []).append(index)
        return [tuple(indices) for indices in found.values()]

    def combinations(self) -> list[tuple[str, str]]:
        """The (light, place), (style, place) and (thing, colour) that the scene holds."""
        found = [(self.light, self.place)]
        if self.style:
            found.append((self.style, self.place))
        return found + [(each.kind, each.colour) for each in self.things if each.colour]
