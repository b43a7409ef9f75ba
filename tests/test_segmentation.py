"""Words that compete for the places of a picture: labels, parts, quality, and what they are saved
as."""

from __future__ import annotations

import builtins
import io
import json
import zipfile
from collections import deque
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2i_xattn.errors import UserError
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.regions_file import LEGEND, colour
from t2i_xattn.traces.segmentation import VOID, Regions
from t2i_xattn.traces.trace import Trace
from test_trace import make_run


def heat(word: str, rows: Any, scale: float = 0.01, least: float = 0.002) -> HeatMap:
    return HeatMap(word, least + scale * np.asarray(rows, dtype=np.float32))


def by_hand(
    maps: list[np.ndarray], words: int, threshold: float, undecided: float
) -> list[list[int]]:
    """The rule, a place at a time, in plain Python."""
    scaled = [(each.astype(float) - each.min()) / (each.max() - each.min()) for each in maps]
    height, width = maps[0].shape
    labels = []
    for row in range(height):
        line = []
        for column in range(width):
            values = [float(np.float32(each[row, column])) for each in scaled]
            reach = [n for n, value in enumerate(values) if value >= np.float32(threshold)]
            best = max(reach, key=lambda n: values[n], default=None)
            if best is None:
                near = any(
                    v >= np.float32(threshold) - np.float32(undecided) for v in values[:words]
                )
                line.append(VOID if undecided and near else 0)
            else:
                line.append(best + 1 if best < words else 0)
        labels.append(line)
    return labels


@settings(derandomize=True, max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    words=st.integers(1, 4),
    background=st.integers(0, 2),
    threshold=st.floats(0.05, 0.95),
    undecided=st.sampled_from([0.0, 0.04]),
)
def test_a_place_has_the_highest_word_that_reaches_its_threshold(
    seed: int, words: int, background: int, threshold: float, undecided: float
) -> None:
    rng = np.random.default_rng(seed)
    count = words + background
    # Of very different shares, as words have.
    arrays = [
        (rng.random((6, 5)) * 10.0 ** -rng.integers(0, 4)).astype(np.float32) for _ in range(count)
    ]
    maps = [HeatMap(f"word {n}", each) for n, each in enumerate(arrays)]
    found = Regions.of(
        maps[:words], background=maps[words:], threshold=threshold, undecided=undecided
    )
    assert found.labels.tolist() == by_hand(arrays, words, threshold, undecided)
    assert found.labels.dtype == np.uint8
    assert not found.labels.flags.writeable
    assert found.words == tuple(f"word {n}" for n in range(words))
    assert len(found.background) == background


def test_masks_boxes_and_parts() -> None:
    red = np.zeros((8, 10))
    red[1:4, 1:4] = 1  # nine pixels, and one more at a corner
    red[4, 4] = 1
    red[7, 9] = 0.9  # a part of its own
    blue = np.zeros((8, 10))
    blue[1:3, 6:9] = 0.5
    found = Regions.of([heat("red", red), heat("Blue", blue, scale=5.0)])
    assert found.mask("red").sum() == 11
    assert found.mask("BLUE").sum() == 6  # of its own scale, and whatever the case
    assert [part.sum() for part in found.parts("red")] == [10, 1]
    assert [part.sum() for part in found.parts("red", smallest=2 / 80)] == [10]
    assert found.box("red") == (1 / 8, 1 / 10, 5 / 8, 5 / 10)
    assert found.box("blue") == (1 / 8, 6 / 10, 3 / 8, 9 / 10)
    # Small parts become background before anything is read off.
    cleared = Regions.of([heat("red", red), heat("blue", blue)], smallest=2 / 80)
    assert cleared.mask("red").sum() == 10
    assert cleared.labels[7, 9] == 0
    assert repr(found) == "<Regions of 'red' 13.8%, 'Blue' 7.5%, 8 × 10>"


