"""Pictures as prompts: an adapter's own softmax and tokens among the text's, scaled, mapped and
measured. Random weights of the real classes; what they cannot show is in the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.models.embeddings import ImageProjection
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

import t2i_xattn as tx
from command_line import run as run_command
from conftest import make_pipeline
from lab.evaluation.picture_prompts import evaluate_pictures, picture_cases
from lab.judge.segmenter import WEIGHTS, load_segmenter
from t2i_xattn import edits
from t2i_xattn.conditioning.picture_tokens import PictureTokens
from t2i_xattn.errors import UserError
from t2i_xattn.models.picture_prompts import PICTURE_PROMPTS
from tiny.cross_video import VIDEO, make_wan_i2v
from tiny_pipelines import (
    controlnet_pipeline,
    generator,
    load_ip_adapter,
    make_sdxl,
    noise_picture,
    of_class,
    picture_embeds,
    runner,
    sharpened,
)

STREAMS = ("text", "picture 1")


def assert_close(picture: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(picture, expected, rtol=0, atol=2e-5)


def with_ip_adapter(scale: float = 1.0) -> Any:
    pipe = make_pipeline()
    load_ip_adapter(pipe)
    pipe.set_ip_adapter_scale(scale)
    return pipe


def drawn(pipe: Any, **more: Any) -> np.ndarray:
    picture: np.ndarray = runner(pipe, ip_adapter_image_embeds=picture_embeds(), **more)()
    return picture


def tokens_of_pictures(width: int = 32, tokens: int = 4) -> PictureTokens:
    torch.manual_seed(7)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    encoder = CLIPVisionModelWithProjection(config).eval()
    projection = ImageProjection(8, width, tokens).eval()
    return PictureTokens(encoder, CLIPImageProcessor(size=32, crop_size=32), projection)


def photo(seed: int = 0, size: tuple[int, int] = (40, 32)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


class TestScalingAnAdapter:
    """Its own softmax: what the edit does is what diffusers' own scale does."""

    def test_everywhere_it_is_the_pipeline_s_scale(self) -> None:
        expected, full = drawn(with_ip_adapter(0.3)), drawn(with_ip_adapter())
        with tx.edit(pipe := with_ip_adapter(), edits.ScalePicture(0.3)):
            picture = drawn(pipe)
        assert_close(picture, expected)
        assert np.abs(picture - full).max() > 1e-4
        assert (drawn(pipe) == full).all()  # as it was found

    def test_one_changes_no_byte(self) -> None:
        full = drawn(with_ip_adapter())
        with tx.edit(pipe := with_ip_adapter(), edits.ScalePicture(1.0)):
            assert (drawn(pipe) == full).all()

    @pytest.mark.parametrize("guidance", [1.0, 5.0])
    def test_with_and_without_guidance(self, guidance: float) -> None:
        expected = drawn(with_ip_adapter(0.0), guidance_scale=guidance)
        with tx.edit(pipe := with_ip_adapter(), edits.ScalePicture(0.0)):
            picture = drawn(pipe, guidance_scale=guidance)
        assert_close(picture, expected)

    def test_by_site(self) -> None:
        pipe = with_ip_adapter()
        pipe.set_ip_adapter_scale({"down": 1.0, "mid": 1.0, "up": 0.0})
        expected = drawn(pipe)
        edit = edits.ScalePicture(0.0, sites=lambda site: site.place == "up")
        with tx.edit(pipe := with_ip_adapter(), edit):
            assert_close(drawn(pipe), expected)

    def test_by_step(self) -> None:
        def cut(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
            if step == 0:
                pipe.set_ip_adapter_scale(0.25)
            return {}

        expected = drawn(with_ip_adapter(), callback_on_step_end=cut)
        with tx.edit(pipe := with_ip_adapter(), edits.ScalePicture(0.25, steps=(1, 3))):
            assert_close(drawn(pipe), expected)

    @pytest.mark.parametrize("form", ["box", "bool", "picture"])
    def test_by_region(self, form: str) -> None:
        mask = np.zeros((64, 128), dtype=np.uint8)
        mask[:, :64] = 255
        pipe, size = with_ip_adapter(), {"height": 64, "width": 128}
        given = IPAdapterMaskProcessor().preprocess(Image.fromarray(mask), **size)
        expected = drawn(pipe, **size, cross_attention_kwargs={"ip_adapter_masks": [given]})
        forms = {
            "box": (0.0, 0.0, 1.0, 0.5),
            "bool": mask > 0,
            "picture": Image.fromarray(mask[:1, ::64].copy()),
        }
        edit = edits.ScalePicture(1.0, region=forms[form], outside=0.0)
        with tx.edit(pipe := with_ip_adapter(), edit):
            picture = drawn(pipe, **size)
        # The mask's edge lies between places of the sites: both read them alike.
        assert_close(picture, expected)

    def test_in_every_branch(self) -> None:
        """Perturbed-attention guidance has a third."""

        def guided(scale: float) -> Any:
            pipe = sharpened(with_ip_adapter(scale))
            return of_class("StableDiffusionPAGPipeline", pipe, pag_applied_layers=["mid"])

        expected, full = (drawn(guided(scale), pag_scale=3.0) for scale in (0.0, 1.0))
        with tx.edit(pipe := guided(1.0), edits.ScalePicture(0.0)):
            picture = drawn(pipe, pag_scale=3.0)
        assert_close(picture, expected)
        assert np.abs(picture - full).max() > 0.1

    @pytest.mark.parametrize("scale", [{"up": 1.0}, 0.0])
    def test_where_the_picture_is_left_out(self, scale: Any) -> None:
        """At some sites, as in InstantStyle, or in the first steps: nothing is scaled there."""

        def later(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
            if step == 0 and not isinstance(scale, dict):
                pipe.set_ip_adapter_scale(times)
            return {}

        def of(factor: float) -> Any:
            pipe = with_ip_adapter()
            pipe.set_ip_adapter_scale({"up": factor} if isinstance(scale, dict) else scale)
            return pipe

        times = 0.3
        expected = drawn(of(times), callback_on_step_end=later)
        times = 1.0
        with tx.edit(pipe := of(times), edits.ScalePicture(0.3)):
            assert_close(drawn(pipe, callback_on_step_end=later), expected)
        assert np.abs(drawn(of(times), callback_on_step_end=later) - expected).max() > 1e-4

    def test_a_scale_of_0_stays(self) -> None:
        expected = drawn(with_ip_adapter(0.0))
        with tx.edit(pipe := with_ip_adapter(0.0), edits.ScalePicture(0.5)):
            assert (drawn(pipe) == expected).all()

    def test_beside_a_controlnet(self) -> None:
        """It looks at no picture, so there nothing is scaled."""
        pipe, net = controlnet_pipeline(), {"image": noise_picture()}
        load_ip_adapter(pipe)
        pipe.set_ip_adapter_scale(0.3)
        expected = drawn(pipe, **net)
        pipe.set_ip_adapter_scale(1.0)
        with tx.edit(pipe, edits.ScalePicture(0.3), controlnet=True):
            assert_close(drawn(pipe, **net), expected)
        second = tx.edit(pipe, edits.ScalePicture(0.3, picture=2), controlnet=True)
        with pytest.raises(UserError, match="picture 2 beside its text"), second:
            drawn(pipe, **net)

    def test_the_picture_of_a_video(self) -> None:
        """Wan's, which has a softmax of its own: scaling it is scaling what it gives."""
        video = VIDEO | {"image": photo(), "num_inference_steps": 1, "output_type": "np"}

        def film(pipe: Any) -> np.ndarray:
            frames: np.ndarray = pipe(prompt="red", generator=generator(), **video).frames
            return frames

        pipe = make_wan_i2v()
        pipe.set_progress_bar_config(disable=True)
        full = film(pipe)
        with tx.edit(pipe, edits.ScalePicture(0.3)):
            scaled = film(pipe)
        for block in pipe.transformer.blocks:
            for each in block.attn2.add_v_proj.parameters():
                each.data *= 0.3
        assert_close(scaled, film(pipe))
        assert np.abs(scaled - full).max() > 1e-3

    def test_of_several_adapters_one(self) -> None:
        def two(scales: list[float]) -> Any:
            pipe = make_pipeline()
            load_ip_adapter(pipe, adapters=2)
            pipe.set_ip_adapter_scale(scales)
            return pipe

        embeds = [picture_embeds()[0], picture_embeds()[0].flip(-1)]
        draw = lambda pipe: runner(pipe, ip_adapter_image_embeds=embeds)()  # noqa: E731
        expected = draw(two([0.7, 0.2]))
        with tx.edit(pipe := two([0.7, 1.0]), edits.ScalePicture(0.2, picture=2)):
            assert_close(draw(pipe), expected)

    def test_words_are_edited_beside_it(self) -> None:
        with tx.edit(pipe := with_ip_adapter(), edits.Reweight("red", 2.0)):
            expected = drawn(pipe)
        both = (edits.Reweight("red", 2.0), edits.ScalePicture(1.0))
        with tx.edit(pipe := with_ip_adapter(), *both):
            assert (drawn(pipe) == expected).all()

    def test_the_maps_show_it(self) -> None:
        pipe = with_ip_adapter()
        with tx.record(pipe) as plain:
            drawn(pipe)
        with tx.edit(pipe, edits.ScalePicture(0.0)), tx.record(pipe, modalities=True) as trace:
            drawn(pipe)
        assert trace.modalities()["picture 1"] == pytest.approx(0, abs=1e-6)
        assert "picture 1" in plain.run.maps

    @pytest.mark.parametrize(
        ("edit", "told"),
        [
            (lambda: edits.ScalePicture(float("nan")), "number as scale"),
            (lambda: edits.ScalePicture(1.0, outside=float("inf")), "number as outside"),
            (lambda: edits.ScalePicture(0.5, picture=0), "picture=1 or more"),
            (lambda: edits.ScalePicture(0.5, region=(0, 0, 2, 1)), "box"),
            (lambda: edits.ScalePicture(0.5, words=["red"]), "Reweight"),
        ],
    )
    def test_what_cannot_be(self, edit: Any, told: str) -> None:
        with pytest.raises(UserError, match=told):
            edit()

    def test_no_picture_is_told_before_a_step(self) -> None:
        asked = tx.edit(pipe := make_pipeline(), edits.ScalePicture(0.5))
        with pytest.raises(UserError, match="picture 1 beside its text"), asked:
            runner(pipe)()
        second = tx.edit(pipe := with_ip_adapter(), edits.ScalePicture(0.5, picture=2))
        with pytest.raises(UserError, match="picture 2 beside its text"), second:
            drawn(pipe)


class TestTokensAmongTheText:
    def test_they_stand_behind_the_text(self) -> None:
        pipe, tokens = make_pipeline(), tokens_of_pictures()
        plain = tx.condition(pipe, "a red circle", "blue")
        given = tx.condition(pipe, "a red circle", "blue", picture=photo(), picture_tokens=tokens)
        length = plain["prompt_embeds"].shape[1]
        for name, behind in (
            ("prompt_embeds", tokens([photo()])),
            ("negative_prompt_embeds", tokens.of_none(1)),
        ):
            assert torch.equal(given[name][:, :length], plain[name])
            assert torch.equal(given[name][:, length:], behind)

    def test_the_picture_is_in_the_trace(self, tmp_path: Path) -> None:
        pipe, tokens = sharpened(make_pipeline()), tokens_of_pictures()
        given = tx.condition(pipe, "a red circle", picture=photo(), picture_tokens=tokens)
        plain = runner(pipe, prompt=None, **given)()
        with tx.record(pipe, modalities=True) as trace:
            assert (runner(pipe, prompt=None, **given)() == plain).all()
        assert [word.text for word in trace.words] == ["a", "red", "circle", "picture 1"]
        columns = trace.words[-1].columns
        assert len(columns) == 4
        heat = trace.heatmap("picture 1")
        assert np.allclose(heat.array, trace.heatmap(columns=columns).array)
        shares = trace.shares()
        assert 0 < shares.prompt_picture < 1
        assert shares.text + shares.prompt_picture == pytest.approx(1, abs=1e-5)
        assert trace.heatmap("red").share > 0
        parts = trace.modalities()
        assert sum(parts.values()) == pytest.approx(1)
        assert list(parts) == ["text", "picture 1"]
        trace.save(tmp_path / "a.safetensors")
        again = tx.Trace.load(tmp_path / "a.safetensors")
        assert again.modalities() == pytest.approx(parts)
        assert again.shares() == shares

    def test_a_word_of_the_same_name_is_not_taken_for_it(self) -> None:
        pipe, tokens = make_pipeline(), tokens_of_pictures()
        prompt = "a red circle"
        given = tx.condition(pipe, prompt, picture=photo(), picture_tokens=tokens)
        with tx.record(pipe) as trace:
            runner(pipe, prompt=None, **given)()
        with pytest.raises(UserError):
            trace.heatmap("picture")

    def test_scaled_they_keep_the_text_s_shares(self) -> None:
        pipe, tokens = sharpened(make_pipeline()), tokens_of_pictures()
        given = tx.condition(pipe, "a red circle", picture=photo(), picture_tokens=tokens)
        run = runner(pipe, prompt=None, **given)
        with tx.edit(pipe, edits.Reweight("picture 1", 0.4)):
            conditional = run()
        with tx.edit(pipe, edits.ScalePicture(0.4, branches="conditional")):
            assert_close(run(), conditional)
        with tx.edit(pipe, edits.ScalePicture(1.0)):
            assert (run() == runner(pipe, prompt=None, **given)()).all()

    @pytest.mark.parametrize("negative", [None, "blue"])
    def test_scaled_in_both_branches(self, negative: str | None) -> None:
        """SDXL has zeros where there is no negative prompt, with the tokens behind them. Against a
        kernel whose shares are scaled by hand."""
        pipe, tokens = sharpened(make_sdxl()), tokens_of_pictures(width=64)
        given = tx.condition(pipe, "a red circle", negative, picture=photo(), picture_tokens=tokens)
        run = runner(pipe, prompt=None, **given)
        own, length = torch.nn.functional.scaled_dot_product_attention, 81

        def scaled(query: Any, key: Any, value: Any, *more: Any, **options: Any) -> Any:
            if key.shape[2] != length:
                return own(query, key, value, *more, **options)
            shares = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
            shares[..., -4:] *= 0.3
            return shares @ value

        assert given["prompt_embeds"].shape[1] == length
        torch.nn.functional.scaled_dot_product_attention = scaled
        try:
            expected = run()
        finally:
            torch.nn.functional.scaled_dot_product_attention = own
        with tx.edit(pipe, edits.ScalePicture(0.3)):
            assert_close(run(), expected)
        assert np.abs(run() - expected).max() > 1e-3

    def test_beside_an_adapter_they_are_the_next_picture(self) -> None:
        """Each is scaled and measured by itself."""
        pipe, tokens = sharpened(with_ip_adapter()), tokens_of_pictures()
        name = next(site.name for site in tx.find_sites(pipe.unet) if site.reads_text)
        both = tx.condition(pipe, "a red circle", picture=photo(), picture_tokens=tokens)

        def lengths(given: Any, *acting: Any) -> dict[str, float]:
            acting = acting or (edits.ScalePicture(1.0),)
            with tx.edit(pipe, *acting), tx.record(pipe, modalities=True, sites=[name]) as trace:
                drawn(pipe, prompt=None, num_inference_steps=1, **given)
            streams = [each for each in trace.run.maps if each.startswith("given by ")]
            found = {each[9:]: float(trace.run.maps[each][name].mean()) for each in streams}
            whole = sum(found.values())
            assert trace.modalities() == pytest.approx({k: v / whole for k, v in found.items()})
            return found

        # What comes to the first site does not depend on what the others add.
        found = lengths(both)
        alone = lengths(tx.condition(pipe, "a red circle"))
        pipe.set_ip_adapter_scale(0.0)
        among = lengths(both)
        pipe.set_ip_adapter_scale(1.0)
        assert found["picture 1"] == pytest.approx(alone["picture 1"], rel=1e-5)
        assert found["picture 2"] == pytest.approx(among["picture 2"], rel=1e-5)
        assert found["text"] == pytest.approx(among["text"], rel=1e-5)
        for scaled, kept in (("picture 1", "picture 2"), ("picture 2", "picture 1")):
            halved = lengths(both, edits.ScalePicture(0.5, picture=int(scaled[-1])))
            assert halved[scaled] == pytest.approx(found[scaled] / 2, rel=1e-5)
            assert halved[kept] == pytest.approx(found[kept], rel=1e-5)

    def test_one_for_each_prompt_is_as_each_alone(self) -> None:
        pipe, tokens = make_pipeline(), tokens_of_pictures()
        prompts, pictures = ["a red circle", "a blue square"], [photo(1), photo(2)]
        both = tx.condition(pipe, prompts, picture=pictures, picture_tokens=tokens)
        for number, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
            one = tx.condition(pipe, prompt, picture=picture, picture_tokens=tokens)
            expected = one["prompt_embeds"][0]
            torch.testing.assert_close(both["prompt_embeds"][number], expected)

    def test_explained_words_keep_the_picture(self) -> None:
        pipe, tokens = make_pipeline(), tokens_of_pictures()
        given = tx.condition(pipe, "a red circle", picture=photo(), picture_tokens=tokens)
        with tx.record(pipe, contributions=True) as trace:
            runner(pipe, prompt=None, **given)()
        assert trace.heatmap("red").array.shape == trace.heatmap("circle").array.shape

    def test_a_folder_of_ip_adapter_s_form(self, tmp_path: Path) -> None:
        made = tokens_of_pictures()
        made._encoder.save_pretrained(tmp_path / "image_encoder")
        state = made._projection.state_dict()
        save_file(
            {f"image_proj.{k.replace('image_embeds', 'proj')}": v for k, v in state.items()},
            tmp_path / "concatenated.safetensors",
        )
        read = PictureTokens.from_pretrained(tmp_path)
        assert (read.tokens, read.channels) == (4, 32)
        assert torch.equal(read([photo()]), made([photo()]))
        photo().save(tmp_path / "a.png")
        assert torch.equal(read([tmp_path / "a.png"]), made([photo()]))
        assert torch.equal(read([photo().convert("RGBA")]), made([photo()]))

    @pytest.mark.parametrize("missing", ["concatenated.safetensors", "image_encoder/config.json"])
    def test_a_folder_without_its_files(self, tmp_path: Path, missing: str) -> None:
        self.test_a_folder_of_ip_adapter_s_form(tmp_path)
        (tmp_path / missing).unlink()
        with pytest.raises(UserError, match="expected a file"):
            PictureTokens.from_pretrained(tmp_path)

    def test_a_file_that_is_something_else(self, tmp_path: Path) -> None:
        self.test_a_folder_of_ip_adapter_s_form(tmp_path)
        save_file({"weight": torch.zeros(1)}, tmp_path / "concatenated.safetensors")
        with pytest.raises(UserError, match="image_proj"):
            PictureTokens.from_pretrained(tmp_path)
        (tmp_path / "concatenated.safetensors").write_bytes(b"nothing")
        with pytest.raises(UserError, match="cannot be read"):
            PictureTokens.from_pretrained(tmp_path)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("picture", "told"),
        [
            (3, "a picture of PIL"),
            ("nowhere.png", "picture file"),
            ([photo(), photo(), photo()], "one picture, or one for each of 1"),
        ],
    )
    def test_what_is_no_picture(self, picture: Any, told: str) -> None:
        pipe = make_pipeline()
        with pytest.raises(UserError, match=told):
            tx.condition(pipe, "a circle", picture=picture, picture_tokens=tokens_of_pictures())

    def test_a_huge_one(self) -> None:
        huge = Image.new("1", (20_000, 20_000))
        with pytest.raises(UserError, match="at most 100000000 pixels"):
            tx.condition(make_pipeline(), "a", picture=huge, picture_tokens=tokens_of_pictures())

    def test_one_without_anything_that_takes_it(self) -> None:
        with pytest.raises(UserError, match="load_ip_adapter"):
            tx.condition(make_pipeline(), "a circle", picture=photo())
        with pytest.raises(UserError, match="picture=… beside picture_tokens=…"):
            tx.condition(make_pipeline(), "a circle", picture_tokens=tokens_of_pictures())

    def test_tokens_of_other_channels(self) -> None:
        with pytest.raises(UserError, match="channels"):
            tx.condition(
                make_pipeline(), "a", picture=photo(), picture_tokens=tokens_of_pictures(width=16)
            )

    def test_modalities_that_were_not_recorded(self) -> None:
        pipe = make_pipeline()
        with tx.record(pipe) as trace:
            runner(pipe)()
        with pytest.raises(UserError, match="modalities=True"):
            trace.modalities()
        with pytest.raises(UserError, match="modalities=True for what is given"):
            trace.heatmap(columns=[0], stream="given by picture 1")

    def test_modalities_of_a_difference(self) -> None:
        pipe = with_ip_adapter()
        with tx.record(pipe, modalities=True) as trace:
            drawn(pipe, num_inference_steps=1)
        with pytest.raises(UserError, match="the difference of two"):
            (trace - trace).modalities()


class TestModalities:
    def test_lengths_are_those_of_what_is_added(self) -> None:
        """By hand at one site: what leaves the kernel, through the output projection."""
        pipe = with_ip_adapter(0.6)
        name = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
        layer = pipe.unet.get_submodule(name)
        outputs: list[torch.Tensor] = []
        own = torch.nn.functional.scaled_dot_product_attention

        def kept(*args: Any, **kwargs: Any) -> torch.Tensor:
            outputs.append(own(*args, **kwargs))
            return outputs[-1]

        forward = layer.forward

        def inside(*args: Any, **kwargs: Any) -> Any:
            torch.nn.functional.scaled_dot_product_attention = kept
            try:
                return forward(*args, **kwargs)
            finally:
                torch.nn.functional.scaled_dot_product_attention = own

        layer.forward = inside
        drawn(pipe, num_inference_steps=1)
        del layer.forward
        matrix = layer.to_out[0].weight.detach().double()
        expected = []
        for each, scale in zip(outputs, (1.0, 0.6), strict=True):
            flat = each[1:].transpose(1, 2).flatten(2).double() * scale
            expected.append((flat @ matrix.mT).norm(dim=-1)[0])
        with tx.record(pipe, modalities=True, sites=[name]) as trace:
            drawn(pipe, num_inference_steps=1)
        for stream, wanted in zip(("given by text", "given by picture 1"), expected, strict=True):
            found = trace.run.maps[stream][name].ravel()
            np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-5)
        means = [float(each.mean()) for each in expected]
        assert trace.modalities()["text"] == pytest.approx(means[0] / sum(means), rel=1e-5)

    def test_a_mask_counts(self) -> None:
        mask = np.zeros((64, 64), dtype=np.uint8)
        mask[:, :32] = 255
        pipe = with_ip_adapter()
        given = IPAdapterMaskProcessor().preprocess(Image.fromarray(mask), height=64, width=64)
        with tx.record(pipe, modalities=True) as trace:
            drawn(
                pipe,
                height=64,
                width=64,
                cross_attention_kwargs={"ip_adapter_masks": [given]},
            )
        for of_site in trace.run.maps["given by picture 1"].values():
            width = of_site.shape[-2]
            assert (of_site[..., : width // 2, 0] > 0).all()
            assert (of_site[..., width // 2 :, 0] == 0).all()

    def test_steps_without_the_picture_count(self) -> None:
        """Diffusers leaves its call out where the scale is 0: it gives nothing in these steps."""

        def cut(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
            pipe.set_ip_adapter_scale(0.0)
            return {}

        found = []
        for steps in ("sum", "each"):
            with tx.record(pipe := with_ip_adapter(), modalities=True, steps=steps) as trace:
                drawn(pipe, num_inference_steps=4, callback_on_step_end=cut)
            found.append(trace.modalities())
        parts = []
        for site in trace.sites:
            given = (trace.run.maps[f"given by {each}"][site.name] for each in STREAMS)
            text, picture = (each[0, 0].mean(axis=(1, 2, 3, 4)) for each in given)
            assert np.isnan(picture[1:]).all()
            parts.append(picture[0] / (picture[0] + text.sum()))
        for each in found:
            assert each["picture 1"] == pytest.approx(np.mean(parts), rel=1e-5)
        assert trace.select(steps=(1, 4)).modalities() == {"text": 1.0, "picture 1": 0.0}
        pipe = with_ip_adapter()
        acting = edits.ScalePicture(0.0, steps=(1, 4))
        with tx.edit(pipe, acting), tx.record(pipe, modalities=True) as trace:
            drawn(pipe, num_inference_steps=4)
        assert trace.modalities() == pytest.approx(found[0], rel=1e-4)

    def test_without_a_picture_all_comes_from_the_text(self) -> None:
        pipe = make_sdxl()
        with tx.record(pipe, modalities=True) as trace:
            runner(pipe)()
        assert trace.modalities() == {"text": 1.0}


class TestInTheBox:
    """The adapters that ship."""

    def test_they_are_small(self) -> None:
        weights = list(PICTURE_PROMPTS.rglob("*.safetensors"))
        assert len(weights) == 3
        assert sum(each.stat().st_size for each in weights) <= 8_000_000

    def test_another_way_is_told(self) -> None:
        with pytest.raises(UserError, match="expected pictures='separate'"):
            tx.load_default(pictures="concatenated")  # type: ignore[arg-type]

    def test_recorded_and_scaled_the_picture_is_the_same(self) -> None:
        pipe = tx.load_default(pictures="separate")
        pipe.set_progress_bar_config(disable=True)
        given = picture_cases(1)[0]
        run = runner(
            pipe, prompt=given.place, ip_adapter_image=given.picture, num_inference_steps=2
        )
        plain = run()
        with tx.record(pipe, modalities=True, walk=1, contributions=True) as trace:
            assert (run() == plain).all()
        assert 0.02 < trace.modalities()["picture 1"] < 0.98
        with tx.edit(pipe, edits.ScalePicture(1.0)):
            assert (run() == plain).all()
        pipe.set_ip_adapter_scale(0.5)
        halved = run()
        pipe.set_ip_adapter_scale(1.0)
        with tx.edit(pipe, edits.ScalePicture(0.5)):
            assert_close(run(), halved)

    @pytest.mark.slow
    def test_what_a_picture_shows_is_taken_over(self) -> None:
        """Twelve cases of the hundred of `evaluate.py pictures`, in fewer steps."""
        plain, separate = tx.load_default(), tx.load_default(pictures="separate")
        for pipe in (plain, separate):
            pipe.set_progress_bar_config(disable=True)
        tokens = tx.PictureTokens.from_pretrained()
        cases, segmenter = picture_cases(12), load_segmenter(WEIGHTS)
        every = evaluate_pictures(separate, plain, tokens, segmenter, cases, steps=12, batch=6)
        found = list(every)[-1]
        alone, elsewhere = found["alone", "separate"], found["elsewhere", "separate"]
        assert alone.shares["object"].right >= 8
        assert elsewhere.shares["object and place"].right >= 7
        assert found["alone", "concatenated"].shares["kind"].right >= 4


class TestCommands:
    @pytest.mark.parametrize("way", ["separate", "concatenated"])
    def test_a_picture_beside_the_prompt(self, tmp_path: Path, way: str) -> None:
        given = picture_cases(1)[0]
        given.picture.save(tmp_path / "given.png")
        asked = ["--picture-prompt", str(tmp_path / "given.png"), "--picture-way", way]
        first, other = tmp_path / "first", tmp_path / "other"
        few = ["--steps", "2", given.place]
        code, _, told = run_command(*["generate", *asked, "--out", str(first), *few])
        assert code == 0, told
        more = ["--picture-scale", "0.2"]
        code, _, told = run_command(*["generate", *asked, *more, "--out", str(other), *few])
        assert code == 0, told
        pictures = [(each / "picture-0.png").read_bytes() for each in (first, other)]
        assert pictures[0] != pictures[1]
        again = ["again", str(first / "picture-0.png"), "--out", str(tmp_path / "again")]
        code, printed, told = run_command(*again)
        assert code == 0, told
        assert "the same to the byte" in printed

    def test_inspected_it_has_a_map_among_the_words(self, tmp_path: Path) -> None:
        photo().save(tmp_path / "given.png")
        asked = ["--picture-prompt", str(tmp_path / "given.png"), "--picture-way", "concatenated"]
        out = tmp_path / "out"
        few = ["--steps", "2", "--out", str(out), "--json", "in a forest"]
        code, printed, told = run_command(*["inspect", *asked, *few])
        assert code == 0, told
        words = [each["word"] for each in json.loads(printed)["pictures"][0]["words"]]
        assert words == ["in", "a", "forest", "picture 1"]

    @pytest.mark.parametrize("lifted", [False, True])
    def test_a_large_picture_is_taken_where_the_limit_is_lifted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lifted: bool
    ) -> None:
        monkeypatch.setattr("t2i_xattn.pictures.MAX_PIXELS", 1000)
        photo().save(tmp_path / "given.png")  # of 1,280 pixels
        asked = ["--picture-prompt", str(tmp_path / "given.png"), "--steps", "1"]
        out = ["--out", str(tmp_path / "out"), *["--no-limits"] * lifted, "a red house"]
        code, _, told = run_command(*["generate", *asked, *out])
        assert code == (0 if lifted else 2), told
        assert lifted or "--no-limits in commands" in told

    def test_a_scale_without_a_picture(self, tmp_path: Path) -> None:
        out = ["--out", str(tmp_path / "out"), "a red house"]
        code, _, told = run_command(*["generate", "--picture-scale", "0.5", *out])
        assert code == 2
        assert "expected --picture-prompt beside --picture-scale" in told
        assert not (tmp_path / "out").exists()

    def test_another_model_has_no_adapter(self, tmp_path: Path) -> None:
        make_pipeline().save_pretrained(tmp_path / "model")
        photo().save(tmp_path / "given.png")
        asked = ["--picture-prompt", str(tmp_path / "given.png"), "--model"]
        out = [str(tmp_path / "model"), "--out", str(tmp_path / "out"), "a red circle"]
        code, _, told = run_command(*["generate", *asked, *out])
        assert code == 2
        assert "expected the model in the box for --picture-prompt" in told
        assert not (tmp_path / "out").exists()
