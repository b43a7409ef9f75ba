"""Follows the runs of a pipeline: its texts, which calls are its own, and whose their rows are.

What recording, editing and guidance have in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from t2i_xattn.denoisers.branches import (
    CONDITIONAL,
    PERTURBED,
    ROLES,
    UNCONDITIONAL,
    stacked,
)
from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.loop import Level, Loop
from t2i_xattn.denoisers.of_pipeline import NAMES, OfPipeline
from t2i_xattn.denoisers.registry import Acting, Registry
from t2i_xattn.denoisers.rows import Layout, layout_of
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.cover import restored
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.listening import Ears, can_listen, text_encoders
from t2i_xattn.prompts.words import Word

Spans = Mapping[str, Sequence[int]]
"""The columns of words or phrases, as the user names them."""

Repeated = Literal["raise", "add"] | int
"""What to do about further calls of a branch at the same noise level, which are no further steps:
raise, add them all, or take the n-th only (0 the first)."""


_Way = tuple[str, str | None]
"""A branch, and by what it is perturbed: what is spoilt in one way and in another is not the same
call again."""


class FollowedRun:
    """Follows the runs of one pipeline while it is open.

    Attributes:
        pipe: the pipeline.
        ears: what is heard of it.
        denoisers: its denoiser, and what else is followed.
    """

    def __init__(
        self,
        pipe: Any,
        spans: Spans | Sequence[Spans] | None = None,
        repeated: Repeated = "raise",
    ) -> None:
        if not (repeated in ("raise", "add") or (isinstance(repeated, int) and repeated >= 0)):
            raise UserError(
                f'expected repeated="raise", "add" or a number from 0 on, but came {repeated!r}'
            )
        if not can_listen(pipe) and not text_encoders(pipe) and hasattr(pipe, "image_encoder"):
            raise UserError(
                "expected a pipeline whose pictures are conditioned on text, but "
                f"{type(pipe).__name__} is conditioned on pictures alone, which have no words; "
                "take a text-to-image pipeline"
            )
        self.pipe, self.repeated = pipe, repeated
        self._spans = spans
        self.ears = Ears.of(pipe)
        self.denoisers: list[FollowedDenoiser] = []

    def run_again(self) -> None:
        """A further run begins; raises `UserError` where there must be none."""
        for each in self.denoisers:
            each.forget()

    def heard(self) -> None:
        """Texts of the run have been encoded."""
        for each in self.denoisers:
            each.link()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Listens to the pipeline and its denoisers; on leaving all is as it was found."""
        try:
            with restored(self._open, self._close):
                yield
        finally:
            # Each knows the run: in a circle their tensors would wait for the garbage collector.
            self.denoisers = []

    def _open(self) -> None:
        self.ears.join(self)
        for each in self.denoisers:
            each.registry.join(each, each.module)

    def _close(self) -> None:
        for each in reversed(self.denoisers):
            each.registry.leave(each)
        self.ears.leave(self)

    def words(self, text: Text | None, branch: str, image: int, images: int) -> tuple[Word, ...]:
        """The words of a picture in a branch: those that the user named, then the text's."""
        words = () if text is None else text.words
        if self._spans is None or ROLES[branch] != CONDITIONAL:
            return words
        each = [self._spans] * images if isinstance(self._spans, Mapping) else list(self._spans)
        if len(each) != images:
            raise UserError(f"expected spans for {images} images, but came {len(each)}")
        named = [Word(name, 0, 0, tuple(columns), "spans") for name, columns in each[image].items()]
        return (*named, *words)

    def words_of(self, layout: Layout, branch: str) -> tuple[tuple[Word, ...], ...]:
        """The words of each picture in a branch."""
        return tuple(
            self.words(text, branch, image, layout.images)
            for image, text in enumerate(layout.texts[branch])
        )

    @property
    def steps(self) -> int | None:
        """Steps of the run that is going on; None if the pipeline does not say."""
        if not self.ears.texts:
            return None  # of a loop by hand the pipeline only knows an earlier run
        return getattr(self.pipe, "_num_timesteps", None)


