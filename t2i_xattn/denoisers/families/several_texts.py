"""Several texts in one sequence: which of their tokens have which columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_xattn.denoisers.call import TextPart
from t2i_xattn.prompts.encoded import Text


def length_of_all(given: Mapping[str, Any], names: Sequence[str]) -> int:
    """Columns of all texts together, each as long as its longest."""
    found = [given[name] for name in names if given.get(name) is not None]
    return sum(max(len(each) for each in states) for states in found)


def behind_each_other(given: Mapping[str, Any], names: Sequence[str]) -> list[TextPart]:
    """Texts whose columns stand behind each other."""
    parts, first = [], 0
    for name in names:
        states = given.get(name)
        if states is None:
            continue
        length = max(len(each) for each in states)
        parts.append(TextPart(states, [range(first, first + len(each)) for each in states]))
        first += length
    return parts


def valid_first(given: Mapping[str, Any], names: Sequence[str]) -> list[TextPart]:
    """Two texts, of which the second's tokens come first, and padding of both behind both.

    A given picture's tokens stand in front of both; zeros in the place of a picture are padding.
    """
    one, two = (given[name] for name in names)
    masks = [given["encoder_attention_mask"].bool(), given["encoder_attention_mask_2"].bool()]
    pictures = given.get("image_embeds")
    length = 0 if pictures is None else int(pictures.shape[1])
    there = [pictures is not None and bool(pictures.any())] * length
    columns: list[list[list[int]]] = [[], []]
    for first, second in zip(*(mask.tolist() for mask in masks), strict=True):
        order = [
            (number, place)
            for valid in (True, False)
            for number, mask in ((2, there), (1, second), (0, first))
            for place, real in enumerate(mask)
            if real == valid
        ]
        column = {key: at for at, key in enumerate(order)}
        for number, mask in enumerate((first, second)):
            columns[number].append([column[number, place] for place in range(len(mask))])
    return [TextPart(one, columns[0]), TextPart(two, columns[1])]


def tokens_first(text: Text) -> list[int]:
    """The columns of a text whose padding has given way to registers behind its tokens."""
    length, padding = len(text.embedding), set(text.padding or ())
    order = sorted(range(length), key=lambda place: (place in padding, place))
    column = {place: at for at, place in enumerate(order)}
    return [column[place] for place in range(length)]


def with_picture(given: Mapping[str, Any], names: Sequence[str]) -> int:
    """Columns of the parts of `valid_first`, and of a picture's tokens."""
    pictures = given.get("image_embeds")
    return length_of_all(given, names) + (0 if pictures is None else int(pictures.shape[1]))


def of_last_layers(given: Mapping[str, Any], names: Sequence[str]) -> list[TextPart]:
    """T5's text, then twice Llama's: of its last layer, and of one that each block has its own."""
    short, layers = (given[name] for name in names)
    long, first = layers[-1], short.shape[1]
    length = long.shape[1]
    return [
        TextPart(short, [range(first)] * len(short)),
        TextPart(long, [range(first, first + length)] * len(long)),
        TextPart(long, [range(first + length, first + 2 * length)] * len(long)),
    ]


def of_two_layers(given: Mapping[str, Any], names: Sequence[str]) -> int:
    """Columns of the parts of `of_last_layers`."""
    short, layers = (given[name] for name in names)
    return int(short.shape[1]) + 2 * int(layers[-1].shape[1])
