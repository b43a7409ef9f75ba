"""`cheaper` where runs are not one text, one loop and one call a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import t2i_xattn as tx
from conftest import make_pipeline
from t2i_xattn import UserError, variants
from t2i_xattn.kernel.cover import Cover
from t2i_xattn.variants.variant import Variant
from tiny.all_cases import CASES
from tiny_pipelines import generator, make_sdxl, noise_picture, of_class, runner

NAMED = {case.name: case for case in CASES}


def as_array(drawn: Any) -> np.ndarray:
    return np.asarray(drawn[0] if isinstance(drawn, list) else drawn, dtype=np.float64)


# Texts of different lengths


@pytest.mark.parametrize(
    "name",
    [
        "ZImagePipeline, two prompts, guided",
        "Lumina2Pipeline, two prompts of different lengths, guided",
        "Lumina2Pipeline, guided",
    ],
)
@pytest.mark.parametrize(
    "variant",
    [variants.TopKeys(4000), variants.PrunedKeys(padding=False, share=1e-9)],
    ids=lambda each: each.name,
)
def test_what_leaves_nothing_out_changes_nothing(name: str, variant: Variant) -> None:
    """A short text ends before the longest one does, and the picture's keys stand behind it."""
    case = NAMED[name]
    pipe = case.make()
    plain = as_array(case.run(pipe))
    with tx.cheaper(pipe, variant):
        np.testing.assert_allclose(as_array(case.run(pipe)), plain, atol=1e-6)


# Texts that change in a run

PHASES = "[red:a blue circle left of a red circle:0.5] a"


def of_phases(pipe: Any) -> np.ndarray:
    given = tx.condition(pipe, PHASES)
    drawn: np.ndarray = pipe(
        **given, num_inference_steps=4, generator=generator(), output_type="np"
    ).images
    return drawn


