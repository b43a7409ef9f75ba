"""A prompt that changes on the way: a callback that hands the pipeline its next embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.prompts.texts import same

Texts = tuple[Tensor, Tensor | None]
"""Of the prompts and, where they are encoded, of the negative prompts; a row each."""


class Schedule:
    """A `callback_on_step_end` of diffusers' pipelines.

    Attributes:
        starts: from which step on each phase holds: fractions of the run, or whole steps.
        phases: for each, its texts, by the name the callback is given them under.
    """

    def __init__(self, starts: Sequence[float], phases: Sequence[Mapping[str, Texts]]) -> None:
        self.starts, self.phases = tuple(starts), tuple(phases)

    def phase(self, step: int, steps: int) -> int:
        """The number of the phase that a step is in."""
        # 0.29 · 100 is a little less than 29 in floating point.
        firsts = [int(s * steps + 1e-6) if isinstance(s, float) else s for s in self.starts]
        return max(number for number, first in enumerate(firsts) if step >= first)

    def __call__(
        self, pipe: Any, step: int, timestep: Any, given: dict[str, Any]
    ) -> dict[str, Any]:
        """After each step: the embeddings of the next one, where they are others."""
        steps = int(pipe.num_timesteps)
        now, following = self.phase(step, steps), self.phase(step + 1, steps)
        if now != following:
            guided = bool(getattr(pipe, "do_classifier_free_guidance", False))
            for name, texts in self.phases[now].items():
                next_texts = self.phases[following][name]
                given[name] = _in_place_of(texts, next_texts, given[name], name, guided)
        return given


def _in_place_of(before: Texts, after: Texts, given: Tensor, name: str, guided: bool) -> Tensor:
    """The pipeline's tensor with the next texts; guided, its first half is the negative prompts',
    and stays as it is where they say the same on."""
    count = len(given) // 2 if guided else 0
    found = [_replaced(given[count:], before[0], after[0])]
    if guided:
        own, old, new = given[:count], before[1], after[1]
        if old is None or new is None or torch.equal(old, new):
            found.insert(0, own)
        else:
            found.insert(0, _replaced(own, old, new))
    halves = [each for each in found if each is not None]
    if len(halves) < len(found):
        raise UserError(
            f"expected the pipeline to hand its {name} to the callback as it was given them, to "
            "change them on the way, but it has others; leave the schedule out of the prompt"
        )
    return torch.cat(halves)


def _replaced(given: Tensor, before: Tensor, after: Tensor) -> Tensor | None:
    """The next texts in the place of some, each as many times as it is there, one behind the other;
    None if these are not there."""
    copies, rest = divmod(len(given), len(before))
    if rest or not copies or given.shape[1:] != before.shape[1:]:
        return None
    if not same(given, before.repeat_interleave(copies, dim=0)):
        return None
    return after.repeat_interleave(copies, dim=0).to(given)
