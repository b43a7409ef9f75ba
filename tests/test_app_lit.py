"""Pictures whose words light their regions: what was typed is shown, and masks are the maps."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from read_page import TAGS, Read
from t2i_xattn.app.lit import CURVE, lit_maps, lit_picture
from t2i_xattn.prompts.words import Word, word_spans
from t2i_xattn.traces.heat_map import HeatMap


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60) | st.sampled_from(["<script>a</script>", "a\"'&amp;${a}{{b}}", "א🎉b"]))
def test_a_prompt_is_shown_as_typed_and_runs_nothing(prompt: str) -> None:
    words = [Word(prompt[a:b], a, b, (1,)) for a, b in word_spans(prompt)]
    maps = [HeatMap(each.text, np.ones((2, 2), np.float32)) for each in words[::2]]
    page = Read(lit_picture(Image.new("RGB", (8, 8)), prompt, words, maps, prompt))
    assert page.prompt == prompt
    known = {each.word.casefold() for each in maps}
    assert page.words == sum(each.text.casefold() in known for each in words)
    assert page.tags <= TAGS


def test_masks_are_the_maps() -> None:
    flat = HeatMap("flat", np.full((40, 60), 0.02, np.float32))
    slope = HeatMap("slope", np.tile(np.linspace(0, 0.04, 60, dtype=np.float32), (40, 1)))
    nothing = HeatMap("nothing", np.zeros((40, 60), np.float32))
    large = HeatMap("large", np.tile(np.linspace(0.01, 0.02, 400, dtype=np.float32), (200, 1)))
    found = {each.name: each for each in lit_maps([flat, slope, nothing, large])}
    masks = {name: _mask(each.mask) for name, each in found.items()}
    assert (masks["flat"] == 255).all()
    assert (masks["nothing"] == 0).all()
    expected = 255 * (slope.array / slope.array.max()) ** CURVE
    np.testing.assert_allclose(masks["slope"], expected, atol=0.51)
    assert masks["large"].shape == (48, 96)
    assert masks["large"][0, 0] == pytest.approx(255 * 0.5**CURVE, abs=2)
    assert found["flat"].top == pytest.approx(0.5**CURVE)
    assert found["slope"].top == 1.0
    assert found["slope"].share == pytest.approx(0.02)


def _mask(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).getchannel("A"))
