"""A style is written into nouns alike, also into those that are kept from another style."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from lab.scenes.world import world_language
from lab.training.even_styles import even_styles, said_behind, written_styles
from lab.training.recipe import load_recipe
from lab.training.sources import ShapeScenes, WorldScenes
from lab.training.sources.source import StyledNouns
from lab.training.sources.styled_places import styled_places
from lab.training.text import new_text_encoder, source_tokenizer

RECIPE = Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "world.toml"


@pytest.fixture
def tokenizer() -> CLIPTokenizer:
    return source_tokenizer("world")


@pytest.fixture
def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    torch.manual_seed(0)
    return new_text_encoder(load_recipe(RECIPE), tokenizer).eval()


@pytest.fixture
def nouns() -> StyledNouns:
    """Some of them, which is quicker."""
    every = styled_places()
    return dataclasses.replace(every, others=every.others[::4], before=every.before[:5])


def _miss(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, nouns: StyledNouns) -> float:
    """How far off what the styles add to the kept nouns is from what they add to the others."""
    before = list(nouns.before)
    misses = []
    with torch.no_grad():
        for style in nouns.styles:
            written = {
                noun: written_styles(text_encoder, tokenizer, noun, style, before)[0]
                for noun in (*nouns.kept, *nouns.others)
            }
            wanted = torch.stack([written[noun] for noun in nouns.others]).mean(0)
            misses += [(written[noun] - wanted).norm() / wanted.norm() for noun in nouns.kept]
    return float(torch.stack(misses).mean())


def test_only_the_kept_nouns_move_and_styles_are_written_into_them_more_alike(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, nouns: StyledNouns
) -> None:
    before, missed = text_encoder.state_dict(), _miss(text_encoder, tokenizer, nouns)
    before = {name: each.clone() for name, each in before.items()}
    even_styles(text_encoder, tokenizer, nouns, 20)
    changed = {
        name
        for name, each in text_encoder.state_dict().items()
        if not torch.equal(each, before[name])
    }
    assert len(changed) == 1
    (table,) = changed
    rows = (text_encoder.state_dict()[table] != before[table]).any(1).nonzero()[:, 0].tolist()
    assert sorted(rows) == sorted(tokenizer(noun).input_ids[1] for noun in nouns.kept)
    assert _miss(text_encoder, tokenizer, nouns) < 0.9 * missed
    assert all(each.grad is None for each in text_encoder.parameters())


def test_the_same_twice(tokenizer: CLIPTokenizer, nouns: StyledNouns) -> None:
    moved: list[torch.Tensor] = []
    for _ in range(2):
        torch.manual_seed(0)
        one = new_text_encoder(load_recipe(RECIPE), tokenizer).eval()
        torch.manual_seed(len(moved))  # which must not matter
        even_styles(one, tokenizer, nouns, 2)
        moved.append(one.get_input_embeddings().weight)
    assert torch.equal(*moved)


def test_what_is_held_out_is_not_read() -> None:
    nouns, words = styled_places(), world_language()
    assert nouns.kept == ("village", "hamlet")
    assert {"city", "skyline"} <= set(nouns.others)
    assert set(nouns.styles) == {"old", "ancient", "medieval"}
    said = {word for each in (*nouns.before, *nouns.styles) for word in each.split()}
    assert not said & {"futuristic", "cyberpunk", "stormy", "storm"}
    assert said - {","} <= set(words.vocabulary())
    assert ShapeScenes().styled_nouns() is None
    assert WorldScenes().styled_nouns() == nouns


def test_articles_fit() -> None:
    assert said_behind("a drawing of a", "old", "hamlet") == "a drawing of an old hamlet"
    assert said_behind("a", "", "hamlet") == "a hamlet"
    assert said_behind("", "", "hamlet") == "hamlet"
    assert said_behind("dawn ,", "old", "hamlet") == "dawn , old hamlet"
