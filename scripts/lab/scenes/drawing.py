"""Draw a scene with Pillow, anti-aliased, and say which pixels each object covers."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from lab.scenes.layout import SIDE, Scene, SceneObject

SUPERSAMPLING = 4


def _arc(radius: float, start: float, stop: float, centre: float = 0.0) -> np.ndarray:
    angle = np.linspace(start, stop, 40)
    return np.stack([centre + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


@cache
def outline(shape: str) -> np.ndarray:
    """Corners ``(n, 2)`` of a shape, x to the right and y down, about the unit circle.

    Some reach out of it, the triangle's corners by a tenth, so that all look equally large.

    Raises:
        KeyError: the shape is not one that can be drawn.
    """
    turn = 2 * np.pi
    half = np.sqrt(0.5)
    if shape == "circle":
        points = _arc(0.92, 0, turn)
    elif shape == "square":
        points = np.array([[-half, -half], [half, -half], [half, half], [-half, half]]) * 1.05
    elif shape == "triangle":
        angle = -turn / 4 + turn / 3 * np.arange(3)
        points = np.stack([np.cos(angle), np.sin(angle) + 0.18], axis=1)
    elif shape == "star":
        angle = -turn / 4 + turn / 10 * np.arange(10)
        reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
        points = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1)
    elif shape == "heart":
        angle = np.linspace(0, turn, 80)
        x = 16 * np.sin(angle) ** 3
        y = -(13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle))
        points = np.stack([x, y + np.cos(4 * angle) - 2], axis=1) / 17
    elif shape == "diamond":
        points = np.array([[0, -1], [0.68, 0], [0, 1], [-0.68, 0]])
    elif shape == "cross":
        arm = 0.3
        corner = np.array([[arm, -0.93], [arm, -arm], [0.93, -arm]])
        turns = [np.array([[0, -1], [1, 0]]), np.array([[-1, 0], [0, -1]])]
        quarter = np.array([[0, 1], [-1, 0]])
        points = np.concatenate([corner, corner @ quarter, corner @ turns[1], corner @ turns[0]])
    elif shape == "crescent":
        # The far side of one circle, closed by the near side of a second, moved one.
        outer = _arc(0.95, 0.28 * np.pi, 1.72 * np.pi)
        tip = outer[-1]
        centre = 0.42
        reach = np.hypot(tip[0] - centre, tip[1])
        start = np.arctan2(tip[1], tip[0] - centre)
        inner = _arc(reach, start, -start - turn, centre)
        points = np.concatenate([outer, inner]) + np.array([0.15, 0])
    else:
        raise KeyError(f"Expected a shape that can be drawn, got {shape!r}.")
    points.setflags(write=False)
    return points


def _corners(each: SceneObject, scale: float) -> list[tuple[float, float]]:
    points = (outline(each.shape) * each.radius + np.array([each.x, each.y])) * scale - 0.5
    return [(float(x), float(y)) for x, y in points]


def draw_scene(scene: Scene, size: int = SIDE) -> Image.Image:
    """The picture of a scene, RGB, ``size`` × ``size`` pixels."""
    large = size * SUPERSAMPLING
    picture = Image.new("RGB", (large, large), scene.ground_rgb)
    pen = ImageDraw.Draw(picture)
    for each in scene.objects:
        pen.polygon(_corners(each, large / SIDE), fill=each.rgb)
    return picture.resize((size, size), Image.Resampling.BOX)


def object_masks(scene: Scene, size: int = SIDE) -> np.ndarray:
    """Pixels of every object: bool ``(objects, size, size)``; at least half covered counts."""
    large = size * SUPERSAMPLING
    masks = np.zeros((len(scene.objects), size, size), dtype=bool)
    for index, each in enumerate(scene.objects):
        cover = Image.new("L", (large, large), 0)
        ImageDraw.Draw(cover).polygon(_corners(each, large / SIDE), fill=255)
        masks[index] = np.asarray(cover.resize((size, size), Image.Resampling.BOX)) >= 128
    return masks
