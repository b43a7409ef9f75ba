"""The judge, on pictures whose truth is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from lab.evaluation.judging import Spoiling, judge_accuracy, judged_rightly
from lab.judge import judge_picture, stands, verdict
from lab.scenes import Scene, SceneObject, draw_scene, language, render_scene

COLOURS = language().colours


def picture(*objects: tuple[str, str, float, float, float], ground: str = "white") -> Image.Image:
    """A scene of `(colour, shape, x, y, radius)`, nothing of it random."""
    return draw_scene(
        Scene(
            ground,
            language().grounds[ground],
            tuple(
                SceneObject(shape, colour, "medium", x, y, radius, COLOURS[colour])
                for colour, shape, x, y, radius in objects
            ),
        )
    )


RED_CIRCLE = ("red", "circle", 30.0, 60.0, 22.0)
BLUE_SQUARE = ("blue", "square", 90.0, 70.0, 22.0)
KINDS = [("red", "circle"), ("blue", "square")]


@pytest.mark.parametrize(
    ("spoiling", "scenes"),
    [
        pytest.param("clean", 300, marks=pytest.mark.slow),
        ("clean", 90),
        ("blurred", 90),
        ("noisy", 90),
    ],
)
def test_right_on_rendered_scenes(spoiling: Spoiling, scenes: int) -> None:
    accuracy = judge_accuracy(scenes, spoiling)
    assert accuracy.all.n == scenes
    assert list(accuracy.by_objects) == [1, 2, 3]
    assert all(share.value >= 0.98 for share in accuracy.by_objects.values())


def test_what_is_there_is_measured() -> None:
    judgement = judge_picture(picture(RED_CIRCLE, BLUE_SQUARE, ground="navy"))
    assert judgement.ground == "navy"
    assert {each.kind for each in judgement.objects} == set(KINDS)
    circle = next(each for each in judgement.objects if each.shape == "circle")
    assert (circle.x, circle.y) == pytest.approx((30, 60), abs=1)
    assert circle.area == pytest.approx(np.pi * (0.92 * 22) ** 2, rel=0.05)
    assert circle.box == pytest.approx((40, 10, 80, 50), abs=1)
    assert circle.confidence > 0.93
    assert [each.area for each in judgement.objects] == sorted(
        (each.area for each in judgement.objects), reverse=True
    )


def test_a_larger_picture_is_measured_in_its_own_pixels() -> None:
    small = picture(RED_CIRCLE, BLUE_SQUARE)
    wide = Image.new("RGB", (192, 128), language().grounds["white"])
    wide.paste(small, (64, 0))
    judgement = judge_picture(wide.resize((384, 256), Image.Resampling.BICUBIC))
    assert {each.kind for each in judgement.objects} == set(KINDS)
    circle = next(each for each in judgement.objects if each.shape == "circle")
    assert (circle.x, circle.y) == pytest.approx((188, 120), abs=2)


def test_all_right() -> None:
    found = verdict(
        judge_picture(picture(RED_CIRCLE, BLUE_SQUARE)), KINDS, relation=(0, "left of", 1)
    )
    assert found.objects == (True, True)
    assert found.shapes == (True, True)
    assert found.all_objects
    assert found.relation is True
    assert found.extra == 0


def test_a_wrong_colour() -> None:
    judgement = judge_picture(picture(("orange", *RED_CIRCLE[1:]), BLUE_SQUARE))
    found = verdict(judgement, KINDS, relation=(0, "left of", 1))
    assert found.objects == (False, True)
    assert found.shapes == (True, True)
    assert not found.all_objects
    assert found.relation is False


def test_a_missing_object() -> None:
    found = verdict(judge_picture(picture(RED_CIRCLE)), KINDS, relation=(0, "left of", 1))
    assert found.objects == (True, False)
    assert found.shapes == (True, False)
    assert found.relation is False


def test_an_empty_picture() -> None:
    judgement = judge_picture(picture())
    assert judgement.objects == ()
    assert verdict(judgement, KINDS).objects == (False, False)


def test_swapped_colours_are_two_wrong_objects() -> None:
    judgement = judge_picture(picture(("blue", *RED_CIRCLE[1:]), ("red", *BLUE_SQUARE[1:])))
    found = verdict(judgement, KINDS)
    assert found.objects == (False, False)
    assert found.shapes == (True, True)


@pytest.mark.parametrize("name", ["right of", "above", "below"])
def test_a_wrong_relation(name: str) -> None:
    judgement = judge_picture(picture(RED_CIRCLE, BLUE_SQUARE))
    found = verdict(judgement, KINDS, relation=(0, name, 1))
    assert found.all_objects
    assert found.relation is False


def test_no_relation_asked_for() -> None:
    assert verdict(judge_picture(picture(RED_CIRCLE)), KINDS[:1]).relation is None


def test_something_extra_is_counted_only() -> None:
    found = verdict(judge_picture(picture(RED_CIRCLE, BLUE_SQUARE)), KINDS[:1])
    assert found.all_objects
    assert found.extra == 1


def test_one_object_does_not_answer_for_two() -> None:
    asked = [("red", "circle"), ("red", "circle")]
    assert verdict(judge_picture(picture(RED_CIRCLE)), asked).objects.count(True) == 1


def test_shared_shape_and_colour_are_told_apart() -> None:
    judgement = judge_picture(
        picture(RED_CIRCLE, ("blue", "circle", 90, 30, 20), ("red", "square", 90, 95, 20))
    )
    asked = [("red", "square"), ("red", "circle"), ("blue", "circle")]
    found = verdict(judgement, asked, relation=(2, "above", 0))
    assert found.objects == (True, True, True)
    assert found.relation is True


def test_a_rim_between_colours_is_no_object() -> None:
    # Red on yellow mixes to orange; large and blurred, the rim has hundreds of pixels.
    image = Image.new("RGB", (128, 128), language().grounds["beige"])
    pen = ImageDraw.Draw(image)
    pen.rectangle((10, 30, 59, 79), fill=COLOURS["red"])
    pen.ellipse((60, 30, 109, 79), fill=COLOURS["yellow"])
    judgement = judge_picture(image.filter(ImageFilter.GaussianBlur(1.2)))
    assert {each.kind for each in judgement.objects} == {("red", "square"), ("yellow", "circle")}


def test_a_colour_between_two_names_is_one_object() -> None:
    between = tuple((np.array(COLOURS["red"]) + COLOURS["orange"]) // 2)
    scene = Scene("white", (245, 245, 242), (SceneObject("star", "", "", 64, 64, 30, between),))
    noise = np.random.default_rng(0).integers(-10, 11, (128, 128, 3))
    pixels = np.clip(np.asarray(draw_scene(scene)) + noise, 0, 255).astype(np.uint8)
    (only,) = judge_picture(Image.fromarray(pixels)).objects
    assert only.shape == "star"
    assert only.colour in ("red", "orange")


def test_what_is_nothing_of_the_language_is_unclear() -> None:
    image = Image.new("RGB", (128, 128), language().grounds["white"])
    pen = ImageDraw.Draw(image)
    pen.rectangle((10, 60, 118, 70), fill=COLOURS["green"])  # a long bar
    pen.ellipse((40, 10, 80, 50), fill=(10, 10, 10))  # black is a ground only
    found = {(each.colour, each.shape) for each in judge_picture(image).objects}
    assert found == {("green", "unclear"), ("unclear", "circle")}


def test_specks_are_no_objects() -> None:
    image = picture(RED_CIRCLE)
    ImageDraw.Draw(image).rectangle((100, 100, 106, 106), fill=COLOURS["blue"])
    assert [each.kind for each in judge_picture(image).objects] == [("red", "circle")]


def test_a_misjudged_scene_is_told() -> None:
    scene = render_scene(10_000_000, objects=2)
    assert judged_rightly(scene)
    assert not judged_rightly(scene, picture(RED_CIRCLE))
    other = dataclasses.replace(scene.scene, ground_rgb=(24, 24, 28), ground="white")
    assert not judged_rightly(dataclasses.replace(scene, scene=other), draw_scene(other))


def test_where_things_stand() -> None:
    assert stands((0, 0), "left of", (10, 9))
    assert not stands((0, 0), "left of", (9, 10))
    assert stands((0, 0), "above", (9, 10))
    assert not stands((5, 5), "below", (5, 5))
    with pytest.raises(KeyError, match="got 'near'"):
        stands((0, 0), "near", (1, 1))