def test_parts_are_what_a_search_from_pixel_to_pixel_finds() -> None:
    rng = np.random.default_rng(3)
    array = (rng.random((20, 20)) > 0.62).astype(np.float32)
    mask = Regions.of([HeatMap("word", array)]).mask("word")
    left, sizes = {(int(r), int(c)) for r, c in np.argwhere(mask)}, []
    while left:
        queue, size = deque([left.pop()]), 0
        while queue:
            row, column = queue.popleft()
            size += 1
            around = {(row + dr, column + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} & left
            left -= around
            queue.extend(around)
        sizes.append(size)
    parts = Regions.of([HeatMap("word", array)]).parts("word")
    assert len(sizes) > 3
    assert [int(part.sum()) for part in parts] == sorted(sizes, reverse=True)
    assert (np.sum(parts, axis=0) == mask).all()


def test_a_flat_map_has_no_region() -> None:
    flat, other = HeatMap("flat", np.full((4, 4), 0.25)), heat("other", np.eye(4))
    for threshold in (0.0, 0.5, "otsu"):
        found = Regions.of([flat, other], threshold=threshold)
        assert not found.mask("flat").any()
        assert found.box("flat") is None
        assert found.parts("flat") == []
        assert found.quality("flat").estimate == 0
        assert found.mask("other").sum() == 4


def test_quality_by_hand() -> None:
    red = np.zeros((10, 10))
    red[:5, :4] = 1.0
    red[9, 9] = 0.9
    blue = np.zeros((10, 10))
    blue[:5, 3:8] = 0.8  # it claims one column of the red ones, below them
    blue[0, 9] = 1.0
    found = Regions.of([heat("red", red), heat("blue", blue)], threshold=0.5)
    quality = found.quality("red")
    assert quality.area == pytest.approx(21 / 100)
    assert quality.overlap == pytest.approx(5 / 21)
    # Of 21 places 15 stand 0.5 above the threshold, 5 stand 0.2 above blue, and one 0.4.
    assert quality.margin == pytest.approx((15 * 0.5 + 5 * 0.2 + 0.4) / 21 / 0.5, abs=1e-5)
    assert quality.stability == 1.0
    assert quality.largest == pytest.approx(20 / 21)
    assert quality.estimate == pytest.approx(quality.margin * 20 / 21, abs=1e-6)
    assert found.qualities == (quality, found.quality("blue"))
    # A region that hangs on its threshold.
    slope = Regions.of([heat("slope", np.tile(np.linspace(0, 1, 11), (4, 1)))], threshold=0.5)
    assert slope.quality("slope").stability == pytest.approx(5 / 7)
    assert slope.quality("slope").estimate < quality.estimate


def test_of_a_trace() -> None:
    trace = Trace(make_run())
    found = trace.regions(["cat"], background=["red"], threshold=0.4, smallest=0.01)
    maps = [trace.heatmap("cat")], [trace.heatmap("red")]
    expected = Regions.of(maps[0], background=maps[1], threshold=0.4, smallest=0.01)
    assert (found.labels == expected.labels).all()
    assert (found.words, found.background) == (("cat",), ("red",))
    assert found.labels.shape == trace.picture_size
    assert trace.regions(["cat"]).cuts == (0.5,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"words": "cat"}, r"words= as a list of words or phrases, but came 'cat'; give"),
        ({"words": [5]}, r"words= as a list of words or phrases, but came \[5\]; give"),
        ({"words": []}, "1 to 254 words that compete for the picture, but came 0"),
        ({"words": ["dog"]}, "dog"),
        ({"words": ["red", "Red"]}, "each word once, but came 'red' twice; leave one out"),
        ({"background": "cat"}, "background= as a list"),
        ({"background": ["red"]}, "each word once"),
        ({"threshold": 2}, "a threshold from 0 to 1 or 'otsu', but came 2"),
        ({"threshold": "ots"}, "a threshold from 0 to 1 or 'otsu', but came 'ots'"),
        ({"smallest": -1}, "smallest= from 0 to 1, but came -1"),
        ({"undecided": True}, "undecided= from 0 to 1, but came True"),
        ({"image": 5}, "an image from 0 to 1, but came 5"),
    ],
)
def test_mistakes_are_told(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Trace(make_run()).regions(**{"words": ["red"], **wrong})


def test_maps_of_two_pictures_do_not_compete() -> None:
    small, large = heat("red", np.eye(4)), heat("blue", np.eye(5))
    with pytest.raises(UserError, match=r"'red' and 'blue' have the sizes \(4, 4\) and \(5, 5\)"):
        Regions.of([small, large])
    with pytest.raises(UserError, match="maps= as heat maps, but came 'red'"):
        Regions.of("red")  # type: ignore[arg-type]
    found = Regions.of([small])
    with pytest.raises(
        UserError, match=r"a word of 'red', but came 'rad' \(did you mean 'red'\?\)"
    ):
        found.mask("rad")
    with pytest.raises(UserError, match="smallest= from 0 to 1"):
        found.parts("red", smallest=5)


@pytest.fixture
def drawn() -> Regions:
    rng = np.random.default_rng(1)
    fine = [np.kron(rng.random((4, 5)), np.ones((3, 3))) for _ in range(3)]
    names = ["red circle", "größe 5″", "sky"]
    maps = [HeatMap(name, each.astype(np.float32)) for name, each in zip(names, fine, strict=True)]
    return Regions.of(maps[:2], background=maps[2:], threshold=0.6, undecided=0.1)


def test_a_png_as_those_of_pascal_voc(drawn: Regions, tmp_path: Path) -> None:
    drawn.save(tmp_path / "regions.png")
    with Image.open(tmp_path / "regions.png") as picture:
        assert picture.mode == "P"
        assert (np.asarray(picture) == drawn.labels).all()
        assert set(np.unique(np.asarray(picture))) == {0, 1, 2, VOID}
        legend = json.loads(picture.info[LEGEND])
        rgb = np.asarray(picture.convert("RGB"))
    assert [row["word"] for row in legend["labels"]] == [None, *drawn.words]
    assert legend["background"] == ["sky"]
    assert (rgb[drawn.mask("red circle")] == legend["labels"][1]["colour"]).all()
    # The first colours of VOC's own table, and that of its void.
    voc = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 15: (192, 128, 128)}
    assert {label: colour(label) for label in voc} == voc
    assert colour(255) == (224, 224, 192)


