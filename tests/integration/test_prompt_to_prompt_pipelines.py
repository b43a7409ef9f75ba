"""The pipelines of prompt-to-prompt, and the local blend that they offer."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from community import encoded, load, make_stock, noise_of, options
from conftest import make_pipeline
from t2i_xattn.edits import LocalBlend, Replace, Reweight, SelfReplace
from tiny_pipelines import with_scheduler

SWAP = ["a red circle", "a blue circle"]


def noise(pictures: int = 1) -> torch.Tensor:
    """What a stock pipeline with the seed of `options` starts from."""
    return torch.randn(pictures, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["prompt_to_prompt", "xl_prompt_to_prompt"])
class TestOfAFamily:
    def test_the_source_is_the_stock_picture(self, name: str) -> None:
        pipe = load(name)
        stock = make_stock(name)("a red circle", **options()).images
        found = pipe(SWAP, **options()).images
        assert np.allclose(found[0], stock[0], rtol=0, atol=1e-4)
        assert not np.allclose(found[1], stock[0], rtol=0, atol=1e-4)
        dict_, tuple_ = pipe(SWAP, **options()), pipe(SWAP, return_dict=False, **options())
        assert np.array_equal(dict_.images, tuple_[0])

    @pytest.mark.parametrize("pictures", [1, 2])
    def test_one_prompt_gives_the_stock_picture(self, name: str, pictures: int) -> None:
        pipe, stock = load(name), make_stock(name)
        for prompt in ("a red circle", ["a red circle"]):
            given = {"prompt": prompt, "num_images_per_prompt": pictures}
            expected = stock(**given, **options()).images
            assert np.array_equal(pipe(**given, **options()).images, expected)
            assert np.array_equal(pipe(**given, refine=True, **options()).images, expected)
        names = ["prompt_embeds", "negative_prompt_embeds"]
        names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
        with torch.no_grad():
            encoded = stock.encode_prompt(
                "a red circle",
                device="cpu",
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
            )
        texts = dict(zip(names, encoded, strict=False))
        found = pipe(**texts, num_images_per_prompt=pictures, **options()).images
        assert np.array_equal(found, expected)

    @pytest.mark.slow
    @pytest.mark.parametrize("pictures", [1, 2])
    def test_equals_the_edits(self, name: str, pictures: int) -> None:
        found = load(name)(
            SWAP, weights={"blue": 2.0}, num_images_per_prompt=pictures, **options()
        ).images
        pipe = make_stock(name)
        edits = (
            Replace(steps=(0, 0.8)),
            SelfReplace(steps=(0, 0.4)),
            Reweight("blue", 2.0, images=range(pictures, 2 * pictures)),
        )
        latents = noise(pictures).repeat(2, 1, 1, 1)
        with tx.edit(pipe, *edits):
            expected = pipe(
                SWAP, num_images_per_prompt=pictures, latents=latents, **options()
            ).images
        assert np.array_equal(found, expected)

    @pytest.mark.slow
    def test_each_picture_is_edited_by_the_source_s_of_its_number(self, name: str) -> None:
        pipe, three = load(name), [*SWAP, "a red blue"]
        found = pipe(three, num_images_per_prompt=2, **options()).images
        for number in range(2):
            latents = noise(2)[number : number + 1].repeat(3, 1, 1, 1)
            alone = pipe(three, latents=latents, **options()).images
            assert np.allclose(found[number::2], alone, rtol=0, atol=1e-4)
            assert not np.allclose(found[1 - number :: 2], alone, rtol=0, atol=1e-2)

    def test_refined_prompts(self, name: str) -> None:
        prompts = ["a circle", "a red circle of blue"]
        found = load(name)(prompts, refine=True, **options()).images
        assert len(found) == 2
        with pytest.raises(tx.UserError, match="as many words"):
            load(name)(prompts, **options())

    def test_blends_by_argument(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        pipe = load(name)
        # A random model looks at a word nearly everywhere.
        strict = partial(LocalBlend, threshold=0.97)
        monkeypatch.setattr(sys.modules[type(pipe).__module__], "LocalBlend", strict)
        run = options(output_type="latent", latents=noise(2).repeat(2, 1, 1, 1))
        given = {"num_images_per_prompt": 2, "self_replace_steps": 0.0, "cross_replace_steps": 0.0}
        plain = pipe(SWAP, **given, **run).images
        found = pipe(SWAP, blend=("red", "blue"), **given, **run).images
        assert torch.equal(found[:2], plain[:2])
        for number in range(2):
            kept = (found[2 + number] == found[number]).all(0)
            other = (found[2 + number] == found[1 - number]).all(0)
            assert kept.any()
            assert not other.any()

    def test_a_part_of_less_than_a_step_does_not_act(self, name: str) -> None:
        pipe, short = load(name), {"num_inference_steps": 2}
        found = pipe(SWAP, **options(**short)).images
        expected = pipe(SWAP, self_replace_steps=0.0, **options(**short)).images
        assert np.array_equal(found, expected)
        with_scheduler(pipe, "EulerDiscreteScheduler")
        timesteps = {"timesteps": [900, 500], "num_inference_steps": None}
        given = pipe(SWAP, **options(**timesteps)).images
        expected = pipe(SWAP, self_replace_steps=0.0, **options(**timesteps)).images
        assert np.array_equal(given, expected)

    def test_mistakes(self, name: str) -> None:
        pipe = load(name)
        mistakes: list[dict[str, Any]] = [
            {"weights": {"red": 2.0}},
            {"swaps": {"red": "blue"}},
            {"blend": ("a", "a")},
        ]
        for given in mistakes:
            with pytest.raises(tx.UserError, match=r"source, target.* but came 'a red circle'"):
                pipe("a red circle", **given, **options())
        with pytest.raises(tx.UserError, match="blend or callback_on_step_end"):
            pipe(SWAP, blend=("red", "blue"), callback_on_step_end=print, **options())


@pytest.mark.parametrize("name", ["3_prompt_to_prompt", "flux_prompt_to_prompt"])
class TestOfJointAttention:
    def test_the_source_is_the_stock_picture(self, name: str) -> None:
        stock = make_stock(name)("a red circle", **options()).images
        found = load(name)(SWAP, **options()).images
        assert np.allclose(found[0], stock[0], rtol=0, atol=1e-4)
        assert not np.allclose(found[1], stock[0], rtol=0, atol=1e-4)

    @pytest.mark.parametrize("pictures", [1, 2])
    def test_one_prompt_gives_the_stock_picture(self, name: str, pictures: int) -> None:
        pipe, stock = load(name), make_stock(name)
        texts: list[dict[str, Any]] = [{"prompt": ["a red circle"]}]
        if pictures == 1:  # diffusers' SD3 does not repeat embeddings
            texts.append(encoded(name, stock, "a red circle"))
        for text in texts:
            given = text | {"num_images_per_prompt": pictures}
            expected = stock(**given, **options()).images
            assert np.array_equal(pipe(**given, refine=True, **options()).images, expected)

    @pytest.mark.parametrize("pictures", [1, 2])
    def test_equals_the_edits(self, name: str, pictures: int) -> None:
        found = load(name)(
            SWAP, weights={"blue": 2.0}, num_images_per_prompt=pictures, **options()
        ).images
        pipe = make_stock(name)
        edits = (
            Replace(steps=(0, 0.8)),
            Reweight("blue", 2.0, images=range(pictures, 2 * pictures)),
        )
        latents = noise_of(name, pictures).repeat(2, *[1] * (noise_of(name).ndim - 1))
        given = {"num_images_per_prompt": pictures, "latents": latents}
        with tx.edit(pipe, *edits):
            expected = pipe(SWAP, **given, **options()).images
        assert np.array_equal(found, expected)
        plain = pipe(SWAP, **given, **options()).images
        assert not np.allclose(found[-1], plain[-1], rtol=0, atol=1e-6)

    def test_each_picture_is_edited_by_the_source_s_of_its_number(self, name: str) -> None:
        pipe, three = load(name), [*SWAP, "a red blue"]
        found = pipe(three, num_images_per_prompt=2, **options()).images
        for number in range(2):
            latents = noise_of(name, 2)[number : number + 1]
            alone = pipe(three, latents=torch.cat([latents] * 3), **options()).images
            assert np.allclose(found[number::2], alone, rtol=0, atol=1e-4)
            assert not np.allclose(found[1 - number :: 2], alone, rtol=0, atol=1e-2)

    def test_refined_prompts_and_parts_of_a_step(self, name: str) -> None:
        pipe, prompts = load(name), ["a circle", "a red circle of blue"]
        found = pipe(prompts, refine=True, **options()).images
        none = pipe(prompts, refine=True, cross_replace_steps=0.1, **options()).images
        assert not np.allclose(found[1], none[1], rtol=0, atol=1e-6)
        with pytest.raises(tx.UserError, match="as many words"):
            pipe(prompts, **options())

    def test_mistakes(self, name: str) -> None:
        pipe = load(name)
        for given in ({"weights": {"red": 2.0}}, {"swaps": {"red": "blue"}}):
            with pytest.raises(tx.UserError, match=r"source, target.* but came 'a red circle'"):
                pipe("a red circle", **given, **options())
        # The picture's attention to itself is part of the same softmax.
        with pytest.raises(tx.UserError, match="joint attention"), tx.edit(pipe, SelfReplace()):
            pipe(SWAP, **options())


class TestLocalBlend:
    def test_keeps_the_source_outside(self) -> None:
        pipe, swaps = make_pipeline(), {"red": "blue"}
        run = options(output_type="latent", latents=noise().repeat(2, 1, 1, 1))
        masks = []
        for threshold in (0.3, 0.9, 0.97):  # a random model looks at a word nearly everywhere
            with tx.edit(pipe, Replace(swaps)), tx.record(pipe) as trace:
                blend = LocalBlend(trace, "red", "blue", threshold=threshold)
                latents = pipe(SWAP, callback_on_step_end=blend, **run).images
            masks.append((latents[1] == latents[0]).all(0).float().mean())
        assert 0 <= masks[0] < masks[1] <= masks[2] < 1

    def test_blends_pairs_of_one_batch(self) -> None:
        pipe, prompts = make_pipeline(), [*SWAP, *SWAP]
        run = options(output_type="latent", latents=noise().repeat(4, 1, 1, 1))
        plain = pipe(prompts, **run).images
        with tx.record(pipe) as trace:
            blend = LocalBlend(trace, "red", "blue", 0.9, source=2, images=[3])
            latents = pipe(prompts, callback_on_step_end=blend, **run).images
        assert torch.equal(latents[:3], plain[:3])
        assert (latents[3] == latents[2]).all(0).any()
        with pytest.raises(tx.UserError, match="came 4 with source=4"), tx.record(pipe) as trace:
            pipe(prompts, callback_on_step_end=LocalBlend(trace, "red", "blue", source=4), **run)

    def test_a_threshold_out_of_range(self) -> None:
        nothing = tx.Trace(lambda: None)  # type: ignore[arg-type,return-value]
        with pytest.raises(tx.UserError, match="a threshold between 0 and 1"):
            LocalBlend(nothing, "red", "blue", threshold=2)
