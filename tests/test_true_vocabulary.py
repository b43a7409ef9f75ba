"""Words with CLIP's own vocabulary of 49,408 tokens, whose merges lie in a wheel."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import t2i_xattn as tx
from conftest import _byte_alphabet, make_pipeline

PROMPTS = [
    "a photo of a cat",
    "A hyper-realistic t-shirt, don't you think? (octane render:1.4)",
    "Fjällräven rucksack beside crème brûlée, naïve café",
    "antidisestablishmentarianism and floccinaucinihilipilification",
    "a 4k, 35mm photograph of R2-D2 in 1977!!! #retro @night",
    "красный круг слева от синего квадрата",
    "赤い丸と青い四角 🐱‍👤 next to 猫",
]


@cache
def true_clip() -> CLIPTokenizer:
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel of open_clip_torch is not there: make .venv/.ready installs it")
    (folder,) = spec.submodule_search_locations
    packed = (Path(folder) / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    alphabet = _byte_alphabet()
    tokens = alphabet + [f"{each}</w>" for each in alphabet]
    tokens += ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def test_it_is_the_vocabulary() -> None:
    tokenizer = true_clip()
    assert len(tokenizer) == 49408
    found = tokenizer("a photo of a cat")["input_ids"]
    assert found == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_columns_decode_to_their_words(prompt: str) -> None:
    tokenizer = true_clip()
    pipe = make_pipeline()
    pipe.tokenizer = tokenizer
    pipe.text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    with tx.record(pipe) as trace:
        pipe(prompt, num_inference_steps=1, output_type="np")
    ids = tokenizer(prompt)["input_ids"]
    assert trace.words
    for word in trace.words:
        read = tokenizer.decode([ids[column] for column in word.columns])
        assert read.strip().replace(" ", "") == word.text.lower().replace(" ", "")
        assert prompt[word.start : word.stop] == word.text
