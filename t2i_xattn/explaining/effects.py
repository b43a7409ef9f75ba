"""How much, and where, the denoiser's answer changes when a word is taken away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from PIL import Image
from torch import Tensor

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.editing.edit import edit
from t2i_xattn.edits.edit import TINY
from t2i_xattn.errors import UserError
from t2i_xattn.explaining.holding import Answer, hold
from t2i_xattn.explaining.interventions import ALL, Question
from t2i_xattn.explaining.run import Run
from t2i_xattn.explaining.trajectory import Trajectory
from t2i_xattn.prompts.encoded import Text


class EffectSums:
    """The change of the conditional prediction, summed over the steps that are asked about.

    Attributes:
        lengths: fp32 `(frames, height, width)`: Σₜ ‖ε(xₜ, changed) − ε(xₜ)‖ over the channels of
            each place, at the latents xₜ of the picture's own run.
        squares: the mean over places of ‖…‖² at each step.
        plain: the mean over places of ‖ε(xₜ)‖² at each step.
        plain_length: Σₜ of the mean over places of ‖ε(xₜ)‖.
        along: of a part of a text: ⟨Δ, Δ_all⟩ and ⟨Δ_all, Δ_all⟩, summed over the steps.
        text: the question's text, as it was encoded.
    """

    def __init__(self) -> None:
        self.lengths: Tensor | None = None
        self.squares: list[float] = []
        self.plain: list[float] = []
        self.plain_length = 0.0
        self.along = (0.0, 0.0)
        self.text: Text | None = None

    def add(self, lengths: Tensor, plain: Tensor) -> None:
        """One step: the lengths of the change and of the answer itself, see `lengths_of`."""
        self.lengths = lengths if self.lengths is None else self.lengths + lengths
        self.squares.append(float(lengths.square().mean()))
        self.plain.append(float(plain.square().mean()))
        self.plain_length += float(plain.mean())

    @property
    def size(self) -> float:
        """The root of the mean square over steps and places, as a part of that of the answer
        itself: 0.5 is a change half as large as what the denoiser predicts."""
        return math.sqrt(sum(self.squares) / max(sum(self.plain), TINY))

    def map(self) -> Tensor:
        """fp32 `(height, width)`: the mean length of the change over steps and frames, as a part of
        the mean length of the answer over steps and places."""
        assert self.lengths is not None, "at least one step"
        return self.lengths.mean(dim=0) / max(self.plain_length, TINY)

    def by_step(self) -> list[float]:
        """`size`, at each step."""
        pairs = zip(self.squares, self.plain, strict=True)
        return [math.sqrt(change / max(plain, TINY)) for change, plain in pairs]

    @property
    def share(self) -> float:
        """The part of the whole text's change that this one is, along it."""
        return self.along[0] / self.along[1] if self.along[1] > 0 else 0.0


def lengths_of(difference: Tensor, call: DenoiserCall) -> Tensor:
    """The length of a change over the channels of each place, fp32 `(rows, frames, height, width)`.

    Args:
        difference: `(rows, channels, [frames,] height, width)`, the channels last in some, or
            `(rows, places, channels)` of latents that are joined into sequences, those of other
            pictures behind.
        call: of the denoiser.
    """
    if difference.ndim == 3:
        frames, height, width = call.places or call.latent
        own = difference[:, : frames * height * width].norm(dim=-1)
        return own.reshape(-1, frames, height, width)
    size = call.latent_size
    if difference.shape[-2:] != size and difference.shape[-3:-1] == size:
        return difference.norm(dim=-1)  # (rows, frames, height, width, channels)
    given = call.sample[0].shape[0]
    # Some predict a variance too, in channels behind.
    lengths = difference[:, :given].norm(dim=1)
    return lengths if lengths.ndim == 4 else lengths[:, None]


def ask(
    run: Run,
    trajectory: Trajectory,
    asked: Sequence[Question],
    batch: int,
    progress: Callable[[int], Any] = lambda count: None,
) -> list[EffectSums]:
    """What each question changes, in runs held on the trajectory of a picture.

    Args:
        run: the picture's run.
        trajectory: of it.
        asked: the questions; those of `carriers` of one word follow each other.
        batch: at once, at most.
        progress: is told how many have been answered.
    """
    sums = [EffectSums() for _ in asked]
    for first, last in _chunks(asked, batch):
        try:
            _hold(run, trajectory, asked[first:last], sums[first:last])
        except Exception as error:
            # Some pipelines take one prompt at a time, and fail each in its way before they begin.
            begun = any(each.squares for each in sums[first:last])
            if isinstance(error, UserError) or begun or last - first == 1:
                raise
            if any(each.part not in ("", ALL) for each in asked[first:last]):
                raise UserError(
                    "expected a pipeline that takes several prompts at once, to hold parts of a "
                    f"text against the whole, but {type(run.pipe).__name__} does not; leave the "
                    "intervention 'carriers' out"
                ) from error
            for number in range(first, last):
                _hold(run, trajectory, asked[number : number + 1], sums[number : number + 1])
        progress(last - first)
    return sums


def paint(run: Run, asked: Sequence[Question], batch: int) -> list[Image.Image]:
    """The pictures that are painted to the end with each word taken away, from the same noise.

    They are sampled anew, so what a word does spreads over the steps to the rest of the picture.

    Args:
        run: the picture's run.
        asked: questions without a patch of the text.
        batch: at once, at most.
    """
    images: list[Image.Image] = []
    for first in range(0, len(asked), batch):
        some = asked[first : first + batch]
        with _edited(run, some):
            images += run([each.prompt for each in some]).images
    return images


@contextmanager
def _edited(run: Run, asked: Sequence[Question]) -> Iterator[None]:
    edits = [made for n, each in enumerate(asked) if (made := each.edit_of(n)) is not None]
    with edit(run.pipe, *edits) if edits else nullcontext():
        yield


def _chunks(asked: Sequence[Question], batch: int) -> list[tuple[int, int]]:
    """Ranges of questions to be asked at once. Parts of a text need the whole of it beside them."""
    found, first = [], 0
    while first < len(asked):
        last = min(first + batch, len(asked))
        # A text put together of two is known to no edit.
        kinds = [each.edit is None for each in asked[first:last]]
        last = first + (kinds.index(not kinds[0]) if len(set(kinds)) > 1 else len(kinds))
        while last < len(asked) and asked[last].part not in ("", ALL):
            # Not between the parts of one word, unless they alone are more than a batch.
            earlier = [n for n in range(first + 1, last) if asked[n].part in ("", ALL)]
            if not earlier:
                last += 1
                continue
            last = earlier[-1]
        found.append((first, last))
        first = last
    return found


def _hold(
    run: Run, trajectory: Trajectory, asked: Sequence[Question], sums: Sequence[EffectSums]
) -> None:
    whole = {each.phrase: number for number, each in enumerate(asked) if each.part == ALL}

    def measure(answer: Answer) -> None:
        differences = answer.predictions - answer.plain
        lengths, plain = (lengths_of(each, answer.call) for each in (differences, answer.plain))
        for number, (question, found) in enumerate(zip(asked, sums, strict=True)):
            found.add(lengths[number], plain)
            if question.part:
                every = differences[whole[question.phrase]]
                one, two = found.along
                found.along = (
                    one + float((differences[number] * every).sum()),
                    two + float(every.square().sum()),
                )

    with _edited(run, asked):
        texts = hold(
            run.pipe,
            trajectory,
            lambda: run.unpainted([each.prompt for each in asked]),
            measure,
            [each.patch for each in asked],
        )
    for found, text in zip(sums, texts, strict=True):
        found.text = text
