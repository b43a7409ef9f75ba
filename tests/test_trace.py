from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from captured import size_of
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import TraceFileError, UserError, WordNotFoundError
from t2i_xattn.prompts.words import Word
from t2i_xattn.traces.file import checksum
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.recorded_run import RecordedRun
from t2i_xattn.traces.trace import Trace

SITES = (
    AttentionSite("down.attn2", "cross", 0, "down", 0, 2),
    AttentionSite("mid.attn2", "cross", 1, "mid", 1, 2),
)
LATENT = (3, 5)
MID = "text/mid.attn2"
TOKENS = ("<start>", "red", "c", "at", "red", "<end>")
WORDS = (Word("red", 0, 3, (1,)), Word("cat", 4, 7, (2, 3)), Word("red", 8, 11, (4,)))


def make_run() -> RecordedRun:
    """Two images of a 3 × 5 latent, the second without text; shares that sum to 1."""
    generator = np.random.default_rng(0)
    maps = {}
    for site in SITES:
        logits = generator.normal(size=(2, *size_of(site, LATENT), 6))
        shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        maps[site.name] = shares.astype(np.float32)[:, None, None, None]
    return RecordedRun(
        maps={"text": maps},
        counts=counts_of(maps, [[2]]),
        sites=SITES,
        groups=None,
        walked_columns=None,
        branches=("conditional",),
        steps=((0, 2),),
        prompts={"conditional": ("red cat red", None)},
        words={"conditional": (WORDS, ())},
        tokens={"conditional": (TOKENS, ())},
        frames=1,
        latent_size=LATENT,
        picture_size=(24, 40),
        crop=None,
        settings={"calls": 2, "timesteps": [981.0, 1.0], "guidance_scale": None},
    )


def counts_of(maps: Mapping[str, Any], calls: list[list[int]]) -> dict[str, dict[str, Any]]:
    """Of the stream `text`, so many calls of each branch and window at each site."""
    return {"text": {name: np.array(calls) for name in maps}}


@pytest.fixture
def trace() -> Trace:
    return Trace(make_run())


def test_heat_maps_have_the_pictures_size_and_unit(trace: Trace) -> None:
    heat = trace.heatmap("cat")
    assert heat.array.shape == (24, 40)
    assert heat.word == "cat"
    total = sum(trace.heatmap(columns=[column]).array for column in range(6))
    assert np.allclose(total, 1, atol=1e-6)


def test_tokens_and_occurrences_add_up(trace: Trace) -> None:
    column = [trace.heatmap(columns=[index]).array for index in range(6)]
    assert np.allclose(trace.heatmap("cat").array, column[2] + column[3])
    assert np.allclose(trace.heatmap("red").array, column[1] + column[4])
    assert np.allclose(trace.heatmap("RED", occurrence=1).array, column[4])
    assert np.allclose(trace.heatmap("red cat").array, column[1] + column[2] + column[3])
    assert np.allclose(trace.heatmap(columns=[2, 2]).array, column[2])


def test_images_apart(trace: Trace) -> None:
    first, second = (trace.heatmap(columns=[1], image=image).array for image in (0, 1))
    assert not np.allclose(first, second, atol=1e-3)
    assert trace.words == WORDS
    assert trace.words_of(1) == ()
    assert trace.tokens == TOKENS


