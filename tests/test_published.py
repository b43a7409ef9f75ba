"""Published tests of segmentation: their formats, drawn anew, and their figures, by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from evaluate import app
from lab.evaluation.one_pass import own_size, recorded_pass
from lab.evaluation.published import measuring, opened
from lab.evaluation.published.labelled import VOID
from lab.evaluation.published.measuring import NOTHING, evaluate_published, prompt_of
from lab.evaluation.published.names import read_names
from lab.evaluation.published.scores import BinaryScores, ClassScores, average_precision
from lab.evaluation.published.voc import CLASSES
from lab.evaluation.ways import chosen_ways
from lab.models import load_model
from published_formats import counts, scenes, write_coco, write_imagenet_seg, write_voc
from t2i_xattn.errors import UserError
from t2i_xattn.traces.heat_map import HeatMap
from tiny_pipelines import make_sdxl

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "crescent", "cross")
NUMBERS = {shape: number for number, shape in enumerate(SHAPES, start=2)}
NAMES = {CLASSES[number]: shape for shape, number in NUMBERS.items()}


def known(shapes: Any) -> bool:
    return set(shapes) <= set(SHAPES)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    drawn = [each for each in scenes(12, 2) if known(each.masks)][:5]
    assert len(drawn) == 5
    write_voc(tmp_path / "VOC2012", drawn, NUMBERS)
    return tmp_path


def test_voc_is_read_as_it_was_drawn(voc: Path) -> None:
    drawn = [each for each in scenes(12, 2) if known(each.masks)][:5]
    test = opened("voc", voc, NAMES)  # the folder that holds VOC2012 will do
    assert test.classes[:3] == ("background", "aeroplane", "bicycle")
    assert not test.binary
    found = list(test.pictures())
    assert [each.name for each in found] == [f"2007_{n:06d}" for n in range(5)]
    for each, original in zip(found, drawn, strict=True):
        assert dict(each.words) == {NUMBERS[shape]: shape for shape in original.masks}
        difference = np.asarray(each.image, int) - np.asarray(original.image, int)
        assert np.abs(difference).mean() < 5  # JPEG
        for shape, mask in original.masks.items():
            seen = each.labels == NUMBERS[shape]
            assert not (seen & ~mask).any()
            assert seen.sum() > 0.7 * mask.sum()
        void = each.labels == VOID
        assert 0 < void.mean() < 0.2
        assert ((each.labels >= 0) | void).all()
    assert len(list(test.pictures(2))) == 2


def test_imagenet_seg_is_read_as_it_was_drawn(tmp_path: Path) -> None:
    drawn = scenes(3, 1)
    drawn[1] = drawn[1]._replace(  # one that is not square
        image=drawn[1].image.crop((0, 10, 128, 100)),
        masks={name: mask[10:100] for name, mask in drawn[1].masks.items()},
    )
    ids = ["n01440764_10040", "n02009912_5", "n01440764_7"]
    write_imagenet_seg(tmp_path / "gtsegs_ijcv.mat", drawn, ids)
    names = {"n01440764": "tench", "n02009912": "egret", "n99": "unused"}
    for data in (tmp_path, tmp_path / "gtsegs_ijcv.mat"):
        test = opened("imagenet-seg", data, names)
        assert test.binary
        for each, original, name in zip(test.pictures(), drawn, ids, strict=True):
            (mask,) = original.masks.values()
            assert (np.asarray(each.image) == np.asarray(original.image)).all()
            assert (each.labels == mask).all()
            assert each.words == {1: names[name.split("_")[0]]}
            assert each.name == name
    with pytest.raises(
        UserError, match=r"a word for each class of the test, but 'n02009912' and 0"
    ):
        opened("imagenet-seg", tmp_path, {"n01440764": "tench"})
    with pytest.raises(UserError, match="no --split of imagenet-seg"):
        opened("imagenet-seg", tmp_path, names, "val")


def test_coco_is_read_as_it_was_drawn(tmp_path: Path) -> None:
    images = [Image.new("RGB", (40, 30), "white"), Image.new("RGB", (20, 20), "red")]
    images.append(Image.new("RGB", (8, 8)))  # without an object
    crowd = np.zeros((30, 40), dtype=bool)
    crowd[:10, 20:] = True

    def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
        return [[left, top, right, top, right, bottom, left, bottom]]

    annotations = [
        # The smaller object comes first in the file, and lies on the larger one.
        {"image_id": 1, "category_id": 90, "segmentation": box(4, 4, 8, 8), "area": 16},
        {"image_id": 1, "category_id": 3, "segmentation": box(2, 2, 22, 22), "area": 400},
        {"image_id": 1, "category_id": 3, "segmentation": counts(crowd), "area": 200, "iscrowd": 1},
        {"image_id": 2, "category_id": 3, "segmentation": box(0, 0, 20, 5), "area": 100},
    ]
    write_coco(tmp_path, images, annotations, {3: "hot dog", 90: "dog"})
    test = opened("coco", tmp_path, {})
    assert test.classes == ("background", "hot dog", "dog")
    first, second = test.pictures()
    expected = np.zeros((30, 40), dtype=int)
    expected[crowd] = VOID
    expected[2:22, 2:22] = 1
    expected[4:8, 4:8] = 2
    assert (first.labels == expected).all()
    assert first.words == {1: "hot dog", 2: "dog"}
    assert (second.labels[:5] == 1).all()
    assert (second.labels[5:] == 0).all()
    assert second.words == {1: "hot dog"}


def test_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / "names"
    path.write_text("n01440764 tench, Tinca tinca\n\nn02009912\tAmerican egret, great egret\n")
    assert read_names(path) == {"n01440764": "tench", "n02009912": "American egret"}
    path.write_text(json.dumps({"bird": "circle"}))
    assert read_names(path) == {"bird": "circle"}
    assert read_names(None) == {}
    for wrong in ('{"bird": 5}', "bird", "[1]", '{"bird": " "}', "{"):
        path.write_text(wrong)
        with pytest.raises(UserError, match=r"expected a (JSON object|word)"):
            read_names(path)
    with pytest.raises(UserError, match="there is none"):
        read_names(tmp_path / "nowhere")


def slow_average_precision(values: np.ndarray, right: np.ndarray) -> float:
    """Threshold by threshold, as it is defined."""
    total, before, found = int(right.sum()), 0.0, 0.0
    for level in sorted(set(values.tolist()), reverse=True):
        above = values >= level
        recall = (above & right).sum() / total
        found += (recall - before) * (above & right).sum() / above.sum()
        before = recall
    return found


def test_average_precision_by_hand() -> None:
    # scikit-learn's own example.
    values = np.array([0.1, 0.4, 0.35, 0.8])
    assert average_precision(values, np.array([0, 0, 1, 1], bool)) == pytest.approx(0.8333333)
    rng = np.random.default_rng(0)
    for size in (1, 5, 40):
        for levels in (2, 100):
            values, right = rng.integers(levels, size=size) / levels, rng.random(size) < 0.4
            right[0] = True
            expected = slow_average_precision(values, right)
            assert average_precision(values, right) == pytest.approx(expected)
    assert average_precision(values, np.zeros(40, bool)) == 0


def test_binary_figures_by_hand() -> None:
    rng, scores = np.random.default_rng(1), BinaryScores()
    inside, either, right, pixels, precisions = np.zeros(2), np.zeros(2), 0, 0, []
    for _ in range(4):
        scaled, truth = rng.random((9, 7)), rng.integers(0, 2, (9, 7))
        scores.add(scaled, truth)
        seen = scaled > scaled.mean()
        for side in (0, 1):
            # As areas of a histogram over the pixels, of all pictures together.
            a, b = np.histogram(seen.astype(int), bins=2)[0], np.histogram(truth, bins=2)[0]
            both = ((seen == side) & (truth == side)).sum()
            inside[side] += both
            either[side] += a[side] + b[side] - both
        right, pixels = right + (seen == truth).sum(), pixels + truth.size
        ap = slow_average_precision(
            np.concatenate([(1 - scaled).ravel(), scaled.ravel()]),
            np.concatenate([(truth == 0).ravel(), (truth == 1).ravel()]),
        )
        precisions.append(ap)
    assert scores.mean_iou == pytest.approx((inside / either).mean())
    assert scores.pixel_accuracy == pytest.approx(right / pixels)
    assert scores.mean_average_precision == pytest.approx(np.mean(precisions))


def test_figures_of_classes_by_hand_and_void_pixels_count_nowhere() -> None:
    rng, scores = np.random.default_rng(2), ClassScores(6)
    pictures = [(rng.integers(0, 5, (8, 8)), rng.integers(-1, 5, (8, 8))) for _ in range(3)]
    for seen, truth in pictures:
        scores.add(seen, truth, {1: np.asarray(seen == 1, float)})
        # Whatever is seen in void changes nothing.
        assert (truth == VOID).any()
    ious = []
    for number in range(6):
        a = np.concatenate([(seen == number)[truth >= 0] for seen, truth in pictures])
        b = np.concatenate([(truth == number)[truth >= 0] for seen, truth in pictures])
        if (a | b).any():
            ious.append((a & b).sum() / (a | b).sum())
    assert len(ious) == 5  # the sixth is neither there nor seen
    assert scores.mean_iou == pytest.approx(np.mean(ious))
    other = ClassScores(6)
    for seen, truth in pictures:
        other.add(np.where(truth == VOID, 3, seen), truth, {1: np.asarray(seen == 1, float)})
    assert other.mean_iou == scores.mean_iou
    assert other.pixel_accuracy == scores.pixel_accuracy
    assert other.mean_average_precision == scores.mean_average_precision


def test_a_word_is_where_it_stands_in_the_prompt() -> None:
    text, places = prompt_of(["dog", "apple", "hot dog"])
    assert text == "a photo of a dog, an apple and a hot dog"
    assert [text[start:stop] for start, stop in places] == ["dog", "apple", "hot dog"]
    assert prompt_of(["owl"])[0] == "a photo of an owl"


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps that are the true masks, whatever the model."""

    def maps(trace: Any, way: Any, image: int, picture: Any, places: Any) -> Iterator[Any]:
        for number, word in picture.words.items():
            yield number, HeatMap(word, (picture.labels == number).astype(np.float32))

    monkeypatch.setattr(measuring, "_maps", maps)


