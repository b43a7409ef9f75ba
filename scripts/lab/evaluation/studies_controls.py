"""The controls of the sanity study: what is shown to a denoiser, and whose map is looked at, so
that a map that means what it says must be destroyed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.evaluation.studies_scenes import NamedWord, named_words
from lab.scenes import NamingWord
from lab.scenes.world import RenderedWorld
from t2i_xattn.traces.regions import iou

OWN = "the word itself"
RANDOM = "weights at random"
WRONG = "another word of the prompt"
FILLER = "a filler word of the prompt"
FOREIGN = "a word of another prompt"
SHUFFLED = "shuffled tokens"
CONTROLS = (RANDOM, WRONG, FILLER, FOREIGN, SHUFFLED)
"""Against `OWN`:

- the denoiser and the text encoder with weights set at random (Adebayo et al., "Sanity Checks for
  Saliency Maps", arXiv 1810.03292);
- the map of a word that names pixels apart from the word's own, of its own kind where there is one;
- the map of a word that names nothing, such as "a";
- the same picture shown under another prompt, and the map of a thing there that the picture does
  not show;
- the columns of the text moved where the blocks of the denoiser look at it, so that another token
  stands in the word's place. Methods that take the word out of the text, and know no columns, would
  be the same by construction.
"""

_APART = 0.02
"""Regions with a smaller IoU share a rim at most."""

Words = Sequence[tuple[int, NamedWord, NamingWord]]
"""Number of a picture, the word whose region is meant, and the word whose map is looked at."""


@dataclass(frozen=True)
class Case:
    """What is shown to a denoiser.

    Attributes:
        pipe: with its own weights, or others.
        prompts: one a picture.
        words: by control, whose maps are looked at.
        order: of the text's columns, see `moved_columns`.
    """

    pipe: Any
    prompts: Sequence[str]
    words: Mapping[str, Words]
    order: Sequence[int] | None = None


def cases(pipe: Any, at_random: Any, scenes: Sequence[RenderedWorld], seed: int) -> list[Case]:
    """All the controls, and the words themselves. A word for which there is no control has none.

    Args:
        pipe: the pipeline.
        at_random: one with weights set at random.
        scenes: of one batch.
        seed: of the order of columns.
    """
    prompts = [scene.prompt for scene in scenes]
    named = [(image, each) for image, scene in enumerate(scenes) for each in named_words(scene)]
    own = [(image, each, each.word) for image, each in named]
    wrong, fillers, foreign = [], [], []
    others = [_foreign(image, scenes) for image in range(len(scenes))]
    for image, each in named:
        if (word := another_word(each, scenes[image])) is not None:
            wrong.append((image, each, word))
        if (word := _filler(scenes[image])) is not None:
            fillers.append((image, each, word))
        if (other := others[image]) is not None:
            foreign.append((image, each, other[1]))
    elsewhere = [prompts[image] if each is None else each[0] for image, each in enumerate(others)]
    order = np.random.default_rng(seed).permutation(pipe.tokenizer.model_max_length).tolist()
    return [
        Case(pipe, prompts, {OWN: own, WRONG: wrong, FILLER: fillers}),
        Case(at_random, prompts, {RANDOM: own}),
        Case(pipe, elsewhere, {FOREIGN: foreign}),
        Case(pipe, prompts, {SHUFFLED: own}, order),
    ]


def another_word(named: NamedWord, scene: RenderedWorld) -> NamingWord | None:
    """A word that names pixels apart from the region, of the word's own kind where there is one."""
    pairs = zip(scene.description.words, scene.masks, strict=True)
    apart = [word for word, mask in pairs if mask.any() and iou(mask, named.mask) < _APART]
    same = [word for word in apart if word.kind == named.kind]
    return next(iter([*same, *apart]), None)


def _filler(scene: RenderedWorld) -> NamingWord | None:
    return next((each for each in scene.description.words if each.kind == "other"), None)


def _foreign(index: int, scenes: Sequence[RenderedWorld]) -> tuple[str, NamingWord] | None:
    """The next prompt with a thing that this scene does not have, and the thing's word."""
    own = {each.kind for each in scenes[index].scene.things}
    said = {word.text.casefold() for word in scenes[index].description.words}
    for step in range(1, len(scenes)):
        other = scenes[(index + step) % len(scenes)]
        for word in other.description.words:
            known = word.kind == "thing" and len(word.objects) == 1
            if not known or word.text.casefold() in said:
                continue
            if other.scene.things[word.objects[0]].kind not in own:
                return other.prompt, word
    return None


@contextmanager
def moved_columns(unet: Any, order: Sequence[int] | None) -> Iterator[None]:
    """The blocks of a UNet see the columns of the text in another order than they were given in:
    `order` says which one stands where the first is looked for, and so on. None changes nothing.

    Within the denoiser, since a recording refuses a text that was changed after it was encoded.
    """

    def moved(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        text = given["encoder_hidden_states"]
        return args, given | {"encoder_hidden_states": text[:, list(order or ())]}

    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    looking = [each for each in blocks if getattr(each, "has_cross_attention", False)]
    hooks = [
        each.register_forward_pre_hook(moved, with_kwargs=True)
        for each in (looking if order is not None else [])
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