def test_an_npz_comes_back(drawn: Regions, tmp_path: Path) -> None:
    drawn.save(tmp_path / "regions.npz")
    again = Regions.load(tmp_path / "regions.npz")
    for name in ("labels", "maps"):
        assert (getattr(again, name) == getattr(drawn, name)).all()
        assert getattr(again, name).dtype == getattr(drawn, name).dtype
    for name in ("words", "background", "cuts", "crop"):
        assert getattr(again, name) == getattr(drawn, name)
    assert [astuple(each) for each in again.qualities] == [astuple(e) for e in drawn.qualities]
    with np.load(tmp_path / "regions.npz", allow_pickle=False) as arrays:
        assert arrays["words"].tolist() == list(drawn.words)
    drawn.save(tmp_path / "other.npz")
    files = [(tmp_path / name).read_bytes() for name in ("regions.npz", "other.npz")]
    assert files[0] == files[1]


def test_coco_is_read_by_pycocotools(drawn: Regions, tmp_path: Path) -> None:
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    drawn.save(tmp_path / "regions.json")
    coco = COCO(tmp_path / "regions.json")
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["height"], image["width"]) == drawn.labels.shape
    assert image["file_name"] == "regions.png"
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == list(drawn.words)
    for word in drawn.words:
        parts = drawn.parts(word)
        found = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(catNms=[word])))
        assert len(found) == len(parts) > 0
        for annotation, part in zip(found, parts, strict=True):
            assert (coco.annToMask(annotation) == part).all()
            coded = annotation["segmentation"]
            assert annotation["area"] == rle.area(coded) == part.sum()
            assert annotation["bbox"] == rle.toBbox(coded).tolist()
            assert annotation["score"] == drawn.quality(word).estimate
    more = drawn.coco(image_id=7, first_id=40, file_name="x.png", smallest=0.1)
    assert [each["id"] for each in more["annotations"]] == list(
        range(40, 40 + len(more["annotations"]))
    )
    assert all(each["area"] >= 0.1 * drawn.labels.size for each in more["annotations"])
    with pytest.raises(UserError, match="image_id= as a whole number from 0, but came 'x'"):
        drawn.coco(image_id="x")  # type: ignore[arg-type]


def test_without_pycocotools_there_is_one_sentence(
    drawn: Regions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 't2i-xattn\[regions\]'"):
        drawn.save(tmp_path / "regions.json")
    assert list(tmp_path.iterdir()) == []
    drawn.save(tmp_path / "regions.npz")  # which needs none


def test_a_file_appears_whole_or_not_at_all(drawn: Regions, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.png, \.npz or \.json, but came"):
        drawn.save(tmp_path / "regions.tiff")
    with pytest.raises(UserError, match="a file that can be written"):
        drawn.save(tmp_path / "nowhere" / "regions.png")
    assert list(tmp_path.iterdir()) == []


def corrupted(path: Path, **changes: Any) -> None:
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays}
    np.savez(path, **{name: each for name, each in (kept | changes).items() if each is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.full((12, 15), 9, dtype=np.uint8)},
        {"labels": np.zeros((3, 3), dtype=np.uint8)},
        {"labels": np.zeros((12, 15))},
        {"maps": np.full((3, 12, 15), np.nan, dtype=np.float32)},
        {"cuts": np.array([0.5, 0.5])},
        {"cuts": np.array([0.5, 0.5, 2.0])},
        {"words": np.array(["red", "Red"])},
        {"words": np.array([{"red": 1}, None], dtype=object)},
        {"background": None},
        {"crop": np.array([1, 2])},
        {"more": np.zeros(3)},
    ],
)
def test_what_does_not_fit_is_not_read(
    drawn: Regions, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "regions.npz"
    drawn.save(path)
    corrupted(path, **changes)
    with pytest.raises(UserError, match="is of another kind or damaged"):
        Regions.load(path)


def test_damaged_files_are_told(drawn: Regions, tmp_path: Path) -> None:
    path = tmp_path / "regions.npz"
    drawn.save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for cut in (0, 1, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="of another kind or damaged"):
            Regions.load(path)
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            again = Regions.load(path)
        except UserError:
            continue
        assert again.maps.shape == drawn.maps.shape  # in a byte that zip does not look at
    with pytest.raises(UserError, match="there is none; check the path"):
        Regions.load(tmp_path / "nowhere.npz")


def test_no_memory_is_taken_for_what_a_header_claims(drawn: Regions, tmp_path: Path) -> None:
    path = tmp_path / "regions.npz"
    drawn.save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    claimed = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (3, 10**6, 10**6)}
    np.lib.format.write_array_header_1_0(claimed, header)
    nonsense = files["maps.npy"].replace(b"(3, 12, 15)", b"(3, 12, [[]")
    for data in (claimed.getvalue() + b"\0" * 100, nonsense):
        with zipfile.ZipFile(path, "w") as archive:
            for other, content in files.items():
                archive.writestr(other, data if other == "maps.npy" else content)
        with pytest.raises(UserError, match="of another kind or damaged"):
            Regions.load(path)
