"""The light of a scene in its sky: gradient, sun or moon, stars, clouds, rain."""

from __future__ import annotations

import numpy as np

from lab.scenes.language import RGB
from lab.scenes.layout import SIDE
from lab.scenes.world.canvas import Canvas
from lab.scenes.world.colour import mix
from lab.scenes.world.language import world_language
from lab.scenes.world.layout import WorldScene

MOON: RGB = (246, 240, 214)


def draw_sky(canvas: Canvas, scene: WorldScene, horizon: float, rng: np.random.Generator) -> None:
    """Everything above the horizon that belongs to the light and not to a place or thing."""
    # Where buildings or trees hide the horizon, its colours are seen over their tops.
    clear = world_language().places[scene.place].clear
    canvas.gradient(0, SIDE, [(0, canvas.light.sky[-1][1])])
    canvas.gradient(0, min(horizon + 8, clear + 24), canvas.light.sky)
    if scene.light == "night":
        _stars(canvas, horizon, rng)
    if scene.orb is not None:
        _orb(canvas, scene.light, *scene.orb)
    if scene.clouds:
        _clouds(canvas, scene, horizon, rng)


def _stars(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    for _ in range(46):
        x, y = rng.uniform(0, SIDE), horizon * rng.random() ** 1.3
        radius = rng.choice([0.45, 0.6, 0.95])
        canvas.ellipse(x, y, radius, radius, mix((255, 250, 225), (150, 170, 230), rng.random()))


def _orb(canvas: Canvas, light: str, x: float, y: float, radius: float) -> None:
    if light == "night":
        canvas.glow(x, y, radius * 2.2, (170, 185, 235), 0.3)
        canvas.ellipse(x, y, radius, radius, MOON)
        for dx, dy, crater in ((-0.3, -0.2, 0.24), (0.32, 0.28, 0.18), (0.1, -0.5, 0.12)):
            canvas.ellipse(
                x + dx * radius, y + dy * radius, crater * radius, crater * radius, (222, 214, 186)
            )
        return
    halo, core = {
        "dawn": ((255, 246, 214), (255, 250, 228)),
        "sunset": ((255, 196, 96), (255, 236, 158)),
    }.get(light, ((255, 246, 196), (255, 232, 120)))
    canvas.glow(x, y, radius * 2.6, halo, 0.55)
    canvas.ellipse(x, y, radius, radius, core)


def _clouds(canvas: Canvas, scene: WorldScene, horizon: float, rng: np.random.Generator) -> None:
    light, orb = scene.light, scene.orb
    if light == "storm":
        _storm_clouds(canvas, horizon, rng)
        return
    rgb = {
        "day": (250, 252, 252),
        "dawn": (255, 232, 224),
        "sunset": (255, 150, 112),
        "night": (44, 56, 112),
    }[light]
    if light in ("sunset", "dawn"):
        # Long bands, lit from below.
        for _ in range(5):
            y, x = horizon * rng.uniform(0.2, 0.86), rng.uniform(0, SIDE)
            length, thick = rng.uniform(22, 52), rng.uniform(1.2, 2.6)
            shade = mix(rgb, canvas.light.sky[1][1], 0.75 * (1 - y / horizon))
            bands = ((0.0, 1.0, 1.0), (-0.35, 0.6, 0.8), (0.4, 0.5, 0.7))
            for shift, part, thin in bands:
                _lens(canvas, x + shift * length, y + shift * 4, part * length, thin * thick, shade)
        return
    shade = mix(rgb, canvas.light.sky[1][1], 0.35)
    for _ in range(3):
        x, y = rng.uniform(6, SIDE - 6), horizon * rng.uniform(0.12, 0.6)
        if orb is not None and np.hypot(x - orb[0], y - orb[1]) < 30:
            x = SIDE - x  # not over the sun or moon, which stands to one side
        _puff(canvas, float(x), float(y), float(rng.uniform(7, 11)), rgb, shade)


def _lens(canvas: Canvas, x: float, y: float, half: float, thick: float, rgb: RGB) -> None:
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    xs, ys = x + half * np.cos(t), y + thick * np.sin(t) * np.abs(np.sin(t))
    canvas.polygon([(float(a), float(b)) for a, b in zip(xs, ys, strict=True)], rgb)


def _puff(canvas: Canvas, x: float, y: float, radius: float, rgb: RGB, shade: RGB) -> None:
    """A cloud of round puffs with a flat, shaded base."""
    for colour, lift in ((shade, 0.0), (rgb, -0.14)):
        for dx, dy, part in (
            (-0.95, 0.05, 0.5), (-0.35, -0.35, 0.72), (0.4, -0.2, 0.6), (1, 0.1, 0.42),
        ):  # fmt: skip
            reach = part * radius
            canvas.ellipse(x + dx * radius, y + (dy + lift) * radius, reach, reach, colour)
        canvas.box(
            x - 1.1 * radius, y + (0.05 + lift) * radius, x + 1.15 * radius,
            y + (0.5 + lift) * radius, colour,
        )  # fmt: skip


def _storm_clouds(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    tones: list[RGB] = [(112, 120, 134), (84, 91, 106), (60, 66, 82)]
    for row, rgb in enumerate(tones):
        y = horizon * (0.3 - 0.13 * row)
        for middle in np.arange(-6, SIDE + 12, 13):
            radius = float(rng.uniform(9, 14))
            canvas.ellipse(float(middle + rng.uniform(-3, 3)), y, radius * 1.25, radius * 0.8, rgb)
        canvas.box(0, 0, SIDE, max(y, 1), rgb)
    x = float(rng.uniform(18, SIDE - 18))
    top, tall = horizon * 0.36, horizon * 0.5
    path = [(0, 0), (-4, 0.42), (1, 0.42), (-4, 1), (7, 0.3), (2, 0.3), (5, 0)]
    canvas.polygon([(x + dx, top + dy * tall) for dx, dy in path], (255, 244, 190))


def draw_rain(canvas: Canvas, rng: np.random.Generator) -> None:
    """Thin rain over everything. It owns nothing."""
    for _ in range(70):
        x, y = rng.uniform(0, SIDE + 10), rng.uniform(0, SIDE)
        length = rng.uniform(5, 9)
        canvas.glaze(
            [(x, y), (x + 0.5, y), (x + 0.5 - 0.3 * length, y + length),
             (x - 0.3 * length, y + length)],
            (214, 226, 236), 0.5,
        )  # fmt: skip