def test_choosing_sites(trace: Trace) -> None:
    fine = trace.heatmap("cat", sites=lambda site: site.level == 0).array
    coarse = trace.heatmap("cat", sites=["mid.attn2"]).array
    assert np.allclose(trace.heatmap("cat").array, (fine + coarse) / 2)
    assert (trace.heatmap("cat", sites="mid.attn2").array == coarse).all()
    assert not np.allclose(fine, coarse, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phrase": "cat", "sites": ["mid.atn2"]}, r"'mid.atn2' \(did you mean 'mid.attn2'\?\)"),
        ({"phrase": "cat", "sites": lambda site: False}, "leaves none of 2"),
        ({"phrase": "cat", "image": 2}, "an image from 0 to 1, but came 2"),
        ({"phrase": "cat", "image": -1}, "an image from 0 to 1, but came -1"),
        ({"columns": [6]}, r"columns from 0 to 5, but came \[6\]"),
        ({"columns": []}, r"columns from 0 to 5, but came \[\]"),
        ({}, "give just one"),
        ({"phrase": "cat", "columns": [1]}, "give just one"),
        ({"phrase": "cat", "image": 1}, "given as embeddings; ask by columns"),
        ({"phrase": "cat", "stream": "edited"}, "a stream of text, but came 'edited'"),
        ({"phrase": "cat", "frame": 1}, "a frame from 0 to 0, but came 1"),
    ],
)
def test_mistakes(trace: Trace, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        trace.heatmap(**options)


def test_a_word_that_is_not_there(trace: Trace) -> None:
    with pytest.raises(WordNotFoundError, match="did you mean 'cat'"):
        trace.heatmap("cats")


def test_an_aggregate_of_the_users_own(trace: Trace) -> None:
    heat = trace.heatmap(
        "cat", aggregate=lambda given: np.full(given.picture_size, len(given.maps))
    )
    assert (heat.array == 2).all()


class TestParts:
    """Of a run with two branches, three windows of steps and two heads, with known values."""

    @pytest.fixture
    def rich(self) -> Trace:
        run = make_run()
        maps = {}
        for index, site in enumerate(SITES):
            shape = (2, 2, 3, 2, *size_of(site, LATENT), 6)
            maps[site.name] = np.random.default_rng(index).random(shape, dtype=np.float32)
        negative = (Word("cat", 0, 3, (1,)),)
        return Trace(
            replace(
                run,
                maps={"text": maps},
                counts=counts_of(maps, [[1, 3, 2], [1, 1, 0]]),
                branches=("conditional", "unconditional"),
                steps=((0, 1), (1, 4), (4, 6)),
                prompts=run.prompts | {"unconditional": ("cat", "cat")},
                words=run.words | {"unconditional": (negative, negative)},
                tokens=run.tokens | {"unconditional": (("<start>", "cat", "<end>"),) * 2},
            )
        )

    def test_the_mean_over_steps_counts_each_call(self, rich: Trace) -> None:
        array = rich.run.maps["text"]["mid.attn2"].astype(np.float64)
        expected = (array[:, 0, 0] + 3 * array[:, 0, 1] + 2 * array[:, 0, 2]) / 6
        assert np.allclose(rich.maps["mid.attn2"], expected.mean(1), atol=1e-6)

    def test_windows_in_which_a_branch_did_not_run_are_passed_over(self, rich: Trace) -> None:
        """Whatever stands there, which is NaN."""
        array = rich.run.maps["text"]["mid.attn2"]
        array[:, 1, 2] = np.nan
        negative = rich.select(branch="unconditional")
        expected = (array[:, 1, 0] + array[:, 1, 1]) / 2
        assert np.allclose(negative.maps["mid.attn2"], expected.mean(1), atol=1e-6)
        with pytest.raises(UserError, match=r"branch 'unconditional' .* in the steps 4 to 6, but"):
            negative.select(steps=(4, 6)).heatmap("cat")

    def test_parts_have_the_values_of_the_whole(self, rich: Trace) -> None:
        whole = rich.run.maps["text"]["mid.attn2"]
        part = rich.select(branch="unconditional", steps=(1, 6), heads=1, images=1)
        assert (part.run.maps["text"]["mid.attn2"] == whole[1:, 1:, 1:, 1:]).all()
        assert part.run.counts["text"]["mid.attn2"].tolist() == [[1, 0]]
        assert part.run.branches == ("unconditional",)
        assert part.run.steps == ((1, 4), (4, 6))
        assert part.prompts == ("cat",)
        assert [word.columns for word in part.words] == [(1,)]
        assert part.tokens == ("<start>", "cat", "<end>")
        assert rich.select(images=[1]).prompts == (None,)
        only = rich.select(sites="mid.attn2", steps=0)
        assert [site.name for site in only.sites] == ["mid.attn2"]
        expected = whole[0, 0, 0].mean(0)[:, :, 2:4].sum(-1)
        coarse = only.heatmap("cat", aggregate=lambda given: given.wanted[0].mean(0).sum(-1)).array
        assert np.allclose(coarse, expected)

    def test_a_word_is_looked_up_in_the_text_of_the_branch(self, rich: Trace) -> None:
        for part, columns in (
            (rich, [2, 3]),
            (rich.select(branch="conditional"), [2, 3]),
            (rich.select(branch="unconditional"), [1]),
        ):
            found, expected = part.heatmap("cat"), part.heatmap(columns=columns)
            assert np.allclose(found.array, expected.array)

    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            (0, ((0, 1),)),
            ((0, 4), ((0, 1), (1, 4))),
            (range(1, 6), ((1, 4), (4, 6))),
            ((0, 1.0), ((0, 1), (1, 4), (4, 6))),
            ((0.67, 1.0), ((4, 6),)),
            ((4, 99), ((4, 6),)),
        ],
    )
    def test_steps_are_a_window(self, rich: Trace, steps: Any, expected: Any) -> None:
        assert rich.select(steps=steps).run.steps == expected

    def test_a_part_survives_the_file(self, rich: Trace, tmp_path: Path) -> None:
        rich.select(steps=(1, 6)).save(tmp_path / "part.safetensors")
        loaded = Trace.load(tmp_path / "part.safetensors")
        assert loaded.run.steps == ((1, 4), (4, 6))
        assert loaded.run.branches == ("conditional", "unconditional")
        expected = rich.run.maps["text"]["down.attn2"][:, :, 1:]
        assert (loaded.run.maps["text"]["down.attn2"] == expected).all()
        assert loaded.run.counts["text"]["down.attn2"].tolist() == [[3, 2], [1, 0]]
        assert loaded.run.words == rich.run.words
        assert loaded.run.tokens == rich.run.tokens
        assert loaded.run.prompts == rich.run.prompts

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"branch": "image"}, "branch of conditional, unconditional, but came 'image'"),
            ({"steps": 6}, r"whole windows .*\(4, 6\)\], but came \(6, 7\); .* steps=\"each\""),
            ({"steps": (1, 3)}, r"whole windows .* but came \(1, 3\)"),
            ({"steps": (0, 2)}, r"whole windows .* but came \(0, 2\)"),
            ({"heads": [2]}, r"heads from 0 to 1, but came \[2\]; record with heads"),
            ({"images": []}, r"images from 0 to 1, but came \[\]"),
            ({"sites": "mid"}, "did you mean 'mid.attn2'"),
        ],
    )
    def test_no_such_part(self, rich: Trace, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            rich.select(**options)

    def test_what_it_is_told_as(self, rich: Trace, trace: Trace) -> None:
        assert repr(rich) == (
            "<Trace of 'red cat red', None: 2 sites, steps 0 to 6 in 3 windows, conditional, "
            "unconditional, streams text>"
        )
        assert repr(trace) == (
            "<Trace of 'red cat red', None: 2 sites, steps 0 to 2, conditional, streams text>"
        )

        def nothing() -> RecordedRun:
            raise UserError("expected a recorded run")

        assert repr(Trace(nothing)) == "<Trace: expected a recorded run>"

    def test_differences_and_means(self, rich: Trace, trace: Trace) -> None:
        twice = Trace(
            replace(
                rich.run,
                maps={"text": {name: 3 * array for name, array in rich.to_numpy().items()}},
            )
        )
        for name, array in rich.to_numpy().items():
            assert np.allclose((twice - rich).to_numpy()[name], 2 * array)
            assert np.allclose(Trace.mean([rich, twice]).to_numpy()[name], 2 * array)
        assert (twice - rich).settings["minus"] == rich.settings
        with pytest.raises(UserError, match="they differ; record both runs in the same way"):
            rich - trace
        with pytest.raises(UserError, match="at least one trace"):
            Trace.mean([])

    def test_shares_of_a_difference(self) -> None:
        """What one run's text has more, its picture's own keys have less."""
        kinds: dict[str, tuple[tuple[str, ...], ...]] = {
            "conditional": (("special", *("word",) * 4, "special"), ())
        }
        own = make_run().maps["text"]
        one, other = (
            Trace(replace(make_run(), maps={"text": maps}, kinds=kinds))
            for maps in (
                {name: 0.5 * array for name, array in own.items()},
                {name: 0.8 * np.roll(array, 1, axis=-1) for name, array in own.items()},
            )
        )
        first, second = (vars(each.shares()) for each in (one, other))
        assert first["picture"] == pytest.approx(0.5)
        found = vars((one - other).shares())
        assert found == pytest.approx({name: first[name] - second[name] for name in found})

    def test_xarray(self, rich: Trace) -> None:
        pytest.importorskip("xarray")
        array = rich.to_xarray()["mid.attn2"]
        assert array.dims == ("image", "branch", "step", "head", "height", "width", "token")
        part = array.sel(branch="unconditional", step=4).values
        assert (part == rich.run.maps["text"]["mid.attn2"][:, 1, 2]).all()

    def test_words_that_were_kept(self, trace: Trace) -> None:
        """The token axis holds "cat" and "red" only."""
        maps = {
            name: np.concatenate(
                [array[..., 2:4].sum(-1, keepdims=True), array[..., [1, 4]].sum(-1, keepdims=True)],
                axis=-1,
            )
            for name, array in trace.to_numpy().items()
        }
        kept = Trace(
            replace(trace.run, maps={"text": maps}, groups={"conditional": (((2, 3), (1, 4)),) * 2})
        )
        for phrase in ("cat", "red", "red cat red"):
            if phrase == "red cat red":
                expected = trace.heatmap("cat").array + trace.heatmap("red").array
            else:
                expected = trace.heatmap(phrase).array
            assert np.allclose(kept.heatmap(phrase).array, expected, atol=1e-6)
        with pytest.raises(UserError, match=r"columns that were kept, \[\[2, 3\], \[1, 4\]\]"):
            kept.heatmap("red cat", occurrence=0)


class TestFrames:
    """Of a video of three frames."""

    @pytest.fixture
    def video(self) -> Trace:
        run = make_run()
        maps = {}
        for index, site in enumerate(SITES):
            shape = (2, 1, 1, 1, 3, *size_of(site, LATENT), 6)
            maps[site.name] = np.random.default_rng(index).random(shape, dtype=np.float32)
        return Trace(replace(run, maps={"text": maps}, frames=3))

    def test_one_frame_or_the_mean_of_all(self, video: Trace, trace: Trace) -> None:
        run = video.run
        each = [
            Trace(
                replace(run, maps={"text": {n: a[:, :, :, :, frame] for n, a in
                                            video.to_numpy().items()}}, frames=1)
            )
            for frame in range(3)
        ]  # fmt: skip
        for frame, still in enumerate(each):
            assert (video.heatmap("cat", frame=frame).array == still.heatmap("cat").array).all()
        expected = np.mean([still.heatmap("cat").array for still in each], axis=0)
        assert np.allclose(video.heatmap("cat").array, expected, atol=1e-6)
        assert not np.allclose(video.heatmap("cat", frame=0).array, expected, atol=1e-3)
        assert video.maps["mid.attn2"].shape == (2, 3, 2, 3, 6)
        assert (video.maps["mid.attn2"][:, 1] == each[1].maps["mid.attn2"]).all()
        with pytest.raises(UserError, match="a frame from 0 to 2, but came 3; this run made 3"):
            video.heatmap("cat", frame=3)

    def test_the_file_and_the_axes(self, video: Trace, tmp_path: Path) -> None:
        video.save(tmp_path / "video.safetensors")
        loaded = Trace.load(tmp_path / "video.safetensors")
        assert loaded.run.frames == 3
        axes = ("image", "branch", "step", "head", "frame", "height", "width", "token")
        assert loaded.run.axes == axes
        for frame in (None, 2):
            found, expected = (each.heatmap("cat", frame=frame) for each in (loaded, video))
            assert (found.array == expected.array).all()
        assert video.select(images=1, heads=0).maps["mid.attn2"].shape == (1, 3, 2, 3, 6)
        pytest.importorskip("xarray")
        assert video.to_xarray()["mid.attn2"].dims == axes


class TestCrop:
    """Of an inpainting that painted a part of the picture only."""

    @pytest.fixture
    def part(self) -> Trace:
        return Trace(replace(make_run(), crop=(8, 4, 48, 28)))

    def test_a_map_of_a_part_is_not_laid_over_the_whole(self, part: Trace) -> None:
        heat = part.heatmap("cat")
        assert heat.crop == (8, 4, 48, 28)
        picture = Image.new("RGB", (64, 64))
        with pytest.raises(UserError, match=r"\(8, 4, 48, 28\) \(left, top, right, bottom\)"):
            heat.overlay(picture)
        # As the sentence advises.
        laid = HeatMap(heat.word, heat.array).overlay(picture.crop(heat.crop))
        assert laid.size == (40, 24)

    def test_in_a_file(self, part: Trace, trace: Trace, tmp_path: Path) -> None:
        for each, expected in ((part, (8, 4, 48, 28)), (trace, None)):
            each.save(tmp_path / "run.safetensors")
            assert Trace.load(tmp_path / "run.safetensors").heatmap("cat").crop == expected


class TestFile:
    @pytest.fixture
    def path(self, trace: Trace, tmp_path: Path) -> Path:
        trace.save(tmp_path / "run.safetensors")
        return tmp_path / "run.safetensors"

    def test_round_trip(self, trace: Trace, path: Path) -> None:
        loaded = Trace.load(path)
        for name, maps in trace.maps.items():
            assert loaded.maps[name].dtype == np.float32
            assert (loaded.maps[name] == maps).all()
        assert list(loaded.maps) == list(trace.maps)
        assert loaded.sites == trace.sites
        assert loaded.prompts == trace.prompts
        assert loaded.words == WORDS
        assert loaded.words_of(1) == ()
        assert loaded.picture_size == (24, 40)
        assert loaded.run.latent_size == (3, 5)
        assert loaded.tokens == TOKENS
        assert loaded.run.counts["text"]["mid.attn2"].tolist() == [[2]]
        assert loaded.settings == trace.settings
        assert repr(loaded) == repr(trace)
        assert (loaded.heatmap("red cat").array == trace.heatmap("red cat").array).all()

    def test_only_the_file_is_left(self, path: Path, trace: Trace) -> None:
        trace.save(path)
        assert list(path.parent.iterdir()) == [path]

    def test_a_failed_save_leaves_the_old_file(
        self, path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = path.read_bytes()

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(UserError, match="No space left on device"):
            trace.save(path)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_no_such_folder(self, trace: Trace, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="No such file or directory; choose an existing"):
            trace.save(tmp_path / "nowhere" / "run.safetensors")

    @pytest.mark.slow
    def test_needs_no_model_library(self, path: Path) -> None:
        code = (
            "import sys; from t2i_xattn import Trace; "
            f"heat = Trace.load({str(path)!r}).heatmap('red'); heat.box(); "
            "assert not {'diffusers', 'transformers'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(TraceFileError, match="there is no file"):
            Trace.load(tmp_path / "run.safetensors")

    @pytest.mark.parametrize("keep", [0, 5, 200, -1])
    def test_cut_short(self, path: Path, keep: int) -> None:
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(TraceFileError, match="of another kind or cut short"):
            Trace.load(path)

    def test_of_another_kind(self, path: Path) -> None:
        path.write_text("a picture, say" * 100)
        with pytest.raises(TraceFileError, match="of another kind or cut short"):
            Trace.load(path)

    def test_weights_are_not_a_trace(self, path: Path) -> None:
        save_file({"weight": np.zeros(3, dtype=np.float32)}, path)
        with pytest.raises(TraceFileError, match="without a trace's header"):
            Trace.load(path)

    def rewrite(self, path: Path, change: Any) -> None:
        with safe_open(path, framework="np") as file:
            header = json.loads(file.metadata()["t2i_xattn"])
        tensors = load_file(path)
        change(header, tensors)
        text = json.dumps(header)
        save_file(tensors, path, metadata={"t2i_xattn": text, "sha256": checksum(text, tensors)})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda h, t: h.update(format_version=3), "format version 4, but .* has 3; read it"),
            (lambda h, t: h.pop("format_version"), "damaged"),
            (lambda h, t: h.pop("words"), "damaged"),
            (lambda h, t: h["words"]["conditional"][0][0].update(surprise=1), "damaged"),
            (lambda h, t: h["words"].update(unconditional=[[], []]), "damaged"),
            (lambda h, t: h["words"]["conditional"].pop(), "damaged"),
            (lambda h, t: h.update(latent_size=[4]), "damaged"),
            (lambda h, t: h["prompts"]["conditional"].append("one too many"), "damaged"),
            (lambda h, t: h["prompts"].pop("conditional"), "damaged"),
            (lambda h, t: h["tokens"]["conditional"].pop(), "damaged"),
            (lambda h, t: h["counts"].pop(MID), "damaged"),
            (lambda h, t: h["counts"].update({MID: [[1, 1]]}), "damaged"),
            (lambda h, t: h.update(frames=2), "damaged"),
            (lambda h, t: h.update(shape=3), "damaged"),
            (lambda h, t: h.update(steps=[[0, 1], [1, 2]]), "damaged"),
            (lambda h, t: h.update(branches=["conditional", "unconditional"]), "damaged"),
            (lambda h, t: h["streams"].append("picture 1"), "damaged"),
            (lambda h, t: h.update(groups={"conditional": [[[1], [2]]]}), "damaged"),
            (lambda h, t: h["sites"].pop(), "damaged"),
            (lambda h, t: h["shape"].update(more=[1]), "'more' is in one of the two only"),
            (lambda h, t: t.__delitem__(MID), f"'{MID}' is in one of the two only"),
            (
                lambda h, t: t.update({MID: t[MID][..., :-1].copy()}),
                r"F32 \[2, 1, 1, 1, 2, 3, 6\] .* but came F32 \[2, 1, 1, 1, 2, 3, 5\]",
            ),
            (
                lambda h, t: t.update({MID: t[MID].astype(np.float64)}),
                "but came F64",
            ),
        ],
    )
    def test_damaged(self, path: Path, change: Any, message: str) -> None:
        self.rewrite(path, change)
        with pytest.raises(TraceFileError, match=message):
            Trace.load(path)

    @pytest.mark.parametrize("header", ["{", '["a list"]', "3", "{}"])
    def test_the_header_itself_damaged(self, path: Path, header: str) -> None:
        save_file(load_file(path), path, metadata={"t2i_xattn": header})
        with pytest.raises(TraceFileError, match="damaged"):
            Trace.load(path)


def test_a_recorded_trace_survives_the_file(pipe: Any, draw: Any, tmp_path: Path) -> None:
    from t2i_xattn.recording.record import record

    with record(pipe) as trace:
        draw(pipe, ["a red circle", "blue"])
    trace.save(tmp_path / "run.safetensors")
    loaded = Trace.load(tmp_path / "run.safetensors")
    assert loaded.settings == trace.settings
    assert loaded.words_of(1) == trace.words_of(1)
    assert (loaded.heatmap("circle").array == trace.heatmap("circle").array).all()
