from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from t2i_xattn.errors import UserError
from t2i_xattn.showing.render import (
    captioned_sheet,
    comparison,
    contact_sheet,
    overlay,
    stretched,
    wrapped,
)
from t2i_xattn.traces.heat_map import HeatMap


def spot(height: int, width: int, row: int, column: int, word: str = "red") -> HeatMap:
    rows, columns = np.mgrid[:height, :width]
    distance = (rows - row) ** 2 + (columns - column) ** 2
    return HeatMap(word, 0.02 + 0.1 * np.exp(-distance / (height * width / 20)))


class TestOverlay:
    def test_is_bright_where_the_word_acted(self) -> None:
        picture = Image.new("RGB", (60, 40), (128, 128, 128))
        result = overlay(picture, spot(40, 60, 10, 45))
        assert (result.size, result.mode) == ((60, 40), "RGB")
        light = np.asarray(result.convert("L"), dtype=float)
        assert divmod(int(light.argmax()), 60) == (10, 45)
        assert light[10, 45] > light[35, 5] + 50

    def test_alpha(self) -> None:
        picture = Image.effect_noise((20, 20), 60).convert("RGB")
        heat = spot(20, 20, 5, 5)
        assert np.array_equal(np.asarray(overlay(picture, heat, alpha=0)), np.asarray(picture))
        covered = overlay(picture, heat, alpha=1)
        assert covered.tobytes() == overlay(Image.new("RGB", (20, 20)), heat, alpha=1).tobytes()

    def test_an_enlarged_picture(self) -> None:
        result = overlay(Image.new("RGB", (120, 80)), spot(40, 60, 10, 45), alpha=1)
        light = np.asarray(result.convert("L"), dtype=float)
        row, column = np.unravel_index(light.argmax(), light.shape)
        assert abs(row - 20.5) <= 1
        assert abs(column - 90.5) <= 1

    def test_modes_and_flat_maps(self) -> None:
        flat = HeatMap("x", np.full((4, 4), 0.2))
        assert overlay(Image.new("L", (4, 4)), flat).mode == "RGB"
        assert (stretched(flat.array) == 0).all()

    def test_stretched(self) -> None:
        assert np.allclose(stretched(np.array([[0.2, 0.3, 0.4]])), [[0, 0.5, 1]])

    @pytest.mark.parametrize(
        ("image", "options", "message"),
        [
            (np.zeros((4, 6, 3)), {}, "expected a PIL picture, but came ndarray"),
            (Image.new("RGB", (4, 6)), {}, "picture of 6 × 4 pixels .* but came 4 × 6"),
            (Image.new("RGB", (6, 4)), {"alpha": 2}, "alpha from 0 to 1, but came 2"),
            (Image.new("RGB", (6, 4)), {"colormap": "nope"}, "colour map .* but came 'nope'"),
        ],
    )
    def test_mistakes(self, image: object, options: dict[str, object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            overlay(image, spot(4, 6, 1, 1), **options)  # type: ignore[arg-type]


class TestContactSheet:
    def test_every_word_adds_to_the_sheet(self) -> None:
        picture = Image.new("RGB", (64, 64), (30, 60, 90))
        heats = [spot(64, 64, 8 * n, 32, f"word{n}") for n in range(14)]
        one, all_ = contact_sheet(picture, heats[:1]), contact_sheet(picture, heats)
        assert all_.width > one.width
        assert all_.height > one.height
        assert all_.width <= 1200

    @pytest.mark.parametrize("size", [(64, 64), (256, 64), (64, 256)])
    def test_nothing_is_cut_off(self, size: tuple[int, int]) -> None:
        """A margin of paper on every side, whatever the shape and the length of the labels."""
        width, height = size
        heats = [
            spot(height, width, 9, 9, word)
            for word in ("red", "extraordinarily-long-hyphenated-word", "left of")
        ]
        sheet = contact_sheet(
            Image.new("RGB", size), heats, prompt="a red circle, left of a blue one, " * 9
        )
        pixels = np.asarray(sheet)
        edges = pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]
        assert all((edge == 255).all() for edge in edges)

    def test_shows_the_overlays(self) -> None:
        picture = Image.new("RGB", (208, 208), (128, 128, 128))
        heat = spot(208, 208, 50, 50)
        sheet = np.asarray(contact_sheet(picture, [heat]))
        tile = np.asarray(overlay(picture, heat))
        assert (sheet[12:220, 12:220] == 128).all()
        assert (sheet[12:220, 232:440] == tile).all()


def test_wrapping() -> None:
    font = ImageFont.load_default(size=16)
    text = "a red circle left of a blue square " + "x" * 60
    lines = wrapped(text, font, 120)
    assert len(lines) > 3
    assert all(font.getlength(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("", font, 120) == []


def test_a_comparison_is_bright_where_the_pictures_differ() -> None:
    before = Image.new("RGB", (208, 208), (100, 100, 100))
    after = before.copy()
    after.paste((200, 100, 100), (104, 0, 208, 104))
    sheet = np.asarray(comparison(before, after, ("a cat", "a dog")).convert("L"), dtype=float)
    margin, cell = 12, 208
    difference = sheet[margin : margin + cell, margin + 2 * (cell + margin) :][:, :cell]
    assert difference[:100, 108:].min() > difference[108:].max() + 30
    same = comparison(before, before, ("a cat", "a cat"))
    assert np.asarray(same)[margin + 5, margin + 2 * (cell + margin) + 5].max() < 10


def test_captions_stand_below_their_pictures() -> None:
    pictures = [
        (Image.new("RGB", (90, 60), "red"), "a red square " * 20),
        (Image.new("RGB", (90, 60)), ""),
    ]
    one, two = (np.asarray(captioned_sheet(pictures, columns)) for columns in (1, 2))
    assert one.shape[1] == 90 + 2 * 6
    assert two.shape[1] == 2 * 90 + 3 * 6
    assert one.shape[0] > two.shape[0]
    assert (two[6:66, 6:96] == (255, 0, 0)).all()
    assert two[66:, :96].min() < 100  # the caption
    assert (two[67:, 102:] == 255).all()  # where there is none
