"""Against prompt-to-prompt written out as in the paper's own code, with attention unfused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import t2i_xattn as tx
from t2i_xattn.edits import Edit, Refine, Replace, Reweight, SelfReplace
from t2i_xattn.errors import UserError

SAME, SWAPPED, LONGER = "a red circle", "a blue circle", "a red circle left of blue"
STEPS = 5


class Controller:
    """prompt-to-prompt's `AttentionControlEdit`: edits the conditional half at every layer.

    `change(base, own, step)` is for cross-attention: `(heads, queries, tokens)` of the first
    prompt and `(images − 1, …)` of the others.
    """

    def __init__(self, layers: int, images: int, change: Any, self_steps: int = 0) -> None:
        self.layers, self.images, self.change, self.self_steps = layers, images, change, self_steps
        self.calls = 0
        self.before: dict[str, list[Tensor]] = {}
        self.after: dict[str, list[Tensor]] = {}

    def __call__(self, probs: Tensor, is_cross: bool, name: str) -> Tensor:
        step = self.calls // self.layers
        self.calls += 1
        half = probs.shape[0] // 2
        edited = probs.clone()
        own = probs[half:].reshape(self.images, -1, *probs.shape[1:]).clone()
        if is_cross:
            self.before.setdefault(name, []).append(own.clone().mean(1))
            own[1:] = self.change(own[0], own[1:], step)
            self.after.setdefault(name, []).append(own.mean(1))
        elif step < self.self_steps and own.shape[2] <= 16**2:
            own[1:] = own[0].unsqueeze(0).expand(self.images - 1, *own[0].shape)
        edited[half:] = own.reshape(probs[half:].shape)
        return edited


class PaperProcessor:
    def __init__(self, controller: Controller, name: str) -> None:
        self.controller, self.name = controller, name

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else hidden_states
        q, k, v = (
            attn.head_to_batch_dim(project(states))
            for project, states in (
                (attn.to_q, hidden_states),
                (attn.to_k, context),
                (attn.to_v, context),
            )
        )
        scores = torch.einsum("b i d, b j d -> b i j", q, k) * attn.scale
        probs = self.controller(scores.softmax(dim=-1), is_cross, self.name)
        out = torch.einsum("b i j, b j d -> b i d", probs, v)
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(out)))


def latents(pipe: Any, prompts: list[str]) -> np.ndarray:
    noise = [torch.Generator().manual_seed(3) for _ in prompts]
    options = {"num_inference_steps": STEPS, "output_type": "latent", "guidance_scale": 5.0}
    return pipe(prompts, generator=noise, **options).images.numpy()


def check(
    pipe: Any,
    prompts: list[str],
    edits: Sequence[Edit],
    change: Callable[[Tensor, Tensor, int], Tensor],
    self_steps: int = 0,
) -> None:
    # In fp32 the sites would differ in their inputs by more than the maps may.
    pipe.to(torch.float64)
    plain = latents(pipe, prompts)
    with tx.edit(pipe, *edits), tx.record(pipe, steps="each") as trace:
        drawn = latents(pipe, prompts)

    before = pipe.unet.attn_processors
    controller = Controller(len(before), len(prompts), change, self_steps)
    pipe.unet.set_attn_processor({name: PaperProcessor(controller, name) for name in before})
    expected = latents(pipe, prompts)
    assert controller.calls == STEPS * len(before)

    scale = np.abs(expected).max()
    assert np.abs(drawn - expected).max() < 1e-5 * scale
    assert np.abs(drawn[0] - plain[0]).max() < 1e-5 * scale  # the source is as it was
    assert np.abs(drawn[1:] - plain[1:]).max() > 1e-3 * scale
    for name in (site.name for site in trace.sites):
        for stream, maps in (("text", controller.before), ("edited", controller.after)):
            recorded = trace.to_numpy(stream)[name][:, 0, :, 0]
            paper = torch.stack(maps[f"{name}.processor"], dim=1).numpy()
            assert np.abs(recorded.reshape(paper.shape) - paper).max() < 1e-6


def test_replace(pipe: Any) -> None:
    mapper = torch.eye(77).double()

    def change(base: Tensor, own: Tensor, step: int) -> Tensor:
        replaced = torch.einsum("hpw,bwn->bhpn", base, mapper.expand(len(own), 77, 77))
        alpha = float(step < 4)
        return replaced * alpha + (1 - alpha) * own

    edits = [Replace(steps=(0, 0.8)), SelfReplace(steps=(0, 0.4))]
    check(pipe, [SAME, SWAPPED, "a circle blue"], edits, change, self_steps=2)


@pytest.mark.parametrize("swaps", [None, {"red": "green"}])
def test_replace_by_a_word_of_more_tokens(pipe: Any, swaps: dict[str, str] | None) -> None:
    """red is column 2; green has as many tokens as letters, with nothing merged but "re"."""
    prompts = [SAME, "a green circle"]
    count = len(pipe.tokenizer("green").input_ids) - 2
    assert count > 1
    mapper = torch.zeros(77, 77).double()
    mapper[[0, 1], [0, 1]] = 1
    mapper[2, 2 : 2 + count] = 1 / count  # red, spread evenly
    mapper[[3, 4], [2 + count, 3 + count]] = 1  # circle, the end
    padding = torch.arange(4 + count, 77)
    mapper[padding, padding] = 1
    change = lambda base, own, step: torch.einsum("hpw,wn->hpn", base, mapper)[None]  # noqa: E731
    check(pipe, prompts, [Replace(swaps)], change)


def test_refine(pipe: Any) -> None:
    """get_mapper of the paper's code: the alignment by tokens, alpha 0 for new ones."""
    ours = pipe.tokenizer(SAME).input_ids
    theirs = pipe.tokenizer(LONGER).input_ids
    mapper = torch.arange(77)
    alphas = torch.ones(77)
    # start a red circle | left of blue | end
    alphas[4:7] = 0
    assert theirs[7] == ours[4] == pipe.tokenizer.eos_token_id
    mapper[7] = 4

    def change(base: Tensor, own: Tensor, step: int) -> Tensor:
        taken = base[:, :, mapper][None]
        refined = taken * alphas + own * (1 - alphas)
        alpha = float(step < 3)
        return refined * alpha + (1 - alpha) * own

    check(pipe, [SAME, LONGER], [Refine(steps=(0, 3))], change)


