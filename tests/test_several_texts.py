"""Where the tokens of several texts stand in one sequence."""

from __future__ import annotations

import torch

from t2i_xattn.denoisers.families.several_texts import tokens_first, valid_first, with_picture
from t2i_xattn.prompts.encoded import Text

NAMES = ("encoder_hidden_states", "encoder_hidden_states_2")


def given(picture: torch.Tensor | None = None) -> dict[str, torch.Tensor | None]:
    """Two rows of a text of four tokens and one of three, with padding behind."""
    return {
        "encoder_hidden_states": torch.zeros(2, 4, 8),
        "encoder_attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]),
        "encoder_hidden_states_2": torch.zeros(2, 3, 6),
        "encoder_attention_mask_2": torch.tensor([[1, 0, 0], [0, 0, 0]]),
        "image_embeds": picture,
    }


def columns(picture: torch.Tensor | None = None) -> list[list[list[int]]]:
    return [[list(row) for row in part.columns] for part in valid_first(given(picture), NAMES)]


class TestValidFirst:
    def test_tokens_of_the_second_text_come_first_and_padding_last(self) -> None:
        first, second = columns()
        assert second == [[0, 3, 4], [4, 5, 6]]
        assert first == [[1, 2, 5, 6], [0, 1, 2, 3]]

    def test_a_given_picture_stands_in_front_of_both(self) -> None:
        assert columns(torch.ones(2, 2, 5)) == [
            [[column + 2 for column in row] for row in part] for part in columns()
        ]

    def test_zeros_in_the_place_of_a_picture_are_padding(self) -> None:
        first, second = columns(torch.zeros(2, 2, 5))
        assert second == [[0, 5, 6], [6, 7, 8]]
        assert first == [[1, 2, 7, 8], [0, 1, 2, 3]]

    def test_a_pictures_tokens_count(self) -> None:
        assert with_picture(given(), NAMES) == 7
        assert with_picture(given(torch.ones(2, 2, 5)), NAMES) == 9


def test_padding_in_front_gives_way_to_registers_behind() -> None:
    text = Text(torch.zeros(5, 3), "conditional", 0, padding=(0, 1))
    assert tokens_first(text) == [3, 4, 0, 1, 2]
