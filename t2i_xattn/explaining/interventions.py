"""In which ways a word is taken away, and what the denoiser is then asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from t2i_xattn.denoisers.sites import Sites
from t2i_xattn.edits.edit import Edit
from t2i_xattn.edits.regional import RegionalPrompts
from t2i_xattn.edits.weights import Drop
from t2i_xattn.errors import UserError, nearest, shown
from t2i_xattn.explaining.patching import Patch
from t2i_xattn.explaining.placebo import DropAtHeads, Placebo
from t2i_xattn.explaining.targets import Target
from t2i_xattn.losses.noun_phrases import modifier_pairs
from t2i_xattn.prompts.encoded import Text, kinds_of

Intervention = Literal["text", "attention", "embedding", "only", "carriers", "placebo"]
"""How a word is taken away.

- `text`: another word of its kind in its place, or nothing, before the text encoder.
- `attention`: its keys are hidden at the denoiser, and the others share its attention.
- `embedding`: its columns are those of the empty prompt at the same place.
- `only`: its own columns stay, and all others are those of the text with another word: what other
  tokens learned of it is gone.
- `carriers`: columns of the text with another word, group by group.
- `placebo`: as much attention as it has, taken from columns that say nothing.
"""

INTERVENTIONS: tuple[Intervention, ...] = ("text", "attention", "embedding", "only", "carriers")


def check_interventions(names: Sequence[str]) -> None:
    """Raises `UserError` unless these are some of `INTERVENTIONS`."""
    for each in names:
        if each not in INTERVENTIONS:
            raise UserError(
                f"expected interventions of {', '.join(INTERVENTIONS)}, but came {shown(each)}"
                f"{nearest(each, INTERVENTIONS)}"
            )
    if not names:
        raise UserError(
            f"expected at least one intervention of {', '.join(INTERVENTIONS)}, but came none"
        )


ALL = "all"
"""The part of `carriers` that is the whole other text, against which the groups are held."""


@dataclass(frozen=True, eq=False)
class Question:
    """One picture of a held run: what the denoiser is asked.

    Attributes:
        phrase: whose word is taken away.
        intervention: how.
        part: which columns, of `carriers`.
        prompt: of this picture.
        patch: what of its text is used, see `Patch`; None: all.
        edit: makes the edit of the attention that takes the word away in some `images`; None:
            none does.
    """

    phrase: str
    intervention: Intervention
    prompt: str
    part: str = ""
    patch: Patch | None = None
    edit: Callable[..., Edit] | None = None

    def edit_of(self, image: int) -> Edit | None:
        """The edit that takes the word away in a picture of a batch."""
        return None if self.edit is None else self.edit(images=(image,))


def questions(
    target: Target,
    intervention: Intervention,
    prompt: str,
    text: Text | None,
    sites: Sites | None = None,
    heads: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Question]:
    """What is asked for one word.

    Args:
        target: the word.
        intervention: how it is taken away.
        prompt: of the run.
        text: as it was encoded.
        sites, heads: of the denoiser, where alone it is taken away; None: everywhere.
        seed: of the placebo.

    Raises:
        UserError: for an intervention that cannot be kept to sites or heads.
    """
    phrase = target.phrase
    if heads is not None and intervention not in ("attention", "placebo"):
        raise UserError(
            f'expected interventions=["attention"] with heads=…, but came {intervention!r}, which '
            "acts on all heads of a site at once; leave heads out"
        )
    if intervention == "attention":
        drop: Callable[..., Edit] = partial(Drop, phrase, sites=sites)
        if heads is not None:
            drop = partial(DropAtHeads, phrase, heads=tuple(heads), sites=sites)
        return [Question(phrase, intervention, prompt, edit=drop)]
    if intervention == "placebo":
        taken = partial(Placebo, phrase, seed, sites=sites)
        return [Question(phrase, intervention, prompt, edit=taken)]
    if sites is not None:
        if intervention != "text":
            raise UserError(
                f'expected interventions "text" or "attention" with sites=…, but came '
                f"{intervention!r}, which changes the text for all sites; leave sites out"
            )
        instead = partial(RegionalPrompts, base_weight=0.0, sites=sites)
        return [
            Question(
                phrase, intervention, prompt, edit=partial(instead, {text: (0.0, 0.0, 1.0, 1.0)})
            )
            for text in target.texts
        ]
    if intervention == "text":
        return [Question(phrase, intervention, text) for text in target.texts]
    if intervention == "embedding":
        return [Question(phrase, intervention, "", patch=Patch(target.columns))]
    groups = columns_by_group(target, prompt, text)
    if intervention == "only":
        others = {c for name, each in groups.items() if name != "own" for c in each}
        return [Question(phrase, intervention, target.texts[0], patch=Patch(others))]
    asked = [Question(phrase, intervention, target.texts[0], ALL)]
    for name, columns in groups.items():
        if columns:
            asked.append(Question(phrase, intervention, target.texts[0], name, Patch(columns)))
    return [
        *asked,
        Question(phrase, intervention, target.texts[0], "pooled", Patch((), others=True)),
    ]


def columns_by_group(target: Target, prompt: str, text: Text | None) -> dict[str, Collection[int]]:
    """The columns of a text by what they are to a word.

    Returns:
        `own`; `noun phrase`: the other words of its noun phrase (see `losses.noun_phrases`);
        `before` and `behind`: what else stands in front of it and behind it; `start`, `end` and
        `padding`.

    Raises:
        UserError: if it is not known what stands in the columns.
    """
    kinds = kinds_of(text)
    if text is None or not kinds:
        raise UserError(
            "expected a text whose tokens are known, to tell through which columns a word acts, "
            'but this one came as embeddings; ask for interventions=["text", "attention"]'
        )
    own = set(target.columns)
    first, last = min(own), max(own)
    phrase: set[int] = set()
    for modifier, noun in modifier_pairs(prompt, text.words):
        pair = {*modifier.columns, *noun.columns}
        if pair & own:
            phrase |= pair
    # Modifiers of the same noun belong to one phrase.
    for modifier, noun in modifier_pairs(prompt, text.words):
        if set(noun.columns) & phrase:
            phrase |= {*modifier.columns, *noun.columns}
    groups: dict[str, set[int]] = {
        name: set()
        for name in ("own", "noun phrase", "before", "behind", "start", "end", "padding")
    }
    for column, kind in enumerate(kinds):
        if column in own:
            name = "own"
        elif column in phrase:
            name = "noun phrase"
        elif kind == "padding":
            name = "padding"
        elif kind == "special":
            name = "start" if column < first else "end"
        else:
            name = "before" if column < last else "behind"
        groups[name].add(column)
    return {name: tuple(sorted(columns)) for name, columns in groups.items()}
