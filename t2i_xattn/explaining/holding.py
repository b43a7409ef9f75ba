"""A run held on the trajectory of another one.

The denoiser is asked about other texts, or under edits, at the very latents of a picture's own run,
and the sampler is given what the denoiser answered there. So nothing runs away: whatever the answer
is, the next latents are the picture's own, and what stands beside the denoiser (a ControlNet, noise
that the sampler adds) is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.denoisers.branches import CONDITIONAL, PERTURBED
from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.of_pipeline import OfPipeline, denoisers_of
from t2i_xattn.denoisers.registry import Acting
from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.rows_of import rows_of
from t2i_xattn.denoisers.run import FollowedDenoiser, FollowedRun
from t2i_xattn.denoisers.steps import Window, whole_steps
from t2i_xattn.errors import UserError
from t2i_xattn.explaining.patching import Patch, name_of_text, patched
from t2i_xattn.explaining.trajectory import (
    Trajectory,
    TrajectoryCall,
    batch_rows,
    for_pictures,
    prediction,
    with_prediction,
)
from t2i_xattn.kernel.module_calls import ModuleCalls, by_name
from t2i_xattn.kernel.owner import owner_of_call
from t2i_xattn.prompts.encoded import Text


@dataclass(frozen=True, eq=False)
class Answer:
    """What the denoiser answered at one step.

    Attributes:
        step: which.
        predictions: fp32, one a picture, for the conditional branch.
        plain: fp32 `(1, …)`, what it gave to the picture itself.
        call: of the denoiser.
    """

    step: int
    predictions: Tensor
    plain: Tensor
    call: DenoiserCall


class NotTogether(Exception):
    """What is asked must be asked one by one: in a batch, the pipeline makes it something else."""


@contextmanager
def watched(pipe: Any, steps: Window | None = None, keep: bool = True) -> Iterator[Trajectory]:
    """Keeps what the denoiser answers in the run of one picture.

    Args:
        pipe: the pipeline.
        steps: the window of steps that will be asked about; by default the first quarter.
        keep: whether the denoiser's arguments are kept, which patches of texts need.
    """
    trajectory = Trajectory()
    run = _Around(pipe)
    run.denoisers = [_Watching(run, each, trajectory, steps, keep) for each in denoisers_of(pipe)]
    with run.followed():
        yield trajectory


def hold(
    pipe: Any,
    trajectory: Trajectory,
    call: Callable[[], Any],
    measure: Callable[[Answer], None],
    patches: Sequence[Patch | None] = (),
) -> tuple[Text | None, ...]:
    """Runs pictures held on a trajectory; behind the steps asked about, nothing is computed.

    Args:
        pipe: the pipeline.
        trajectory: that they are held on.
        call: runs the pipeline, for one picture or several, with the settings of the trajectory's;
            its pictures mean nothing.
        measure: is given each answer.
        patches: for each picture, see `Patch`; None: its text is its own.

    Returns:
        The text of each picture, as it was encoded.

    Raises:
        NotTogether: if several pictures are not what each alone would be; nothing was measured.
        UserError: if the pipeline does not come by the same way again, or a patch does not fit.
    """
    run = _Around(pipe)
    held = _Held(trajectory, measure, patches)
    run.denoisers = [_Holding(run, each, held) for each in denoisers_of(pipe)]
    with run.followed():
        call()
    return held.texts


class _Around(FollowedRun):
    """A run whose denoisers are covered from outside of all who follow their calls."""

    denoisers: list[_Outside]  # type: ignore[assignment]

    def _open(self) -> None:
        self.ears.join(self)
        for each in self.denoisers:
            each.calls.link(each.module)

    def _close(self) -> None:
        for each in reversed(self.denoisers):
            each.calls.unlink()
        self.ears.leave(self)


class _Outside(FollowedDenoiser):
    """A denoiser whose calls are answered for it.

    Attributes:
        calls: its covers.
    """

    def __init__(self, run: FollowedRun, denoiser: OfPipeline) -> None:
        super().__init__(run, denoiser)
        self.calls = ModuleCalls(self.module, self._around)

    def forget(self) -> None:
        super().forget()
        self._begun: tuple[Layout, DenoiserCall] | None = None

    def link(self) -> None:
        self.calls.link(self.module)

    def begun(
        self, layout: Layout, call: DenoiserCall, given: dict[str, Any]
    ) -> tuple[Acting | None, dict[str, Any]]:
        self._begun = layout, call
        return None, given

    def _around(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = by_name(self.registry.denoiser, args, kwargs)
        self._begun = None
        if not self.registry.family.aside(self.registry.denoiser, given):
            self.begin(given, owner_of_call([self.pipe]))
        if self._begun is None:
            return method(*args, **kwargs)
        return self.answer(method, *self._begun, given)

    def answer(
        self, method: Callable[..., Any], layout: Layout, call: DenoiserCall, given: dict[str, Any]
    ) -> Any:
        """What stands for the denoiser's answer."""
        raise NotImplementedError


