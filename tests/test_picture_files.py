"""Files of pictures beside prompts, and of what reads them: kept, told, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import t2i_xattn as tx
from command_line import run as run_command
from conftest import make_pipeline
from t2i_xattn.conditioning.picture_tokens import CONCATENATED, PictureTokens
from t2i_xattn.errors import UserError
from t2i_xattn.pictures import fitted
from t2i_xattn.provenance.made import Made
from test_picture_prompts import photo, tokens_of_pictures, with_ip_adapter
from tiny_pipelines import runner, sharpened


class TestKept:
    """No run replaces the picture that it is made from."""

    def refused(self, *arguments: object) -> None:
        code, _, told = run_command(*arguments)
        assert code == 2, told
        assert "replaces no file that it is made from" in told

    def test_generate(self, tmp_path: Path) -> None:
        given = tmp_path / "picture-1.png"
        photo().save(given)
        before = given.read_bytes()
        asked = ["generate", "--steps", "1", "--picture-prompt", given, "--out", tmp_path, "a boat"]
        self.refused(*asked, "--seed", "0", "--count", "2")
        assert given.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == ["picture-1.png"]
        # Another file beside it is no reason.
        code, _, told = run_command(*asked, "--seed", "2")
        assert code == 0, told
        assert given.read_bytes() == before

    def test_inspect(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        code, _, told = run_command("inspect", "--steps", "1", "--out", out, "a red house")
        assert code == 0, told
        every = {each: each.read_bytes() for each in out.iterdir()}
        # Of an earlier run all goes, whatever its name; a link to it shows what came after.
        link = tmp_path / "link.png"
        link.symlink_to(out / "word-02-red.png")
        for given in (out / "picture.png", out / "words.png", link):
            asked = ["inspect", "--steps", "1", "--out", out, "--picture-prompt", given]
            self.refused(*asked, "--count", "2", "a boat")
        for name in ("picture.png", "words.png"):
            trace = ["--trace", out / "trace.safetensors", "--picture", out / name]
            code, _, told = run_command("inspect", *trace, "--out", out)
            assert code == 2
            assert "another folder than that of the trace" in told
            copied = tmp_path / "trace.safetensors"
            copied.write_bytes((out / "trace.safetensors").read_bytes())
            trace = ["--trace", copied, "--picture", out / name]
            self.refused("inspect", *trace, "--out", out)
        assert {each: each.read_bytes() for each in out.iterdir()} == every

    def test_edit(self, tmp_path: Path) -> None:
        given = tmp_path / "before.png"
        photo(size=(128, 128)).save(given)
        before = given.read_bytes()
        asked = ["edit", "a red house", "--replace", "red=blue", "--steps", "1"]
        self.refused(*asked, "--image", given, "--out", tmp_path)
        assert given.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == ["before.png"]

    def test_a_name_that_is_known_at_the_end_alone(self, tmp_path: Path) -> None:
        given = tmp_path / "words.png"
        photo().save(given)
        before = given.read_bytes()
        asked = ["inspect", "--steps", "1", "--picture-prompt", given, "--out", tmp_path, "a boat"]
        self.refused(*asked)
        assert given.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == ["words.png"]


@pytest.mark.parametrize("command", ["generate", "edit"])
def test_again_tells_of_another_picture(tmp_path: Path, command: str) -> None:
    given = tmp_path / "given.png"
    photo(0, (128, 128)).save(given)
    first = tmp_path / "first"
    asked = {
        "generate": ["--picture-prompt", given],
        "edit": ["--image", given, "--replace", "red=blue"],
    }[command]
    code, _, told = run_command(command, "a red house", *asked, "--steps", "1", "--out", first)
    assert code == 0, told
    if command == "generate":  # an edit takes longer
        code, printed, told = run_command("again", first, "--out", tmp_path / "same")
        assert code == 0, told
        assert "differs" not in printed
        assert "another one" not in told
    photo(1, (128, 128)).save(given)
    code, printed, told = run_command("again", first, "--out", tmp_path / "other")
    assert code == 0, told
    assert "differs" in printed
    option = {"generate": "--picture-prompt", "edit": "--image"}[command]
    assert f"the file of {option} is another one here than it was then" in told


Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's folder."""
    folder = tmp_path_factory.mktemp("adapter")
    made = tokens_of_pictures()
    made._encoder.save_pretrained(folder / "image_encoder")
    own = made._projection.state_dict().items()
    weights = {f"image_proj.{key.replace('image_embeds', 'proj')}": each for key, each in own}
    save_file(weights, folder / CONCATENATED)
    return folder


