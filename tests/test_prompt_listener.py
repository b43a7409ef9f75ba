from __future__ import annotations

from typing import Any

import pytest
import torch

from t2i_xattn.prompts.listening import EncodedPrompts, can_listen, listen


@pytest.fixture
def heard() -> list[EncodedPrompts]:
    return []


def test_prompts_by_position_and_by_name(pipe: Any, heard: list[EncodedPrompts]) -> None:
    with listen(pipe, heard.append):
        pipe.encode_prompt("red", "cpu", 2, False)
        pipe.encode_prompt(
            device="cpu",
            prompt=["red", "a cat"],
            do_classifier_free_guidance=True,
            num_images_per_prompt=1,
        )
    assert [encoded.prompts for encoded in heard] == [("red", "red"), ("red", "a cat")]
    assert [encoded.guided for encoded in heard] == [False, True]
    assert [word.text for word in heard[1].words[1]] == ["a", "cat"]


def test_embeddings_win_over_text(pipe: Any, heard: list[EncodedPrompts]) -> None:
    with listen(pipe, heard.append):
        pipe.encode_prompt(None, "cpu", 2, False, prompt_embeds=torch.zeros(2, 77, 32))
    assert heard[0].prompts == (None,) * 4
    assert heard[0].words == ((),) * 4


def test_what_is_raised_stops_the_encoding(pipe: Any) -> None:
    def refuse(_: EncodedPrompts) -> None:
        raise RuntimeError("no")

    with listen(pipe, refuse), pytest.raises(RuntimeError, match="no"):
        pipe.encode_prompt("red", "cpu", 1, False)
    assert "encode_prompt" not in vars(pipe)


def test_several_vectors_of_a_textual_inversion(pipe: Any, heard: list[EncodedPrompts]) -> None:
    """diffusers writes the further vectors into the prompt, which moves the columns after it."""
    pipe.tokenizer.add_tokens(["<toy>", "<toy>_1"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    with listen(pipe, heard.append):
        pipe.encode_prompt("a <toy> red", "cpu", 1, False)
    assert heard[0].prompts == ("a <toy> <toy>_1 red",)
    red = heard[0].words[0][-1]
    assert (red.text, red.columns) == ("red", (4,))


def test_pipelines_without_a_prompt(heard: list[EncodedPrompts]) -> None:
    class Other:
        def encode_prompt(self, image: Any) -> None: ...

    other = Other()
    assert not can_listen(other)
    assert not can_listen(object())
    with listen(other, heard.append):
        assert not vars(other)
        other.encode_prompt(1)
    assert not heard


def test_the_older_name(heard: list[EncodedPrompts], pipe: Any) -> None:
    class Older:
        tokenizer = pipe.tokenizer

        def _encode_prompt(self, prompt: str, num_images_per_prompt: int = 1) -> str:
            return prompt.upper()

    older = Older()
    with listen(older, heard.append):
        assert older._encode_prompt("red") == "RED"
    assert heard[0].prompts == ("red",)
    assert not vars(older)
