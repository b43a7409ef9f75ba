"""The tokenizer: one token for each word of the language, bytes for any other word."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(words: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE, 77 positions) in which each of ``words`` is one token.

    Byte-pair encoding is learned on the words alone until nothing is left to merge. Ids follow
    CLIP's order: bytes, bytes that end a word, merges, start, end.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=0, end_of_word_suffix=END_OF_WORD, show_progress=False
    )
    learner.train_from_iterator(sorted(words), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [each + END_OF_WORD for each in alphabet]
    tokens += [first + second for first, second in merges]
    vocabulary = {token: index for index, token in enumerate([*dict.fromkeys(tokens), START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
