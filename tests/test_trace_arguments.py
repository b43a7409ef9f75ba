"""Whatever is handed to the methods of traces and heat maps: an answer or one sentence, and
nothing is changed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from corrupting import same
from t2i_xattn.denoisers.sites import choose_sites
from t2i_xattn.errors import UserError, shown
from t2i_xattn.traces import regions
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.segmentation import Regions
from t2i_xattn.traces.trace import Trace
from test_trace import make_run

TRACE, RUN = Trace(make_run()), make_run()
HEAT = TRACE.heatmap("cat")
PICTURE = Image.new("RGB", (40, 24))
MASK = HEAT.mask()
REGIONS = TRACE.regions(["cat", "red"])

simple = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 8),
    st.floats(),
    st.sampled_from([1e308, 10**400, -(2**63), math.nan, math.inf, "red", "cat", "text", "otsu"]),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.builds(object),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.int64, st.integers(-3, 8)),
    st.complex_numbers(),
)
WIDE = st.sampled_from([range(10**12), range(0, 4, 2), range(0), np.zeros((2, 3)), np.array(3)])
anything = st.one_of(
    simple,
    st.lists(simple, max_size=4),
    st.tuples(simple, simple),
    st.dictionaries(st.text(max_size=3), simple, max_size=3),
    st.lists(st.lists(simple, max_size=3), max_size=3),
    st.lists(st.floats(), min_size=1, max_size=6).map(np.array),
    st.lists(st.sampled_from([0, 1]), min_size=4, max_size=4).map(lambda n: np.reshape(n, (2, 2))),
    WIDE,
)

CALLS: dict[str, Callable[[Any], Any]] = {
    "heatmap": lambda x: TRACE.heatmap(x),
    "columns": lambda x: TRACE.heatmap(columns=x),
    "phrase and columns": lambda x: TRACE.heatmap(x, columns=x),
    "image": lambda x: TRACE.heatmap("cat", image=x),
    "frame": lambda x: TRACE.heatmap("cat", frame=x),
    "occurrence": lambda x: TRACE.heatmap("red", occurrence=x),
    "encoder": lambda x: TRACE.heatmap("red", encoder=x),
    "sites": lambda x: TRACE.heatmap("red", sites=x),
    "aggregate": lambda x: TRACE.heatmap("red", aggregate=x),
    "aggregate gives": lambda x: TRACE.heatmap("red", aggregate=lambda given: x),
    "stream": lambda x: TRACE.heatmap("red", stream=x),
    "words_of": lambda x: TRACE.words_of(x),
    "shares": lambda x: TRACE.shares(image=x),
    "shares at": lambda x: TRACE.shares(sites=x),
    "between": lambda x: TRACE.between(x, x, image=x, sites=x),
    "select sites": lambda x: TRACE.select(sites=x),
    "select branch": lambda x: TRACE.select(branch=x),
    "select steps": lambda x: TRACE.select(steps=x),
    "select heads": lambda x: TRACE.select(heads=x),
    "select images": lambda x: TRACE.select(images=x),
    "minus": lambda x: TRACE - x,
    "mean": lambda x: Trace.mean(x),
    "mean of": lambda x: Trace.mean([TRACE, x]),
    "to_numpy": lambda x: TRACE.to_numpy(x),
    "load": lambda x: Trace.load(x),
    "word": lambda x: HeatMap(x, HEAT.array),
    "array": lambda x: repr(HeatMap("x", x)),
    "crop": lambda x: HeatMap("x", HEAT.array, x),
    "mask": lambda x: HEAT.mask(x),
    "box": lambda x: HEAT.box(x),
    "overlay": lambda x: HEAT.overlay(x),
    "colormap": lambda x: HEAT.overlay(PICTURE, colormap=x),
    "alpha": lambda x: HEAT.overlay(PICTURE, alpha=x),
    "threshold": lambda x: regions.threshold(x),
    "otsu": lambda x: regions.otsu(x),
    "bins": lambda x: regions.otsu(HEAT.array, x),
    "largest_component": lambda x: regions.largest_component(x),
    "bounding_box": lambda x: regions.bounding_box(x),
    "peak": lambda x: regions.peak(x),
    "iou": lambda x: regions.iou(x, MASK),
    "iou of one": lambda x: regions.iou(x, x),
    "pointing_hit": lambda x: regions.pointing_hit(x, MASK),
    "regions": lambda x: TRACE.regions(x),
    "regions' background": lambda x: TRACE.regions(["cat"], background=x),
    "regions' threshold": lambda x: TRACE.regions(["cat"], threshold=x),
    "regions' smallest": lambda x: TRACE.regions(["cat"], smallest=x, undecided=x),
    "regions' stream": lambda x: TRACE.regions(["cat"], stream=x, image=x),
    "regions of": lambda x: Regions.of(x),
    "a region": lambda x: REGIONS.mask(x),
    "parts": lambda x: REGIONS.parts("cat", smallest=x),
    "coco": lambda x: REGIONS.coco(image_id=x, first_id=x, file_name=x, smallest=x),
    "regions saved": lambda x: REGIONS.save(x),
    "regions loaded": lambda x: Regions.load(x),
    "pixels": lambda x: regions.Box(0, 0, 1, 1).pixels(x, 8),
    "pixels of": lambda x: regions.Box(0, x, 1, 1).pixels(8, 8),
}


@pytest.mark.parametrize("name", CALLS)
@settings(derandomize=True, max_examples=60, deadline=None)
@given(given=anything)
def test_an_answer_or_one_sentence(name: str, given: Any) -> None:
    try:
        CALLS[name](given)
    except UserError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        assert not text.endswith(".")
        assert len(text) < 600
    assert same(TRACE.run, RUN)


@pytest.mark.parametrize("phrase", [5, 1.5, True, ["red"], ("red", "cat"), b"red", {}, object()])
def test_a_phrase_is_text(phrase: Any) -> None:
    with pytest.raises(UserError, match=r"expected a word or phrase as text, but came .*; trace"):
        TRACE.heatmap(phrase)


@pytest.mark.parametrize("phrase", ["", " ", "?!", "\n"])
def test_a_phrase_has_a_word(phrase: str) -> None:
    with pytest.raises(UserError, match="has no letter or digit; parts of words"):
        TRACE.heatmap(phrase)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": True}, "an image from 0 to 1, but came True"),
        ({"image": 0.0}, "an image from 0 to 1, but came 0.0"),
        ({"image": "0"}, "an image from 0 to 1, but came '0'"),
        ({"image": None}, "an image from 0 to 1, but came None"),
        ({"image": 10**400}, "an image from 0 to 1, but came 1000"),
        ({"frame": False}, "a frame from 0 to 0, but came False"),
        ({"frame": math.nan}, "a frame from 0 to 0, but came nan"),
        ({"occurrence": True}, "occurrence= as a whole number, but came True; 0 is the first"),
        ({"occurrence": "first"}, "occurrence= as a whole number"),
        ({"encoder": 3}, "encoder= as the name of a text encoder, but came 3; give"),
        ({"stream": ["text"]}, r"a stream of text, but came \['text'\]"),
        ({"aggregate": "mean"}, "aggregate= as a function of SiteMaps, but came 'mean'; give"),
        ({"aggregate": lambda given: None}, r"a map \(height, width\) of numbers, but came None"),
        ({"aggregate": lambda given: np.full((2, 2), np.nan)}, "finite numbers, .* NaN"),
        ({"sites": 5}, "sites as their names, .* but came 5; find_sites"),
        ({"sites": ["mid.attn2", 5]}, "sites as their names, .* but came 5; find_sites"),
    ],
)
def test_options_of_another_type(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TRACE.heatmap("cat", **wrong)


@pytest.mark.parametrize("columns", [5, "12", [1.0], [True], [[1]], b"12", {1: 2}, range(10**12)])
def test_columns_are_whole_numbers(columns: Any) -> None:
    with pytest.raises(UserError, match=r"expected columns=\[…\] of whole numbers, but came .*;"):
        TRACE.heatmap(columns=columns)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"images": [0, 0]}, r"each of the images once, but came \[0, 0\]"),
        ({"images": True}, "images from 0 to 1, but came True"),
        ({"images": "01"}, "images from 0 to 1, but came '01'"),
        ({"heads": 0.0}, r"heads from 0 to 0, but came 0\.0; record with heads"),
        ({"steps": True}, "steps=.* but came True"),
        ({"steps": range(0, 2, 2)}, r"steps=.* but came range\(0, 2, 2\)"),
        ({"steps": (math.nan, 1.0)}, "steps=.* but came "),
        ({"steps": (0, math.inf)}, "steps=.* but came "),
        ({"steps": (False, True)}, "steps=.* but came "),
        ({"branch": ["conditional"]}, r"a branch of conditional, but came \['conditional'\]"),
    ],
)
def test_parts_of_another_type(part: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TRACE.select(**part)


def test_numbers_of_numpy_are_numbers() -> None:
    expected = TRACE.heatmap(columns=[2, 3], image=1).array
    found = TRACE.heatmap(columns=np.array([2, 3]), image=np.int64(1)).array  # type: ignore[arg-type]
    assert (found == expected).all()
    for steps in (np.array([0, 2]), (np.int64(0), np.int64(2)), range(2), [0, 2]):
        assert TRACE.select(steps=steps, images=np.arange(1)).run.steps == ((0, 2),)  # type: ignore[arg-type]
    assert (HEAT.mask(np.float32(0.5)) == HEAT.mask()).all()  # type: ignore[arg-type]


def test_a_stream_that_is_not_there() -> None:
    for ask in (TRACE.to_numpy, lambda stream: TRACE.heatmap("cat", stream=stream)):
        with pytest.raises(UserError, match="a stream of text, but came 'edited'; record with"):
            ask("edited")


def test_what_is_no_trace() -> None:
    with pytest.raises(UserError, match="a trace to take away, but came 5; record or load one"):
        TRACE - 5  # type: ignore[operator]
    for wrong in (5, [TRACE, 5]):
        with pytest.raises(UserError, match=r"a list of traces .* but came 5; give Trace\.mean"):
            Trace.mean(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(0, 0), (0, 24), (40, 0)])
def test_an_empty_picture(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=re.escape(f"a PIL picture, but came {size}")):
        HEAT.overlay(Image.new("RGB", size))


@pytest.mark.parametrize("level", [True, math.nan, math.inf, -0.1, 2, "half", None, [0.5]])
def test_thresholds(level: Any) -> None:
    for use in (HEAT.mask, HEAT.box):
        with pytest.raises(UserError, match="a threshold from 0 to 1 or 'otsu', but came"):
            use(level)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_maps_hold_finite_numbers(value: float) -> None:
    array = np.zeros((3, 4))
    array[1, 2] = value
    uses = (lambda a: HeatMap("x", a), regions.threshold, regions.otsu, regions.peak)
    for use in uses:
        with pytest.raises(UserError, match="a map of finite numbers, but one of its values is"):
            use(array)


def test_large_numbers_have_a_threshold() -> None:
    """Their span is more than fp32 holds."""
    heat = HeatMap("x", np.array([[-3e38, 3e38], [0, 1]]))
    assert heat.mask().tolist() == [[False, True], [True, True]]
    assert heat.mask("otsu").any()
    assert math.isfinite(heat.peakedness)
    # Nor are there 256 numbers between these two.
    assert regions.threshold(np.array([[2.0**45, 2.0**45 + 0.01]]), "otsu")[0, 1]
    assert regions.otsu(np.full((2, 2), 2.0**45)) == 2.0**45


def test_calls_of_two_traces_are_those_that_both_have() -> None:
    """In a window in which one of them did not run its maps are NaN, and so is the difference."""
    run, shapes = make_run(), dict.fromkeys(TRACE.to_numpy(), (2, 1, 2))
    maps = {
        name: np.random.default_rng(0).random((*shapes[name], *array.shape[3:]), dtype=np.float32)
        for name, array in TRACE.to_numpy().items()
    }
    gone = {name: array.copy() for name, array in maps.items()}
    for array in gone.values():
        array[:, :, 1] = np.nan
    counts = [{"text": {name: np.array([[2, last]]) for name in maps}} for last in (2, 0)]
    both = [
        Trace(replace(run, maps={"text": each}, counts=count, steps=((0, 1), (1, 2))))
        for each, count in zip((maps, gone), counts, strict=True)
    ]
    for pair in (both, both[::-1]):
        assert np.isfinite((pair[0] - pair[1]).heatmap("cat").array).all()
        found, first = Trace.mean(pair), pair[0].select(steps=0)
        assert np.allclose(found.heatmap("cat").array, first.heatmap("cat").array, atol=1e-6)


class TestShown:
    @settings(derandomize=True, deadline=None)
    @given(value=anything)
    def test_on_one_line_and_short(self, value: Any) -> None:
        text = shown(value)
        assert len(text) <= 200
        assert not set("\n\r\t") & set(text)

    def test_what_cannot_say_what_it_is(self) -> None:
        class Broken:
            def __repr__(self) -> str:
                raise RuntimeError

        assert "Broken" in shown(Broken())
        with pytest.raises(UserError, match="Broken"):
            choose_sites(TRACE.sites, Broken())  # type: ignore[arg-type]
