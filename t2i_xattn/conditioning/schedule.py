"""A prompt that changes on the way: a callback that hands the pipeline its next embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.prompts.texts import same


class Schedule:
    """A `callback_on_step_end` of diffusers' pipelines.

    Attributes:
        starts: from which step on each phase holds: fractions of the run, or whole steps.
        phases: for each, the tensors of the prompts, by the name the callback is given them under.
    """

    def __init__(self, starts: Sequence[float], phases: Sequence[Mapping[str, Tensor]]) -> None:
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
            for name, tensor in self.phases[now].items():
                given[name] = _in_place_of(tensor, self.phases[following][name], given[name], name)
        return given


def _in_place_of(before: Tensor, after: Tensor, given: Tensor, name: str) -> Tensor:
    """The pipeline's tensor with other texts in the rows of those that it has; the rows of negative
    prompts stay."""
    found, result = 0, given.clone()
    for row, one in enumerate(given):
        for old, new in zip(before, after, strict=True):
            if one.shape == old.shape and same(one, old):
                result[row] = new.to(given)
                found += 1
                break
    if found < len(before):
        raise UserError(
            f"expected the pipeline to hand its {name} to the callback as it was given them, to "
            "change them on the way, but it has others; leave the schedule out of the prompt"
        )
    return result
