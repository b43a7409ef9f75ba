"""A text encoder that reads with gaps while a denoiser learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from lab.training.reading_dropout import reading_dropout

IDS = torch.tensor([[0, 5, 6, 7]])


@pytest.fixture
def encoder() -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=10, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=8, eos_token_id=9,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


@torch.no_grad()
def _read(encoder: CLIPTextModel) -> Tensor:
    return encoder(IDS).last_hidden_state[0]


def test_what_is_dropped_is_a_function_of_the_seed(encoder: CLIPTextModel) -> None:
    whole = _read(encoder)
    torch.manual_seed(3)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    seen = []
    for seed in (1, 1, 2):
        with reading_dropout(encoder, 0.5, seed):
            seen.append(_read(encoder))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], whole)
    # Neither the encoder nor the randomness of others is changed.
    assert torch.equal(_read(encoder), whole)
    assert torch.equal(torch.rand(2), drawn)


def test_no_share_drops_nothing_and_a_mistake_within_leaves_no_gaps(
    encoder: CLIPTextModel,
) -> None:
    whole = _read(encoder)
    with reading_dropout(encoder, 0.0, 1):
        assert torch.equal(_read(encoder), whole)
    with pytest.raises(RuntimeError), reading_dropout(encoder, 0.5, 1):
        raise RuntimeError
    assert torch.equal(_read(encoder), whole)
    assert not any(each.training for each in encoder.modules())
