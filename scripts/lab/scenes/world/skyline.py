"""A city seen from afar: rows of buildings, before them a street or their mirror image."""

from __future__ import annotations

import numpy as np

from lab.scenes.layout import SIDE
from lab.scenes.world.canvas import Canvas, Pen
from lab.scenes.world.city_buildings import LANDMARKS, STYLES, Building
from lab.scenes.world.colour import darker, lighter
from lab.scenes.world.layout import WorldScene
from lab.scenes.world.owners import owner_of


def _row(
    canvas: Canvas, foot: float, style: str | None, tall: float, far: float,
    rng: np.random.Generator, tops: list[Building],
) -> None:  # fmt: skip
    """Buildings side by side, highest in the middle; ``tops`` are landmarks put among them."""
    buildings, colours, widths = STYLES[style]
    middles, x = [], float(rng.uniform(-6, 2))
    while x < SIDE + 4:
        wide = float(rng.uniform(*widths))
        middles.append((x + wide / 2, wide))
        x += wide * (1.0 if style is None else 0.94)
    landmarks = dict(
        zip(rng.permutation(len(middles) // 2) + len(middles) // 4, tops, strict=False)
    )
    # The far side first, so that the middle stands in front.
    for index in sorted(range(len(middles)), key=lambda i: -abs(middles[i][0] - SIDE / 2)):
        at, wide = middles[index]
        swell = np.exp(-(((at - SIDE / 2) / 44) ** 2))
        height = tall * float(0.42 + 0.5 * swell + rng.uniform(-0.14, 0.14))
        build = buildings[int(rng.integers(len(buildings)))]
        if index in landmarks:
            build, height, wide = landmarks[index], max(height * 1.15, tall * 0.8), wide * 1.3
        pen = Pen(canvas, at, foot, height, far=far, land=True)
        build(pen, wide / 2 / height, colours[int(rng.integers(len(colours)))], rng)


def draw_city(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    foot, style = scene.horizon, scene.style
    _, colours, _ = STYLES[style]
    canvas.owner = owner_of("skyline")
    low = 0.7 if style == "old" else 1.0
    # The farthest row is a mere outline in the haze.
    for start in np.arange(-3, SIDE, 9):
        height = rng.uniform(20, 52) * low
        right = float(start + rng.uniform(6, 10))
        canvas.box(float(start), foot - height, right, foot, canvas.land(colours[0], 0.68))
    _row(canvas, foot, style, 60 * low, 0.4, rng, [])
    _row(canvas, foot, style, 68 * low, 0.04, rng, LANDMARKS[style])
    if scene.water:
        canvas.owner = owner_of("water")
        far, near = canvas.light.water
        canvas.mirror(foot, SIDE, near, 0.42)
        canvas.box(0, foot, SIDE, foot + 1.2, darker(canvas.land((110, 110, 120)), 0.2))
        for _ in range(20):
            y, x, half = rng.uniform(foot + 3, SIDE), rng.uniform(0, SIDE), rng.uniform(4, 12)
            canvas.glaze(
                [(x - half, y), (x, y - 0.6), (x + half, y), (x, y + 0.6)], lighter(far, 0.3), 0.3,
            )  # fmt: skip
        return
    canvas.owner = owner_of("pavement")
    canvas.box(0, foot, SIDE, SIDE, canvas.land((150, 152, 160)))
    canvas.owner = owner_of("grass")
    canvas.box(0, foot, SIDE, foot + 4, canvas.land((96, 152, 92)))
    for start in np.arange(2, SIDE, 9):
        reach = float(rng.uniform(2.5, 4.2))
        canvas.ellipse(
            float(start + rng.uniform(-2, 2)), foot + 1, reach, reach, canvas.land((84, 142, 84)),
        )  # fmt: skip
    canvas.owner = owner_of("pavement")
    for start in np.arange(4, SIDE, 22):
        canvas.box(float(start), 123, float(start + 12), 124.2, canvas.land((226, 222, 206)))
