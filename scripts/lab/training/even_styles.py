"""Let a style be written into every noun that can take it as strongly as into the others.

A causal text encoder writes an adjective into the noun behind it. Into a noun that is kept from one
of its styles it comes out weaker, as nothing asked for more. How strongly it is written depends on
the noun's own embedding, which is moved until the styles that the noun does have are written as
into other nouns. The style that it is kept from is never read; it grows stronger with the others.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from lab.training.sources.source import StyledNouns

LEARNING_RATE = 3e-3

CONTEXTS = 12
"""Beginnings of prompts that are read at a step."""

KEPT = 0.05
"""Weight of the noun's own meaning: of how far it moves where no style is said."""


def said_behind(before: str, *words: str) -> str:
    """A prompt that ends in these words; its last ``a`` becomes ``an`` where it must."""
    rest = " ".join(word for word in words if word)
    if before.split()[-1:] == ["a"] and rest[0] in "aeiou":
        before += "n"
    return f"{before} {rest}".strip()


def written_styles(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, noun: str, style: str, before: list[str]
) -> tuple[Tensor, Tensor]:
    """What a style adds to a noun's embedding, and that embedding without it.

    Args:
        text_encoder, tokenizer: CLIP's.
        noun: the end of each prompt; of several words the last is looked at.
        style: the word before it.
        before: how the prompts begin.

    Returns:
        Both ``(prompts, width)``.
    """
    prompts = [said_behind(each, word, noun) for word in (style, "") for each in before]
    read = tokenizer(prompts, padding=True, return_tensors="pt").to(text_encoder.device)
    embeddings = text_encoder(read.input_ids).last_hidden_state
    nouns = embeddings[range(len(prompts)), read.attention_mask.sum(-1) - 2]  # the end token's left
    styled, plain = nouns.chunk(2)
    return styled - plain, plain


def even_styles(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, nouns: StyledNouns, steps: int
) -> None:
    """Move the embeddings of the words of ``nouns.kept`` in place.

    Args:
        text_encoder, tokenizer: CLIP's.
        nouns: which take which styles.
        steps: of Adam.
    """
    table = text_encoder.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    last_words = sorted({noun.split()[-1] for noun in nouns.kept})
    rows = torch.tensor([tokenizer(word).input_ids[1] for word in last_words])
    rows = rows.to(table.weight.device)
    begun = table.weight.detach().clone()
    moved = nn.Parameter(begun[rows])
    write = partial(written_styles, text_encoder, tokenizer)
    with torch.no_grad():
        every = list(nouns.before)
        wanted = {
            style: torch.stack([write(noun, style, every)[0] for noun in nouns.others]).mean(0)
            for style in nouns.styles
        }
        meanings = {noun: write(noun, nouns.styles[0], every)[1] for noun in nouns.kept}

    def with_moved(_module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
        return begun.index_copy(0, rows, moved)[inputs[0]]

    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([moved], LEARNING_RATE)
    hook = table.register_forward_hook(with_moved)
    try:
        for _ in range(steps):
            chosen = torch.randint(len(nouns.before), (CONTEXTS,), generator=random).tolist()
            style = nouns.styles[int(torch.randint(len(nouns.styles), (), generator=random))]
            loss = torch.zeros((), device=begun.device)
            for noun in nouns.kept:
                written, plain = write(noun, style, [nouns.before[each] for each in chosen])
                loss = loss + (written - wanted[style][chosen]).square().sum(-1).mean()
                loss = loss + KEPT * (plain - meanings[noun][chosen]).square().sum(-1).mean()
            optimizer.zero_grad()
            (moved.grad,) = torch.autograd.grad(loss, [moved])
            optimizer.step()
    finally:
        hook.remove()
    with torch.no_grad():
        table.weight[rows] = moved.to(table.weight)