@pytest.fixture
def adapter(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    folder = tmp_path / "adapter"
    (folder / "image_encoder").mkdir(parents=True)
    for each in sound.rglob("*.*"):
        (folder / each.relative_to(sound)).write_bytes(each.read_bytes())
    return folder


class TestFolderOfAnAdapter:
    """Weights that are missing would be made up at random."""

    def changed(self, file: Path, change: Callable[[Weights], object]) -> None:
        weights = load_file(file)
        change(weights)
        save_file(weights, file, metadata={"format": "pt"})

    def refused(self, folder: Path, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            PictureTokens.from_pretrained(folder)

    def test_sound_ones_say_what_they_said(self, adapter: Path) -> None:
        expected = tokens_of_pictures()([photo()])
        read = PictureTokens.from_pretrained(adapter)
        # Weights lie otherwise in memory, which some processors' last bits show.
        torch.testing.assert_close(read([photo()]), expected, rtol=1e-5, atol=1e-6)
        halved = tokens_of_pictures()._encoder.half()
        halved.save_pretrained(adapter / "image_encoder")
        tokens = PictureTokens.from_pretrained(adapter)([photo()])
        assert tokens.dtype == torch.float32
        np.testing.assert_allclose(tokens, expected, rtol=0, atol=0.02)

    def test_a_weight_of_the_encoder_is_missing(self, adapter: Path) -> None:
        name = "visual_projection.weight"
        file = adapter / "image_encoder" / "model.safetensors"
        self.changed(file, lambda weights: weights.pop(name))
        self.refused(adapter, rf"lack 1 .*{name}.*random numbers")

    def test_a_weight_of_the_encoder_is_no_number(self, adapter: Path) -> None:
        file = adapter / "image_encoder" / "model.safetensors"
        self.changed(file, lambda weights: weights["visual_projection.weight"][0].fill_(torch.nan))
        self.refused(adapter, "'visual_projection.weight' of image_encoder has a NaN")

    def test_another_encoder(self, adapter: Path) -> None:
        name = "image_proj.proj.weight"
        self.changed(adapter / CONCATENATED, lambda w: w.update({name: torch.ones(128, 9)}))
        self.refused(adapter, "whose embedding has 9 numbers, but .* has 8")

    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("proj.weight", torch.full((128, 8), torch.nan), "proj.weight in .* has a NaN"),
            ("norm.bias", torch.full((32,), torch.inf), "norm.bias in .* an infinity"),
            ("proj.bias", torch.ones(128, dtype=torch.int32), "proj.bias in .* whole numbers"),
            ("proj.weight", torch.ones(10, 8), "expected an image_proj of"),
            ("proj.weight", torch.ones(128), "expected an image_proj of"),
            ("proj.bias", torch.ones(9), "expected an image_proj of"),
            ("norm.weight", torch.ones(0), "expected an image_proj of"),
            ("norm.weight", torch.ones(33), "expected an image_proj of"),
        ],
    )
    def test_a_damaged_projection(
        self, adapter: Path, name: str, value: Tensor, sentence: str
    ) -> None:
        file = adapter / CONCATENATED
        self.changed(file, lambda weights: weights.update({f"image_proj.{name}": value}))
        self.refused(adapter, sentence)

    @pytest.mark.parametrize(
        ("config", "sentence"),
        [
            ("{", "expected a JSON object in UTF-8 in image_encoder/config.json"),
            ("[]", "it is a list"),
            ({"image_size": "big"}, "config.json or weights are damaged"),
            ({"hidden_size": 17}, "config.json or weights are damaged|as its config.json asks"),
            ({"num_hidden_layers": 10**7}, "sizes from 0 to 2,000,000"),
            ({"auto_map": {"AutoModel": "code.Model"}}, "expected a model without code"),
        ],
    )
    def test_a_damaged_config(
        self, adapter: Path, config: str | dict[str, Any], sentence: str
    ) -> None:
        file = adapter / "image_encoder" / "config.json"
        if not isinstance(config, str):
            config = json.dumps(json.loads(file.read_text("utf-8")) | config)
        file.write_text(config, "utf-8")
        self.refused(adapter, sentence)

    def test_weights_that_are_cut_or_not_there(self, adapter: Path) -> None:
        for name in ("image_encoder/model.safetensors", CONCATENATED):
            file = adapter / name
            whole = file.read_bytes()
            file.write_bytes(whole[:1000])
            self.refused(adapter, "cut short|cannot be read")
            file.unlink()
            self.refused(adapter, "weights of image_encoder as safetensors|but there is none")
            file.write_bytes(whole)

    @pytest.mark.parametrize("folder", [None, 3, b"adapter", "no\0where", "no" * 9000])
    def test_no_folder(self, folder: Any) -> None:
        self.refused(folder, "expected a (path as folder|file .*) of an adapter, but")

    @pytest.mark.parametrize("pictures", [[], (), photo(), "given.png", None])
    def test_no_pictures(self, pictures: Any) -> None:
        with pytest.raises(UserError, match="expected a list of one picture or more"):
            tokens_of_pictures()(pictures)


