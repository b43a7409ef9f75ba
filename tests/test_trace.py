from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import TraceFileError, UserError, WordNotFoundError
from t2i_xattn.prompts.words import Word
from t2i_xattn.traces.recorded_run import RecordedRun
from t2i_xattn.traces.trace import Trace

SITES = (
    AttentionSite("down.attn2", "cross", "down", 0, 2),
    AttentionSite("mid.attn2", "cross", "mid", 1, 2),
)
MID = "text/mid.attn2"
WORDS = (Word("red", 0, 3, (1,)), Word("cat", 4, 7, (2, 3)), Word("red", 8, 11, (4,)))


def make_run() -> RecordedRun:
    """Two images of a 3 × 5 latent, the second without text; shares that sum to 1."""
    generator = np.random.default_rng(0)
    maps = {}
    for site in SITES:
        logits = generator.normal(size=(2, *site.size(3, 5), 6))
        shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        maps[site.name] = shares.astype(np.float32)[:, None, None, None]
    return RecordedRun(
        maps={"text": maps},
        sites=SITES,
        groups=None,
        branches=("conditional",),
        steps=((0, 2),),
        prompts=("red cat red", None),
        words=(WORDS, ()),
        latent_size=(3, 5),
        picture_size=(24, 40),
        settings={"calls": 2, "timesteps": [981.0, 1.0], "guidance_scale": None},
    )


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
            shape = (2, 2, 3, 2, *site.size(3, 5), 6)
            maps[site.name] = np.random.default_rng(index).random(shape, dtype=np.float32)
        return Trace(
            replace(
                run, maps={"text": maps}, branches=("conditional", "unconditional"),
                steps=((0, 1), (1, 4), (4, 6)),
            )
        )  # fmt: skip

    def test_the_mean_over_steps_counts_each_step(self, rich: Trace) -> None:
        array = rich.run.maps["text"]["mid.attn2"].astype(np.float64)
        expected = (array[:, 0, 0] + 3 * array[:, 0, 1] + 2 * array[:, 0, 2]) / 6
        assert np.allclose(rich.maps["mid.attn2"], expected.mean(1), atol=1e-6)

    def test_parts_have_the_values_of_the_whole(self, rich: Trace) -> None:
        whole = rich.run.maps["text"]["mid.attn2"]
        part = rich.select(branch="unconditional", steps=[1, 2], heads=1, images=1)
        assert (part.run.maps["text"]["mid.attn2"] == whole[1:, 1:, 1:, 1:]).all()
        assert part.run.branches == ("unconditional",)
        assert part.run.steps == ((1, 4), (4, 6))
        assert part.prompts == (None,)
        assert part.run.words == ((),)
        only = rich.select(sites="mid.attn2", steps=0)
        assert [site.name for site in only.sites] == ["mid.attn2"]
        expected = whole[0, 0, 0].mean(0)[:, :, 2:4].sum(-1)
        coarse = only.heatmap("cat", aggregate=lambda given: given.wanted[0].mean(0).sum(-1)).array
        assert np.allclose(coarse, expected)

    def test_a_part_survives_the_file(self, rich: Trace, tmp_path: Path) -> None:
        rich.select(steps=[0, 2]).save(tmp_path / "part.safetensors")
        loaded = Trace.load(tmp_path / "part.safetensors")
        assert loaded.run.steps == ((0, 1), (4, 6))
        assert loaded.run.branches == ("conditional", "unconditional")
        expected = rich.run.maps["text"]["down.attn2"][:, :, [0, 2]]
        assert (loaded.run.maps["text"]["down.attn2"] == expected).all()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"branch": "image"}, "branch of conditional, unconditional, but came 'image'"),
            ({"steps": 3}, r"steps from 0 to 2, but came \[3\]; record with steps=\"each\""),
            ({"heads": [2]}, r"heads from 0 to 1, but came \[2\]; record with heads"),
            ({"images": []}, r"images from 0 to 1, but came \[\]"),
            ({"sites": "mid"}, "did you mean 'mid.attn2'"),
        ],
    )
    def test_no_such_part(self, rich: Trace, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            rich.select(**options)

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
        kept = Trace(replace(trace.run, maps={"text": maps}, groups=(((2, 3), (1, 4)),) * 2))
        for phrase in ("cat", "red", "red cat red"):
            if phrase == "red cat red":
                expected = trace.heatmap("cat").array + trace.heatmap("red").array
            else:
                expected = trace.heatmap(phrase).array
            assert np.allclose(kept.heatmap(phrase).array, expected, atol=1e-6)
        with pytest.raises(UserError, match=r"columns that were kept, \[\[2, 3\], \[1, 4\]\]"):
            kept.heatmap("red cat", occurrence=0)


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
        assert loaded.settings == trace.settings
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
        header = change(header, tensors) or header
        save_file(tensors, path, metadata={"t2i_xattn": json.dumps(header)})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda h, t: h.update(format_version=1), "format version 3, but .* has 1; read it"),
            (lambda h, t: h.pop("format_version"), "damaged"),
            (lambda h, t: ["a list"], "damaged"),
            (lambda h, t: h.pop("words"), "damaged"),
            (lambda h, t: h["words"][0][0].update(surprise=1), "damaged"),
            (lambda h, t: h.update(latent_size=[4, 4]), "damaged"),
            (lambda h, t: h["prompts"].append("one too many"), "damaged"),
            (lambda h, t: h.update(shape=3), "damaged"),
            (lambda h, t: h.update(steps=[[0, 1], [1, 2]]), "damaged"),
            (lambda h, t: h["streams"].append("picture 1"), "damaged"),
            (lambda h, t: h["shape"].update(more=[1]), "'more' is in one of the two only"),
            (lambda h, t: t.__delitem__(MID), f"'{MID}' is in one of the two only"),
            (
                lambda h, t: t.update({MID: t[MID][..., :-1].copy()}),
                r"float32 \[2, 1, 1, 1, 2, 3, 6\] .* but came float32 \[2, 1, 1, 1, 2, 3, 5\]",
            ),
            (
                lambda h, t: t.update({MID: t[MID].astype(np.float64)}),
                "but came float64",
            ),
        ],
    )
    def test_damaged(self, path: Path, change: Any, message: str) -> None:
        self.rewrite(path, change)
        with pytest.raises(TraceFileError, match=message):
            Trace.load(path)

    def test_the_header_itself_damaged(self, path: Path) -> None:
        save_file(load_file(path), path, metadata={"t2i_xattn": "{"})
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