class FollowedDenoiser:
    """One denoiser of a followed pipeline: which of its calls are the run's, and their layout."""

    edits = False

    def __init__(self, run: FollowedRun, denoiser: OfPipeline) -> None:
        """
        Args:
            run: that follows it.
            denoiser: as the pipeline has it.
        """
        self.run = run
        self.module, self.prefix, self.beside = denoiser
        self.registry = Registry.of(self.module)
        self.site_names: Collection[str] = ()
        self.forget()

    @property
    def pipe(self) -> Any:
        """Whose calls are followed."""
        return self.run.pipe

    def forget(self) -> None:
        """Forgets the run that was."""
        self.by_pipeline = False
        self._known: tuple[Any, ...] = ()
        self._layout: Layout | None = None
        self._levels: dict[_Way, Level] = {}
        self._called: Counter[str] = Counter()
        self._loops: dict[_Way, Loop] = {}

    def link(self) -> None:
        """Looks whether the pipeline has had its denoiser compiled since."""
        for name in NAMES:
            now = getattr(self.pipe, name, None)
            if isinstance(now, nn.Module):
                self.registry.link(now)

    def acting(self, layout: Layout, call: DenoiserCall) -> Acting | None:
        """What is done in a call of this run."""
        raise NotImplementedError

    def begin(self, given: dict[str, Any], owner: Any) -> tuple[Acting | None, dict[str, Any]]:
        """See `registry.Follower`."""
        if owner is not None and owner is not self.pipe:
            return None, given
        call = self.registry.read(given)
        if call is None:
            raise UserError(
                "expected a denoiser that is given a text, but "
                f"{type(self.registry.denoiser).__name__} was called with "
                f"{', '.join(name for name, each in given.items() if each is not None)}; take a "
                "pipeline whose pictures are conditioned on text"
            )
        layout = self.layout(call, owner)
        if owner is None and self._begins_anew(layout, call):
            self.run.run_again()
            self._begins_anew(layout, call)  # which has forgotten this call, too
        for branch in layout.rows:
            way = branch, call.perturbed
            self._levels[way] = Level.after(self._levels.get(way), call.timestep)
        if owner is not None and not self._is_a_step(layout, call):
            return None, given
        self.run.ears.note_call()
        self._called.update(list(layout.rows))
        self.by_pipeline = owner is not None
        return self.begun(layout, call, given)

    def _begins_anew(self, layout: Layout, call: DenoiserCall) -> bool:
        """Whether a loop by hand over the same texts begins, of which no encoder tells."""
        way = next(iter(layout.rows)), call.perturbed
        return self._loops.setdefault(way, Loop()).begins_anew(call.timestep)

    def begun(
        self, layout: Layout, call: DenoiserCall, given: dict[str, Any]
    ) -> tuple[Acting | None, dict[str, Any]]:
        """What is done in a call of this run, and its arguments, as they are to be: those that
        were given, where none is changed."""
        return self.acting(layout, call), given

    def layout(self, call: DenoiserCall, owner: Any) -> Layout:
        """Whose the rows of a call are; looked up anew where something differs from the last."""
        run, names = self.run, None
        if owner is not None:
            names = self._branches(call)
        text = tuple(call.text) if not isinstance(call.text, Tensor) else (call.text,)
        known = (
            *((each.data_ptr(), _version(each), each.shape) for each in text),
            call.rows,
            call.latent,
            names,
            len(run.ears.texts),
        )
        if self._layout is None or known != self._known[1:] or names is None:
            # The tensors are kept, so that no others come to lie at their place.
            self._known = (text, *known)
            # A loop by hand over embeddings that were made before is told by the empty prompt.
            texts = run.ears.texts or ([] if names is not None else run.ears.empty_text())
            self._layout = layout_of(call, texts, names, run.ears.put_together)
        return self._layout

    def _branches(self, call: DenoiserCall) -> tuple[str, ...]:
        """The branches in a call of the pipeline, in the order in which it stacks them."""
        ears = self.run.ears
        if call.perturbed:
            return (PERTURBED,)
        if not hasattr(self.pipe, "guider") and call.rows == len(_pictures(ears.texts)):
            # One branch a call, or a ControlNet in guess mode; told by the text. Where both have
            # the same text, the prompt comes first.
            later = self._called[CONDITIONAL] > self._called[UNCONDITIONAL]
            negative = any(text.role == UNCONDITIONAL for text in ears.texts)
            return (UNCONDITIONAL,) if later and negative and not self.beside else (CONDITIONAL,)
        guided = getattr(self.pipe, "do_classifier_free_guidance", ears.guided)
        return stacked(self.pipe, bool(guided))

    def steps_elsewhere(self, branch: str) -> int:
        """Steps of the run that other denoisers of the sampling loop have taken."""
        if self.beside:
            return 0
        others = [each for each in self.run.denoisers if each is not self and not each.beside]
        return sum(each._called[branch] for each in others)

    def levels_of(self, layout: Layout, call: DenoiserCall) -> dict[str, Level]:
        """Where the branches of a call are that has begun."""
        return {branch: self._levels[branch, call.perturbed] for branch in layout.rows}

    def _is_a_step(self, layout: Layout, call: DenoiserCall) -> bool:
        """Whether a call is of this picture's own steps, and not a further one at a noise level.

        Raises:
            UserError: if it is not, and nobody said what to do about it.
        """
        numbers = [each.number for each in self.levels_of(layout, call).values()]
        repeated = self.run.repeated
        if repeated == "add":
            return True
        if repeated == "raise":
            if not any(numbers):
                return True
            raise UserError(
                f"expected one call of the denoiser at each noise level for the branch "
                f"{next(iter(layout.rows))!r}, but came a further one: a reference pass, or a part "
                'of a larger picture; say what it is to count for with repeated="add" (all of '
                "them) or repeated=1 (the second only)"
            )
        return all(number == repeated for number in numbers)


def _pictures(texts: Sequence[Text]) -> set[int]:
    return {text.picture for text in texts if text.role == CONDITIONAL}


def _version(text: Tensor) -> int | None:
    """Changes with a tensor that is changed in place."""
    return None if text.is_inference() else text._version
