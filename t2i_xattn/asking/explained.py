"""A request explained: how its words are taken away, and what each of them does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t2i_xattn.asking.request import Request, settings_of, tokenizer_of
from t2i_xattn.prompts.words import find_phrase

if TYPE_CHECKING:
    from t2i_xattn.explaining.explanation import Explanation

NOTHING = "-"
"""What is written in a word's place to leave it out."""


@dataclass(frozen=True)
class Asked:
    """How words are taken away.

    Attributes:
        instead: by phrase, what is put in its place; None: nothing.
        interventions: which, see `explaining.interventions`.
        placebo: whether there is one.
        batch: pictures at once.
    """

    instead: Mapping[str, str | None]
    interventions: tuple[str, ...]
    placebo: bool
    batch: int

    def check(self, pipe: Any, request: Request) -> None:
        """
        Raises:
            UserError: for an intervention that there is none of, or a phrase of `instead` that the
                prompt does not have or that is not asked about.
        """
        from t2i_xattn.conditioning.within import words_read
        from t2i_xattn.explaining.interventions import check_interventions

        check_interventions(self.interventions)
        spans = words_read(pipe, tokenizer_of(pipe), request.prompt)
        for phrase in self.instead:
            find_phrase(spans, phrase)


def explained(pipe: Any, request: Request, asked: Asked, walk: int) -> Explanation:
    """The explanation of a request; picture number `n` has the seed `request.seed + n`."""
    from t2i_xattn.explaining.explain import explain

    return explain(
        pipe,
        request.prompt,
        words=request.words or None,
        seeds=range(request.seed, request.seed + request.count),
        interventions=asked.interventions,
        instead=asked.instead,
        placebo=asked.placebo,
        walk=walk,
        batch=asked.batch,
        **settings_of(pipe, request),
    )
