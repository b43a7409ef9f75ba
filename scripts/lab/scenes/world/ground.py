"""Land and water: meadow, hills, sea, beach, desert, snow, mountains, forest, reef."""

from __future__ import annotations

import numpy as np

from lab.scenes.language import RGB
from lab.scenes.layout import SIDE
from lab.scenes.world.canvas import Canvas, Pen
from lab.scenes.world.colour import darker, lighter, mix
from lab.scenes.world.layout import WorldScene
from lab.scenes.world.owners import owner_of
from lab.scenes.world.things.nature import draw_pine, draw_tree

GRASS: RGB = (122, 184, 88)
SAND: RGB = (240, 212, 148)
DUNE: RGB = (232, 178, 104)
SNOW: RGB = (240, 246, 252)
ROCK: RGB = (124, 132, 162)


def ridge(
    canvas: Canvas,
    y: float,
    swing: float,
    rgb: RGB,
    rng: np.random.Generator,
    *,
    waves: float = 1.5,
) -> None:
    """Ground from a rolling line about ``y`` to the bottom, its edge in the light of the sky."""
    x = np.linspace(-1, SIDE + 1, 44)
    phases = rng.uniform(0, 2 * np.pi, 2)
    line = y - swing * (
        0.7 * np.sin(waves * x / SIDE * 2 * np.pi + phases[0])
        + 0.3 * np.sin(2.3 * waves * x / SIDE * 2 * np.pi + phases[1])
    )
    points = [(float(a), float(b)) for a, b in zip(x, line, strict=True)]
    foot = [(SIDE + 1.0, SIDE + 1.0), (-1.0, SIDE + 1.0)]
    canvas.polygon([*points, *foot], mix(rgb, canvas.light.haze, 0.22))
    canvas.polygon([*((a, b + 1.4) for a, b in points), *foot], rgb)


def _specks(
    canvas: Canvas, top: float, rgbs: list[RGB], rng: np.random.Generator, count: int
) -> None:
    """Small marks on the ground, larger towards the viewer."""
    for _ in range(count):
        y = rng.uniform(top, SIDE)
        reach = 0.5 + 0.8 * (y - top) / (SIDE - top)
        rgb = rgbs[int(rng.integers(len(rgbs)))]
        canvas.ellipse(rng.uniform(0, SIDE), y, reach * 1.5, reach * 0.7, rgb)