def test_right_maps_have_full_marks(pipe: Any, voc: Path, perfect: None, tmp_path: Path) -> None:
    by_way = {each.way: each for each in evaluate_published(pipe, opened("voc", voc, NAMES))}
    for way in ("mean", "agreed"):
        each = by_way[way]
        assert (each.mean_iou, each.pixel_accuracy, each.mean_average_precision) == (1, 1, 1)
        assert (each.pictures, each.cut) == (5, 0)
    nothing = by_way[NOTHING]
    assert nothing.mean_iou < 0.4
    assert set(nothing.iou) == {"background", *(CLASSES[n] for n in _drawn_classes(voc))}
    write_imagenet_seg(tmp_path / "seg.mat", scenes(2, 1), ["n01_1", "n01_2"])
    test = opened("imagenet-seg", tmp_path / "seg.mat", {"n01": "circle"})
    figures = evaluate_published(pipe, test, ways=["mean"])
    # Enlarged from 128 to 224 pixels a side and cut at their low mean, masks grow by an edge.
    assert figures[0].mean_iou > 0.93
    assert figures[0].mean_average_precision is not None
    assert figures[0].mean_average_precision > 0.99
    assert figures[1].mean_iou < 0.5


def _drawn_classes(voc: Path) -> set[int]:
    return {n for each in opened("voc", voc, NAMES).pictures() for n in each.words}


