"""Regional prompts: against attention step by step, and in the circumstances of pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import t2i_xattn as tx
from conftest import make_pipeline, state_of
from t2i_xattn.denoisers.sites import walk_sites
from t2i_xattn.edits import Drop, Edit, RegionalPrompts
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.reference import Weights, attention
from tiny_pipelines import (
    add_lora,
    controlnet_pipeline,
    load_ip_adapter,
    make_sdxl,
    noise_picture,
    of_class,
    picture_embeds,
    runner,
    with_unet,
)

Draw = Callable[..., np.ndarray]
LEFT, MIDDLE = (0.0, 0.0, 1.0, 0.5), (0.1, 0.3, 0.8, 0.7)
REGIONS = {"blue": LEFT, "a blue circle left": MIDDLE}


def part_inside(box: tuple[float, ...], y: int, x: int, height: int, width: int) -> float:
    """How much of one place a box covers."""
    top, left, bottom, right = box
    rows = max(0.0, min(bottom, (y + 1) / height) - max(top, y / height)) * height
    columns = max(0.0, min(right, (x + 1) / width) - max(left, x / width)) * width
    return rows * columns


def by_hand(attn: Any, picture: Tensor, text: Tensor, others: dict[str, Tensor]) -> Tensor:
    """The output of a site by `REGIONS` and a base weight of 0.3, place after place; fp64."""
    weights = Weights.of(attn)

    def output(text: Tensor) -> Tensor:
        out = attention(picture, text, weights, attn.heads).out
        assert out is not None
        return out

    base = output(text)
    outputs = {name: output(other.expand(len(picture), -1, -1)) for name, other in others.items()}
    expected = base.clone()
    side = {64: 8, 16: 4, 4: 2}[picture.shape[1]]
    for y in range(side):
        for x in range(side):
            inside = {name: part_inside(REGIONS[name], y, x, side, side) for name in REGIONS}
            total = sum(inside.values())
            if total == 0:
                continue
            held = min(1.0, total)
            mean = sum(inside[name] / total * outputs[name][:, y * side + x] for name in REGIONS)
            own = base[:, y * side + x]
            expected[:, y * side + x] = (1 - held) * own + held * (0.3 * own + 0.7 * mean)
    return expected


@torch.no_grad()
def test_every_output_is_the_mean_of_the_attention_to_all_texts(pipe: Any, draw: Draw) -> None:
    others = {}
    for text in REGIONS:
        ids = pipe.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        others[text] = pipe.text_encoder(ids).last_hidden_state
    seen = []

    def compare(attn: Any, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
        states, text = args[0], kwargs["encoder_hidden_states"]
        expected = by_hand(attn, states[2:], text[2:], others)
        plain = attn.processor(attn, states, encoder_hidden_states=text)
        assert torch.allclose(output[2:].double(), expected, rtol=0, atol=1e-6)
        assert not torch.allclose(output[2:], plain[2:], rtol=0, atol=1e-5)
        assert torch.equal(output[:2], plain[:2])  # the unconditional half
        seen.append(attn)

    for site, attn in walk_sites(pipe.unet):
        if site.kind == "cross":
            attn.register_forward_hook(compare, with_kwargs=True)
    with tx.edit(pipe, RegionalPrompts(REGIONS, base_weight=0.3)):
        draw(pipe, ["a red circle", "red"])
    assert len(seen) == 2 * 7


class TestWhatStays:
    @pytest.mark.parametrize("base_weight", [0.0, 0.4])
    def test_the_same_text_everywhere(self, pipe: Any, draw: Draw, base_weight: float) -> None:
        edit = RegionalPrompts({"a red circle": (0, 0, 1, 1)}, base_weight=base_weight)
        with tx.edit(pipe, edit):
            found = draw(pipe)
        assert np.allclose(found, draw(pipe), rtol=0, atol=1e-5)

    def test_the_whole_weight_for_the_prompt(self, pipe: Any, draw: Draw) -> None:
        plain = draw(pipe)
        with tx.edit(pipe, RegionalPrompts(REGIONS, base_weight=1.0)):
            assert np.allclose(draw(pipe), plain, rtol=0, atol=1e-5)

    def test_all_is_left_as_found(self, pipe: Any, draw: Draw) -> None:
        plain = draw(pipe)
        before = state_of(pipe)
        with tx.edit(pipe, RegionalPrompts(REGIONS)):
            assert not np.allclose(draw(pipe), plain, atol=1e-4)
        assert state_of(pipe) == before
        assert draw(pipe).tobytes() == plain.tobytes()

    def test_images_and_steps(self, pipe: Any, draw: Draw) -> None:
        prompts = ["a red circle", "blue"]
        plain = draw(pipe, prompts)
        with tx.edit(pipe, RegionalPrompts(REGIONS, images=[1])):
            found = draw(pipe, prompts)
        assert found[0].tobytes() == plain[0].tobytes()
        assert not np.allclose(found[1], plain[1], atol=1e-4)
        late, early = (
            RegionalPrompts(REGIONS, steps=steps, sites=lambda site: site.level == 0)
            for steps in ((1, 2), (0, 1))
        )
        drawn = []
        for edits in ((late,), (early,), (late, early)):
            with tx.edit(pipe, *edits):
                drawn.append(draw(pipe, prompts).tobytes())
        assert len({plain.tobytes(), *drawn}) == 4


class TestComposing:
    def test_with_other_edits_in_any_order(self, pipe: Any, draw: Draw) -> None:
        regional, drop = RegionalPrompts(REGIONS), Drop("red")
        drawn = []
        for edits in ((regional,), (drop,), (regional, drop), (drop, regional)):
            with tx.edit(pipe, *edits):
                drawn.append(draw(pipe))
        assert drawn[2].tobytes() == drawn[3].tobytes()
        assert len({each.tobytes() for each in drawn}) == 3
        with tx.edit(pipe, drop), tx.edit(pipe, regional):
            assert draw(pipe).tobytes() == drawn[2].tobytes()

    def test_one_covers_the_other(self, pipe: Any, draw: Draw) -> None:
        """Of two, the second mixes into what the first made."""
        whole = {"blue": (0, 0, 1, 1)}
        with tx.edit(pipe, RegionalPrompts(whole, base_weight=0.0)):
            expected = draw(pipe)
        edits = (RegionalPrompts(REGIONS), RegionalPrompts(whole, base_weight=0.0))
        with tx.edit(pipe, *edits):
            assert np.allclose(draw(pipe), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("outer", ["record", "edit"])
    def test_with_record(self, pipe: Any, draw: Draw, outer: str) -> None:
        """The trace is of the prompt that was given, not of the regions' texts."""
        edit = RegionalPrompts(REGIONS)
        with tx.edit(pipe, edit):
            plain = draw(pipe)
        first, second = (
            (tx.record(pipe), tx.edit(pipe, edit))
            if outer == "record"
            else (tx.edit(pipe, edit), tx.record(pipe))
        )
        with first as one, second as other:
            assert draw(pipe).tobytes() == plain.tobytes()
        trace: Any = one or other
        assert trace.prompts == ("a red circle",)
        for maps in trace.to_numpy("edited").values():
            assert np.allclose(maps.sum(-1), 1, atol=1e-5)


