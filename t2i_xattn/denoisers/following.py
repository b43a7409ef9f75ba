"""Follows one run of a pipeline: its prompts, which of its denoisers' calls belong to it, and which
rows of a call belong to which branch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from t2i_xattn.denoisers.branches import split_branches
from t2i_xattn.denoisers.followed_denoiser import FollowedDenoiser
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.listening import EncodedPrompts, can_listen, listen
from t2i_xattn.prompts.words import Word
from t2i_xattn.recording.sums import CallShape

Spans = Mapping[str, Sequence[int]]

_last_caller: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""The followed pipeline that began the last run on a denoiser; several may share one."""

Denoiser = TypeVar("Denoiser", bound=FollowedDenoiser)


def controlnets(pipe: Any) -> list[tuple[str, nn.Module]]:
    """The ControlNets of a pipeline, each with what is set before the names of its sites.

    Raises:
        UserError: if it has none.
    """
    net = getattr(pipe, "controlnet", None)
    if not isinstance(net, nn.Module):
        raise UserError(
            f"expected a pipeline with a ControlNet, but {type(pipe).__name__} has none; "
            "leave controlnet=True out"
        )
    nets = getattr(net, "nets", None)  # of several together
    if nets is None:
        return [("controlnet.", net)]
    return [(f"controlnet.{index}.", each) for index, each in enumerate(nets)]


class FollowedRun(Generic[Denoiser]):
    """Follows one run: its prompts, whose call it is, which rows.

    A subclass says what to do when a run begins.

    Attributes:
        pipe: the pipeline.
        denoisers: its UNet, and what else is followed.
        spans: the columns of words, as the user gave them.
        encoded: the prompts of the run, once they were heard.
    """

    def __init__(
        self,
        pipe: Any,
        denoisers: Sequence[Denoiser],
        spans: Spans | Sequence[Spans] | None,
    ) -> None:
        self.pipe, self.denoisers, self.spans = pipe, denoisers, spans
        self.encoded: EncodedPrompts | None = None

    def run_again(self) -> None:
        """A second run begins; raises `UserError` where there must be none."""
        raise NotImplementedError

    def check(self, encoded: EncodedPrompts) -> None:
        """Raises `UserError` for prompts that cannot be, before the run."""

    def begin(self, denoiser: Denoiser, shape: CallShape, branches: Mapping[str, slice]) -> None:
        """The first call of a denoiser in this run."""
        raise NotImplementedError

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Listens to the pipeline and its denoisers; on leaving all is as it was found."""
        with ExitStack() as undo:
            undo.callback(self._leave)
            undo.enter_context(listen(self.pipe, self._prompts_heard))
            for each in self.denoisers:
                undo.enter_context(each.followed(partial(self._called, each)))
            yield

    def _prompts_heard(self, encoded: EncodedPrompts) -> None:
        if any(each.consumer.calls for each in self.denoisers):
            self.run_again()
        if self.encoded is not None and not can_listen(self.pipe):
            return  # heard at the text encoder, where the negative prompt comes second
        self.check(encoded)
        self.encoded = encoded
        first = self.denoisers[0]
        first.listen_to(self.pipe.unet, partial(self._called, first))
        for each in self.denoisers:
            _last_caller[each.denoiser] = id(self.pipe)

    def _leave(self) -> None:
        for each in self.denoisers:
            if _last_caller.get(each.denoiser) == id(self.pipe):
                del _last_caller[each.denoiser]

    def _called(self, denoiser: Denoiser, shape: CallShape) -> dict[str, slice] | None:
        """The rows of each branch in a call, or None if the call is another pipeline's."""
        if _last_caller.get(denoiser.denoiser, id(self.pipe)) != id(self.pipe):
            return None
        rows, first = shape.images, denoiser.consumer.shape is None
        if self.encoded is not None and first and not can_listen(self.pipe):
            self.encoded = self.encoded.repeated(max(1, rows // len(self.encoded.prompts)))
        images = None if self.encoded is None else len(self.encoded.prompts)
        guided = self._guided()
        if denoiser is not self.denoisers[0] and rows == images:
            guided = False  # a ControlNet in guess mode sees the conditional half only
        branches = split_branches(self.pipe, rows, guided, images)
        if first:
            each = next(iter(branches.values()))
            images = each.stop - each.start
            self.begin(denoiser, CallShape(images, shape.latent_size, shape.tokens), branches)
        return branches

    def _guided(self) -> bool:
        """Whether this UNet call carries an unconditional half.

        The pipeline's property is read at each call, since a callback may switch guidance off on
        the way. It keeps its value after a run, so for a UNet that is called by hand, with prompts
        encoded without guidance or not by the pipeline at all, it says nothing.
        """
        if self.encoded is None and can_listen(self.pipe):
            return False
        encoded = False if self.encoded is None else self.encoded.guided
        now = bool(getattr(self.pipe, "do_classifier_free_guidance", encoded))
        return now and (encoded or self.encoded is None)

    def words(self, images: int) -> tuple[tuple[Word, ...], ...]:
        """The words of each image's prompt: those of `spans`, or those that were heard."""
        if self.spans is None:
            return ((),) * images if self.encoded is None else self.encoded.words
        each = [self.spans] * images if isinstance(self.spans, Mapping) else list(self.spans)
        if len(each) != images:
            raise UserError(f"expected spans for {images} images, but came {len(each)}")
        return tuple(
            tuple(Word(text, 0, 0, tuple(columns)) for text, columns in spans.items())
            for spans in each
        )