def test_each_word_gets_its_own_map(pipe: Any, tmp_path: Path) -> None:
    """Of a dog and a hot dog, the dog's map is of its own columns."""
    image = Image.new("RGB", (64, 64), "white")
    half = np.zeros((64, 64), dtype=bool)
    half[:, :32] = True
    annotations = [
        {"image_id": 1, "category_id": 1, "segmentation": counts(half), "area": 2048},
        {"image_id": 1, "category_id": 2, "segmentation": counts(~half), "area": 2048},
    ]
    write_coco(tmp_path, [image], annotations, {1: "red", 2: "blue red"})
    seen: list[Any] = []
    real = measuring._maps

    def watched(trace: Any, way: Any, image: int, picture: Any, places: Any) -> Iterator[Any]:
        found = dict(real(trace, way, image, picture, places))
        columns = {each.text: [] for each in trace.words}  # type: ignore[var-annotated]
        for each in trace.words:
            columns[each.text].append(each.columns)
        seen.append((found, trace, columns))
        yield from found.items()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "_maps", watched)
        evaluate_published(pipe, opened("coco", tmp_path, {}), ways=["mean"])
    ((found, trace, columns),) = seen
    (first,), (second,) = columns["red"]
    (blue,) = columns["blue"]
    assert trace.prompts[0] == "a photo of a red and a blue red"
    expected = {1: [first], 2: [*blue, second]}
    for number, own in expected.items():
        assert (found[number].array == trace.heatmap(columns=own).array).all()