def changed(pipe: Any, draw: Callable[[], np.ndarray], edit: Edit | None = None) -> None:
    plain = draw()
    before = state_of(pipe)
    with tx.edit(pipe, edit or RegionalPrompts(REGIONS)):
        found = draw()
    assert np.isfinite(found).all()
    assert not np.allclose(found, plain, atol=1e-4)
    assert state_of(pipe) == before
    assert draw().tobytes() == plain.tobytes()


class TestCircumstances:
    @pytest.mark.parametrize(
        "options",
        [
            {"guidance_scale": 1.0, "num_images_per_prompt": 2},
            {"prompt": ["a red circle", "blue"], "num_images_per_prompt": 2},
            {"height": 64, "width": 96},
        ],
    )
    def test_the_pipeline_s_arguments(self, pipe: Any, options: dict[str, Any]) -> None:
        changed(pipe, runner(pipe, **options))

    def test_sdxl_has_the_states_of_both_text_encoders(self) -> None:
        pipe = make_sdxl()
        whole = {"a red circle": (0, 0, 1, 1)}
        with tx.edit(pipe, RegionalPrompts(whole, base_weight=0.0)):
            found = runner(pipe)()
        assert np.allclose(found, runner(pipe)(), rtol=0, atol=1e-5)
        changed(pipe, runner(pipe))

    def test_long_prompts_as_embeddings(self, pipe: Any) -> None:
        with torch.no_grad():
            parts = [pipe.encode_prompt(each, "cpu", 1, True) for each in ("a red circle", "blue")]
        text, none = (torch.cat([part[index] for part in parts], dim=1) for index in (0, 1))
        options = {"prompt": None, "prompt_embeds": text, "negative_prompt_embeds": none}
        changed(pipe, runner(pipe, **options))

    def test_ip_adapter_and_lora(self, pipe: Any) -> None:
        add_lora(pipe)
        load_ip_adapter(pipe)
        options = {
            "ip_adapter_image_embeds": picture_embeds(),
            "cross_attention_kwargs": {"scale": 0.5},
        }
        draw = runner(pipe, **options)
        whole = {"a red circle": (0, 0, 1, 1)}
        with tx.edit(pipe, RegionalPrompts(whole, base_weight=0.0)):
            found = draw()
        assert np.allclose(found, draw(), rtol=0, atol=1e-5)
        changed(pipe, draw)

    def test_instruct_pix2pix_by_its_older_method(self) -> None:
        pipe = of_class(
            "StableDiffusionInstructPix2PixPipeline", with_unet(in_channels=8), image_encoder=None
        )
        changed(pipe, runner(pipe, image=noise_picture()))

    def test_controlnet_s_own_sites(self) -> None:
        pipe = controlnet_pipeline()
        draw = runner(pipe, image=noise_picture())
        with tx.edit(pipe, RegionalPrompts(REGIONS)):
            without = draw()
        with tx.edit(pipe, RegionalPrompts(REGIONS), controlnet=True):
            assert not np.allclose(draw(), without, atol=1e-5)

    def test_bfloat16(self, pipe: Any) -> None:
        pipe.to(torch.bfloat16)
        changed(pipe, runner(pipe))

    def test_compiled(self, pipe: Any, draw: Draw) -> None:
        edit = RegionalPrompts(REGIONS, sites=lambda site: site.place == "mid")
        with tx.edit(pipe, edit):
            expected = draw(pipe)
        torch._dynamo.reset()
        pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
        with tx.edit(pipe, edit):
            assert np.allclose(draw(pipe), expected, atol=1e-4)

    def test_a_unet_that_is_called_by_hand(self, pipe: Any) -> None:
        sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 32)
        with torch.no_grad():
            plain = pipe.unet(sample, 1, text).sample
            with tx.edit(pipe, RegionalPrompts(REGIONS)):
                assert not torch.allclose(pipe.unet(sample, 1, text).sample, plain, atol=1e-4)

    def test_several_runs_and_a_negative_text(self, pipe: Any, draw: Draw) -> None:
        """In the unconditional branch the region's text is what to keep away from there."""
        with tx.edit(pipe, RegionalPrompts(REGIONS, branches="unconditional")):
            first, second = draw(pipe), draw(pipe)
        assert first.tobytes() == second.tobytes()
        with tx.edit(pipe, RegionalPrompts(REGIONS)):
            assert draw(pipe).tobytes() != first.tobytes()


