"""Whose a call of the denoiser is: those of another pipeline on the same UNet, of another thread
and of other texts are no part of this pipeline's run; those of a sampling loop by hand are, in
whatever order they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

import t2i_xattn as tx
from conftest import make_pipeline, make_tokenizer, state_of
from probe import Probe, Rule, all_rows, change_attention, first_half, rows_where, second_half
from probe import without as columns_without
from right_maps import WORDS, Words, assert_right_heat, assert_right_maps, attempt, own_processors
from t2i_xattn import edits, losses
from tiny_pipelines import Run, generator, noise_picture, of_class, runner

SIZES = {"the same size": 64, "another size": 96}


class Shared:
    """Two pipelines with one UNet, one text encoder and one scheduler, and what they draw alone.

    Attributes:
        first: the one that is recorded, edited or guided.
        draw, other: of the first, and of the other one.
        probe: what the layers saw while the first one ran.
        plain, other_plain: their pictures.
    """

    def __init__(self, size: int) -> None:
        self.first = make_pipeline()
        second = of_class("StableDiffusionImg2ImgPipeline", self.first)
        picture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(4))
        self.draw = runner(self.first)
        self.other = runner(
            second, prompt="blue left", image=picture, strength=0.7, num_inference_steps=6
        )
        with Probe(self.first.unet) as self.probe:
            self.plain = self.draw()
        self.other_plain = self.other()
        self.plain_again = self.draw()
        assert self.plain_again.tobytes() == self.plain.tobytes()


@pytest.fixture(params=list(SIZES.values()), ids=list(SIZES))
def shared(request: pytest.FixtureRequest) -> Shared:
    return Shared(request.param)


class TestTheOtherPipelineOfASharedUNet:
    @pytest.mark.parametrize("order", ["this, other", "other, this", "other, this, other"])
    def test_its_run_is_not_added(self, shared: Shared, order: str) -> None:
        before, own = state_of(shared.first), own_processors(shared.first)
        with tx.record(shared.first) as trace:
            assert own_processors(shared.first) == own
            for each in order.split(", "):
                draw, plain = {
                    "this": (shared.draw, shared.plain),
                    "other": (shared.other, shared.other_plain),
                }[each]
                assert draw().tobytes() == plain.tobytes()
        assert state_of(shared.first) == before
        assert trace.prompts == ("a red circle",)
        assert trace.settings["calls"] == 3
        assert_right_maps(trace, shared.probe, second_half)
        assert_right_heat(trace, shared.probe, second_half, WORDS)

    def test_its_run_alone_leaves_nothing(self, shared: Shared) -> None:
        with tx.record(shared.first) as trace:
            assert shared.other().tobytes() == shared.other_plain.tobytes()
        for read in (
            lambda: trace.maps,
            lambda: trace.prompts,
            lambda: trace.heatmap("blue"),
            lambda: trace.heatmap(columns=[1]),
        ):
            _, refusal = attempt(read)
            assert refusal is not None

    @pytest.mark.parametrize("other_first", [False, True])
    def test_its_run_is_not_edited(self, shared: Shared, other_first: bool) -> None:
        with tx.edit(shared.first, edits.Drop("red")):
            expected = shared.draw()
        assert not np.allclose(expected, shared.plain, atol=1e-3)
        before = state_of(shared.first)
        with tx.edit(shared.first, edits.Drop("red")):
            drawn = []
            for draw in (shared.other, shared.draw) if other_first else (shared.draw, shared.other):
                drawn.append(draw())
        assert state_of(shared.first) == before
        other, own = drawn if other_first else drawn[::-1]
        assert other.tobytes() == shared.other_plain.tobytes()
        assert own.tobytes() == expected.tobytes()

    @pytest.mark.slow
    @pytest.mark.parametrize("other_first", [False, True])
    def test_its_run_is_not_guided(self, shared: Shared, other_first: bool) -> None:
        """Though they have one scheduler, whose steps start from the moved latents."""
        loss = losses.Layout({"circle": (0.0, 0.0, 1.0, 0.5)})
        with tx.guide(shared.first, loss):
            expected = shared.draw()
        assert not np.allclose(expected, shared.plain, atol=1e-3)
        before = state_of(shared.first)
        with tx.guide(shared.first, loss):
            drawn = []
            for draw in (shared.other, shared.draw) if other_first else (shared.draw, shared.other):
                drawn.append(draw())
        assert state_of(shared.first) == before
        other, own = drawn if other_first else drawn[::-1]
        assert other.tobytes() == shared.other_plain.tobytes()
        assert own.tobytes() == expected.tobytes()

    def test_both_are_recorded_each_by_itself(self) -> None:
        first = make_pipeline()
        second = of_class("StableDiffusionImg2ImgPipeline", first)
        draws = [
            runner(first, num_inference_steps=2),
            runner(second, prompt="blue", image=noise_picture(), num_inference_steps=4),
        ]
        probes, plain = [], []
        for draw in draws:
            with Probe(first.unet) as probe:
                plain.append(draw())
            probes.append(probe)
        with tx.record(first) as one, tx.record(second) as two:
            drawn = [draw() for draw in draws]
        assert [each.tobytes() for each in drawn] == [each.tobytes() for each in plain]
        assert (one.prompts, one.settings["calls"]) == (("a red circle",), 2)
        assert (two.prompts, two.settings["calls"]) == (("blue",), 3)
        for trace, probe in zip((one, two), probes, strict=True):
            assert_right_maps(trace, probe, second_half)

    def test_its_run_in_the_middle_of_this_ones(self) -> None:
        """A callback paints with the other one, which has a scheduler of its own."""
        first = make_pipeline()
        second = of_class(
            "StableDiffusionPipeline",
            first,
            scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        )
        draw = runner(first)
        with Probe(first.unet) as probe:
            plain = draw()
        other = runner(second, prompt="blue left", num_inference_steps=2)
        other_plain = other()
        inside = []

        def between(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
            inside.append(other())
            return inputs

        with tx.record(first) as trace:
            drawn = runner(first, callback_on_step_end=between)()
        assert drawn.tobytes() == plain.tobytes()
        assert [each.tobytes() for each in inside] == [other_plain.tobytes()] * 3
        assert trace.settings["calls"] == 3
        assert_right_maps(trace, probe, second_half)
        with tx.edit(first, edits.Drop("red")):
            expected = draw()
        inside.clear()
        with tx.edit(first, edits.Drop("red")):
            drawn = runner(first, callback_on_step_end=between)()
        assert [each.tobytes() for each in inside] == [other_plain.tobytes()] * 3
        assert drawn.tobytes() == expected.tobytes() != plain.tobytes()


@pytest.mark.parametrize("size", [8, 12])
def test_calls_with_other_texts_in_a_callback(size: int) -> None:
    """Such as a loss that asks the denoiser something of its own: they are no part of the run, or
    it is told that they are not known."""
    pipe = make_pipeline()
    draw = runner(pipe)
    with Probe(pipe.unet) as probe:
        plain = draw()
    text = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(5))

    def ask(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        pipe.unet(torch.ones(1, 4, size, size), timestep, encoder_hidden_states=text)
        return inputs

    def recorded() -> Any:
        with tx.record(pipe) as trace:
            assert runner(pipe, callback_on_step_end=ask)().tobytes() == plain.tobytes()
        assert trace.maps
        return trace

    before = state_of(pipe)
    trace, _ = attempt(recorded)
    assert state_of(pipe) == before
    if trace is not None:
        assert trace.settings["calls"] == 3
        assert_right_maps(trace, probe, second_half)


class TestThreads:
    def test_two_pipelines_in_two_threads(self) -> None:
        pipes = [make_pipeline(), make_pipeline()]
        draws = [
            runner(pipe, prompt=prompt)
            for pipe, prompt in zip(pipes, ["a red circle", "blue left"], strict=True)
        ]
        self.assert_alone_and_together(pipes, draws, [second_half] * 2, repetitions=2)

    @pytest.mark.slow
    def test_four_pipelines_that_share_a_unet(self) -> None:
        """Each with a scheduler of its own, since that has a state; and a tokenizer, which is not
        made for threads."""
        first = make_pipeline()
        pipes = [
            of_class(
                "StableDiffusionPipeline",
                first,
                scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
                tokenizer=make_tokenizer(),
            )
            for _ in range(4)
        ]
        draws = [
            runner(pipes[0]),
            runner(pipes[1], prompt="blue left", num_inference_steps=4),
            runner(pipes[2], prompt="a circle of red", guidance_scale=1.0),
            runner(pipes[3], prompt=["left", "blue circle"], width=96, num_inference_steps=2),
        ]
        rules = [second_half, second_half, all_rows, second_half]
        self.assert_alone_and_together(pipes, draws, rules, repetitions=6)

    @staticmethod
    def assert_alone_and_together(
        pipes: list[Any], draws: list[Run], rules: Sequence[Rule], repetitions: int
    ) -> None:
        numbers = range(len(pipes))
        alone, plain = [], []
        for pipe, draw, rule in zip(pipes, draws, rules, strict=True):
            with Probe(pipe.unet) as probe:
                plain.append(draw())
            with tx.record(pipe) as trace:
                assert draw().tobytes() == plain[-1].tobytes()
            height, width = plain[-1].shape[1:3]
            assert_right_maps(trace, probe, rule, (height // 8, width // 8))
            alone.append(trace)
        before = [state_of(pipe) for pipe in pipes]
        start = Barrier(len(pipes))

        def recorded(number: int) -> tuple[Any, np.ndarray]:
            start.wait(timeout=60)
            with tx.record(pipes[number]) as trace:
                return trace, draws[number]()

        with ThreadPoolExecutor(len(pipes)) as pool:
            for _ in range(repetitions):
                together = list(pool.map(recorded, numbers))
                assert [state_of(pipe) for pipe in pipes] == before
                for number, (trace, drawn) in enumerate(together):
                    expected = alone[number]
                    assert drawn.tobytes() == plain[number].tobytes()
                    assert trace.prompts == expected.prompts
                    assert trace.settings["calls"] == expected.settings["calls"]
                    assert trace.maps.keys() == expected.maps.keys()
                    for name, maps in expected.maps.items():
                        assert np.allclose(trace.maps[name], maps, rtol=0, atol=1e-6)


STACKS: dict[str, Rule] = {
    "unconditional, conditional": second_half,
    "conditional, unconditional": first_half,
    "two calls, unconditional first": rows_where(all_rows, lambda call: call % 2 == 1),
    "two calls, conditional first": rows_where(all_rows, lambda call: call % 2 == 0),
}
"""How a loop by hand may put the branches, and which rows are then those of the prompt."""


def opposite(stack: str) -> Rule:
    """The rows of the negative prompt."""
    first, second = list(STACKS)[:2] if stack in list(STACKS)[:2] else list(STACKS)[2:]
    return STACKS[second if stack == first else first]


def encoded(pipe: Any, how: str, prompt: str, negative: str) -> tuple[Tensor, Tensor]:
    """The embeddings of the prompt and of the negative prompt."""
    if how == "encode_prompt":
        cond, uncond = pipe.encode_prompt(prompt, "cpu", 1, True, negative_prompt=negative)
        return cond, uncond
    found = []
    for text in (prompt, negative):
        ids = pipe.tokenizer(
            [text], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        found.append(pipe.text_encoder(ids)[0])
    return found[0], found[1]


def by_hand(pipe: Any, how: str, stack: str, negative: str = "", steps: int = 3) -> Tensor:
    """The sampling loop that those write who build on a UNet; the latents that come out."""
    with torch.no_grad():
        cond, uncond = encoded(pipe, how, "a red circle", negative)
        latents = torch.randn(1, 4, 8, 8, generator=generator())
        pipe.scheduler.set_timesteps(steps)
        for timestep in pipe.scheduler.timesteps:
            call = denoiser(pipe, latents, timestep)
            if stack == "unconditional, conditional":
                without, with_text = call(torch.cat([uncond, cond])).chunk(2)
            elif stack == "conditional, unconditional":
                with_text, without = call(torch.cat([cond, uncond])).chunk(2)
            elif stack == "two calls, unconditional first":
                without, with_text = call(uncond), call(cond)
            else:
                with_text, without = call(cond), call(uncond)
            noise = without + 7.5 * (with_text - without)
            latents = pipe.scheduler.step(noise, timestep, latents).prev_sample
    return latents


def denoiser(pipe: Any, latents: Tensor, timestep: Any) -> Callable[[Tensor], Tensor]:
    def call(text: Tensor) -> Tensor:
        given = torch.cat([latents] * len(text))
        sample: Tensor = pipe.unet(given, timestep, encoder_hidden_states=text).sample
        return sample

    return call


@pytest.mark.parametrize("stack", STACKS)
class TestByHand:
    @pytest.mark.parametrize("ran", [None, 1.0, 7.5])
    @pytest.mark.parametrize("how", ["encode_prompt", "encoder"])
    def test_the_map_is_that_of_the_prompt(self, stack: str, how: str, ran: float | None) -> None:
        """Whatever guidance the pipeline had in a run before. Where only the text encoder was
        called, which text is the negative one may have to be told."""
        pipe = make_pipeline()
        if ran is not None:
            runner(pipe, guidance_scale=ran)()
        with Probe(pipe.unet) as probe:
            plain = by_hand(pipe, how, stack)
        before = state_of(pipe)

        def recorded() -> Any:
            with tx.record(pipe) as trace:
                assert torch.equal(by_hand(pipe, how, stack), plain)
            assert trace.maps
            return trace

        trace, refusal = attempt(recorded)
        assert state_of(pipe) == before
        if how == "encode_prompt":
            assert refusal is None
        if trace is not None:
            assert_right_maps(trace, probe, STACKS[stack])
            assert_right_heat(trace, probe, STACKS[stack], WORDS)

    @pytest.mark.parametrize("how", ["encode_prompt", "encoder"])
    def test_spans_that_are_given(self, stack: str, how: str) -> None:
        """What the message about prompts that are not known says to do."""
        pipe = make_pipeline()
        with Probe(pipe.unet) as probe:
            plain = by_hand(pipe, how, stack)

        def recorded() -> Any:
            with tx.record(pipe, spans={"red": [2], "round thing": [3]}) as trace:
                assert torch.equal(by_hand(pipe, how, stack), plain)
            assert trace.maps
            return trace

        trace, refusal = attempt(recorded)
        if how == "encode_prompt" or stack == "unconditional, conditional":
            assert refusal is None
        if trace is not None:
            words = {"red": (2,), "round thing": (3,), "circle": (3,)}  # beside those of the text
            assert_right_maps(trace, probe, STACKS[stack])
            assert_right_heat(trace, probe, STACKS[stack], words)

    def test_both_branches_have_their_rows_and_words(self, stack: str) -> None:
        pipe = make_pipeline()
        with Probe(pipe.unet) as probe:
            plain = by_hand(pipe, "encode_prompt", stack, negative="blue left")
        with tx.record(pipe, branches=["conditional", "unconditional"]) as trace:
            latents = by_hand(pipe, "encode_prompt", stack, negative="blue left")
        assert torch.equal(latents, plain)
        for branch, rule, words in (
            ("conditional", STACKS[stack], WORDS),
            ("unconditional", opposite(stack), {"blue": (1,), "left": (2,), "blue left": (1, 2)}),
        ):
            part = trace.select(branch=branch)
            assert_right_maps(part, probe, rule)
            assert_right_heat(part, probe, rule, words)

    @pytest.mark.parametrize("how", ["encode_prompt", "spans"])
    def test_an_edit_changes_the_rows_of_the_prompt_alone(self, stack: str, how: str) -> None:
        pipe, reference = make_pipeline(), make_pipeline()
        change_attention(reference.unet, columns_without(2), STACKS[stack])
        with Probe(reference.unet) as expected:
            latents = by_hand(reference, "encode_prompt", stack)
        plain = by_hand(pipe, "encode_prompt", stack)
        assert not torch.allclose(latents, plain, atol=1e-3)
        spans = {"red": [2]} if how == "spans" else None
        with tx.edit(pipe, edits.Drop("red"), spans=spans), tx.record(pipe, spans=spans) as trace:
            edited = by_hand(pipe, "encode_prompt", stack)
        assert torch.allclose(edited, latents, atol=1e-4)
        assert_right_maps(trace, expected, STACKS[stack], tolerance=5e-5)

    def test_several_pictures_of_two_prompts(self, stack: str) -> None:
        """Prompt-major, as `encode_prompt` gives them: a a b b."""
        pipe = make_pipeline()
        prompts, negatives = ["a red circle", "blue"], ["left", "of"]

        def loop() -> Tensor:
            with torch.no_grad():
                cond, uncond = pipe.encode_prompt(
                    prompts, "cpu", 2, True, negative_prompt=negatives
                )
                latents = torch.randn(4, 4, 8, 8, generator=generator())
                if stack.startswith("two calls"):
                    each = (uncond, cond) if "unconditional first" in stack else (cond, uncond)
                    found = [
                        pipe.unet(latents, 500, encoder_hidden_states=text).sample for text in each
                    ]
                else:
                    each = (uncond, cond) if stack.startswith("uncond") else (cond, uncond)
                    given = torch.cat([latents, latents])
                    found = [pipe.unet(given, 500, encoder_hidden_states=torch.cat(each)).sample]
            return torch.cat(found)

        with Probe(pipe.unet) as probe:
            plain = loop()
        with tx.record(pipe) as trace:
            assert torch.equal(loop(), plain)
        assert trace.prompts == ("a red circle", "a red circle", "blue", "blue")
        assert_right_maps(trace, probe, STACKS[stack])
        words: list[Words] = [WORDS, WORDS, {"blue": (1,)}, {"blue": (1,)}]
        for image, each_words in enumerate(words):
            assert_right_heat(trace, probe, STACKS[stack], each_words, image=image)