def draw_meadow(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    y = scene.horizon
    canvas.owner = owner_of("grass")
    ridge(canvas, y - 4, 5, canvas.land((104, 168, 110), 0.4), rng)
    ridge(canvas, y + 3, 3, canvas.land((112, 176, 92), 0.12), rng)
    ridge(canvas, y + 15, 3, canvas.land(GRASS), rng, waves=1)
    tufts = [
        canvas.land(each)
        for each in ((98, 160, 74), (250, 240, 220), (255, 214, 110), (98, 160, 74))
    ]
    _specks(canvas, y + 20, tufts, rng, 26)


def draw_hills(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    canvas.owner = owner_of("hills")
    tones: list[tuple[RGB, float]] = [
        ((112, 158, 140), 0.55), ((104, 166, 112), 0.3), ((118, 180, 92), 0.1), (GRASS, 0.0),
    ]  # fmt: skip
    for row, (rgb, far) in enumerate(tones):
        y = scene.horizon + row * 13
        ridge(canvas, y, 9 - row, canvas.land(rgb, far), rng, waves=1.2 + 0.2 * row)


def water(canvas: Canvas, scene: WorldScene, top: float, rng: np.random.Generator) -> None:
    """Open water from ``top`` down: darker towards the viewer, with waves and the sun's path."""
    canvas.owner = owner_of("water")
    far, near = canvas.light.water
    canvas.gradient(top, SIDE, [(0, far), (0.35, mix(far, near, 0.55)), (1, near)])
    if scene.orb is not None:
        x, _, radius = scene.orb
        shine: RGB = (255, 236, 176) if scene.light != "night" else (226, 228, 226)
        for y in np.arange(top + 1.5, SIDE, 3.4):
            wide = radius * (0.6 + 0.5 * rng.random()) * (1 - 0.4 * (y - top) / (SIDE - top))
            shift = x + rng.uniform(-2, 2)
            _wave(canvas, shift, float(y), wide, 1.0, shine, 0.55)
    for _ in range(26):
        y = top + 2 + (SIDE - top - 3) * rng.random() ** 1.2
        near_by = (y - top) / (SIDE - top)
        _wave(
            canvas, rng.uniform(0, SIDE), y, 3 + 9 * near_by, 0.5 + 0.5 * near_by,
            lighter(far, 0.5), 0.3,
        )  # fmt: skip


def _wave(
    canvas: Canvas, x: float, y: float, half: float, thick: float, rgb: RGB, opacity: float
) -> None:
    canvas.glaze([(x - half, y), (x, y - thick), (x + half, y), (x, y + thick)], rgb, opacity)


def draw_sea(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    water(canvas, scene, scene.horizon, rng)


def draw_beach(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    water(canvas, scene, scene.horizon, rng)
    foam = canvas.land((250, 252, 250))
    shore = scene.horizon + 20
    state = rng.bit_generator.state
    ridge(canvas, shore - 2.4, 3, foam, rng, waves=1.1)
    rng.bit_generator.state = state  # the same line again, lower
    canvas.owner = owner_of("sand")
    ridge(canvas, shore, 3, canvas.land(darker(SAND, 0.12)), rng, waves=1.1)
    ridge(canvas, shore + 9, 2.5, canvas.land(SAND), rng, waves=1.1)
    _specks(
        canvas, shore + 12, [canvas.land(darker(SAND, 0.15)), canvas.land(lighter(SAND))], rng, 24,
    )  # fmt: skip


def draw_desert(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    canvas.owner = owner_of("sand")
    y = scene.horizon
    for row, (rgb, far) in enumerate(((DUNE, 0.45), (darker(DUNE, 0.08), 0.18), (DUNE, 0.0))):
        _dune(canvas, y + row * 13, 12 - 2 * row, canvas.land(rgb, far), rng)
    _specks(canvas, y + 34, [canvas.land(darker(DUNE, 0.2))], rng, 10)


def _dune(canvas: Canvas, y: float, tall: float, rgb: RGB, rng: np.random.Generator) -> None:
    """A crest: its windward side in the light, its lee in the shade."""
    crest = float(rng.uniform(0.2, 0.8)) * SIDE
    rise = np.linspace(-8, crest, 12)
    fall = np.linspace(crest, SIDE + 8, 12)
    up = y - tall * np.sin((rise + 8) / (crest + 8) * np.pi / 2) ** 1.6
    down = y - tall * np.cos((fall - crest) / (SIDE + 8 - crest) * np.pi / 2) ** 2
    line = [(float(a), float(b)) for a, b in zip([*rise, *fall], [*up, *down], strict=True)]
    canvas.polygon([*line, (SIDE + 8.0, SIDE + 1.0), (-8.0, SIDE + 1.0)], rgb)
    lee = line[11:]
    foot = [(SIDE + 8.0, y + 9), (crest + 26, y + 10), (crest + 8, y + 2)]
    canvas.polygon([*lee, *foot], darker(rgb, 0.14))


def draw_snow(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    canvas.owner = owner_of("snow")
    y = scene.horizon
    ridge(canvas, y - 3, 5, canvas.land((206, 222, 240), 0.35), rng)
    ridge(canvas, y + 5, 3.5, canvas.land((222, 234, 246), 0.1), rng)
    ridge(canvas, y + 17, 3, canvas.land(SNOW), rng, waves=1)
    _specks(canvas, y + 22, [canvas.land((214, 226, 242)), canvas.land((255, 255, 255))], rng, 22)
    if scene.light != "storm":
        canvas.owner = owner_of("sky")
        for _ in range(30):
            flake = rng.uniform(0.4, 0.8)
            canvas.ellipse(
                rng.uniform(0, SIDE), rng.uniform(0, y - 10), flake, flake,
                canvas.land((255, 255, 255)),
            )  # fmt: skip


def draw_mountains(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    canvas.owner = owner_of("mountains")
    y = scene.horizon
    _range(canvas, y, (44, 58), canvas.land(ROCK, 0.5), canvas.land(SNOW, 0.3), 4, rng)
    _range(canvas, y + 3, (34, 62), canvas.land(ROCK, 0.12), canvas.land(SNOW, 0.05), 3, rng)
    _range(canvas, y + 5, (12, 22), canvas.land((84, 112, 122), 0.12), None, 5, rng)
    canvas.owner = owner_of("grass")
    ridge(canvas, y + 4, 2.5, canvas.land((98, 160, 96)), rng)
    ridge(canvas, y + 14, 2.5, canvas.land(GRASS), rng, waves=1)


def _range(
    canvas: Canvas, foot: float, tall: tuple[float, float], rgb: RGB, snow: RGB | None, count: int,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Peaks side by side: a lit side, a shaded side, snow above a jagged line."""
    step = SIDE / count
    middles = (np.arange(count) + 0.5) * step + rng.uniform(-0.25, 0.25, count) * step
    for x in rng.permutation(middles):
        height = float(rng.uniform(*tall))
        half = height * rng.uniform(0.75, 0.95)
        peak = (float(x), foot - height)
        dent = float(x) + 0.1 * half
        canvas.polygon([peak, (x - half, foot + 3), (x + half, foot + 3)], rgb)
        shade = darker(rgb, 0.2)
        canvas.polygon(
            [peak, (dent, foot - 0.6 * height), (dent - 0.12 * half, foot - 0.3 * height),
            (dent + 0.1 * half, foot + 3), (x + half, foot + 3)], shade,
        )  # fmt: skip
        if snow is not None:
            cap, edge = 0.34, foot - height * (1 - 0.34)
            canvas.polygon(
                [peak, (x - cap * half, edge), (x - 0.16 * half, edge - 0.09 * height),
                 (x - 0.05 * half, edge + 0.05 * height), (dent, edge - 0.06 * height)],
                snow,
            )  # fmt: skip
            canvas.polygon(
                [peak, (dent, edge - 0.06 * height), (x + 0.2 * half, edge + 0.03 * height),
                 (x + 0.24 * half, edge - 0.07 * height), (x + cap * half, edge)],
                mix(snow, shade, 0.3),
            )  # fmt: skip


def draw_forest(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    y = scene.horizon
    canvas.owner = owner_of("forest")
    for far, count, tall, foot in ((0.55, 15, (34, 46), -3), (0.25, 11, (38, 56), 1)):
        for x in np.linspace(-4, SIDE + 4, count):
            pen = Pen(
                canvas, float(x + rng.uniform(-3, 3)), y + foot, float(rng.uniform(*tall)),
                far=far, land=True,
            )  # fmt: skip
            draw_pine(pen, None, None)
        canvas.box(0, y + foot - 6, SIDE, y + foot + 4, canvas.land((50, 100, 78), far))
    canvas.owner = owner_of("grass")
    ridge(canvas, y + 1, 1.5, canvas.land((84, 144, 82)), rng)
    ridge(canvas, y + 12, 2, canvas.land((104, 166, 84)), rng, waves=1)
    canvas.owner = owner_of("forest")
    for x in (4, 20, 108, 124):
        pen = Pen(
            canvas, float(x + rng.uniform(-3, 3)), y + rng.uniform(5, 10),
            float(rng.uniform(52, 70)), land=True,
        )  # fmt: skip
        (draw_tree if rng.random() < 0.25 else draw_pine)(pen, (76, 146, 84), None)


def draw_reef(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    canvas.owner = owner_of("water")
    canvas.gradient(0, SIDE, [(0, (132, 218, 230)), (0.4, (52, 152, 200)), (1, (22, 78, 148))])
    for _ in range(4):
        x, wide = float(rng.uniform(0, SIDE)), float(rng.uniform(5, 10))
        canvas.glaze(
            [(x, -1), (x + wide, -1), (x + wide - 14, 112), (x - 26, 112)], (226, 250, 250), 0.14,
        )  # fmt: skip
    for _ in range(12):
        reach = float(rng.uniform(0.8, 1.9))
        canvas.ellipse(rng.uniform(4, 124), rng.uniform(6, 92), reach, reach, (196, 236, 242))
    canvas.owner = owner_of("sand")
    ridge(canvas, 112, 2, (226, 204, 152), rng)
    for x in rng.permutation([6, 18, 30, 98, 110, 122])[:5]:
        tall, foot = float(rng.uniform(12, 26)), float(rng.uniform(112, 118))
        x = float(x)
        if rng.random() < 0.5:
            rgb: RGB = (232, 104, 120) if rng.random() < 0.6 else (240, 160, 80)
            for lean, part in ((-5, 0.7), (0, 1.0), (5, 0.8)):
                canvas.line(
                    [(x, foot), (x + lean * 0.7, foot - tall * part * 0.5),
                    (x + lean, foot - tall * part)], 3, rgb,
                )  # fmt: skip
                canvas.ellipse(x + lean, foot - tall * part, 2, 2, rgb)
        else:
            for lean in (-4, 0, 4):
                sway = [
                    (x + lean + 2.2 * np.sin(t * 5 + lean), foot - t * tall)
                    for t in np.linspace(0, 1, 9)
                ]
                canvas.line([(float(a), float(b)) for a, b in sway], 2, (46, 140, 96))
