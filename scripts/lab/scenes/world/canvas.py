"""What a scene is painted on: the picture and, pixel for pixel, whose each pixel is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from lab.scenes.language import RGB
from lab.scenes.layout import SIDE
from lab.scenes.world.colour import mix, tinted
from lab.scenes.world.language import Light

SUPERSAMPLING = 4

Points = Sequence[tuple[float, float]]


class Canvas:
    """A picture and a map of owners, drawn together and four times as large as asked for.

    Coordinates are pixels of a 128 pixel picture, y down. ``owner`` is the number that
    everything painted from now on leaves in the map. Either of the two can be left out.
    """

    def __init__(self, size: int, light: Light, *, picture: bool, owners: bool) -> None:
        self.size, self.light = size, light
        self.side = size * SUPERSAMPLING
        self.scale = self.side / SIDE
        self.owner = 0
        self.picture = Image.new("RGB", (self.side, self.side)) if picture else None
        self.owners = Image.new("L", (self.side, self.side), 0) if owners else None
        self._paint = ImageDraw.Draw(self.picture) if self.picture else None
        self._glaze = ImageDraw.Draw(self.picture, "RGBA") if self.picture else None
        self._claim = ImageDraw.Draw(self.owners) if self.owners else None

    def _large(self, points: Points) -> list[tuple[float, float]]:
        scale = self.scale
        return [(x * scale - 0.5, y * scale - 0.5) for x, y in points]

    def polygon(self, points: Points, rgb: RGB) -> None:
        corners = self._large(points)
        if self._paint:
            self._paint.polygon(corners, fill=rgb)
        if self._claim:
            self._claim.polygon(corners, fill=self.owner)

    def box(self, left: float, top: float, right: float, bottom: float, rgb: RGB) -> None:
        scale = self.scale
        corners = (
            round(left * scale),
            round(top * scale),
            max(round(right * scale) - 1, round(left * scale)),
            max(round(bottom * scale) - 1, round(top * scale)),
        )
        if self._paint:
            self._paint.rectangle(corners, fill=rgb)
        if self._claim:
            self._claim.rectangle(corners, fill=self.owner)

    def ellipse(self, x: float, y: float, across: float, down: float, rgb: RGB) -> None:
        """About ``(x, y)``, with radii ``across`` and ``down``."""
        corners = self._large([(x - across, y - down), (x + across, y + down)])
        if self._paint:
            self._paint.ellipse(corners, fill=rgb)
        if self._claim:
            self._claim.ellipse(corners, fill=self.owner)

    def line(self, points: Points, width: float, rgb: RGB) -> None:
        corners, thick = self._large(points), max(1, round(width * self.scale))
        if self._paint:
            self._paint.line(corners, fill=rgb, width=thick, joint="curve")
        if self._claim:
            self._claim.line(corners, fill=self.owner, width=thick, joint="curve")

    def glaze(self, points: Points, rgb: RGB, opacity: float) -> None:
        """A see-through polygon. It owns nothing: light on what is there already."""
        if self._glaze:
            self._glaze.polygon(self._large(points), fill=(*rgb, round(255 * opacity)))

    def glow(self, x: float, y: float, radius: float, rgb: RGB, opacity: float) -> None:
        """A soft halo, brightest in its middle, that owns nothing."""
        if self._glaze:
            for ring in range(10):
                reach = radius * (1 - ring / 10)
                corners = self._large([(x - reach, y - reach), (x + reach, y + reach)])
                self._glaze.ellipse(corners, fill=(*rgb, round(255 * opacity / 10)))

    def gradient(self, top: float, bottom: float, stops: Sequence[tuple[float, RGB]]) -> None:
        """Rows from ``top`` to ``bottom`` in colours that pass through ``stops`` (0 to 1)."""
        first, last = (round(np.clip(each, 0, SIDE) * self.scale) for each in (top, bottom))
        if last <= first:
            return
        if self.picture:
            rows = (np.arange(first, last) + 0.5) / self.scale
            share = (rows - top) / max(bottom - top, 1e-6)
            at = [stop for stop, _ in stops]
            bands = [np.interp(share, at, [rgb[band] for _, rgb in stops]) for band in range(3)]
            column = np.stack(bands, axis=-1).round().astype(np.uint8)[:, None]
            strip = Image.fromarray(np.ascontiguousarray(column))
            self.picture.paste(strip.resize((self.side, last - first)), (0, first))
        if self._claim:
            self._claim.rectangle((0, first, self.side, last - 1), fill=self.owner)

    def mirror(self, waterline: float, bottom: float, rgb: RGB, opacity: float) -> None:
        """What is above the waterline, upside down below it, under water of a colour."""
        first, last = round(waterline * self.scale), round(bottom * self.scale)
        if self.picture:
            above = self.picture.crop((0, first - (last - first), self.side, first))
            above = above.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
            water = Image.new("RGB", above.size, rgb)
            self.picture.paste(Image.blend(above, water, opacity), (0, first))
        if self._claim:
            self._claim.rectangle((0, first, self.side, last - 1), fill=self.owner)

    def land(self, rgb: RGB, far: float = 0.0) -> RGB:
        """A colour of the place in this light; ``far`` (0 to 1) lets it fade into the haze."""
        return mix(tinted(rgb, self.light.land), self.light.haze, far)


def dome(
    half: float, low: float, rise: float, corners: int, until: float = np.pi
) -> list[tuple[float, float]]:
    """The upper half of an ellipse about ``(0, low)``, from the right, over an angle ``until``."""
    return [
        (half * float(np.cos(angle)), low + rise * float(np.sin(angle)))
        for angle in np.linspace(0, until, corners)
    ]


def smooth(points: Points, steps: int = 7) -> list[tuple[float, float]]:
    """A closed curve through points: Catmull-Rom splines, ``steps`` corners a piece."""
    knots = np.asarray(points, dtype=float)
    before, after = np.roll(knots, 1, axis=0), np.roll(knots, -1, axis=0)
    second = np.roll(knots, -2, axis=0)
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (each[:, None] for each in (before, knots, after, second))
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return [(float(x), float(y)) for x, y in curve.reshape(-1, 2)]


class Pen:
    """Draws one thing in coordinates of its own: its base at the origin, y up, height 1.

    Colours are those of daylight; the pen tints them as the scene's light does, except where
    ``lit`` says that something shines by itself.
    """

    def __init__(
        self, canvas: Canvas, x: float, base: float, height: float, *, flip: bool = False,
        far: float = 0.0, land: bool = False,
    ) -> None:  # fmt: skip
        self.canvas, self.x, self.base, self.height = canvas, x, base, height
        self.direction = -1.0 if flip else 1.0
        self.far, self.land = far, land
        self.dark = canvas.light.dark

    def _colour(self, rgb: RGB, lit: bool) -> RGB:
        if lit:
            return mix(rgb, self.canvas.light.haze, self.far)
        if self.land:
            return self.canvas.land(rgb, self.far)
        return tinted(rgb, self.canvas.light.things)

    def _at(self, points: Points) -> list[tuple[float, float]]:
        across = self.direction * self.height
        return [(self.x + x * across, self.base - y * self.height) for x, y in points]

    def polygon(self, points: Points, rgb: RGB, *, lit: bool = False) -> None:
        self.canvas.polygon(self._at(points), self._colour(rgb, lit))

    def blob(self, points: Points, rgb: RGB, *, lit: bool = False) -> None:
        """A smooth closed curve through the points."""
        self.canvas.polygon(smooth(self._at(points)), self._colour(rgb, lit))

    def box(
        self, left: float, bottom: float, right: float, top: float, rgb: RGB, *, lit: bool = False
    ) -> None:
        (x0, y0), (x1, y1) = self._at([(left, top), (right, bottom)])
        self.canvas.box(min(x0, x1), y0, max(x0, x1), y1, self._colour(rgb, lit))

    def ellipse(
        self, x: float, y: float, across: float, down: float, rgb: RGB, *, lit: bool = False
    ) -> None:
        ((x, y),) = self._at([(x, y)])
        down, across = down * self.height, across * self.height
        self.canvas.ellipse(x, y, across, down, self._colour(rgb, lit))

    def disc(self, x: float, y: float, radius: float, rgb: RGB, *, lit: bool = False) -> None:
        self.ellipse(x, y, radius, radius, rgb, lit=lit)

    def line(self, points: Points, width: float, rgb: RGB, *, lit: bool = False) -> None:
        self.canvas.line(self._at(points), width * self.height, self._colour(rgb, lit))

    def window(self, left: float, bottom: float, right: float, top: float) -> None:
        """A pane: lit in the dark, blue by day."""
        if self.dark:
            self.box(left, bottom, right, top, self.canvas.light.window, lit=True)
        else:
            self.box(left, bottom, right, top, (92, 128, 158))
