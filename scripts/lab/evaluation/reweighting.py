"""Whether a word does more, the more its attention weighs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.stats import spearmanr
from tqdm import tqdm

from lab.evaluation.figures import Mean
from lab.evaluation.painting import Painting, words_of
from lab.evaluation.prompts import Prompt
from lab.judge import judge_picture
from lab.scenes import language
from t2i_xattn.editing.edit import edit
from t2i_xattn.edits.weights import Reweight

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


def evaluate_reweight(painting: Painting, prompts: Sequence[Prompt]) -> dict[str, dict[str, Mean]]:
    """Reweighting: the rank correlation (Spearman) of a word's weight with its measured effect.

    The effect of a word is how far it moves the picture: the root mean square difference of the
    pixels from the picture of the same noise with the word at weight 0. There it is 0 by
    definition, so the correlation is also given over the other weights alone. Besides, for nouns,
    the pixels of objects of that shape (the judge's), and for colour words the pixels of that
    colour. A measure that is the same at every weight has a correlation of 0.

    The word is, by turns, the noun and the colour word of the first object.

    Args:
        painting: how pictures are painted.
        prompts: see `distinct`.
    """
    effects: dict[str, list[list[float]]] = {"noun": [], "colour word": []}
    for number, prompt in enumerate(tqdm(prompts, "reweight", unit="prompt", disable=None)):
        kind = "colour word" if number % 2 else "noun"
        colour, shape = prompt.objects[0]
        words = words_of(prompt)
        noun = next(name for name in language().shapes[shape] if name in words)
        pictures = weighted(painting, prompt, noun if kind == "noun" else colour)
        moved = [difference(each, pictures[0]) for each in pictures]
        named = [_area(each, shape if kind == "noun" else colour) for each in pictures]
        effects[kind].append(
            [
                correlation(WEIGHTS, moved),
                correlation(WEIGHTS[1:], moved[1:]),
                correlation(WEIGHTS, named),
            ]
        )
    figures = {f"reweight, {kind}s": _figures(each) for kind, each in effects.items()}
    return figures | {"reweight, both": _figures([*effects["noun"], *effects["colour word"]])}


def _figures(rows: Sequence[Sequence[float]]) -> dict[str, Mean]:
    effect, without, named = zip(*rows, strict=True) if rows else ((), (), ())
    return {
        "Spearman of weight and effect": Mean.of(effect),
        "the same over weights above 0": Mean.of(without),
        "of weight and pixels of that shape or colour": Mean.of(named),
    }


def weighted(painting: Painting, prompt: Prompt, word: str) -> list[Image.Image]:
    """The picture at each of the weights, in one batch from one noise."""
    edits = [
        Reweight(word, weight, images=[row]) for row, weight in enumerate(WEIGHTS) if weight != 1
    ]
    count = len(WEIGHTS)
    with edit(painting.pipe, *edits):
        return painting.batch_of(count * [prompt.prompt], count * [prompt.seed])


def difference(picture: Image.Image, other: Image.Image) -> float:
    """Root mean square difference of the pixels, in levels from 0 to 255."""
    one, two = (np.asarray(each.convert("RGB"), dtype=np.float64) for each in (picture, other))
    return float(np.sqrt(np.mean((one - two) ** 2)))


def correlation(weights: Sequence[float], values: Sequence[float]) -> float:
    """Spearman's rank correlation, −1 to 1; 0 for values that are all the same."""
    if len(set(values)) == 1:
        return 0.0
    return float(spearmanr(weights, values).statistic)


def _area(picture: Image.Image, name: str) -> float:
    """Pixels of the objects of a shape or a colour."""
    return sum(each.area for each in judge_picture(picture).objects if name in each.kind)
