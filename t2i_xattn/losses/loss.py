"""What the maps of words are to be like, as losses; `guide` moves latents along their gradients.

Each loss gives one number an image, with gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan

from torch import Tensor

from t2i_xattn.arguments import check_fields
from t2i_xattn.errors import UserError
from t2i_xattn.losses.word_maps import WordMaps


@dataclass(frozen=True, eq=False, kw_only=True)
class GuidanceLoss:
    """A loss over the maps of words, and how hard the latents are to follow it.

    To write one, subclass it and give `__call__` and `phrases`.

    Attributes:
        scale: z ← z − scale · √(1 − done/2) · ∇loss, where done is the part of the run that lies
            behind (Attend-and-Excite's schedule).
        until: the part of the run in which it acts, from its beginning.
        iterations: most updates at a step; fewer where the loss is below `enough`. With 0, it acts
            at its checks only.
        enough: a loss that needs no update.
        checks: (part of the run, loss): at these steps the update is repeated, at most
            `refinements` times, until the loss has fallen so far.
        refinements: see `checks`.
    """

    scale: float = 20.0
    until: float = 0.5
    iterations: int = 1
    enough: float = 0.0
    checks: Sequence[tuple[float, float]] = ()
    refinements: int = 20

    def __post_init__(self) -> None:
        check_fields(self)
        name = type(self).__name__
        sound = self.scale > 0 and isfinite(self.scale) and not isnan(self.enough)
        if not (sound and 0 < self.until <= 1):
            raise UserError(
                f"expected {name} with a finite scale above 0, until above 0 and at most 1, and a "
                f"number as enough, but came scale={self.scale}, until={self.until}, "
                f"enough={self.enough}"
            )
        if self.iterations < 0 or self.refinements < 1 or not (self.iterations or self.checks):
            raise UserError(
                f"expected {name} with 1 or more iterations and refinements, or 0 iterations and "
                f"checks, but came {self.iterations}, {self.refinements} and {self.checks}"
            )

    def phrases(self) -> list[str]:
        """The words that every prompt must have."""
        raise NotImplementedError

    def check(self, maps: WordMaps) -> None:
        """Looks before the first step whether it can act on the prompts, and again where a prompt
        changes on the way; `maps` has no shares yet.

        Raises:
            UserError: if a prompt has not what it acts on.
        """
        for image in range(len(maps.words)):
            for phrase in self.phrases():
                maps.columns(phrase, image)

    def __call__(self, maps: WordMaps) -> Tensor:
        """The loss of each image, `(images,)`."""
        raise NotImplementedError

    def enough_at(self, done: float, step: int, steps: int) -> tuple[int, float]:
        """Most updates at a step, and the loss below which none is made."""
        for after, enough in self.checks:
            if step == round(after * steps):
                return self.refinements, enough
        return self.iterations, self.enough
