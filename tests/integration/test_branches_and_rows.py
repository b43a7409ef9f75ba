"""Which rows of the denoiser's batch a map is of, and which words its columns bear: the negative
prompt's, a video's frames, a second prompt's, several pictures a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from conftest import make_pipeline, state_of
from probe import (
    Change,
    Probe,
    Rule,
    all_rows,
    change_attention,
    first_half,
    rows_where,
    second_half,
    without,
)
from right_maps import (
    EXACT,
    WORDS,
    Words,
    assert_right_heat,
    assert_right_maps,
    attempt,
    own_processors,
    right_heat,
)
from t2i_xattn import edits
from t2i_xattn.aggregation import mean_over_sites
from t2i_xattn.errors import UserError
from tiny_pipelines import generator, make_animatediff, make_sdxl, runner, sharpened

BOTH = ["conditional", "unconditional"]
NEGATIVE: Words = {"blue": (1,), "left": (2,), "of": (3,), "left of": (2, 3)}
"""Columns of the words of "blue left of"."""


class TestNegativePrompt:
    def test_its_branch_has_its_words(self) -> None:
        pipe = make_pipeline()
        draw = runner(pipe, negative_prompt="blue left of")
        with Probe(pipe.unet) as probe:
            plain = draw()
        with tx.record(pipe, branches=BOTH) as trace:
            assert draw().tobytes() == plain.tobytes()
        for branch, rule, words, prompt in (
            ("conditional", second_half, WORDS, "a red circle"),
            ("unconditional", first_half, NEGATIVE, "blue left of"),
        ):
            part = trace.select(branch=branch)
            assert part.prompts == (prompt,)
            assert [word.text for word in part.words] == prompt.split()
            assert part.words_of(0) == part.words
            assert_right_maps(part, probe, rule)
            assert_right_heat(part, probe, rule, words)
        assert trace.prompts == ("a red circle",)
        assert [word.text for word in trace.words] == ["a", "red", "circle"]

    @pytest.mark.parametrize(
        ("branch", "word"), [("unconditional", "circle"), ("conditional", "blue")]
    )
    def test_a_word_of_the_other_prompt_is_refused(self, branch: str, word: str) -> None:
        pipe = make_pipeline()
        with tx.record(pipe, branches=BOTH) as trace:
            runner(pipe, negative_prompt="blue left of")()
        part = trace.select(branch=branch)
        with pytest.raises(UserError, match=f"'{word}' is not in the prompt|{word}"):
            part.heatmap(word)

    def test_it_alone_is_recorded(self) -> None:
        pipe = make_pipeline()
        draw = runner(pipe, negative_prompt="blue left of")
        with Probe(pipe.unet) as probe:
            draw()
        with tx.record(pipe, branches="unconditional") as trace:
            draw()
        assert trace.prompts == ("blue left of",)
        assert [word.text for word in trace.words] == ["blue", "left", "of"]
        assert_right_maps(trace, probe, first_half)
        assert_right_heat(trace, probe, first_half, NEGATIVE)
        with pytest.raises(UserError):
            trace.heatmap("circle")

    def test_its_words_can_be_kept_alone(self) -> None:
        """`words=` are those of the branch that is recorded."""
        pipe = make_pipeline()
        draw = runner(pipe, negative_prompt="blue left of")
        with Probe(pipe.unet) as probe:
            draw()
        with tx.record(pipe, branches="unconditional", words=["left of", "blue"]) as trace:
            draw()
        for layer in probe.layers:
            mean = probe.mean(layer, first_half)
            expected = np.stack([mean[..., [2, 3]].sum(-1), mean[..., 1]], axis=-1)
            assert np.abs(trace.maps[layer].reshape(expected.shape) - expected).max() < EXACT

    def test_without_one_it_has_no_words(self) -> None:
        pipe = make_pipeline()
        draw = runner(pipe)
        with Probe(pipe.unet) as probe:
            draw()
        with tx.record(pipe, branches=BOTH) as trace:
            draw()
        part = trace.select(branch="unconditional")
        assert part.words == ()
        assert part.prompts == ("",)
        assert_right_maps(part, probe, first_half)
        with pytest.raises(UserError):
            part.heatmap("red")

    def test_one_for_each_prompt_of_a_batch(self) -> None:
        pipe = make_pipeline()
        draw = runner(
            pipe,
            prompt=["a red circle", "blue"],
            negative_prompt=["left", "blue left of"],
            num_images_per_prompt=2,
        )
        with Probe(pipe.unet) as probe:
            plain = draw()
        with tx.record(pipe, branches=BOTH) as trace:
            assert draw().tobytes() == plain.tobytes()
        assert trace.prompts == ("a red circle", "a red circle", "blue", "blue")
        part = trace.select(branch="unconditional")
        assert part.prompts == ("left", "left", "blue left of", "blue left of")
        assert_right_maps(part, probe, first_half)
        words: list[Words] = [{"left": (1,)}, {"left": (1,)}, NEGATIVE, NEGATIVE]
        for image, each in enumerate(words):
            assert_right_heat(part, probe, first_half, each, image=image)

    def test_one_for_all_prompts_of_a_batch(self) -> None:
        pipe = make_pipeline()
        draw = runner(pipe, prompt=["a red circle", "blue"], negative_prompt=["blue left of"] * 2)
        with Probe(pipe.unet) as probe:
            draw()
        with tx.record(pipe, branches=BOTH) as trace:
            draw()
        part = trace.select(branch="unconditional")
        assert part.prompts == ("blue left of", "blue left of")
        assert_right_maps(part, probe, first_half)
        for image in (0, 1):
            assert_right_heat(part, probe, first_half, NEGATIVE, image=image)

    def test_in_sdxl(self) -> None:
        pipe = sharpened(make_sdxl())
        draw = runner(pipe, negative_prompt="blue left of")
        with Probe(pipe.unet) as probe:
            draw()
        with tx.record(pipe, branches=BOTH) as trace:
            draw()
        part = trace.select(branch="unconditional")
        assert part.prompts == ("blue left of",)
        assert_right_maps(part, probe, first_half)
        assert_right_heat(part, probe, first_half, NEGATIVE)

    def test_an_edit_of_its_branch_finds_its_words(self) -> None:
        pipe, reference = make_pipeline(), make_pipeline()
        options = {"negative_prompt": "blue left of"}
        change_attention(reference.unet, without(2, 3), first_half)
        expected = runner(reference, **options)()
        plain = runner(pipe, **options)()
        assert not np.allclose(expected, plain, atol=1e-3)
        change = edits.Drop("left of", branches="unconditional")
        with tx.edit(pipe, change):
            drawn = runner(pipe, **options)()
        assert np.allclose(drawn, expected, atol=1e-4)
        wrong = edits.Drop("circle", branches="unconditional")
        with pytest.raises(UserError, match="circle"), tx.edit(pipe, wrong):
            runner(pipe, **options)()


class TestGuidanceThatEndsEarly:
    @staticmethod
    def drawn(pipe: Any, last: int) -> Any:
        """Draws four steps, those after `last` without guidance."""

        def end(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
            if step == last:
                pipe._guidance_scale = 0.0
                inputs["prompt_embeds"] = inputs["prompt_embeds"].chunk(2)[-1]
            return inputs

        return runner(
            pipe,
            num_inference_steps=4,
            negative_prompt="blue left of",
            callback_on_step_end=end,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        )

    @pytest.mark.parametrize("steps", ["sum", "each", [(0, 1), (1, 3)], [(2, 4)]])
    @pytest.mark.parametrize("last", [0, 1])
    def test_each_branch_is_the_mean_of_the_calls_in_which_it_ran(
        self, steps: Any, last: int
    ) -> None:
        pipe = make_pipeline()
        draw = self.drawn(pipe, last)
        with Probe(pipe.unet) as probe:
            plain = draw()
        assert [len(text) for text in probe.texts] == [2 if n <= last else 1 for n in range(4)]
        with tx.record(pipe, steps=steps, branches=BOTH) as trace:
            assert draw().tobytes() == plain.tobytes()
        kept: Sequence[int] = range(4)
        if not isinstance(steps, str):
            kept = [n for n in range(4) if any(first <= n < end for first, end in steps)]
        guided = [n for n in kept if n <= last]

        def conditional(call: int, rows: int) -> range | None:
            if call not in kept:
                return None
            return second_half(call, rows) if call <= last else all_rows(call, rows)

        part = trace.select(branch="conditional")
        assert_right_maps(part, probe, conditional)
        assert_right_heat(part, probe, conditional, WORDS)
        unconditional = rows_where(first_half, lambda call: call in guided)
        if guided:
            part = trace.select(branch="unconditional")
            assert_right_maps(part, probe, unconditional)
            assert_right_heat(part, probe, unconditional, NEGATIVE)
        else:
            with pytest.raises(UserError, match="unconditional"):
                trace.select(branch="unconditional").heatmap("blue")

    def test_a_step_in_which_a_branch_did_not_run_is_told(self) -> None:
        pipe = make_pipeline()
        draw = self.drawn(pipe, 1)
        with Probe(pipe.unet) as probe:
            draw()
        with tx.record(pipe, steps="each", branches=BOTH) as trace:
            draw()
        for step in range(4):
            if step > 1:
                with pytest.raises(UserError, match="unconditional"):
                    trace.select(branch="unconditional", steps=step).heatmap("blue")
            else:
                part = trace.select(branch="unconditional", steps=step)
                rule = rows_where(first_half, step.__eq__)
                assert_right_heat(part, probe, rule, NEGATIVE)


FRAMES = 3


class TestVideo:
    """AnimateDiff: the rows are branch by branch, video by video, frame by frame."""

    @staticmethod
    def drawn(pipe: Any, **options: Any) -> Any:
        settings = {
            "prompt": "a red circle",
            "negative_prompt": "blue left of",
            "num_frames": FRAMES,
            "num_inference_steps": 2,
            "height": 64,
            "width": 64,
            "output_type": "np",
        }
        return lambda: np.asarray(pipe(generator=generator(), **(settings | options)).frames)

    @pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0}, {"width": 96}])
    def test_frame_by_frame(self, options: dict[str, Any]) -> None:
        pipe = make_animatediff()
        draw = self.drawn(pipe, **options)
        with Probe(pipe.unet) as probe:
            plain = draw()
        rule = all_rows if "guidance_scale" in options else second_half
        size = (8, options.get("width", 64) // 8)
        before, own = state_of(pipe), own_processors(pipe)
        with tx.record(pipe) as trace:
            assert own_processors(pipe) == own
            assert draw().tobytes() == plain.tobytes()
        assert state_of(pipe) == before
        assert draw().tobytes() == plain.tobytes()
        assert trace.prompts == ("a red circle",)
        assert_right_maps(trace, probe, rule, size, frames=FRAMES)
        for frame in range(FRAMES):
            assert_right_heat(trace, probe, rule, WORDS, size, row=frame, frame=frame)
        heats = [trace.heatmap("red", frame=frame).array for frame in range(FRAMES)]
        assert not np.allclose(heats[0], heats[1], atol=1e-4)
        for wrong in (FRAMES, -1):
            with pytest.raises(UserError, match="frame"):
                trace.heatmap("red", frame=wrong)

    def test_of_the_negative_prompt(self) -> None:
        pipe = make_animatediff()
        draw = self.drawn(pipe)
        with Probe(pipe.unet) as probe:
            draw()
        with tx.record(pipe, branches=BOTH) as trace:
            draw()
        part = trace.select(branch="unconditional")
        assert_right_maps(part, probe, first_half, frames=FRAMES)
        assert_right_heat(part, probe, first_half, NEGATIVE, row=1, frame=1)

    def test_several_in_a_batch(self) -> None:
        pipe = make_animatediff()
        draw = self.drawn(
            pipe,
            prompt=["a red circle", "blue left of"],
            negative_prompt=["left", "of"],
            num_frames=2,
        )
        with Probe(pipe.unet) as probe:
            plain = draw()
        with tx.record(pipe) as trace:
            assert draw().tobytes() == plain.tobytes()
        assert trace.prompts == ("a red circle", "blue left of")
        assert_right_maps(trace, probe, second_half, frames=2)
        for image, words in enumerate([WORDS, NEGATIVE]):
            for frame in (0, 1):
                row = 2 * image + frame
                assert_right_heat(
                    trace, probe, second_half, words, image=image, row=row, frame=frame
                )

    def test_an_edit_changes_the_frames_of_the_prompt_alone(self) -> None:
        pipe, reference = make_animatediff(), make_animatediff()
        change_attention(reference.unet, without(2), second_half)
        with Probe(reference.unet) as expected:
            edited = self.drawn(reference)()
        draw = self.drawn(pipe)
        with Probe(pipe.unet) as probe:
            plain = draw()
        assert not np.allclose(edited, plain, atol=1e-3)
        before = state_of(pipe)
        with tx.edit(pipe, edits.Drop("red")), tx.record(pipe) as trace:
            drawn = draw()
        assert state_of(pipe) == before
        assert np.allclose(drawn, edited, atol=1e-4)
        assert_right_maps(trace, expected, second_half, tolerance=5e-5, frames=FRAMES)
        with tx.edit(pipe, edits.Drop("red")), Probe(pipe.unet) as seen:
            draw()
        # In the first call the negative prompt's half is computed as without the edit.
        last = probe.layers[-1]
        first, changed = probe.probs[last][0], seen.probs[last][0]
        assert torch.equal(changed[:FRAMES], first[:FRAMES])
        for frame in range(FRAMES, 2 * FRAMES):
            assert not torch.allclose(changed[frame], first[frame], atol=1e-4)
        with tx.edit(pipe, lambda probs, _: probs):
            assert draw().tobytes() == plain.tobytes()


class TestSecondPrompt:
    """SDXL's `prompt_2`: its text encoder fills the other half of the channels of the same
    columns, so a word of either prompt has columns."""

    # "dog" has no merges with the tokenizer of the tests: a token each letter.
    SECOND = {"blue": (1,), "dog": (2, 3, 4), "of": (5,)}  # noqa: RUF012

    def test_words_of_both_can_be_asked(self) -> None:
        pipe = sharpened(make_sdxl())
        draw = runner(pipe, prompt_2="blue dog of")
        with Probe(pipe.unet) as probe:
            plain = draw()
        assert pipe.tokenizer_2("blue dog of").input_ids[2:5] == [
            pipe.tokenizer_2.convert_tokens_to_ids(token) for token in ("d", "o", "g</w>")
        ]
        with tx.record(pipe) as trace:
            assert draw().tobytes() == plain.tobytes()
        assert trace.prompts[0] == "a red circle"
        assert_right_maps(trace, probe, second_half)
        assert_right_heat(trace, probe, second_half, {**WORDS, **self.SECOND})
        with pytest.raises(UserError):
            trace.heatmap("left")

    def test_one_that_is_the_first_adds_no_words(self) -> None:
        pipe = sharpened(make_sdxl())
        with tx.record(pipe) as trace:
            runner(pipe, prompt_2="a red circle")()
        assert [word.text for word in trace.words] == ["a", "red", "circle"]

    def test_an_edit_finds_its_words(self) -> None:
        def change(probs: torch.Tensor) -> torch.Tensor:
            return without(*self.SECOND["dog"])(probs)

        assert_edited(edits.Drop("dog"), change, second_half, prompt_2="blue dog of")


def assert_edited(edit: Any, change: Change, rule: Rule, **options: Any) -> None:
    """SDXL's picture under an edit is the one that the processors of the test make."""
    pipe, reference = sharpened(make_sdxl()), sharpened(make_sdxl())
    change_attention(reference.unet, change, rule)
    expected = runner(reference, **options)()
    plain = runner(pipe, **options)()
    assert not np.allclose(expected, plain, atol=1e-3)
    with tx.edit(pipe, edit):
        drawn = runner(pipe, **options)()
    assert np.allclose(drawn, expected, atol=1e-4)


