"""What is heard of a pipeline's texts, whatever it makes of them before it encodes them."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from conftest import make_pipeline, state_of
from t2i_xattn import record
from t2i_xattn.errors import UserError, WordNotFoundError
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.listening import Ears, can_listen
from tiny_pipelines import make_sdxl, of_class, runner

Draw = Callable[..., np.ndarray]


class Listening:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.runs = 0
        self.heard_times = 0

    def run_again(self) -> None:
        self.runs += 1

    def heard(self) -> None:
        self.heard_times += 1


@contextmanager
def listening(pipe: Any, listener: Any = None) -> Iterator[Ears]:
    """The pipeline's ears, which keep what was heard last."""
    ears, listener = Ears.of(pipe), listener or Listening()
    ears.join(listener)
    try:
        yield ears
    finally:
        heard = ears.texts
        ears.leave(listener)
        assert not ears.texts
        ears.texts = heard


def of_role(ears: Ears, role: str | None = "conditional") -> list[Text]:
    return [text for text in ears.texts if text.role == role]


def words_of(text: Text) -> list[tuple[str, tuple[int, ...]]]:
    return [(word.text, word.columns) for word in text.words]


class TestEncodePrompt:
    def test_by_position_and_by_name(self, pipe: Any) -> None:
        with listening(pipe) as ears:
            pipe.encode_prompt("red", "cpu", 2, False)
            first, guided, copies = list(ears.texts), ears.guided, ears.copies
            pipe.encode_prompt(
                device="cpu",
                prompt=["red", "a cat"],
                do_classifier_free_guidance=True,
                num_images_per_prompt=1,
                negative_prompt=["blue", "left of"],
            )
            second = ears.texts[len(first) :]
            assert (guided, ears.guided) == (False, True)
            assert (copies, ears.copies) == (2, 1)
        assert [(each.role, each.picture, each.prompt) for each in first] == [
            ("conditional", 0, "red"),
            ("conditional", 1, "red"),
        ]
        assert [(each.role, each.picture, each.prompt) for each in second] == [
            ("conditional", 0, "red"),
            ("conditional", 1, "a cat"),
            ("unconditional", 0, "blue"),
            ("unconditional", 1, "left of"),
        ]
        assert [words_of(each) for each in second] == [
            [("red", (1,))],
            [("a", (1,)), ("cat", (2, 3, 4))],
            [("blue", (1,))],
            [("left", (1,)), ("of", (2,))],
        ]
        assert second[2].tokens == ("<|startoftext|>", "blue", "<|endoftext|>")

    def test_embeddings_are_those_that_the_denoiser_is_given(self, pipe: Any) -> None:
        with listening(pipe) as ears:
            text, negative = pipe.encode_prompt(["red", "a cat"], "cpu", 1, True)
        for role, given in (("conditional", text), ("unconditional", negative)):
            for found, expected in zip(of_role(ears, role), given, strict=True):
                assert torch.equal(found.embedding, expected)

    def test_embeddings_win_over_text(self, pipe: Any) -> None:
        with listening(pipe) as ears:
            pipe.encode_prompt("red", "cpu", 2, False, prompt_embeds=torch.zeros(2, 77, 32))
        assert [each.picture for each in ears.texts] == [0, 1, 2, 3]
        for each in ears.texts:
            assert (each.prompt, each.words, each.ids) == (None, (), None)

    def test_what_is_raised_stops_the_encoding(self, pipe: Any) -> None:
        class Refusing(Listening):
            def heard(self) -> None:
                raise RuntimeError("no")

        before = state_of(pipe)
        with pytest.raises(RuntimeError, match="no"), listening(pipe, Refusing()):
            pipe.encode_prompt("red", "cpu", 1, False)
        assert state_of(pipe) == before

    def test_several_vectors_of_a_textual_inversion(self, pipe: Any) -> None:
        """diffusers writes the further vectors into the prompt, which moves the columns after
        it."""
        pipe.tokenizer.add_tokens(["<toy>", "<toy>_1"])
        pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
        with listening(pipe) as ears:
            pipe.encode_prompt("a <toy> red", "cpu", 1, False)
        assert ears.texts[0].prompt == "a <toy> <toy>_1 red"
        assert words_of(ears.texts[0])[-1] == ("red", (4,))

    def test_the_older_name(self) -> None:
        """InstructPix2Pix: one tensor of prompts, negative prompts, and these once more."""
        pipe = of_class("StableDiffusionInstructPix2PixPipeline", image_encoder=None)
        with listening(pipe) as ears:
            found = pipe._encode_prompt(["a red circle", "blue"], "cpu", 1, True, ["left", "of"])
        assert [(each.role, each.picture, each.prompt) for each in ears.texts] == [
            ("conditional", 0, "a red circle"),
            ("conditional", 1, "blue"),
            ("unconditional", 0, "left"),
            ("unconditional", 1, "of"),
        ]
        for row, each in enumerate(ears.texts):
            assert torch.equal(each.embedding, found[row])
        assert not {"_encode_prompt"} & set(vars(pipe))

    def test_a_tensor_of_an_encoder_that_is_not_heard(self, pipe: Any) -> None:
        """Negative prompts come first, as in the pipelines of old."""
        _, negative = pipe.encode_prompt("red", "cpu", 1, True, "blue")
        text, _ = pipe.encode_prompt("red", "cpu", 1, True)

        class Older:
            tokenizer = pipe.tokenizer

            def _encode_prompt(self, prompt: str, num_images_per_prompt: int = 1) -> Tensor:
                return torch.cat([negative, text])

        older = Older()
        with listening(older) as ears:
            older._encode_prompt("red")
        assert [(each.role, each.prompt) for each in ears.texts] == [
            ("conditional", "red"),
            ("unconditional", None),
        ]
        assert torch.equal(ears.texts[0].embedding, text[0])
        assert words_of(ears.texts[0]) == [("red", (1,))]
        assert not vars(older)

    def test_pipelines_without_a_prompt(self) -> None:
        class Other:
            def encode_prompt(self, image: Any) -> None: ...

        other, listener = Other(), Listening()
        assert not can_listen(other)
        assert not can_listen(object())
        with listening(other, listener) as ears:
            assert not vars(other)
            other.encode_prompt(1)
        assert not ears.texts
        assert not listener.heard_times

    def test_a_signature_of_somebody_else_s_cover(self, pipe: Any) -> None:
        """Bare arguments are named by the class's method."""
        method = pipe.encode_prompt
        pipe.encode_prompt = lambda *args, **kwargs: method(*args, **kwargs)
        with listening(pipe) as ears:
            pipe.encode_prompt("red", "cpu", 1, False)
        assert [each.prompt for each in ears.texts] == ["red"]