@pytest.mark.parametrize("weight", [2.5, -1.0])
def test_reweight_of_the_sources_maps(pipe: Any, weight: float) -> None:
    """AttentionReweight: `attn_base[None] * equalizer`, so after Replace."""
    equalizer = torch.ones(77)
    equalizer[2] = weight
    change = lambda base, own, step: base[None] * equalizer  # noqa: E731
    edits = [Replace(), Reweight("red", weight, images=[1])]
    check(pipe, [SAME, SAME], edits, change)


def test_reweight_of_refined_maps(pipe: Any) -> None:
    """A controller of another controller: first refined, then scaled."""
    equalizer = torch.ones(77)
    equalizer[[4, 5, 6]] = 3.0

    def change(base: Tensor, own: Tensor, step: int) -> Tensor:
        refined = own.clone()
        refined[..., :4] = base[None, ..., :4]
        refined[..., 7] = base[None, ..., 4]
        refined[..., 8:] = base[None, ..., 8:]
        return refined * equalizer

    check(pipe, [SAME, LONGER], [Refine(), Reweight("left of blue", 3.0, images=[1])], change)


def test_another_source_and_only_some_images(pipe: Any) -> None:
    prompts = [SAME, SWAPPED, "a circle blue"]
    plain = latents(pipe, prompts)
    with tx.edit(pipe, Replace(source=2, images=[0])):
        drawn = latents(pipe, prompts)
    assert drawn[1:].tobytes() == plain[1:].tobytes()
    assert np.abs(drawn[0] - plain[0]).max() > 1e-3
    with tx.edit(pipe, Replace()):
        expected = latents(pipe, [prompts[2], prompts[0]])[1]
    assert np.allclose(drawn[0], expected, atol=1e-4)


def test_self_attention_of_small_sites_only(pipe: Any) -> None:
    prompts = [SAME, SWAPPED]
    drawn = {}
    for up_to in (1, 4, 16):
        with tx.edit(pipe, SelfReplace(up_to=up_to)):
            drawn[up_to] = latents(pipe, prompts).tobytes()
    assert drawn[1] == latents(pipe, prompts).tobytes()
    assert len(set(drawn.values())) == 3


def test_several_pictures_a_prompt(pipe: Any) -> None:
    """Each takes the maps of the source's picture of the same number."""

    def drawn(prompts: list[str], copies: int, seeds: list[int]) -> np.ndarray:
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        options = {"num_inference_steps": STEPS, "output_type": "latent", "guidance_scale": 5.0}
        found: Tensor = pipe(
            prompts, generator=noise, num_images_per_prompt=copies, **options
        ).images
        return found.numpy()

    swaps = [Replace(steps=(0, 0.8)), SelfReplace(steps=(0, 0.4))]
    with tx.edit(pipe, *swaps):
        both = drawn([SAME, SWAPPED], 2, [3, 4, 3, 4])
        alone = [drawn([SAME, SWAPPED], 1, [seed] * 2) for seed in (3, 4)]
    for number, pair in enumerate(alone):
        assert np.allclose(both[number], pair[0], atol=1e-4)
        assert np.allclose(both[2 + number], pair[1], atol=1e-4)
    # Another picture's maps would have been noticed.
    with tx.edit(pipe, *swaps):
        crossed = drawn([SAME, SWAPPED], 1, [4, 3])
    assert not np.allclose(both[2], crossed[1], atol=1e-3)


def test_a_source_that_is_no_prompt_of_the_batch(pipe: Any) -> None:
    for source, copies in ((2, 1), (2, 2), (-1, 1)):
        with (
            pytest.raises(UserError, match=f"came 2 and source={source}; run pipe"),
            tx.edit(pipe, Replace(source=source)),
        ):
            pipe([SAME, SWAPPED], num_images_per_prompt=copies, num_inference_steps=1)
