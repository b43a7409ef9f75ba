"""Effect maps of words in front of one noised picture: what the denoiser's answer loses with them.

As `t2i_xattn.explaining` makes them along a run, for a picture that is known: the length, place by
place, of the change of the answer when a word is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.evaluation.one_pass import answer, conditions
from t2i_xattn import edits
from t2i_xattn.aggregation import resized
from t2i_xattn.editing.edit import edit
from t2i_xattn.edits.edit import EditContext, renormalised
from t2i_xattn.explaining.other_words import other_of_its_kind, with_another

TEXT, ATTENTION = "effect, another word", "effect, keys hidden"
"""Methods: another word of its kind in its place, or nothing; and its columns hidden from every
place that looks at the text."""


@dataclass(frozen=True)
class Asked:
    """A word to take away in one picture of a batch.

    Attributes:
        picture: its number.
        start, stop: the word's characters in the picture's prompt.
        columns: which are hidden.
    """

    picture: int
    start: int
    stop: int
    columns: tuple[int, ...]


def effects(
    pipe: Any,
    prompts: Sequence[str],
    noisy: Tensor,
    level: int,
    asked: Sequence[Asked],
    *,
    batch: int = 16,
) -> dict[str, list[NDArray[np.float32]]]:
    """By method, a map `(height, width)` of the picture for each word.

    Args:
        pipe, prompts, noisy, level: as for `answer` and `conditions`.
        asked: the words.
        batch: passed at once.
    """

    def answered(texts: Sequence[str], pictures: Sequence[int]) -> Tensor:
        shown = noisy[list(pictures)]
        return answer(pipe, conditions(pipe, texts, shown), shown, level)

    plain = answered(prompts, range(len(prompts)))
    size = tuple(int(side * pipe.vae_scale_factor) for side in noisy.shape[2:])
    found: dict[str, list[NDArray[np.float32]]] = {TEXT: [], ATTENTION: []}
    for first in range(0, len(asked), batch):
        part = asked[first : first + batch]
        pictures = [each.picture for each in part]
        texts = [prompts[picture] for picture in pictures]
        changed = {}
        with edit(pipe, edits.EditFunction(_hiding([each.columns for each in part]))):
            changed[ATTENTION] = answered(texts, pictures)
        others = [_other_text(pipe, prompts[each.picture], each) for each in part]
        changed[TEXT] = answered(others, pictures)
        for method, answers in changed.items():
            lengths = (answers - plain[pictures]).norm(dim=1)
            places = lengths.float().cpu().numpy().transpose(1, 2, 0)
            found[method] += list(
                resized(places, (size[0], size[1]), "bilinear").transpose(2, 0, 1)
            )
    return found


def _hiding(columns: Sequence[Sequence[int]]) -> Any:
    """A function for `EditFunction` that hides columns of each row."""

    def hidden(probs: Tensor, context: EditContext) -> Tensor:
        kept = torch.ones(len(columns), 1, 1, probs.shape[-1], device=probs.device)
        for row, own in enumerate(columns):
            kept[row, ..., list(own)] = 0
        return renormalised(probs * kept)

    return hidden


def _other_text(pipe: Any, prompt: str, asked: Asked) -> str:
    def tokens(word: str) -> object:
        ids = pipe.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        unknown, end = pipe.tokenizer.unk_token_id, pipe.tokenizer.eos_token_id
        return None if unknown in ids and unknown != end else len(ids)

    word = prompt[asked.start : asked.stop]
    other = other_of_its_kind(word, prompt, tokens)
    return with_another(prompt, [(asked.start, asked.stop)], other)
