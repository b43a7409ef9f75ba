"""How a picture was made is written into it, and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import t2i_xattn as tx
from conftest import make_pipeline
from t2i_xattn.errors import UserError
from t2i_xattn.provenance.fingerprint import fingerprint, folder_fingerprint
from t2i_xattn.provenance.made import KEY, Made
from t2i_xattn.provenance.png import save_png
from t2i_xattn.provenance.reading import made_of
from t2i_xattn.provenance.repeating import arguments_of

OPTIONS: dict[str, Any] = {"prompt": "a red circle", "seed": 3, "steps": 2, "guidance": 5.0}


def made(**more: Any) -> Made:
    return Made.by(make_pipeline(), "generate", OPTIONS | more, (128, 96))


class TestArguments:
    """What a trace says of the call that it is of."""

    def test_of_the_pipeline_s_call(self, pipe: Any, tmp_path: Path) -> None:
        with tx.record(pipe) as trace:
            pipe(
                ["a red circle", "blue"],
                negative_prompt=["tree", ""],
                num_inference_steps=2,
                guidance_scale=4.5,
                width=64,
                generator=[torch.Generator().manual_seed(seed) for seed in (7, 9)],
                output_type="latent",
            )
        trace.save(tmp_path / "trace.safetensors")
        told = tx.Trace.load(tmp_path / "trace.safetensors").settings["arguments"]
        assert told["seeds"] == [7, 9]
        assert told["num_inference_steps"] == 2
        assert told["negative_prompt"] == ["tree", ""]
        assert (told["height"], told["width"]) == (64, 64), "the pipeline's own height"
        assert told["output_type"] == "latent"
        json.dumps(told, allow_nan=False)

    def test_tensors_and_what_is_not_a_seed_are_left_out(self, pipe: Any) -> None:
        latents = torch.randn(1, 4, 8, 8)
        with tx.record(pipe) as trace:
            pipe("red", num_inference_steps=1, latents=latents, output_type="latent")
        told = trace.settings["arguments"]
        assert "latents" not in told
        assert "seeds" not in told
        assert trace.settings["versions"]["t2i-xattn"] == tx.__version__

    def test_a_loop_by_hand_has_none(self, pipe: Any) -> None:
        sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 32)
        with torch.no_grad(), tx.record(pipe) as trace:
            pipe.unet(sample, 1, text)
        assert trace.settings["arguments"] == {}


class TestPictures:
    @pytest.mark.parametrize("prompt", ["a red circle", "ein Gemälde – 猫 🎈", 'x "y", z: 1\nw'])
    def test_read_again(self, tmp_path: Path, prompt: str) -> None:
        first = made(prompt=prompt, negative="tree", words=None, image=Path("a/b.png"))
        picture = Image.new("RGB", (128, 96))
        save_png(picture, tmp_path / "a.png", first)
        assert made_of(tmp_path / "a.png") == first == made_of(tmp_path)
        with Image.open(tmp_path / "a.png") as read:
            assert read.tobytes() == picture.tobytes()
            lines = read.info["parameters"].split("\n")
        assert "\n".join(lines[:-2]) == prompt
        assert lines[-2] == "Negative prompt: tree"
        assert lines[-1].startswith("Steps: 2, Sampler: ")
        assert (
            f"Seed: 3, Size: 128x96, Model: world, Version: t2i-xattn {tx.__version__}"
            in (lines[-1])
        )

    def test_the_same_bytes_for_the_same_run(self, tmp_path: Path) -> None:
        for name in ("a.png", "b.png"):
            save_png(Image.new("RGB", (128, 96)), tmp_path / name, made())
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    def test_files_that_say_nothing(self, tmp_path: Path) -> None:
        Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
        (tmp_path / "words.json").write_text("[" * 100_000)
        (tmp_path / "text.png").write_text("no picture")
        for name in ("plain.png", "words.json", "text.png"):
            with pytest.raises(UserError, match="does not say how it was made"):
                made_of(tmp_path / name)
        with pytest.raises(UserError, match=r"nothing in .* says how"):
            made_of(tmp_path)
        with pytest.raises(UserError, match="but there is no"):
            made_of(tmp_path / "none")

    @given(
        st.one_of(
            st.text(max_size=50),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.text(max_size=5),
                lambda each: (
                    st.lists(each, max_size=3)
                    | st.dictionaries(st.sampled_from([*Made.__dataclass_fields__, "x"]), each)
                ),
                max_leaves=20,
            ).map(json.dumps),
        )
    )
    @settings(max_examples=200, derandomize=True, deadline=None)
    def test_hostile_texts_are_damaged(self, text: str) -> None:
        with pytest.raises(UserError, match="that is damaged"):
            Made.read(text, "a.png")

    def test_hostile_pictures(self, tmp_path: Path) -> None:
        for text in ("[" * 100_000, "1" * 2_000_000):
            info = PngInfo()
            info.add_text(KEY, text, zip=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
            with pytest.raises(UserError):
                made_of(tmp_path / "a.png")


class TestFingerprint:
    def test_of_a_folder(self, tmp_path: Path) -> None:
        pipe = make_pipeline()
        assert fingerprint(pipe) is None
        pipe.save_pretrained(tmp_path / "one")
        loaded = type(pipe).from_pretrained(tmp_path / "one")
        found = fingerprint(loaded)
        assert found is not None
        assert len(found) == 10
        pipe.save_pretrained(tmp_path / "two")
        assert folder_fingerprint(tmp_path / "two") == found
        with torch.no_grad():
            next(pipe.unet.parameters()).flatten()[0] += 1
        pipe.save_pretrained(tmp_path / "two")
        assert folder_fingerprint(tmp_path / "two") != found

    def test_of_large_files_by_blocks(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        data = bytearray(10_000_000)
        path.write_bytes(data)
        before = folder_fingerprint(tmp_path)
        for place in (0, len(data) - 1):
            changed = bytearray(data)
            changed[place] = 1
            path.write_bytes(changed)
            assert folder_fingerprint(tmp_path) != before


class TestCommandLine:
    def test_as_it_was_typed(self) -> None:
        one = made(prompt="--out=/etc", words=None, weight=["red=1.5", "blue=0"], walk=1)
        assert arguments_of(one) == [
            *("generate", "--seed=3", "--steps=2", "--guidance=5.0"),
            *("--weight=red=1.5", "--weight=blue=0", "--walk=1", "--", "--out=/etc"),
        ]

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"command": "batch"}, "'batch' did"),
            ({"options": {"a b": 1}}, "expected options of a run"),
            ({"options": {"seed": {"a": 1}}}, "expected options of a run"),
        ],
    )
    def test_what_is_no_run(self, change: dict[str, Any], match: str) -> None:
        fields = made().as_dict() | change
        with pytest.raises(UserError, match=match):
            arguments_of(Made.read(fields, "a.png"))
