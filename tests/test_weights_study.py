"""What weights of words do: the words that are asked about, and the figures, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lab.evaluation.named_pixels import KINDS, NamingWord, naming_words
from lab.evaluation.reweighting import WEIGHTS
from lab.evaluation.studies_report import by_weight_table, weights_table
from lab.evaluation.studies_weights import _figure, _Weighted
from lab.evaluation.world_prompts import world_prompts
from lab.judge.pixel_maps import PixelMaps
from lab.scenes.world import class_names, world_language
from t2i_xattn.prompts.words import phrase_spans

PAIRS = world_prompts()["pairs"]


def test_words_and_what_they_name() -> None:
    prompt = "small red bird above vintage yellow car, medieval lane, night"
    (asked,) = (each for each in PAIRS if each.prompt == prompt)
    words = list(naming_words(asked))
    assert [(each.kind, each.text) for each in words] == [
        ("noun", "bird"),
        ("colour", "red"),
        ("place", "lane"),
        ("light", "night"),
        ("style", "vintage"),
    ]
    assert words[0].values == (class_names().index("bird"),)
    assert words[2].values == (class_names().index("street"),)


def test_each_word_stands_once_and_is_named_as_it_stands() -> None:
    for prompt in PAIRS:
        words = list(naming_words(prompt))
        assert [each.kind for each in words] == [
            kind for kind in KINDS if kind in {each.kind for each in words}
        ]
        for word in words:
            assert len(phrase_spans(prompt.prompt, word.text)) == 1


def test_pixels_of_a_colour_are_those_of_things() -> None:
    """The judge's network gives every pixel a colour, the sky too."""
    names, colours = class_names(), list(world_language().colours)
    classes = np.full((4, 4), names.index("sky"), np.int16)
    classes[0] = names.index("car")
    red, flat = colours.index("red"), np.zeros((4, 4), np.int16)
    maps = PixelMaps(classes, np.full((4, 4), red, np.int16), flat, flat)
    assert NamingWord("colour", "red", (red,)).pixels(maps) == 4
    assert NamingWord("noun", "car", (names.index("car"),)).pixels(maps) == 4
    assert NamingWord("place", "sky", (names.index("sky"),)).pixels(maps) == 12
    assert NamingWord("light", "noon", (0,)).pixels(maps) == 16


def test_figures_of_two_words() -> None:
    growing = [float(each) for each in WEIGHTS]
    grown = _Weighted(PAIRS[0], growing, [0, 5, 10, 15, 20, 30], [False, True, True] * 2)
    still = _Weighted(PAIRS[1], [0, 4, 3, 2, 1, 0.5], [0] * 6, [True] * 6)
    figure = _figure("compel", "noun", [grown, still])
    assert figure.above.value == pytest.approx((1 - 1) / 2)
    assert figure.named.value == pytest.approx(0.5)  # one that never changes has 0
    assert figure.right[0.0] == 0.5
    assert figure.right[3.0] == 1
    # The word of which nothing is seen at weight 1 says nothing of growth.
    assert figure.pixels == {0.0: 0, 0.5: 0.5, 1.0: 1, 1.5: 1.5, 2.0: 2, 3.0: 3}
    alone = _figure("compel", "noun", [still])
    assert all(math.isnan(each) for each in alone.pixels.values())
    assert figure.as_json()["pixels"]["3.0"] == 3
    for table in (weights_table([figure], 2, 10), by_weight_table([figure])):
        assert table.row_count == 1


def test_words_of_one_prompt_are_one_case() -> None:
    one = _Weighted(PAIRS[0], list(WEIGHTS), list(range(6)), [True] * 6)
    other = _Weighted(PAIRS[0], [0, *WEIGHTS[:0:-1]], list(range(6, 0, -1)), [True] * 6)
    figure = _figure("compel", "all", [one, other])
    assert figure.named.n == 2
    assert figure.named.low == figure.named.high == figure.named.value == 0