def test_mask_picture_and_box_are_alike(pipe: Any, draw: Draw) -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, :32] = True
    drawn = []
    for region in (LEFT, mask, mask.astype(np.float32), Image.fromarray(mask)):
        with tx.edit(pipe, RegionalPrompts({"blue": region})):
            drawn.append(draw(pipe))
    assert len({each.tobytes() for each in drawn}) == 1


class TestMistakes:
    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: RegionalPrompts({}), "with at least one, but came {}"),
            (lambda: RegionalPrompts("a red circle"), "but came 'a red circle'"),  # type: ignore[arg-type]
            (lambda: RegionalPrompts({3: LEFT}), "a mapping from a text to anything as regions"),  # type: ignore[dict-item]
            (lambda: RegionalPrompts({"red": (0, 0, 1, 2)}), "box .* inside the picture"),
            (lambda: RegionalPrompts({"red": (0.5, 0, 0.1, 1)}), "top above bottom"),
            (lambda: RegionalPrompts({"red": np.zeros((8, 8))}), "0 everywhere"),
            (lambda: RegionalPrompts(REGIONS, base_weight=float("nan")), "number as base_weight"),
            (lambda: RegionalPrompts(REGIONS, base_weight=1.5), "base_weight from 0 to 1"),
            (lambda: RegionalPrompts(REGIONS, words=["red"]), "expected no words=…"),
        ],
    )
    def test_at_once(self, make: Any, match: str) -> None:
        with pytest.raises(UserError, match=match):
            make()

    @pytest.mark.parametrize(
        ("regions", "match"),
        [
            ({"blue": np.ones((8, 16))}, "picture's aspect, 8:8"),
            ({"a " * 80 + "red": LEFT}, "goes beyond it from 'a' on; shorten it"),
        ],
    )
    def test_before_the_first_step(self, pipe: Any, draw: Draw, regions: Any, match: str) -> None:
        draw(pipe)
        before = state_of(pipe)
        pipe.unet.conv_in.register_forward_pre_hook(lambda *_: pytest.fail("a step was taken"))
        with (
            pytest.raises(UserError, match=match),
            tx.edit(pipe, RegionalPrompts(regions)),
        ):
            draw(pipe)
        after = state_of(pipe)
        modules = after.pop("modules"), before.pop("modules")
        for each in modules:
            each.pop(("unet", "conv_in"))  # hooked by this test
        assert modules[0] == modules[1]
        assert after == before

    def test_texts_that_the_unet_projects(self) -> None:
        pipe = make_pipeline()
        encode = pipe.encode_prompt
        pipe.encode_prompt = lambda *args, **kwargs: tuple(
            None if each is None else torch.cat([each] * 2, dim=-1)
            for each in encode(*args, **kwargs)
        )
        pipe.encode_prompt.__signature__ = inspect.signature(encode)
        with (
            pytest.raises(UserError, match=r"texts of 32 channels at .*encodes them in 64"),
            tx.edit(pipe, RegionalPrompts(REGIONS)),
        ):
            pipe("a red circle", num_inference_steps=1, output_type="latent")
