"""What was learned of a smaller world goes on in a larger one: rows are taken over by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from lab.judge.segmenter import Segmenter


def rows_by_name(
    rows: Tensor, names: Sequence[str], fresh: Tensor, wanted: Sequence[str]
) -> Tensor:
    """``fresh``, a row for each of ``wanted``, with those rows that ``names`` has in ``rows``."""
    known = {name: index for index, name in enumerate(names)}
    grown = fresh.detach().clone()
    for index, name in enumerate(wanted):
        if name in known:
            grown[index] = rows[known[name]]
    return grown


def _in_order(tokenizer: CLIPTokenizer) -> list[str]:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return sorted(vocabulary, key=lambda token: vocabulary[token])


def go_on_reading(
    fresh: CLIPTextModel, tokenizer: CLIPTokenizer, begun: nn.Module, known: CLIPTokenizer
) -> CLIPTextModel:
    """``fresh`` with the weights of ``begun``, whose tokens are those of ``known``."""
    state = begun.state_dict()
    (embedding,) = (name for name in state if name.endswith("token_embedding.weight"))
    state[embedding] = rows_by_name(
        state[embedding], _in_order(known), fresh.state_dict()[embedding], _in_order(tokenizer)
    )
    fresh.load_state_dict(state)
    return fresh


def go_on_judging(fresh: Segmenter, begun: Segmenter) -> Segmenter:
    """``fresh`` with the weights of ``begun``, which may tell of fewer or other values."""
    state = begun.state_dict()
    for name in ("tell.weight", "tell.bias"):
        state[name] = rows_by_name(
            state[name], _values(begun), fresh.state_dict()[name], _values(fresh)
        )
    fresh.load_state_dict(state)
    return fresh


def _values(segmenter: Segmenter) -> list[str]:
    return [f"{name} {value}" for name, values in segmenter.names.items() for value in values]
