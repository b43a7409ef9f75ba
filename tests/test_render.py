from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from t2i_xattn.errors import UserError
from t2i_xattn.models.vocabulary import UnknownWord
from t2i_xattn.showing.captions import captioned_sheet
from t2i_xattn.showing.colours import common_scale, is_nearly_flat, placed, stretched
from t2i_xattn.showing.comparison import boxed, comparison, pair_sheet, paired
from t2i_xattn.showing.grid import Measures
from t2i_xattn.showing.percent import percent
from t2i_xattn.showing.render import outlined, overlay
from t2i_xattn.showing.sheet import contact_sheet
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.regions import Box

GREY = (128, 128, 128)


def spot(
    height: int, width: int, row: int, column: int, word: str = "red", low: float = 0.02
) -> HeatMap:
    rows, columns = np.mgrid[:height, :width]
    distance = (rows - row) ** 2 + (columns - column) ** 2
    return HeatMap(word, (low + 0.1 * np.exp(-distance / (height * width / 20))).astype(np.float32))


class TestOverlay:
    def test_is_bright_where_the_word_acted(self) -> None:
        picture = Image.new("RGB", (60, 40), GREY)
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

    def test_red_things_do_not_shine_through(self) -> None:
        """Of two colours as light as each other none looks hotter under the same map."""
        red, blue = (200, 30, 30), (78, 76, 120)
        lights = [np.asarray(Image.new("RGB", (1, 1), each).convert("L")) for each in (red, blue)]
        assert abs(int(lights[0][0, 0]) - int(lights[1][0, 0])) <= 1
        heat = spot(8, 8, 4, 4)
        one, other = (
            np.asarray(overlay(Image.new("RGB", (8, 8), each), heat), dtype=int)
            for each in (red, blue)
        )
        assert np.abs(one - other).max() <= 2

    def test_an_enlarged_picture(self) -> None:
        result = overlay(Image.new("RGB", (120, 80)), spot(40, 60, 10, 45), alpha=1)
        light = np.asarray(result.convert("L"), dtype=float)
        row, column = np.unravel_index(light.argmax(), light.shape)
        assert abs(row - 20.5) <= 1
        assert abs(column - 90.5) <= 1

    def test_a_map_that_is_nearly_flat_looks_it(self) -> None:
        picture = Image.new("RGB", (60, 60), GREY)
        flat, sharp = (spot(60, 60, 30, 30, low=low) for low in (0.9, 0.02))
        ranges = [
            np.ptp(np.asarray(overlay(picture, each, alpha=1).convert("L"), dtype=float))
            for each in (flat, sharp)
        ]
        assert ranges[0] < ranges[1] / 4
        assert is_nearly_flat(flat.array)
        assert not is_nearly_flat(sharp.array)

    def test_a_locked_scale_is_that_of_the_values(self) -> None:
        picture, heat = Image.new("RGB", (60, 60), GREY), spot(60, 60, 30, 30)
        double = HeatMap("red", heat.array * np.float32(2))
        one = overlay(picture, heat, scale=(0, 0.1))
        assert one.tobytes() == overlay(picture, double, scale=(0, 0.2)).tobytes()
        assert one.tobytes() != overlay(picture, double, scale=(0, 0.1)).tobytes()

    def test_the_outline_is_that_of_the_mask(self) -> None:
        heat = spot(64, 64, 30, 30)
        pixels = np.asarray(outlined(Image.new("RGB", (64, 64), GREY), heat.array, 1))
        white, dark = ((pixels == value).all(axis=2) for value in (255, 20))
        mask = heat.mask()
        assert white.any()
        assert mask[white].all()
        assert not mask[dark].any()
        inside = mask & ~white
        assert (pixels[inside] == 128).all()

    def test_modes_and_flat_maps(self) -> None:
        flat = HeatMap("x", np.full((4, 4), 0.2, np.float32))
        assert overlay(Image.new("L", (4, 4)), flat, outline=1).mode == "RGB"
        assert (placed(flat.array) == 0).all()
        assert (stretched(flat.array) == 0).all()

    @pytest.mark.parametrize(
        ("image", "options", "message"),
        [
            (np.zeros((4, 6, 3)), {}, "expected a PIL picture, but came ndarray"),
            (Image.new("RGB", (4, 6)), {}, "picture of 6 × 4 pixels .* but came 4 × 6"),
            (Image.new("RGB", (6, 4)), {"alpha": 2}, "alpha from 0 to 1, but came 2"),
            (Image.new("RGB", (6, 4)), {"colormap": "nope"}, "colour map .* but came 'nope'"),
            (Image.new("RGB", (6, 4)), {"scale": (1, 0)}, r"scale=\(lowest, highest\)"),
            (Image.new("RGB", (6, 4)), {"scale": "all"}, "but came 'all'"),
        ],
    )
    def test_mistakes(self, image: object, options: dict[str, object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            overlay(image, spot(4, 6, 1, 1), **options)  # type: ignore[arg-type]


def test_where_values_lie_on_the_colours() -> None:
    assert np.allclose(stretched(np.array([[0.2, 0.3, 0.4]])), [[0, 0.5, 1]])
    # A part of the highest, above the lowest.
    assert np.allclose(placed(np.array([[0.2, 0.3, 0.4]])), [[0, 0.25, 0.5]])
    assert np.allclose(placed(np.array([[0.0, 0.1, 0.4]])), [[0, 0.25, 1]])
    assert np.allclose(placed(np.array([[-0.1, 0.0, 0.1]])), [[0, 0.5, 1]])  # of a difference
    assert np.allclose(placed(np.array([[0.2, 0.3, 0.4]]), (0, 0.3)), [[2 / 3, 1, 1]])
    assert common_scale([np.array([0.2, 0.4]), np.array([0.1])]) == (0.0, 0.4)
    assert common_scale([np.array([-0.2, 0.4])]) == (-0.2, 0.4)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.00042, "0.042%"), (0.0099999, "1.0%"), (0.0123, "1.2%"), (0.09999, "10%"), (0.5, "50%")],
)
def test_shares_as_people_read_them(share: float, text: str) -> None:
    assert percent(share) == text


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
        words = (
            "red",
            "extraordinarily-long-hyphenated-word",
            "left of",
            "赤い丸" * 9,
            "דרך ארוכה",
        )
        heats = [spot(height, width, 9, 9, word) for word in words]
        sheet = contact_sheet(
            Image.new("RGB", size),
            heats,
            prompt="a red circle, left of a blue one, " * 9,
            quiet=heats * 5,
            unknown=[UnknownWord(each, ("beer", "pear")) for each in words],
        )
        pixels = np.asarray(sheet)
        edges = pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]
        assert all((edge == 255).all() for edge in edges)

    def test_forty_words_fit_a_page(self) -> None:
        picture = Image.new("RGB", (64, 64), GREY)
        heats = [spot(64, 64, n, n, f"word{n}") for n in range(40)]
        all_, named = contact_sheet(picture, heats), contact_sheet(picture, heats[:24], quiet=heats)
        assert all_.width <= 1180
        assert all_.height < 1600
        assert named.height < 1150

    def test_shows_the_overlays(self) -> None:
        picture = Image.new("RGB", (208, 208), GREY)
        heat = spot(208, 208, 50, 50)
        sheet = np.asarray(contact_sheet(picture, [heat]))
        tile = np.asarray(overlay(picture, heat, outline=1))
        assert (sheet[12:220, 12:220] == 128).all()
        assert (sheet[12:220, 232:440] == tile).all()
        tile = np.asarray(overlay(picture, heat, scale=(0, 0.5), outline=1))
        sheet = np.asarray(contact_sheet(picture, [heat], scale=(0, 0.5)))
        assert (sheet[12:220, 232:440] == tile).all()

    def test_one_scale_for_all_words(self) -> None:
        picture = Image.new("RGB", (208, 208), GREY)
        weak = HeatMap("weak", spot(208, 208, 50, 50).array * np.float32(0.1))
        heats = [spot(208, 208, 50, 50), weak]
        sheet = np.asarray(contact_sheet(picture, heats, scale="all"))
        strong, faint = sheet[12:220, 232:440], sheet[12:220, 452:660]
        inside = (slice(40, 60), slice(40, 60))  # within the outline
        assert strong[inside].mean() > faint[inside].mean() + 40
        each = np.asarray(contact_sheet(picture, heats))
        assert (each[12:220, 232:440] == each[12:220, 452:660]).all()

    def test_words_that_were_never_taught_are_said(self) -> None:
        picture, heat = Image.new("RGB", (64, 64), GREY), spot(64, 64, 9, 9, "Bear")
        plain, told = (
            contact_sheet(picture, [heat]),
            contact_sheet(picture, [heat], unknown=[UnknownWord("bear", ())]),
        )
        red = np.asarray(told).astype(int)
        assert told.height > plain.height + 30  # on top, and under the map
        assert ((red == (170, 30, 20)).all(axis=2)).sum() > 50

    def test_emoji_are_told(self) -> None:
        picture, heat = Image.new("RGB", (64, 64), GREY), spot(64, 64, 9, 9)
        heights = [contact_sheet(picture, [heat], text).height for text in ("red", "red 🦊")]
        assert heights[1] > heights[0]

    def test_for_print_all_is_larger(self) -> None:
        picture, heat = Image.new("RGB", (64, 64), GREY), spot(64, 64, 9, 9)
        screen, print_ = (contact_sheet(picture, [heat], "red", dpi=dpi) for dpi in (96, 288))
        assert print_.width == pytest.approx(3 * screen.width, rel=0.02)
        assert print_.height == pytest.approx(3 * screen.height, rel=0.02)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scale": "none"}, "'each', 'all' or"),
            ({"scale": (0, float("nan"))}, "scale="),
            ({"dpi": 0}, "from 24 to 1200, but came 0"),
            ({"dpi": "300"}, "but came '300'"),
        ],
    )
    def test_mistakes(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            contact_sheet(Image.new("RGB", (6, 4)), [spot(4, 6, 1, 1)], **options)  # type: ignore[arg-type]


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


def test_a_comparison_names_the_edit_and_draws_its_boxes() -> None:
    picture = Image.new("RGB", (208, 208), (100, 100, 100))
    plain = comparison(picture, picture, ("a cat", "a cat"))
    box = Box(0.25, 0.5, 0.75, 1.0)
    told = comparison(picture, picture, ("a cat", "a cat"), edit="cat × 2", boxes=[("cat", box)])
    assert told.height > plain.height
    top = told.height - plain.height + 12
    after = np.asarray(told)[top : top + 208, 232:440]
    before = np.asarray(told)[top : top + 208, 12:220]
    assert (before == 100).all()
    changed = (after != 100).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (52, 156, 104, 208)


def test_texts_of_boxes_do_not_lie_over_each_other() -> None:
    picture, box = Image.new("RGB", (208, 208), GREY), Box(0.1, 0.1, 0.9, 0.9)
    count = [
        (np.asarray(boxed(picture, boxes, Measures())) == 20).all(axis=2).sum()
        for boxes in ([("cat", box)], [("cat", box), ("dog", box)])
    ]
    assert count[1] > count[0] + 200


def red_letters(sheet: Image.Image) -> int:
    """How many pixels have the colour of warnings."""
    return int((np.asarray(sheet).astype(int) == (170, 30, 20)).all(axis=2).sum())


def test_comparisons_name_words_that_were_never_taught() -> None:
    picture, heat = Image.new("RGB", (64, 64), GREY), spot(64, 64, 9, 9, "bear")
    pair = ((picture, picture), [(heat, heat)], ("one", "other"))
    for sheet in (
        lambda **more: comparison(picture, picture, ("a bear", "a bear"), edit="bear × 2", **more),
        lambda **more: pair_sheet(*pair, **more),
    ):
        named = sheet(unknown=[UnknownWord("bear", ())])
        nearest = sheet(unknown=[UnknownWord("bear", ("pear", "beard", "bearing"))])
        assert red_letters(sheet()) == 0
        assert 50 < red_letters(named) < red_letters(nearest)


class TestPairs:
    def test_words_are_paired(self) -> None:
        one = [spot(8, 8, 2, 2, word) for word in ("a", "Red", "circle", "left")]
        other = [spot(8, 8, 2, 2, word) for word in ("red", "star", "sky")]
        pairs = paired(one, other, {"Circle": "star"})
        words = [tuple(each and each.word for each in pair) for pair in pairs]
        assert words == [
            ("a", None),
            ("Red", "red"),
            ("circle", "star"),
            ("left", None),
            (None, "sky"),
        ]

    def test_both_maps_of_a_word_have_one_scale(self) -> None:
        picture, heat = Image.new("RGB", (208, 208), GREY), spot(208, 208, 50, 50, low=0.0)
        half = HeatMap("red", heat.array * np.float32(0.5))
        sheet = np.asarray(pair_sheet((picture, picture), [(heat, half)], ("one", "other")))
        top = next(row for row in range(sheet.shape[0]) if (sheet[row, 12:200] == 128).all())
        left = 12 + 2 * 208 + 4 + 12
        one, other = sheet[top : top + 208, left : left + 208], sheet[top : top + 208, left + 212 :]
        whole = np.asarray(overlay(picture, heat, scale=(0, float(heat.array.max())), outline=1))
        halved = np.asarray(overlay(picture, half, scale=(0, float(heat.array.max())), outline=1))
        assert (one == whole).all()
        assert (other[:, :208] == halved).all()

    def test_a_word_that_only_one_has(self) -> None:
        picture = Image.new("RGB", (64, 32), GREY)
        pairs = [(spot(32, 64, 9, 9), None), (None, spot(32, 64, 9, 9))]
        assert pair_sheet((picture, picture), pairs, ("one", "other"), scale="all").width > 400


def test_captions_stand_below_their_pictures() -> None:
    pictures = [
        (Image.new("RGB", (90, 60), "red"), "a red square " * 20),
        (Image.new("RGB", (90, 60), "blue"), ""),
    ]
    one, two = (np.asarray(captioned_sheet(pictures, columns)) for columns in (1, 2))
    assert one.shape[0] > two.shape[0]
    assert (two[12:72, 12:102] == (255, 0, 0)).all()
    assert (two[12:72, 114:204] == (0, 0, 255)).all()
    assert two[76:, :102].min() < 100  # the caption
    assert (two[76:, 110:] == 255).all()  # where there is none
