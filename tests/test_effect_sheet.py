"""The sheet of an explanation: attention beside effect, and quiet where a word does nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from t2i_xattn.explaining.effect_map import EffectMap
from t2i_xattn.showing.effects import effect_sheet
from t2i_xattn.showing.render import overlay
from t2i_xattn.traces.heat_map import HeatMap

GREY = (128, 128, 128)
PLACES = np.zeros((208, 208), np.float32)
PLACES[80:120, 40:90] = 1
EFFECTS = {"red": 0.4, "of": 0.004}


def test_attention_and_effect_stand_beside_each_other() -> None:
    image = Image.new("RGB", (208, 208), GREY)
    maps = {
        word: EffectMap(word, PLACES * np.float32(size), size=size)
        for word, size in EFFECTS.items()
    }
    attention = HeatMap("red", np.roll(PLACES, 60, axis=1) * np.float32(0.1))
    picture: Any = SimpleNamespace(
        image=image,
        effects={word: {"text": each} for word, each in maps.items()},
        attention=lambda word: attention,
    )
    words = [
        SimpleNamespace(
            word=word,
            evidence=SimpleNamespace(found_by="text"),
            sizes={"text": None},
            others=("blue", None),
            grade=grade,
        )
        for word, grade in (("red", "trust"), ("of", "nothing"))
    ]
    found: Any = SimpleNamespace(prompt="red <b>", words=words)
    sheet = np.asarray(effect_sheet(found, picture))
    top = next(row for row in range(len(sheet)) if (sheet[row, 12:200] == GREY).all())
    left = 12 + 420 + 12
    one, other = sheet[top : top + 208, left : left + 208], sheet[top : top + 208, left + 212 :]
    assert (one == np.asarray(overlay(image, attention, outline=1))).all()
    assert (other[:, :208] == np.asarray(overlay(image, maps["red"], outline=1))).all()
    # On the scale of the largest effect, and without a line.
    quiet = np.asarray(overlay(image, maps["of"], scale=(0, float(maps["red"].array.max()))))
    windows = [
        sheet[row : row + 208, column : column + 208]
        for row in range(top, len(sheet) - 208)
        for column in (224, left + 212, left + 644)
        if column + 208 <= sheet.shape[1]
    ]
    assert any((each == quiet).all() for each in windows)
