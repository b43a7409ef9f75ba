"""A scene painted: its picture, and whose each pixel is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from lab.scenes.layout import SIDE
from lab.scenes.world import ground
from lab.scenes.world.canvas import SUPERSAMPLING, Canvas
from lab.scenes.world.farm import draw_farm
from lab.scenes.world.harbour import draw_harbour
from lab.scenes.world.language import world_language
from lab.scenes.world.layout import WorldScene
from lab.scenes.world.light import draw_rain, draw_sky
from lab.scenes.world.owners import FIRST_THING, PARTS, owner_of
from lab.scenes.world.skyline import draw_city
from lab.scenes.world.street import draw_street
from lab.scenes.world.things import draw_thing
from lab.scenes.world.village import draw_village

PLACES: dict[str, Callable[[Canvas, WorldScene, np.random.Generator], None]] = {
    "meadow": ground.draw_meadow,
    "hills": ground.draw_hills,
    "sea": ground.draw_sea,
    "beach": ground.draw_beach,
    "desert": ground.draw_desert,
    "snow": ground.draw_snow,
    "mountains": ground.draw_mountains,
    "forest": ground.draw_forest,
    "reef": ground.draw_reef,
    "city": draw_city,
    "village": draw_village,
    "harbour": draw_harbour,
    "farm": draw_farm,
    "street": draw_street,
}


def class_names() -> tuple[str, ...]:
    """The classes of :func:`class_map`, in the order of their numbers."""
    return (*PARTS, *world_language().things)


def _paint(scene: WorldScene, size: int, *, picture: bool, owners: bool) -> Canvas:
    if size < 1:
        raise ValueError(f"A picture has at least one pixel a side, got {size}.")
    light = world_language().lights[scene.light]
    canvas = Canvas(size, light, picture=picture, owners=owners)
    rng = np.random.default_rng(scene.detail)
    canvas.owner = owner_of("sky")
    draw_sky(canvas, scene, scene.horizon, rng)
    PLACES[scene.place](canvas, scene, rng)
    for index, thing in enumerate(scene.things):
        canvas.owner = FIRST_THING + index
        draw_thing(canvas, thing)
    if scene.light == "storm":
        draw_rain(canvas, np.random.default_rng(scene.detail))
    return canvas


def draw_world(scene: WorldScene, size: int = SIDE) -> Image.Image:
    """The picture of a scene, RGB, ``size`` × ``size`` pixels."""
    picture = _paint(scene, size, picture=True, owners=False).picture
    assert picture is not None
    return picture.resize((size, size), Image.Resampling.BOX)


def owner_shares(scene: WorldScene, size: int = SIDE) -> np.ndarray:
    """How much of each pixel is each owner's: float32 ``(owners, size, size)``, 0 to 1.

    First come the parts of the place (:data:`~lab.scenes.world.owners.PARTS`), then the
    things of the scene, each where nothing hides it.
    """
    owners = _paint(scene, size, picture=False, owners=True).owners
    assert owners is not None
    fine = np.asarray(owners)
    shares = np.zeros((FIRST_THING + len(scene.things), size, size), dtype=np.float32)
    for owner in np.flatnonzero(np.bincount(fine.ravel())):
        # Sums by slices: a mean over two axes takes several times as long.
        here = (fine == owner).view(np.uint8)
        rows = sum(here[first::SUPERSAMPLING] for first in range(SUPERSAMPLING))
        count = sum(rows[:, first::SUPERSAMPLING] for first in range(SUPERSAMPLING))
        shares[owner] = count / np.float32(SUPERSAMPLING**2)
    return shares


def class_map(scene: WorldScene, size: int = SIDE) -> np.ndarray:
    """The class of each pixel, by number: uint8 ``(size, size)``. See :func:`class_names`."""
    names = class_names()
    kinds = [*PARTS, *(each.kind for each in scene.things)]
    numbers = np.array([names.index(kind) for kind in kinds], dtype=np.uint8)
    return numbers[owner_shares(scene, size).argmax(axis=0)]
