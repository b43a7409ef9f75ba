"""The tokenizer: one token for each word of the language, bytes for any other word."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1) until each word is one token.

    Of equally frequent pairs the first in the alphabet is merged. The trainer of the library
    ``tokenizers`` breaks such ties differently from call to call, so that a training which was
    stopped went on with other token ids.

    Args:
        words: of ASCII letters, which stand for their own bytes.
    """
    spelled = [[*word[:-1], word[-1] + END_OF_WORD] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for symbols in spelled for pair in pairwise(symbols))
        if not counts:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for symbols in spelled:
            for at in range(len(symbols) - 2, -1, -1):
                if tuple(symbols[at : at + 2]) == best:
                    symbols[at : at + 2] = ["".join(best)]


def build_tokenizer(words: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE, 77 positions) in which each of ``words`` is one token.

    The same words give the same ids, always. They follow CLIP's order: bytes, bytes that end a
    word, merges, start, end.
    """
    merges = learn_merges(words)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [each + END_OF_WORD for each in alphabet]
    tokens += [first + second for first, second in merges]
    vocabulary = {token: index for index, token in enumerate([*dict.fromkeys(tokens), START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