class Weighted(StableDiffusionPipeline):
    """A pipeline that reads weights off the prompt before it is tokenized, as many of the
    community's do, and scales the embeddings by them."""

    def encode_prompt(self, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        if prompt is None:
            return super().encode_prompt(prompt, *args, **kwargs)
        text = [prompt] if isinstance(prompt, str) else prompt
        weights = [[float(each) for each in re.findall(r":([\d.]+)\)", one)] for one in text]
        plain = [re.sub(r"\(([^:()]*):[\d.]+\)", r"\1", one) for one in text]
        embeds, negative = super().encode_prompt(plain, *args, **kwargs)
        scale = torch.tensor([np.prod(each) if each else 1.0 for each in weights])
        copies = len(embeds) // len(plain)
        scale = scale.repeat_interleave(copies)[:, None, None].to(embeds)
        return embeds * scale, negative


class Chunked(StableDiffusionPipeline):
    """A pipeline for prompts of any length, in chunks of the encoder's window."""

    middle = True
    """Whether the start and end tokens of each chunk stay."""

    def encode_prompt(
        self,
        prompt: Any,
        device: Any,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: Any = None,
        **more: Any,
    ) -> tuple[Tensor, Tensor | None]:
        tokens = [self.tokenizer(each).input_ids[1:-1] for each in (prompt, negative_prompt or "")]
        count = max(1, -(-max(map(len, tokens)) // 75))
        found = [self._chunks(each, count) for each in tokens]
        return found[0], found[1] if do_classifier_free_guidance else None

    def _chunks(self, ids: list[int], count: int) -> Tensor:
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        parts = []
        for chunk in range(count):
            own = ids[75 * chunk : 75 * (chunk + 1)]
            whole = [start, *own, *[end] * (76 - len(own))]
            state = self.text_encoder(torch.tensor([whole]))[0]
            first, last = 0 if chunk == 0 else 1, 77 if chunk == count - 1 else 76
            parts.append(state if self.middle else state[:, first:last])
        return torch.cat(parts, dim=1)


class Skipping(StableDiffusionPipeline):
    """A pipeline with a setting of how its prompts are encoded."""

    def encode_prompt(
        self,
        prompt: Any,
        device: Any,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        clip_skip: int | None = None,
    ) -> Any:
        made = super().encode_prompt(
            prompt, device, num_images_per_prompt, do_classifier_free_guidance
        )
        return made[0] + (clip_skip or 0), made[1]


def of(kind: type, pipe: Any) -> Any:
    made = kind(**pipe.components, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


class TestWhatAPipelineMakesOfIt:
    def test_weights(self, pipe: Any, draw: Draw) -> None:
        """Words are found in the columns where they stand without their weights."""
        weighted = of(Weighted, pipe)
        plain = draw(weighted, "a (red:1.5) circle, (Blue:0.5)")
        with record(weighted) as trace:
            drawn = draw(weighted, "a (red:1.5) circle, (Blue:0.5)")
        assert drawn.tobytes() == plain.tobytes()
        assert trace.prompts == ("a (red:1.5) circle, (Blue:0.5)",)
        assert [(word.text, word.columns) for word in trace.words] == [
            ("a", (1,)),
            ("red", (2,)),
            ("circle", (3,)),
            ("Blue", (5,)),
        ]
        found, expected = trace.heatmap("blue"), trace.heatmap(columns=[5])
        assert (found.array == expected.array).all()
        with pytest.raises(WordNotFoundError, match="'1' is not in the prompt"):
            trace.heatmap("1")

    def test_weights_of_several_prompts_and_pictures(self, pipe: Any) -> None:
        weighted = of(Weighted, pipe)
        with listening(weighted) as ears:
            weighted.encode_prompt(["(red:2) blue", "blue (red:2)"], "cpu", 2, True)
        assert [[word.columns for word in each.words] for each in of_role(ears)] == [
            [(1,), (2,)]
        ] * 4
        assert [words_of(each)[0][0] for each in of_role(ears)] == ["red", "red", "blue", "blue"]

    @pytest.mark.parametrize(("middle", "red"), [(True, 78), (False, 76)])
    def test_chunks_of_a_long_prompt(
        self, pipe: Any, draw: Draw, monkeypatch: pytest.MonkeyPatch, middle: bool, red: int
    ) -> None:
        monkeypatch.setattr(Chunked, "middle", middle)
        chunked = of(Chunked, pipe)
        prompt = "a " * 74 + "left red circle, a cat"
        plain = draw(chunked, prompt, negative_prompt="blue")
        branches = ["conditional", "unconditional"]
        with record(chunked, branches=branches) as trace:
            drawn = draw(chunked, prompt, negative_prompt="blue")
        assert drawn.tobytes() == plain.tobytes()
        assert trace.prompts == (prompt,)
        assert [(word.text, word.columns) for word in trace.words[73:77]] == [
            ("a", (74,)),
            ("left", (75,)),
            ("red", (red,)),
            ("circle", (red + 1,)),
        ]
        found, expected = trace.heatmap("red circle"), trace.heatmap(columns=[red, red + 1])
        assert (found.array == expected.array).all()
        negative = trace.select(branch="unconditional")
        assert [(word.text, word.columns) for word in negative.words] == [("blue", (1,))]

    def test_a_slow_tokenizer(self, pipe: Any, draw: Draw) -> None:
        with record(pipe) as expected:
            plain = draw(pipe, "A red cat, blue")
        made = type(pipe.tokenizer)
        pipe.tokenizer.__class__ = type("Slow", (made,), {"is_fast": False})
        with record(pipe) as trace:
            assert draw(pipe, "A red cat, blue").tobytes() == plain.tobytes()
        assert trace.words == expected.words
        assert trace.tokens == expected.tokens

    def test_symbols_are_asked_for_by_their_columns(self, pipe: Any, draw: Draw) -> None:
        """And what the sentence advises works."""
        with record(pipe) as trace:
            draw(pipe, "a 🔴 red 日本")
        columns = trace.words[2].columns
        assert [word.text for word in trace.words] == ["a", "red", "日本"]
        assert (trace.heatmap("日本").array == trace.heatmap(columns=columns).array).all()
        with pytest.raises(UserError, match=r"columns=\[…\], or spans=.*; trace.tokens lists them"):
            trace.heatmap("🔴")
        found = trace.words[1].columns[0]
        assert trace.tokens[found] == "red"
        ball = list(range(2, found))
        assert len(ball) == 4  # bytes
        with record(pipe, spans={"🔴": ball}) as named:
            draw(pipe, "a 🔴 red 日本")
        assert (named.heatmap("🔴").array == trace.heatmap(columns=ball).array).all()
        with record(pipe, spans={"🔴": ball}, words=["🔴"]) as kept:
            draw(pipe, "a 🔴 red 日本")
        assert np.allclose(kept.heatmap("🔴").array, named.heatmap("🔴").array, atol=1e-7)


class TestTwoEncoders:
    """SDXL: each text in two encoders, and a second prompt for the second of them."""

    def test_one_prompt(self) -> None:
        pipe = make_sdxl()
        with listening(pipe) as ears:
            found = pipe.encode_prompt("a red circle", device="cpu", negative_prompt="blue left")
        (text,), (negative,) = of_role(ears), of_role(ears, "unconditional")
        assert torch.equal(text.embedding, found[0][0])
        assert torch.equal(negative.embedding, found[1][0])
        assert words_of(text) == [("a", (1,)), ("red", (2,)), ("circle", (3,))]
        assert words_of(negative) == [("blue", (1,)), ("left", (2,))]
        assert {word.source for word in text.words} == {"prompt"}

    def test_a_second_prompt(self) -> None:
        """Its words stand in columns of their own count, and are found after the first's."""
        pipe = make_sdxl()
        draw = runner(
            pipe, prompt_2="left of a red cat", negative_prompt="blue", negative_prompt_2="of left"
        )
        plain = draw()
        with record(pipe, branches=["conditional", "unconditional"]) as trace:
            assert draw().tobytes() == plain.tobytes()
        assert trace.prompts == ("a red circle",)
        assert [(word.text, word.columns, word.source) for word in trace.words] == [
            ("a", (1,), "prompt"),
            ("red", (2,), "prompt"),
            ("circle", (3,), "prompt"),
            ("left", (1,), "prompt_2"),
            ("of", (2,), "prompt_2"),
            ("a", (3,), "prompt_2"),
            ("red", (4,), "prompt_2"),
            ("cat", (5, 6, 7), "prompt_2"),
        ]
        for phrase, columns in (("red", [2]), ("left", [1]), ("red cat", [4, 5, 6, 7])):
            found, expected = trace.heatmap(phrase), trace.heatmap(columns=columns)
            assert (found.array == expected.array).all(), phrase
        with pytest.raises(WordNotFoundError, match="do not stand next to each other"):
            trace.heatmap("circle left")  # of two prompts
        negative = trace.select(branch="unconditional").words
        assert [(word.text, word.source) for word in negative] == [
            ("blue", "prompt"),
            ("of", "prompt_2"),
            ("left", "prompt_2"),
        ]


class TestByHand:
    def test_the_encoder_alone(self, pipe: Any) -> None:
        """Nobody says what its texts are for; the states that a pipeline may take are known."""
        ids = pipe.tokenizer(
            ["A red circle", ""], padding="max_length", return_tensors="pt"
        ).input_ids
        with listening(pipe) as ears, torch.no_grad():
            states = pipe.text_encoder(ids)[0]
            deeper = pipe.text_encoder(input_ids=ids, output_hidden_states=True)
        assert {each.role for each in ears.texts} == {None}
        assert [each.prompt for each in ears.texts[:2]] == ["a red circle", ""]
        assert words_of(ears.texts[0]) == [("a", (1,)), ("red", (2,)), ("circle", (3,))]
        assert [each.is_empty for each in ears.texts[:2]] == [False, True]
        for row, each in enumerate(ears.texts[:2]):
            assert torch.equal(each.embedding, states[row])
        for state in (deeper.last_hidden_state, *deeper.hidden_states[-2:]):
            assert any(torch.equal(each.embedding, state[0]) for each in ears.texts[2:])

    def test_a_compiled_encoder(self, pipe: Any) -> None:
        ids = pipe.tokenizer("red", padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            torch._dynamo.reset()
            pipe.text_encoder.compile(backend="eager")
            with listening(pipe) as ears:
                pipe.text_encoder(ids)
            pipe.text_encoder._compiled_call_impl = None
            pipe.text_encoder = torch.compile(pipe.text_encoder, backend="eager")
            with listening(pipe) as again:
                pipe.text_encoder(ids)
        assert [each.prompt for each in ears.texts] == ["red"]
        assert [each.prompt for each in again.texts] == ["red"]

    def test_another_pipeline_s_texts_are_not_heard(self, pipe: Any) -> None:
        """Though it has the same encoder."""
        other = of_class("StableDiffusionPipeline", pipe)
        with listening(pipe) as ears:
            other.encode_prompt("blue", "cpu", 1, False)
            assert not ears.texts
            pipe.encode_prompt("red", "cpu", 1, False)
        assert [each.prompt for each in ears.texts] == ["red"]


class TestRuns:
    def test_a_further_run_forgets_the_one_before(self, pipe: Any) -> None:
        listener = Listening()
        with listening(pipe, listener) as ears:
            for number, prompt in enumerate(("red", "blue", "left")):
                pipe(prompt, num_inference_steps=1, output_type="latent")
                ears.note_call()
                assert [each.prompt for each in of_role(ears)] == [prompt]
                assert listener.runs == ears.number == number

    def test_texts_of_a_run_that_has_not_begun_are_its_own(self, pipe: Any) -> None:
        listener = Listening()
        with listening(pipe, listener) as ears:
            for prompt in ("red", "blue"):
                pipe.encode_prompt(prompt, "cpu", 1, False)
            assert [each.prompt for each in ears.texts] == ["red", "blue"]
            ears.note_call()
            pipe.encode_prompt("left", "cpu", 1, False)
            assert [each.prompt for each in ears.texts] == ["left"]
        assert listener.runs == 1

    def test_what_a_callback_encodes_is_of_the_same_run(self, pipe: Any) -> None:
        listener = Listening()

        def encode(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            ears.note_call()  # as a follower does before the step
            pipe.encode_prompt("blue", "cpu", 1, False)
            return tensors

        with listening(pipe, listener) as ears:
            pipe("red", num_inference_steps=2, output_type="latent", callback_on_step_end=encode)
            assert [each.prompt for each in of_role(ears)] == ["red", "blue", "blue"]
        assert not listener.runs

    def test_one_pair_of_ears_for_all_who_listen(self, pipe: Any) -> None:
        before = state_of(pipe)
        first, second = Listening(), Listening()
        ears = Ears.of(pipe)
        ears.join(first)
        assert Ears.of(pipe) is ears
        ears.join(second)
        pipe.encode_prompt("red", "cpu", 1, False)
        ears.leave(first)
        ears.leave(first)
        pipe.encode_prompt("blue", "cpu", 1, False)
        ears.leave(second)
        pipe.encode_prompt("left", "cpu", 1, False)
        assert (first.heard_times, second.heard_times) == (1, 2)
        assert state_of(pipe) == before
        assert not ears.texts
        assert Ears.of(pipe) is not ears

    def test_threads_do_not_hear_each_other_s_encoder(self) -> None:
        """Of two pipelines that share it."""
        one = make_pipeline()
        other = of_class("StableDiffusionPipeline", one)
        found: dict[str, list[str | None]] = {}
        start = threading.Barrier(2)

        def hear(pipe: Any, prompt: str) -> None:
            with listening(pipe) as ears:
                start.wait(30)
                for _ in range(20):
                    pipe.encode_prompt(prompt, "cpu", 1, False)
                found[prompt] = [each.prompt for each in ears.texts]
                start.wait(30)

        threads = [
            threading.Thread(target=hear, args=given) for given in ((one, "red"), (other, "blue"))
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
        assert found == {"red": ["red"] * 20, "blue": ["blue"] * 20}

    def test_a_pipeline_that_is_gone_is_forgotten(self) -> None:
        pipe = make_pipeline()
        with listening(pipe):
            pass
        from t2i_xattn.prompts import listening as module

        assert id(pipe) not in module._ears
        del pipe
        gc.collect()


class TestEncodingOtherTexts:
    def test_as_the_pipeline_s_own(self, pipe: Any) -> None:
        listener = Listening()
        with torch.no_grad():
            expected = pipe.encode_prompt(["red", "a cat"], "cpu", 1, False)[0]
        with listening(pipe, listener) as ears:
            found = [ears.encode(each) for each in ("red", "a cat")]
            assert not ears.texts
        assert [[word.text for word in each.words] for each in found] == [["red"], ["a", "cat"]]
        for text, row in zip(found, expected, strict=True):
            assert torch.allclose(text.embedding, row, rtol=0, atol=1e-6)
        assert not listener.heard_times

    def test_with_the_settings_of_the_run(self, pipe: Any) -> None:
        skipping = of(Skipping, pipe)
        with listening(skipping) as ears:
            skipping.encode_prompt("blue", "cpu", 1, False, clip_skip=1)
            found = ears.encode("red").embedding
        with torch.no_grad():
            skipped, _ = skipping.encode_prompt("red", "cpu", 1, False, clip_skip=1)
            plain, _ = skipping.encode_prompt("red", "cpu", 1, False)
        assert torch.equal(found, skipped[0])
        assert not torch.equal(found, plain[0])

    def test_mistakes(self) -> None:
        with pytest.raises(UserError, match="with `encode_prompt` to encode other texts with"):
            Ears.of(object()).encode("red")