@pytest.mark.parametrize("kind", ["voc", "coco", "imagenet-seg"])
def test_missing_files_are_told(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match="but there is no such file; give the folder") as error:
        opened(kind, tmp_path, {})
    assert "\n" not in str(error.value)


def test_damaged_files_are_told(voc: Path, tmp_path: Path) -> None:
    folder = voc / "VOC2012"
    with pytest.raises(UserError, match=r"a --format of .*, but came 'vok' \(did you mean 'voc'"):
        opened("vok", voc, {})
    with pytest.raises(UserError, match="--names of classes of this test, but came 'zebra'"):
        opened("voc", voc, {"zebra": "circle"})
    with pytest.raises(UserError, match="a word of its own for each class, but 'cat' stands for 2"):
        opened("voc", voc, {"dog": "cat"})
    test = opened("voc", voc, NAMES)
    (folder / "SegmentationClass" / "2007_000000.png").write_bytes(b"x")
    Image.new("RGB", (128, 128)).save(folder / "SegmentationClass" / "2007_000001.png")
    Image.new("L", (9, 9)).save(folder / "SegmentationClass" / "2007_000002.png")
    Image.new("L", (128, 128), 77).save(folder / "SegmentationClass" / "2007_000003.png")
    (folder / "JPEGImages" / "2007_000004.jpg").unlink()
    for number, reason in enumerate(
        ["cannot be read", "mode RGB", r"the shape \(9, 9\)", "but came 77", "no such file"]
    ):
        with pytest.raises(UserError, match=reason):
            test.read(number)
    (tmp_path / "gtsegs_ijcv.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(UserError, match=r"a MATLAB 7\.3 file"):
        opened("imagenet-seg", tmp_path, {})
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text("[]")
    with pytest.raises(UserError, match="COCO's annotations in"):
        opened("coco", tmp_path, {})


def test_other_pipelines_are_told(pipe: Any, voc: Path) -> None:
    test = opened("voc", voc, NAMES)
    with pytest.raises(UserError, match="a pipeline of Stable Diffusion 1, 2 or XL"):
        evaluate_published(object(), test)
    with pytest.raises(UserError, match="from 0 to 999, but came 1000"):
        evaluate_published(pipe, test, timestep=1000)
    with pytest.raises(UserError, match="1 or more, but came 0"):
        evaluate_published(pipe, test, batch=0)


def test_the_command_prints_the_table(pipe: Any, voc: Path, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    out = tmp_path / "figures.json"
    options = ["--model", str(tmp_path / "model"), "--data", str(voc), "--format", "voc"]
    options += ["--names", str(tmp_path / "names.json"), "--json", str(out), "--limit", "2"]
    done = CliRunner().invoke(app, ["published", *options], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    figures = json.loads(out.read_text())
    assert [each["way"] for each in figures["published"]] == ["mean", "agreed", NOTHING]
    assert all(each["pictures"] == 2 for each in figures["published"])
    for each in figures["published"]:
        assert f"{100 * each['mean_iou']:.2f} %" in done.output
    assert figures["settings"]["format"] == "voc"


def test_the_unet_is_given_what_its_pipeline_gives(pipe: Any, draw: Any) -> None:
    """Of both kinds: the text, and of SDXL the pooled one and the sizes."""
    for each in (pipe, make_sdxl()):
        seen: list[Any] = []

        def watch(module: Any, args: Any, kwargs: Any, seen: list[Any] = seen) -> None:
            seen.append(kwargs)

        handle = each.unet.register_forward_pre_hook(watch, with_kwargs=True)
        each.set_progress_bar_config(disable=True)
        draw(each, guidance_scale=1.0)
        side = own_size(each)
        latents = torch.zeros(1, 4, *[side // each.vae_scale_factor] * 2)
        trace = recorded_pass(each, ["a red circle"], latents, 300, 0, chosen_ways(["mean"]))
        handle.remove()
        first, last = seen[0], seen[-1]
        assert torch.equal(first["encoder_hidden_states"], last["encoder_hidden_states"])
        for name, value in (first["added_cond_kwargs"] or {}).items():
            assert torch.equal(value, last["added_cond_kwargs"][name])
        assert trace["mean"].heatmap("circle").array.shape == (side, side)


@pytest.mark.slow
def test_the_model_of_shapes_beats_no_map_in_every_format(tmp_path: Path) -> None:
    pipe = load_model("shapes")
    two = [each for each in scenes(60, 2) if known(each.masks)][:20]
    one = [each for each in scenes(40, 1) if known(each.masks)][:20]
    write_voc(tmp_path / "voc", two, NUMBERS)
    annotations = [
        {
            "image_id": number,
            "category_id": NUMBERS[shape],
            "segmentation": counts(mask),
            "area": int(mask.sum()),
        }
        for number, drawn in enumerate(two, start=1)
        for shape, mask in drawn.masks.items()
    ]
    categories = {number: shape for shape, number in NUMBERS.items()}
    write_coco(tmp_path / "coco", [drawn.image for drawn in two], annotations, categories)
    shapes = [next(iter(drawn.masks)) for drawn in one]
    ids = [f"n{NUMBERS[shape]}_{number}" for number, shape in enumerate(shapes)]
    write_imagenet_seg(tmp_path / "gtsegs_ijcv.mat", one, ids)
    tests = {
        "voc": opened("voc", tmp_path / "voc", NAMES),
        "coco": opened("coco", tmp_path / "coco", {}),
        "imagenet-seg": opened(
            "imagenet-seg", tmp_path, {f"n{number}": shape for shape, number in NUMBERS.items()}
        ),
    }
    for kind, test in tests.items():
        found = {each.way: each for each in evaluate_published(pipe, test, timestep=200)}
        print(kind, {name: each.mean_iou for name, each in found.items()})
        for way in ("mean", "agreed"):
            # Cut at their mean, as that test is, maps of small objects are too wide.
            better = 0.1 if test.binary else 0.15
            assert found[way].mean_iou > found[NOTHING].mean_iou + better, kind
            precision = found[way].mean_average_precision
            assert precision is not None
            assert precision > (0.98 if test.binary else 0.6), kind
