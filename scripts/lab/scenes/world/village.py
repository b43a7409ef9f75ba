"""A village on rolling grass: two rows of houses about a church."""

from __future__ import annotations

import numpy as np

from lab.scenes.language import RGB
from lab.scenes.layout import SIDE
from lab.scenes.world.canvas import Canvas, Pen
from lab.scenes.world.city_buildings import draw_church, draw_spindle
from lab.scenes.world.ground import GRASS, ridge
from lab.scenes.world.layout import WorldScene
from lab.scenes.world.owners import owner_of
from lab.scenes.world.things.buildings import draw_house


def draw_village(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    foot = scene.horizon
    canvas.owner = owner_of("grass")
    ridge(canvas, foot - 10, 6, canvas.land((112, 166, 120), 0.45), rng)
    ridge(canvas, foot - 2, 3, canvas.land((112, 176, 92), 0.15), rng)
    walls: dict[str | None, list[RGB | None]] = {
        None: [None, (236, 200, 150), (214, 222, 226), (240, 190, 170)],
        "old": [None, (222, 196, 160), (240, 228, 206)],
        "futuristic": [None, (190, 214, 236), (206, 200, 240)],
    }
    canvas.owner = owner_of("village")
    for far, drop, tall, count in ((0.3, -2.0, 26.0, 5), (0.04, 9.0, 34.0, 4)):
        if far > 0.1:
            church = Pen(canvas, float(rng.uniform(46, 82)), foot + drop, 58.0, far=0.2, land=True)
            if scene.style == "futuristic":
                draw_spindle(church, 0.2, (186, 200, 236), rng)
            else:
                draw_church(church, 0.22, (230, 214, 184), rng)
        for x in (np.arange(count) + 0.5) * SIDE / count:
            options = walls[scene.style]
            pen = Pen(
                canvas, float(x + rng.uniform(-4, 4)), foot + drop + rng.uniform(-2, 2),
                tall * float(rng.uniform(0.85, 1.1)), flip=bool(rng.random() < 0.5), far=far,
                land=True,
            )  # fmt: skip
            draw_house(pen, options[int(rng.integers(len(options)))], scene.style)
    canvas.owner = owner_of("grass")
    ridge(canvas, foot + 11, 1.5, canvas.land(GRASS), rng, waves=1)
