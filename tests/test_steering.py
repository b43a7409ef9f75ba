"""The measurements of edits and guidance, on painters whose pictures are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from PIL import Image

from conftest import make_pipeline
from lab.evaluation import exciting, report, steering
from lab.evaluation.boxes import BOXES, evaluate_boxes
from lab.evaluation.exciting import evaluate_excite
from lab.evaluation.figures import Mean, Share
from lab.evaluation.painting import Painting, conjoined, distinct
from lab.evaluation.prompts import Prompt, benchmark_prompts
from lab.evaluation.regional import HALVES, evaluate_regions, own_objects
from lab.evaluation.replacing import KEPT, evaluate_replace, replacement
from lab.evaluation.reweighting import WEIGHTS, correlation, evaluate_reweight
from lab.scenes import Scene, SceneObject, draw_scene, language
from t2i_xattn.errors import UserError

PAIR = Prompt(
    "a red circle left of an orange star", (("red", "circle"), ("orange", "star")), None, 1
)


def drawn(kinds: Any, boxes: Any, radius: float = 24) -> Image.Image:
    """The objects, each in the middle of its box."""
    colours = language().colours
    objects = []
    for (colour, shape), (top, left, bottom, right) in zip(kinds, boxes, strict=True):
        x, y = 64 * (left + right), 64 * (top + bottom)
        objects.append(SceneObject(shape, colour, "medium", x, y, radius, colours[colour]))
    return draw_scene(Scene("white", (245, 245, 242), tuple(objects)))


class Known(Painting):
    """Paints what a function says, given the prompt and its row in the batch."""

    def __init__(self, show: Callable[[str, int], Image.Image]) -> None:
        super().__init__(make_pipeline())
        object.__setattr__(self, "show", show)

    def batch_of(
        self, prompts: Sequence[str], seeds: Sequence[int], **options: Any
    ) -> list[Image.Image]:
        assert len(prompts) == len(seeds)
        return [self.show(prompt, row) for row, prompt in enumerate(prompts)]  # type: ignore[attr-defined]


def test_prompts_whose_words_name_one_object_each() -> None:
    chosen = distinct(benchmark_prompts()["pairs"])
    assert 100 <= len(chosen) < 200
    for each in chosen:
        assert len({shape for _, shape in each.objects}) == 2
        assert all(each.prompt.count(colour) == 1 for colour, _ in each.objects)
    assert conjoined(PAIR).prompt == "a red circle and an orange star"
    assert conjoined(PAIR).seed == PAIR.seed
    three = Prompt("", (*PAIR.objects, ("blue", "heart")), None, 1)
    assert conjoined(three).prompt == "a red circle, an orange star and a blue heart"


def test_regions_hold_their_own_object_and_no_other() -> None:
    (left, right), kinds = HALVES[0], PAIR.objects
    assert own_objects(drawn(kinds, (left, right)), kinds, (left, right)) == [True, True]
    assert own_objects(drawn(kinds, (right, left)), kinds, (left, right)) == [False, False]
    upper, lower = (0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5)
    both = drawn(kinds, (upper, lower))  # both stand on the left
    assert own_objects(both, kinds, (left, right)) == [False, False]
    figures = evaluate_regions(Known(lambda *_: drawn(kinds, HALVES[0])), [PAIR])
    assert figures["regions: both do"].value == 1
    assert figures["regions and boxes: a region holds its own object"].n == 2


def test_boxes_are_measured_on_the_object_itself() -> None:
    inside = Known(lambda *_: drawn(PAIR.objects, BOXES[0]))
    figures = evaluate_boxes(inside, [PAIR])
    assert figures["guided: centre in its box"].value == 1
    assert figures["guided: IoU with the box"].value > 0.5
    swapped = Known(lambda *_: drawn(PAIR.objects, BOXES[2]))
    figures = evaluate_boxes(swapped, [PAIR])
    assert figures["plain: centre in its box"].value == 0
    assert figures["plain: IoU with the box"].value < 0.1
    missing = Known(lambda *_: drawn(PAIR.objects[:1], BOXES[0][:1]))
    assert evaluate_boxes(missing, [PAIR])["plain: centre in its box"].value == 0.5


def test_mended_and_broken_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, lacking = drawn(PAIR.objects, BOXES[0]), drawn(PAIR.objects[:1], BOXES[0][:1])
    for plain, guided, name in (
        (lacking, whole, "lacking an object, mended"),
        (whole, lacking, "right, broken"),
    ):
        monkeypatch.setattr(exciting, "paint", lambda *_, p=plain, **__: iter([p]))
        figures = evaluate_excite(Known(lambda *_, g=guided: g), [PAIR])
        assert (figures[name].right, figures[name].n) == (1, 1)  # type: ignore[union-attr]
        assert figures["right without"].value == float(plain is whole)
        assert figures["right with"].value == float(guided is whole)
        # Nobody can say which of two like objects is lacking.
        twice = Prompt("", (PAIR.objects[0], PAIR.objects[0]), None, 1)
        monkeypatch.setattr(exciting, "paint", lambda *_, **__: iter(()))
        assert evaluate_excite(Known(lambda *_, g=guided: g), [twice])["right with"].n == 0


def test_what_is_replaced() -> None:
    plus = Prompt(
        "an orange plus above a blue star", (("orange", "cross"), ("blue", "star")), None, 3
    )
    colour = replacement(plus, "colour", 0)
    assert colour.target.prompt == "a red plus above a blue star"
    assert (colour.nouns, colour.target.objects[0]) == (("plus", "plus"), ("red", "cross"))
    shape = replacement(plus, "object", 1)
    assert shape.target.prompt == "an orange square above a blue star"
    assert (shape.nouns, shape.target.objects[0]) == (("plus", "square"), ("orange", "square"))
    assert colour.target.seed == shape.target.seed == 3


def test_replaced_colours_and_objects() -> None:
    """With the edit the picture keeps its layout; painted anew, it does not."""
    cases = [replacement(PAIR, kind, n) for kind in KEPT for n in range(2)]
    calls: list[str] = []

    def show(prompt: str, row: int) -> Image.Image:
        calls.append(prompt)
        if row % 3 == 0:
            return drawn(PAIR.objects, BOXES[0])
        target = next(each.target for each in cases if each.target.prompt == prompt)
        return drawn(target.objects, BOXES[0] if row % 3 == 1 else BOXES[1])

    figures = evaluate_replace(Known(show), [PAIR, PAIR, PAIR, PAIR], cases=2)
    assert list(figures) == ["replace a colour", "replace an object", "replace, both"]
    assert figures["replace, both"]["gain, dB"].n == 2
    for each in figures.values():
        assert each["the change is there"].value == 1
        assert each["outside, dB"].value == 60
        assert each["gain, dB"].value > 30
    wrong = evaluate_replace(Known(lambda *_: drawn([], [])), [PAIR], cases=2)
    assert all(value.n == 0 for each in wrong.values() for value in each.values())
    assert report.plain_figures(wrong)["replace, both"]["gain, dB"]["mean"] is None


def test_weights_and_effects() -> None:
    """An object that grows with its weight; then one that does not care."""
    grows = Known(lambda _, row: drawn(PAIR.objects[:1], BOXES[0][:1], 12 + 3 * row))
    figures = evaluate_reweight(grows, [PAIR, PAIR])
    assert set(figures) == {"reweight, nouns", "reweight, colour words", "reweight, both"}
    for each in figures.values():
        assert all(value.value == pytest.approx(1) for value in each.values())
    still = Known(lambda *_: drawn(PAIR.objects, BOXES[0]))
    assert all(
        value.value == 0
        for each in evaluate_reweight(still, [PAIR, PAIR]).values()
        for value in each.values()
    )
    assert correlation(WEIGHTS, [5, 4, 3, 2, 1, 0]) == pytest.approx(-1)


def test_means_and_their_spread() -> None:
    assert str(Mean.of([1.0, 3.0])) == "2.00 ± 1.00"
    assert math.isnan(Mean.of([]).value)
    assert Mean.of([]).as_json() == {"mean": None, "standard_deviation": None, "n": 0}


def test_parts_by_name() -> None:
    assert len(steering.chosen_parts(["replace", "boxes"])) == 2
    with pytest.raises(UserError, match=r"came 'box' \(did you mean 'boxes'\?\)"):
        steering.chosen_parts(["box"])


@pytest.mark.slow
def test_on_a_pipeline() -> None:
    """Of a random model nothing is right, and everything runs."""
    painting = Painting(make_pipeline(), steps=5)
    figures: steering.Figures = {}
    for part in steering.chosen_parts(list(steering.PARTS)):
        figures = {**figures, **part(painting, 1)}
    assert figures["boxes"]["guided: centre in its box"].value == 0
    assert figures["replace, both"]["the change is there"].n == 0
    assert figures["Attend-and-Excite, two objects"]["right, broken"].n == 0
    assert figures["reweight, nouns"]["Spearman of weight and effect"].n == 1
    assert isinstance(figures["Attend-and-Excite, three objects"]["right with"], Share)
