"""Through which columns of the text words of each kind act."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from lab.evaluation.drawn import SOURCES
from lab.evaluation.figures import Estimate
from t2i_xattn.explaining.explain import explain
from t2i_xattn.explaining.other_words import other_of_its_kind
from t2i_xattn.explaining.targets import token_counts

FIRST_SEED = 53_000_000

KINDS = ("colour", "shape", "thing", "light", "style", "place", "size", "count")


@dataclass(frozen=True)
class CarrierFigure:
    """The share of the effect of one kind of words that one group of columns carries.

    Attributes:
        kind: of the words.
        group: of columns, see `interventions.columns_by_group`.
        share: ⟨Δ_group, Δ_all⟩ / ⟨Δ_all, Δ_all⟩, its mean over words.
    """

    kind: str
    group: str
    share: Estimate

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        return {"kind": self.kind, "group": self.group, **self.share.as_json()}


def carrier_figures(
    pipe: Any, pictures: int, *, source: str = "world", steps: int = 25, guidance: float = 5.0
) -> list[CarrierFigure]:
    """Figures of words in the prompts of drawn scenes, each painted from a seed of its own.

    Args:
        pipe: a Stable Diffusion pipeline.
        pictures: how many.
        source: of the prompts, of `SOURCES`.
        steps, guidance: of the sampler.
    """
    settings: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
    count = token_counts(pipe)
    shares: dict[tuple[str, str], list[list[float]]] = defaultdict(
        lambda: [[] for _ in range(pictures)]
    )
    for number in tqdm(range(pictures), desc="carriers", unit="picture", disable=None):
        scene = SOURCES[source](FIRST_SEED + number, split="any")
        said = scene.description.words
        texts = [word.text.casefold() for word in said]
        kinds = {
            word.text: word.kind
            for word in said
            if word.kind in KINDS and texts.count(word.text.casefold()) == 1
        }
        # A word without another of its kind would be left out, and all others moved.
        others = {text: other_of_its_kind(text, scene.prompt, count) for text in kinds}
        words = [text for text, other in others.items() if other and count(other) == count(text)]
        if not words:
            continue
        found = explain(
            pipe, scene.prompt, words=words, instead={text: others[text] for text in words},
            seeds=[FIRST_SEED + number], placebo=False, interventions=["carriers"], walk=0,
            **settings,
        )  # fmt: skip
        for word in found.words:
            for group, share in word.carriers.items():
                shares[kinds[word.word], group][number].append(share)
    return [CarrierFigure(kind, group, Estimate.of(each)) for (kind, group), each in shares.items()]