class TestBounds:
    """How many pixels a picture may have, and how long it may be."""

    @pytest.mark.parametrize("way", ["separate", "concatenated"])
    def test_pixels_that_are_lifted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        given = tmp_path / "given.png"
        limits: list[int | None] = []
        photo().save(given)
        monkeypatch.setattr(
            "t2i_xattn.pictures.check_pixels", lambda _, most, *__: limits.append(most)
        )
        asked = ["generate", "--picture-prompt", given, "--picture-way", way, "--no-limits"]
        few = ["--steps", "1", "--out", tmp_path / "out", "a [red:blue:1] house"]
        code, _, told = run_command(*asked, *few)
        assert code == 0, told
        assert limits == [None, None]  # as the file is read, and as it becomes a prompt

    def test_pixels_in_python(self) -> None:
        pipe, tokens, picture = make_pipeline(), tokens_of_pictures(), photo(0, (40, 32))
        ways: list[tuple[Any, dict[str, Any]]] = [
            (pipe, {"picture_tokens": tokens}),
            (with_ip_adapter(), {}),
        ]
        for each, more in ways:
            with pytest.raises(UserError, match=r"at most 1279 pixels.* max_pixels=…"):
                tx.condition(each, "a", picture=picture, **more, max_pixels=1279)
            for limit in (1280, None):
                tx.condition(each, "a", picture=picture, **more, max_pixels=limit)

    def test_files_that_are_inverted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given = tmp_path / "given.png"
        limits: list[int | None] = []
        photo(0, (64, 64)).save(given)
        monkeypatch.setattr(
            "t2i_xattn.pictures.check_pixels", lambda _, most, *__: limits.append(most)
        )
        assert tx.invert(make_pipeline(), given, "red", num_inference_steps=1, max_pixels=None)
        assert limits == [None]
        monkeypatch.undo()
        with pytest.raises(UserError, match=r"at most 4095 pixels.* max_pixels=…"):
            tx.invert(make_pipeline(), given, "red", num_inference_steps=1, max_pixels=4095)

    @pytest.mark.parametrize("size", [(17, 1), (2, 33)])
    def test_threads(self, tmp_path: Path, size: tuple[int, int]) -> None:
        sentence = f"16 times as long as the other, but came {size[0]} × {size[1]}"
        tokens = tokens_of_pictures()
        with pytest.raises(UserError, match=sentence):
            tx.condition(make_pipeline(), "a", picture=photo(0, size), picture_tokens=tokens)
        with pytest.raises(UserError, match=sentence):
            tokens([photo(), photo(0, size)])
        with pytest.raises(UserError, match=sentence):
            tx.condition(with_ip_adapter(), "a", picture=photo(0, size))
        photo(0, size).save(tmp_path / "thread.png")
        for way in ("separate", "concatenated"):
            asked = ["--picture-prompt", tmp_path / "thread.png", "--picture-way", way]
            code, _, told = run_command("generate", *asked, "--out", tmp_path / "out", "a house")
            assert code == 2
            assert sentence in told
        assert torch.isfinite(tokens([photo(0, (16, 1)), photo(0, (1, 16))])).all()


class TestScheduled:
    """A prompt that changes on the way, beside a picture."""

    @pytest.mark.parametrize("way", ["separate", "concatenated"])
    def test_as_in_python(self, tmp_path: Path, way: str) -> None:
        given = tmp_path / "given.png"
        photo(0, (128, 128)).save(given)
        prompt = "a [red:blue:0.5] house"
        asked = ["--picture-prompt", given, "--picture-way", way, "--negative", "[fog:rain:0.5]"]
        code, _, told = run_command(
            "generate", *asked, "--steps", "2", "--out", tmp_path / "out", prompt
        )
        assert code == 0, told
        pipe = tx.load_default(pictures="separate" if way == "separate" else None)
        pipe.set_progress_bar_config(disable=True)
        tokens = None if way == "separate" else PictureTokens.from_pretrained()
        beside = tx.condition(pipe, prompt, "[fog:rain:0.5]", picture=given, picture_tokens=tokens)
        settings: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 5.0}
        noise = [torch.Generator().manual_seed(0)]
        expected = pipe(**beside, **settings, generator=noise).images[0]
        painted = np.asarray(Image.open(tmp_path / "out" / "picture-0.png"))
        assert (painted == np.asarray(expected)).all()
        # The second step is of another text.
        noise = [torch.Generator().manual_seed(0)]
        still = tx.condition(pipe, "a red house", "fog", picture=given, picture_tokens=tokens)
        other = pipe(**still, **settings, generator=noise).images[0]
        assert (painted != np.asarray(other)).any()


