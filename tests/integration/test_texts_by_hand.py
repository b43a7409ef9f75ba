"""Embeddings that somebody makes of what the text encoders give (long prompts in chunks, weighted
words, two encoders): their words are known by what the encoders were given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import t2i_xattn as tx
from tiny_pipelines import make_sdxl

LONG = "a red circle " * 30 + "left of a blue square"
OPTIONS: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent"}


def chunks(tokenizer: Any, prompt: str) -> list[list[int]]:
    ids = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    each = tokenizer.model_max_length - 2
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    found = [[start, *ids[n : n + each], end] for n in range(0, max(1, len(ids)), each)]
    found[-1] += [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(found[-1]))
    return found


@torch.no_grad()
def in_chunks(pipe: Any, prompt: str, count: int) -> Tensor:
    parts = chunks(pipe.tokenizer, prompt)
    parts += chunks(pipe.tokenizer, "") * (count - len(parts))
    states = [pipe.text_encoder(torch.tensor([each])).last_hidden_state for each in parts]
    return torch.cat(states, dim=1)


def decoded(pipe: Any, trace: tx.Trace, prompt: str) -> list[str]:
    """What stands in the columns of each word, by the tokens of its chunks."""
    ids = [one for part in chunks(pipe.tokenizer, prompt) for one in part]
    return [
        pipe.tokenizer.decode([ids[column] for column in word.columns]).strip()
        for word in trace.words
    ]


@pytest.mark.parametrize("guided", [True, False])
def test_a_long_prompt_in_chunks(pipe: Any, guided: bool) -> None:
    with tx.record(pipe) as trace:
        embeds = in_chunks(pipe, LONG, 2)
        more = {"negative_prompt_embeds": in_chunks(pipe, "green", 2)} if guided else {}
        scale = 5.0 if guided else 1.0
        pipe(prompt_embeds=embeds, guidance_scale=scale, **more, **OPTIONS)
    assert [word.text for word in trace.words] == LONG.split()
    assert decoded(pipe, trace, LONG) == LONG.split()
    assert trace.words[-1].columns[0] > 77
    assert trace.heatmap("blue square").share > 0
    if guided:
        with tx.record(pipe, branches="unconditional") as trace:
            embeds = in_chunks(pipe, LONG, 2)
            more = {"negative_prompt_embeds": in_chunks(pipe, "green", 2)}
            pipe(prompt_embeds=embeds, **more, **OPTIONS)
        assert [word.text for word in trace.words] == ["green"]


def test_weighted_words(pipe: Any) -> None:
    """A column that was changed is known by its neighbours."""
    prompt = "a red circle left of a blue square"
    with tx.record(pipe) as trace:
        embeds = in_chunks(pipe, prompt, 1)
        negative = in_chunks(pipe, "", 1)
        embeds[:, 2] *= 1.4
        pipe(prompt_embeds=embeds, negative_prompt_embeds=negative, **OPTIONS)
    assert [word.text for word in trace.words] == prompt.split()
    assert decoded(pipe, trace, prompt) == prompt.split()


def test_two_prompts_keep_each_their_words(pipe: Any) -> None:
    prompts = ["a red circle", "a red square left of a cat"]
    with tx.record(pipe) as trace:
        embeds = torch.cat([in_chunks(pipe, each, 1) for each in prompts])
        negative = in_chunks(pipe, "", 1).expand(2, -1, -1)
        pipe(prompt_embeds=embeds, negative_prompt_embeds=negative, **OPTIONS)
    for image, prompt in enumerate(prompts):
        words = trace.run.words["conditional"][image]
        assert [word.text for word in words] == prompt.split()


def test_sdxl_by_both_encoders() -> None:
    pipe = make_sdxl()
    with tx.record(pipe) as trace, torch.no_grad():
        states, pooled = [], None
        for end in ("", "_2"):
            tokenizer, encoder = (getattr(pipe, n + end) for n in ("tokenizer", "text_encoder"))
            ids = torch.tensor(chunks(tokenizer, "a red circle"))
            output = encoder(ids, output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = output[0]
        embeds = torch.cat(states, dim=-1)
        pipe(
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            negative_prompt_embeds=torch.zeros_like(embeds),
            negative_pooled_prompt_embeds=torch.zeros_like(pooled),  # type: ignore[arg-type]
            **OPTIONS,
        )
    assert [word.text for word in trace.words] == ["a", "red", "circle"]
    assert decoded(pipe, trace, "a red circle") == ["a", "red", "circle"]