SWAP = ["a red circle", "a blue circle"]


@pytest.mark.parametrize("make", [make_pipeline, lambda: sharpened(make_sdxl())], ids=["SD", "XL"])
class TestPromptToPrompt:
    @staticmethod
    def drawn(pipe: Any, seeds: list[int], each: int = 1, steps: int = 3) -> np.ndarray:
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        images: np.ndarray = pipe(
            SWAP,
            generator=noise,
            num_images_per_prompt=each,
            num_inference_steps=steps,
            output_type="np",
        ).images
        return images

    def test_the_target_gets_the_maps_of_the_source(self, make: Any) -> None:
        pipe = make()
        with Probe(pipe.unet) as probe:
            plain = self.drawn(pipe, [0, 0], steps=1)
        with tx.edit(pipe, edits.Replace()), tx.record(pipe) as trace:
            drawn = self.drawn(pipe, [0, 0], steps=1)
        assert drawn[0].tobytes() == plain[0].tobytes()
        assert not np.allclose(drawn[1], plain[1], atol=1e-3)
        # Where nothing has moved yet, the maps before the edit are those of a plain run.
        layer = probe.layers[0]
        before = probe.mean(layer, second_half)
        assert np.abs(trace.maps[layer].reshape(before.shape) - before).max() < EXACT
        edited = trace.to_numpy("edited")
        for layer in probe.layers:
            # Both prompts have the same tokens but one, in the same columns.
            source = trace.maps[layer][0]
            assert np.abs(edited[layer][1].reshape(source.shape) - source).max() < EXACT
            assert np.abs(edited[layer][0].reshape(source.shape) - source).max() < EXACT

    def test_several_pictures_of_each(self, make: Any) -> None:
        """Seeds 0 1 0 1: each target takes its source's maps, or it is told that it does not."""
        pipe = make()
        plain = self.drawn(pipe, [0, 1, 0, 1], each=2)
        pairs = []
        for seed in (0, 1):
            with tx.edit(pipe, edits.Replace()):
                pairs.append(self.drawn(pipe, [seed, seed]))

        def edited() -> np.ndarray:
            with tx.edit(pipe, edits.Replace()):
                return self.drawn(pipe, [0, 1, 0, 1], each=2)

        drawn, refusal = attempt(edited)
        if drawn is None:
            assert refusal is not None
            return
        for seed in (0, 1):
            assert drawn[seed].tobytes() == plain[seed].tobytes()
            assert np.allclose(drawn[seed], pairs[seed][0], atol=1e-4)
            assert np.allclose(drawn[2 + seed], pairs[seed][1], atol=1e-4)
            assert not np.allclose(drawn[2 + seed], plain[2 + seed], atol=1e-3)

    def test_a_word_is_dropped_in_all_of_them(self, make: Any) -> None:
        pipe = make()
        plain = self.drawn(pipe, [0, 1, 0, 1], each=2)
        with tx.edit(pipe, edits.Drop("circle")), tx.record(pipe) as trace:
            drawn = self.drawn(pipe, [0, 1, 0, 1], each=2)
        for image in range(4):
            assert not np.allclose(drawn[image], plain[image], atol=1e-3)
            alone = image // 2, image % 2
            with tx.edit(pipe, edits.Drop("circle")):
                expected = self.drawn(pipe, [alone[1]] * 2)[alone[0]]
            assert np.allclose(drawn[image], expected, atol=1e-4)
        assert trace.prompts == (SWAP[0], SWAP[0], SWAP[1], SWAP[1])
        for image in range(4):
            heat = trace.heatmap("circle", image=image, stream="edited").array
            assert np.abs(heat).max() == 0


def test_pictures_of_a_batch_have_maps_of_their_own() -> None:
    """A map of one picture that is given for another's is noticed."""
    pipe = make_pipeline()
    draw = runner(pipe, prompt=["a red circle", "a red circle"])
    with Probe(pipe.unet) as probe:
        draw()
    with tx.record(pipe) as trace:
        draw()
    assert_right_maps(trace, probe, second_half)
    one, two = (
        trace.heatmap("red", image=image, aggregate=mean_over_sites).array for image in (0, 1)
    )
    assert np.abs(one - right_heat(probe, second_half, (2,), row=0)).max() < EXACT
    assert np.abs(two - right_heat(probe, second_half, (2,), row=1)).max() < EXACT
    assert not np.allclose(one, two, atol=1e-4)