class TestAskedFor:
    """A picture among the text's words is asked for by its name."""

    def test_on_the_command_line(self, tmp_path: Path) -> None:
        given = tmp_path / "given.png"
        photo().save(given)
        asked = ["--picture-prompt", given, "--steps", "1", "--out", tmp_path / "out", "--json"]
        few = ["--words", "forest, Picture 1", "in a forest"]
        concatenated = ["--picture-way", "concatenated"]
        code, printed, told = run_command("inspect", *asked, *concatenated, *few)
        assert code == 0, told
        named = {each["word"]: each for each in json.loads(printed)["pictures"][0]["words"]}
        code, printed, told = run_command("inspect", *asked, *concatenated, "in a forest")
        every = {each["word"]: each for each in json.loads(printed)["pictures"][0]["words"]}
        assert [*named] == ["forest", "Picture 1"]
        for name in ("share", "peak", "box"):
            assert named["Picture 1"][name] == every["picture 1"][name]
        # With a softmax of its own it is no word.
        code, _, told = run_command("inspect", *asked, *few)
        assert code == 2
        assert "not in the prompt" in told

    @pytest.mark.parametrize("walk", [0, 1])
    def test_beside_contributions(self, walk: int) -> None:
        pipe, tokens = sharpened(make_pipeline()), tokens_of_pictures()
        beside = tx.condition(pipe, "a red circle", picture=photo(), picture_tokens=tokens)
        run = runner(pipe, prompt=None, **beside)
        with tx.record(pipe, walk=walk, contributions=True) as every:
            run()
        for words in (["red", "picture 1"], ["picture 1"], ["picture 1", "circle"]):
            with tx.record(pipe, words=words, walk=walk, contributions=True) as trace:
                run()
            for word in words:
                np.testing.assert_allclose(
                    trace.heatmap(word).array, every.heatmap(word).array, rtol=1e-4, atol=1e-6
                )

    def test_the_options_by_their_names(self, tmp_path: Path) -> None:
        asked = ["--trace", tmp_path / "trace.safetensors", "--picture-prompt", "given.png"]
        code, _, told = run_command("inspect", *asked, "--picture-way", "separate")
        assert code == 2
        assert "but came --picture-prompt, --picture-way beside it" in told


class TestOtherPipelines:
    def test_a_compiled_denoiser(self) -> None:
        plain, pipe = with_ip_adapter(), with_ip_adapter()
        expected = tx.condition(plain, "a red circle", picture=photo())
        pipe.unet = torch.compile(pipe.unet)
        with pytest.raises(TypeError):
            bool(pipe.unet)
        found = tx.condition(pipe, "a red circle", picture=photo())
        assert torch.equal(found["prompt_embeds"], expected["prompt_embeds"])
        assert found.keys() == expected.keys()
        assert fitted(pipe, photo()).size == fitted(plain, photo()).size

    def test_inversion_with_an_adapter(self) -> None:
        picture = photo(0, (64, 64))
        pipe = with_ip_adapter()
        with pytest.raises(UserError, match=r"without an IP-Adapter.* pipe.unload_ip_adapter\(\)"):
            tx.invert(pipe, picture, "a red circle", num_inference_steps=1)
        pipe.unload_ip_adapter()
        found = tx.invert(pipe, picture, "a red circle", num_inference_steps=1)
        plain = tx.invert(make_pipeline(), picture, "a red circle", num_inference_steps=1)
        assert torch.equal(found.trajectory, plain.trajectory)


def test_what_made_a_picture_with_and_without_files() -> None:
    plain = Made("generate", {}, "A", "B", None, (8, 8), {"t2i-xattn": "1"})
    assert "files" not in plain.as_dict()  # as before there were any
    told = plain.as_dict() | {"files": {"image": "ab"}}
    for each in (plain.as_dict(), told):
        assert Made.read(json.dumps(each), "a file").as_dict() == each
    with pytest.raises(UserError, match="but that is damaged"):
        Made.read(told | {"files": 3}, "a file")