class _Watching(_Outside):
    def __init__(
        self,
        run: FollowedRun,
        denoiser: OfPipeline,
        trajectory: Trajectory,
        steps: Window | None,
        keep: bool,
    ) -> None:
        self.trajectory, self.asked, self.keep = trajectory, steps, keep
        super().__init__(run, denoiser)

    def answer(
        self, method: Callable[..., Any], layout: Layout, call: DenoiserCall, given: dict[str, Any]
    ) -> Any:
        way = self.trajectory
        if layout.images != 1:
            raise UserError(
                f"expected a run of one picture, but came {layout.images}; explain each by itself"
            )
        if way.window is None:
            way.window = _window(self.asked, self.run.steps)
        if given.get("kv_cache_mode") is not None:
            raise UserError(
                "expected a pipeline that does not keep the keys of reference pictures, to ask it "
                "again, but this one does; take another one"
            )
        answer = method(**given)
        # Copies, since pipelines change their tensors in place.
        noted = with_prediction(answer, prediction(answer).detach().clone())
        rows = {branch: each[0] for branch, each in batch_rows(layout, call).items()}
        number = sum(each.step is not None for each in way.calls)
        if number >= way.window[1]:
            return answer
        own = rows.get(CONDITIONAL)
        if own is None:
            way.calls.append(TrajectoryCall(rows, None, None, 0, None, noted))
            return answer
        kept = None
        if self.keep and number >= way.window[0]:
            kept = _copied(rows_of(given, [own], call.rows))
        way.text = layout.texts[CONDITIONAL][0]
        latents, tokens = call.sample[own].detach().clone(), call.tokens_of([own])
        way.calls.append(TrajectoryCall(rows, number, latents, tokens, kept, noted))
        return answer


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    return type(value)(map(_copied, value)) if isinstance(value, tuple | list) else value


class _Held:
    """What the denoisers of a held run have in common."""

    def __init__(
        self,
        trajectory: Trajectory,
        measure: Callable[[Answer], None],
        patches: Sequence[Patch | None],
    ) -> None:
        self.trajectory, self.measure, self.patches = trajectory, measure, patches
        self.called = 0
        self.texts: tuple[Text | None, ...] = ()


class _Holding(_Outside):
    def __init__(self, run: FollowedRun, denoiser: OfPipeline, held: _Held) -> None:
        self.held = held
        super().__init__(run, denoiser)

    def answer(
        self, method: Callable[..., Any], layout: Layout, call: DenoiserCall, given: dict[str, Any]
    ) -> Any:
        held, way = self.held, self.held.trajectory
        assert way.window is not None, "a trajectory that has been watched"
        rows = batch_rows(layout, call)
        if held.called >= len(way.calls):
            # To the end by what was answered last, since pipelines put back what they have changed
            # (perturbed-attention guidance its processors) at their end alone.
            last = next((e for e in way.calls[::-1] if set(e.rows) == set(rows)), way.calls[-1])
            return with_prediction(last.answer, for_pictures(last, rows))
        then = way.calls[held.called]
        held.called += 1
        if set(rows) != set(then.rows):
            raise UserError(
                f"expected the branches {', '.join(then.rows)} in a call of the denoiser as in the "
                f"picture's own run, but came {', '.join(rows)}; explain a pipeline whose runs are "
                "alike"
            )
        instead = for_pictures(then, rows)
        if then.step is None or then.step < way.window[0]:
            return with_prediction(then.answer, instead)
        own = rows[CONDITIONAL]
        self._check(call, own, then, first=not held.texts)
        held.texts = layout.texts[CONDITIONAL]
        # Perturbed rows are told by their place in the whole batch, and of several texts each lies
        # in its own way.
        apart = PERTURBED not in rows and call.parts is None
        some = own if apart else tuple(range(call.rows))
        asked = rows_of(given, some, call.rows) if len(some) < call.rows else given
        if any(held.patches):
            asked = patched(asked, then, name_of_text(given, call), held.patches)
        answered = prediction(method(**asked)).detach()
        if len(some) > len(own):
            answered = answered[list(own)]
        plain = prediction(then.answer)[[then.rows[CONDITIONAL]]].detach()
        held.measure(Answer(then.step, answered.float(), plain.float(), call))
        return with_prediction(then.answer, instead)

    def _check(
        self, call: DenoiserCall, own: Sequence[int], then: TrajectoryCall, first: bool
    ) -> None:
        """Looks whether all pictures are where the trajectory's own was."""
        assert then.latents is not None
        several = first and len(own) > 1
        # Some pad a text otherwise where it is one of several (Latte).
        if several and call.tokens_of(own) != then.tokens:
            raise NotTogether
        for row in own:
            one, other = call.sample[row].float(), then.latents.float()
            alike = one.shape == other.shape and torch.allclose(one, other, rtol=1e-2, atol=1e-2)
            if not alike and several:
                raise NotTogether
            if not alike:
                raise UserError(
                    "expected the run to go the same way again, but the latents of step "
                    f"{then.step} differ; run it without what is random beside its seed"
                )


def _window(asked: Window | None, steps: int | None) -> tuple[int, int]:
    if asked is not None:
        return whole_steps(asked, steps, "the steps that are asked about")
    if steps is None:
        raise UserError(
            "expected a pipeline that says how many steps it takes, to ask about the first quarter "
            "of them, but this one does not; name them with steps=(0, 5)"
        )
    return 0, max(1, round(0.25 * steps))
