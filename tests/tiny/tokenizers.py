"""Tiny tokenizers of the real classes, made here: none of their vocabularies is at hand."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2Tokenizer, T5TokenizerFast

from conftest import _byte_alphabet

WHOLE = ["a", "red", "left", "of", "blue", "dull", "star", "▁", "."]
"""Words that are one token; all others are several."""

_OF_QWEN = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
_OF_QWEN += ["<|video_pad|>", "<think>", "</think>"]

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_t5(length: int = 32, **more: Any) -> T5TokenizerFast:
    """A SentencePiece-like unigram tokenizer: pad 0, end 1, unknown 2; no start token."""
    pieces = ["cir", "cle", "squ", "are", "gre", "en", *"abcdefghijklmnopqrstuvwxyz0123456789,'-"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    vocab += [(f"▁{word}", -1.0) for word in WHOLE[:-2]]
    vocab += [(piece, -2.0 - 0.01 * n) for n, piece in enumerate(pieces)]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=length, **more)


def _merges() -> list[tuple[str, str]]:
    """Those that make a few pieces, letter by letter."""
    merges = []
    for piece in ("Ġred", "Ġleft", "Ġof", "Ġblue", "Ġa", "Ġcir", "Ġsqu", "cle", "are", "Ġdull"):
        for end in range(1, len(piece)):
            merges.append((piece[:end], piece[end]))
    return list(dict.fromkeys(merges))


def byte_level_bpe() -> Tokenizer:
    """GPT-2's scheme: every byte a token, and some words with the space before them."""
    merges = _merges()
    tokens = dict.fromkeys([*_byte_alphabet(), *("".join(merge) for merge in merges)])
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def make_qwen(length: int = 1024, **more: Any) -> Qwen2Tokenizer:
    """Qwen's byte-level tokenizer, with a chat template like its own."""
    plain = byte_level_bpe()
    tokenizer = Qwen2Tokenizer(
        vocab=plain.get_vocab(),
        merges=_merges(),
        model_max_length=length,
        chat_template=_CHATML,
        **more,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": _OF_QWEN})
    return tokenizer