def test_padding_is_that_of_the_text_of_each_step(pipe: Any) -> None:
    """Against diffusers' own mask of the text."""
    before, after, step = 2 + 2, 2 + 9, 0

    def masked(forward: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal step
        mask = torch.zeros(2, 77, dtype=torch.bool)
        mask[0, :2] = True  # of the empty text: start and end
        mask[1, : before if step < 2 else after] = True
        step += 1
        return forward(*args, **kwargs, encoder_attention_mask=mask)

    oracle = make_pipeline()
    cover = Cover(oracle.unet, "forward", masked)
    cover.put()
    right = of_phases(oracle)
    cover.take_off()
    with tx.cheaper(pipe, variants.PrunedKeys()):
        np.testing.assert_allclose(of_phases(pipe), right, atol=2e-5)


@pytest.mark.parametrize(
    "variant",
    [variants.TopKeys(2), variants.PrunedKeys(padding=False, share=0.5)],
    ids=lambda each: each.name,
)
def test_shares_of_a_new_text_are_recorded_anew(pipe: Any, variant: Variant) -> None:
    looked_at = []
    for step in range(4):
        with tx.cheaper(pipe, variant), tx.record(pipe, steps=[(step, step + 1)]) as trace:
            of_phases(pipe)
        # Axes: image branch step head height width token.
        found = (each.sum(axis=(0, 1, 2, 3, 4, 5)) > 0 for each in trace.to_numpy().values())
        looked_at.append(max(int(each.sum()) for each in found))
    assert looked_at[0] == looked_at[2] == 77
    assert max(looked_at[1], looked_at[3]) < 77


# Calls that are no steps


def test_passes_that_are_spoilt_in_two_ways_are_told_apart() -> None:
    case = NAMED["LTX2Pipeline, guided in three ways"]
    pipe = case.make()
    plain = as_array(case.run(pipe, num_inference_steps=3))
    with tx.cheaper(pipe, variants.SkipLate(after=3)):  # that is never
        assert np.array_equal(as_array(case.run(pipe, num_inference_steps=3)), plain)


def test_each_view_of_a_panorama_is_given_its_own() -> None:
    pipe = of_class("StableDiffusionPanoramaPipeline", make_pipeline())
    draw = runner(pipe, height=512, width=576, view_batch_size=1, output_type="latent")
    views, calls, kept = len(pipe.get_views(512, 576)), Counter[str](), {}
    assert views == 2

    def by_hand(name: str) -> Callable[..., Any]:
        def act(forward: Any, *args: Any, **kwargs: Any) -> Any:
            step, view = divmod(calls[name], views)
            calls[name] += 1
            if step < 1:
                return forward(*args, **kwargs)
            if step == 1:
                kept[name, view] = forward(*args, **kwargs)
            return kept[name, view]

        return act

    named = [(n, m) for n, m in pipe.unet.named_modules() if n.endswith("attn2")]
    covers = [Cover(module, "forward", by_hand(name)) for name, module in named]
    for each in covers:
        each.put()
    right = as_array(draw())
    for each in covers:
        each.take_off()
    plain = as_array(draw())
    with tx.cheaper(pipe, variants.SkipLate(after=1), repeated="add"):
        assert np.array_equal(as_array(draw()), right)
    with tx.cheaper(pipe, variants.SkipLate(after=1.0), repeated="add"):
        assert np.array_equal(as_array(draw()), plain)
    assert not np.array_equal(right, plain)


@pytest.mark.parametrize("make", [lambda: variants.SkipLate(after=2), lambda: variants.TopKeys(4)])
@torch.no_grad()
def test_a_second_loop_over_the_same_texts_is_another_run(
    pipe: Any, make: Callable[[], Variant]
) -> None:
    def texts() -> Tensor:
        text, nothing = pipe.encode_prompt("a red circle", "cpu", 1, True)
        return torch.cat([nothing, text])

    def loop(given: Tensor, seed: int) -> Tensor:
        pipe.scheduler.set_timesteps(4)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        for level in pipe.scheduler.timesteps:
            both = pipe.unet(torch.cat([latents] * 2), level, encoder_hidden_states=given).sample
            against, found = both.chunk(2)
            found = against + 5 * (found - against)
            latents = pipe.scheduler.step(found, level, latents).prev_sample
        return latents

    with tx.cheaper(pipe, make()):
        alone = loop(texts(), 1)
    with tx.cheaper(pipe, make()):
        given = texts()
        loop(given, 0)
        assert torch.equal(loop(given, 1), alone)


# What torch is set to


def gradients_of(pipe: Any, text: Tensor) -> tuple[Tensor, ...]:
    text = text.clone().requires_grad_(True)
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    found = pipe.unet(torch.ones(1, 4, 8, 8), 500, encoder_hidden_states=text).sample
    gradients: tuple[Tensor, ...] = torch.autograd.grad(found.square().sum(), [text, layer.weight])
    return gradients


@pytest.mark.parametrize(
    "before",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no gradients", "inference mode", "autocast"],
)
def test_kept_keys_were_made_as_they_are_used(pipe: Any, before: Callable[[], Any]) -> None:
    text = pipe.encode_prompt("a red circle", "cpu", 1, False)[0].detach()
    plain = gradients_of(pipe, text)
    with tx.cheaper(pipe, variants.KeptKeys()):
        text = pipe.encode_prompt("a red circle", "cpu", 1, False)[0].detach()
        with before(), torch.no_grad():
            pipe.unet(torch.ones(1, 4, 8, 8), 400, encoder_hidden_states=text)
        for found, right in zip(gradients_of(pipe, text), plain, strict=True):
            assert torch.equal(found, right)


class _Writing:
    """A processor that changes its keys and values in place."""

    def __call__(
        self, attn: Any, states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Any:
        text = states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(states), attn.to_k(text), attn.to_v(text)
        key[:, 2] *= 3
        value.mul_(1.1)
        q, k, v = (
            each.unflatten(2, (attn.heads, -1)).transpose(1, 2) for each in (query, key, value)
        )
        found = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return attn.to_out[0](found.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_who_writes_into_what_was_kept_changes_no_other_step(
    pipe: Any, mode: Callable[[], Any]
) -> None:
    pipe.unet.set_attn_processor(_Writing())
    draw = runner(pipe, num_inference_steps=4)
    with mode():
        plain = draw()
        with tx.cheaper(pipe, variants.KeptKeys()):
            assert np.array_equal(draw(), plain)


def test_a_hook_that_writes_in_place_under_late_skipping(pipe: Any) -> None:
    late = variants.SkipLate(after=1)
    draw = runner(pipe, num_inference_steps=4)
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    found = []
    for hook in (lambda module, args, out: out * 1.5, lambda module, args, out: out.mul_(1.5)):
        handle = layer.register_forward_hook(hook)
        with tx.cheaper(pipe, late):
            found.append(draw())
        handle.remove()
    assert np.array_equal(*found)


# Sentences


def test_numbers_of_numpy_are_numbers(pipe: Any) -> None:
    draw = runner(pipe, num_inference_steps=4)
    found = []
    several: list[Any] = [2, np.int64(2), torch.tensor(2), 0.5, np.float32(0.5)]
    for after in several:
        with tx.cheaper(pipe, variants.SkipLate(after=after)):
            found.append(draw())
    assert all(np.array_equal(each, found[0]) for each in found)
    with pytest.raises(UserError, match="from 0 to 1"):
        variants.SkipLate(after=float(np.float32(3)))


def test_zeros_in_a_text_s_place_have_no_padding() -> None:
    """SDXL's, where nobody gives a negative prompt; all keys are alike there."""
    pipe = make_sdxl()
    with tx.cheaper(pipe, variants.PrunedKeys(words=["red circle"])), tx.record(pipe) as trace:
        runner(pipe)()
    for maps in trace.to_numpy().values():
        seen = maps.sum(axis=(0, 1, 2, 3, 4, 5)) > 0
        assert list(np.flatnonzero(seen)) == [0, 1, 4]  # start, "a", end


@pytest.mark.parametrize("words", [["red circle"], ["RED  Circle"], ["red", "circle"]])
def test_phrases_are_left_out_too(pipe: Any, words: list[str]) -> None:
    variant = variants.PrunedKeys(padding=False, words=words)
    with tx.cheaper(pipe, variant), tx.record(pipe) as trace:
        runner(pipe)()
    for maps in trace.to_numpy().values():
        assert not maps[..., 2:4].any()
        assert (maps.sum(axis=(0, 1, 2, 3, 4, 5)) > 0).sum() == 75


def test_an_empty_word_is_one_sentence() -> None:
    with pytest.raises(UserError, match="an empty one"):
        variants.PrunedKeys(padding=False, words=[" "])


def test_where_steps_are_not_told_whole_ones_are_asked_for() -> None:
    import diffusers

    adapter = diffusers.T2IAdapter(
        in_channels=3, channels=[16, 32, 32], num_res_blocks=1, downscale_factor=8
    ).eval()
    pipe = of_class("StableDiffusionAdapterPipeline", adapter=adapter)
    draw = runner(pipe, image=noise_picture())
    with (
        pytest.raises(UserError, match=r"after in whole steps .* SkipLate\(after=12\)"),
        tx.cheaper(pipe, variants.SkipLate(after=0.5)),
    ):
        draw()
    with tx.cheaper(pipe, variants.SkipLate(after=12)):
        draw()
