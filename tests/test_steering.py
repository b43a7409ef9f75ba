"""The measurements of edits and guidance, on painters whose pictures are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import make_pipeline
from PIL import Image

from t2i_xattn.evaluation import steering
from t2i_xattn.evaluation.prompts import Prompt, benchmark_prompts
from t2i_xattn.evaluation.steering import BOXES, Painting, conjoined, distinct
from t2i_xattn.scenes import Scene, SceneObject, draw_scene, language

PAIR = Prompt(
    "a red circle left of an orange star", (("red", "circle"), ("orange", "star")), None, 1
)


def drawn(kinds: Any, boxes: Any) -> Image.Image:
    """The objects, each in the middle of its box."""
    colours = language().colours
    objects = []
    for (colour, shape), (top, left, bottom, right) in zip(kinds, boxes, strict=True):
        x, y = 64 * (left + right), 64 * (top + bottom)
        objects.append(SceneObject(shape, colour, "medium", x, y, 24, colours[colour]))
    return draw_scene(Scene("white", (245, 245, 242), tuple(objects)))


class Known(Painting):
    """Paints what a function says, given the prompts."""

    def __init__(self, show: Callable[[str], Image.Image]) -> None:
        super().__init__(make_pipeline())
        object.__setattr__(self, "show", show)

    def _run(self, prompts: list[str], seed: int, **options: Any) -> list[Image.Image]:
        return [self.show(prompt) for prompt in prompts]  # type: ignore[attr-defined]


def test_prompts_whose_words_name_one_object_each() -> None:
    chosen = distinct(benchmark_prompts()["pairs"])
    assert 100 <= len(chosen) < 200
    for each in chosen:
        assert len({shape for _, shape in each.objects}) == 2
        assert all(each.prompt.count(colour) == 1 for colour, _ in each.objects)
    assert conjoined(PAIR).prompt == "a red circle and an orange star"
    assert conjoined(PAIR).seed == PAIR.seed


def test_boxes_are_measured_on_the_object_itself() -> None:
    inside = Known(lambda _: drawn(PAIR.objects, BOXES[0]))
    figures = steering.evaluate_boxes(inside, [PAIR])
    assert figures["guided: centre in its box"].value == 1
    assert figures["guided: IoU with the box"] > 0.5
    swapped = Known(lambda _: drawn(PAIR.objects, BOXES[2]))
    figures = steering.evaluate_boxes(swapped, [PAIR])
    assert figures["plain: centre in its box"].value == 0
    assert figures["plain: IoU with the box"] < 0.1
    missing = Known(lambda _: drawn(PAIR.objects[:1], BOXES[0][:1]))
    assert steering.evaluate_boxes(missing, [PAIR])["plain: centre in its box"].value == 0.5


def test_mended_and_broken_pictures() -> None:
    whole, lacking = drawn(PAIR.objects, BOXES[0]), drawn(PAIR.objects[:1], BOXES[0][:1])
    for first, second, name in (
        (lacking, whole, "lacking an object, mended"),
        (whole, lacking, "right, broken"),
    ):
        pictures = iter([first, second])
        figures = steering.evaluate_excite(Known(lambda _, p=pictures: next(p)), [PAIR])
        assert (figures[name].right, figures[name].n) == (1, 1)
        assert sum(each.n for each in figures.values()) == 1


def test_a_replaced_colour() -> None:
    new = next(colour for colour in language().colours if colour not in ("red", "orange"))
    changed = ((new, "circle"), PAIR.objects[1])
    elsewhere = drawn(changed, BOXES[1])
    calls: list[str] = []

    def show(prompt: str) -> Image.Image:
        calls.append(prompt)
        if new not in prompt:
            return drawn(PAIR.objects, BOXES[0])
        # With the edit the picture keeps its layout; painted anew, it does not.
        return drawn(changed, BOXES[0]) if len(calls) < 4 else elsewhere

    figures = steering.evaluate_replace(Known(show), [PAIR])
    assert f"a {new} circle left of an orange star" in calls
    assert figures["the change is there"].value == 1
    assert figures["outside, dB"] == 60
    assert figures["gain, dB"] > 30


@pytest.mark.slow
def test_on_a_pipeline() -> None:
    """Of a random model nothing is right, and everything runs."""
    painting = Painting(make_pipeline(), steps=5)
    prompts = distinct(benchmark_prompts()["pairs"])[:1]
    assert steering.evaluate_excite(painting, prompts)["right, broken"].n == 0
    assert steering.evaluate_boxes(painting, prompts)["guided: centre in its box"].value == 0
    assert steering.evaluate_replace(painting, prompts)["the change is there"].n == 0
