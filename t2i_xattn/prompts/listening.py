"""Hears what a pipeline encodes: its own `encode_prompt`, and its text encoders.

One `Ears` a pipeline, shared by all who listen. A pipeline without `encode_prompt` (Modular
Diffusers), and a loop by hand that calls the text encoder, are heard at the encoder alone.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from t2i_xattn.errors import UserError
from t2i_xattn.kernel.cover import Cover
from t2i_xattn.kernel.module_calls import ModuleCalls
from t2i_xattn.kernel.owner import owner_of_call, running
from t2i_xattn.prompts.encoded import EncoderCall, Text
from t2i_xattn.prompts.known import recall
from t2i_xattn.prompts.own_tokenizer import main_tokenizer, own_tokenizer, tokenizer_beside
from t2i_xattn.prompts.roles import CONDITIONAL, UNCONDITIONAL
from t2i_xattn.prompts.texts import same, text_by_value, texts_by_hand, texts_of_encoding

_SETTINGS = (
    "device",
    "lora_scale",
    "clip_skip",
    "max_sequence_length",
    "text_encoder_out_layers",
)
"""Arguments of `encode_prompt` that say how, and not what."""

_LAST = "maybe_free_model_hooks"
"""What diffusers' pipelines call last in a run."""

_ears: dict[int, Ears] = {}
"""Of the pipelines that somebody listens to, by their id."""

_lock = threading.RLock()


class Listener(Protocol):
    """Who listens to a pipeline's texts."""

    def run_again(self) -> None:
        """A further run begins; raises `UserError` where there must be none."""
        ...

    def heard(self) -> None:
        """Texts of the run have been encoded; raises `UserError` for those that cannot be."""
        ...


class Ears:
    """What is heard of one pipeline, while somebody listens.

    Attributes:
        texts: of the run that is going on, in the order in which they were encoded.
        number: of the run, counted from the first listener on.
        called: whether the run's denoiser has been called, see `note_call`.
        settings: with what the texts were encoded, such as `device` and `clip_skip`.
        guided: whether an unconditional text was encoded too.
        copies: pictures a prompt.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.listeners: list[Listener] = []
        self.number = 0
        self._local = threading.local()
        self._encoders: list[tuple[str, ModuleCalls]] = []
        self._method: Cover | None = None
        self._ending: Cover | None = None
        self._run: FrameType | None = None
        self.called = False
        self._forget()

    @classmethod
    def of(cls, pipe: Any) -> Ears:
        """The pipeline's ears; made where nobody listens yet."""
        return _ears.get(id(pipe)) or cls(pipe)

    def join(self, listener: Listener) -> None:
        """Tells a listener what is heard from now on."""
        with _lock:
            _ears[id(self.pipe)] = self
            self.listeners.append(listener)
            if self._method is None and (name := _method_name(self.pipe)) is not None:
                self._method = Cover(self.pipe, name, self._encode)
                self._method.put()
            if self._ending is None and hasattr(self.pipe, _LAST):
                self._ending = Cover(self.pipe, _LAST, self._ended)
                self._ending.put()
            if not self._encoders:
                self._encoders = [
                    (name, ModuleCalls(encoder, self._encoder_called(name)))
                    for name, encoder in text_encoders(self.pipe)
                ]
            self.link()

    def leave(self, listener: Listener) -> None:
        """Stops telling a listener; may be called again."""
        with _lock:
            self.listeners = [each for each in self.listeners if each is not listener]
            if self.listeners:
                return
            for _, calls in self._encoders:
                calls.unlink()
            for cover in (self._ending, self._method):
                if cover is not None:
                    cover.take_off()
            self._encoders, self._method, self._ending = [], None, None
            _ears.pop(id(self.pipe), None)
            self._forget()

    def link(self) -> None:
        """Covers encoders that have been compiled since."""
        now = dict(text_encoders(self.pipe))
        for name, calls in self._encoders:
            if name in now:
                calls.link(now[name])

    def note_call(self) -> None:
        """The run has come to its denoiser."""
        if not self.called:
            self.called, self._run = True, running(self.pipe)

    def _ended(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In the place of what the pipeline calls when its run is done."""
        if self._run is not None and running(self.pipe) is self._run:
            self._run = None  # the frame holds what the run had at hand: latents, pictures
        return method(*args, **kwargs)

    def encode(self, text: str) -> Text:
        """One text as the pipeline's own text encoders give it, unheard, with its words' columns.

        It is encoded with the settings of the run's own texts. The encoders must be listened to.

        Raises:
            UserError: if the pipeline has no method to encode prompts.
        """
        name = _method_name(self.pipe)
        if name is None:
            raise UserError(
                "expected a pipeline with `encode_prompt` to encode other texts with, but came "
                f"{type(self.pipe).__name__}; use a pipeline such as StableDiffusionXLPipeline"
            )
        found, given, calls = self._encode_unheard(name, text)
        role = None if _gives_negative(self.pipe, name) else CONDITIONAL
        (first, *_), _ = texts_of_encoding(self.pipe, given, found, calls, role)
        if not calls:
            first = _recalled(first)
        return replace(first, mask=_mask_beside(found, len(first.embedding)))

    def _encode_unheard(
        self, name: str, text: str
    ) -> tuple[Any, Mapping[str, Any], list[EncoderCall]]:
        """What the method of that name gives for a text without an unconditional half, its
        arguments, and the calls of the text encoders in it."""
        signature = _signature(self.pipe, name)
        known = signature.parameters
        options = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False, "device": None}
        # Prompts for further encoders have no default in some; without one they are the first.
        more = {k: None for k in known if k.startswith("prompt_") and k[7:].isdigit()}
        options = {k: v for k, v in (more | options | dict(self.settings)).items() if k in known}
        bound = signature.bind(prompt=[text], **options)
        bound.apply_defaults()
        with self.deaf() as calls, torch.no_grad():
            found = getattr(self.pipe, name)(prompt=[text], **options)
        return found, dict(bound.arguments), calls

    @contextmanager
    def deaf(self) -> Iterator[list[EncoderCall]]:
        """What this thread has encoded meanwhile is no text of the run; gives the calls of the text
        encoders."""
        calls: list[EncoderCall] = []
        before = [getattr(self._local, name, None) for name in ("deaf", "inside")]
        self._local.deaf, self._local.inside = True, calls
        try:
            yield calls
        finally:
            self._local.deaf, self._local.inside = before

    def put_together(self, embedding: Tensor) -> Text | None:
        """A text that somebody has put together of what was heard at the encoders themselves, such
        as SD3's without `encode_prompt`, or that `condition` has made and a schedule brings; None
        if it is not."""
        if (made := recall(embedding)) is not None:
            return made
        if not self._by_hand:
            return None
        # Of two branches that take turns, each comes again in every step.
        for count, known, text in self._put_together:
            alike = known.shape == embedding.shape and same(known, embedding)
            if count == len(self._by_hand) and alike:
                return text
        text = text_by_value(self.pipe, self._by_hand, embedding, self._nothing())
        self._put_together.append((len(self._by_hand), embedding, text))
        return text

    def _nothing(self) -> list[EncoderCall]:
        """The empty prompt as the encoders give it that were heard."""
        known = [call for call in self._by_hand if call.tokenizer is not None]
        # The call whose output has the most states.
        fullest = {call.encoder: call for call in sorted(known, key=lambda e: len(e.states))}
        encoders = dict(text_encoders(self.pipe))
        with self.deaf() as calls, torch.no_grad():
            for name, call in fullest.items():
                window, hidden = len(call.ids[0]), len(call.states) > 1
                ids = own_tokenizer(call.tokenizer)("", padding="max_length", max_length=window)
                given = torch.tensor([ids["input_ids"]], device=call.states[0].device)
                encoders[name](given, output_hidden_states=hidden)
        return calls

    def empty_text(self) -> list[Text]:
        """The prompt without words, as the pipeline's encoders give it; nothing if they do not."""
        tokenizer = main_tokenizer(self.pipe)
        if _method_name(self.pipe) is None or tokenizer is None or not text_encoders(self.pipe):
            return []
        embedding = self.encode("").embedding
        nothing = tuple(tokenizer("")["input_ids"])
        # SDXL has zeros in its place.
        return [
            Text(each, None, 0, "", ids=nothing)
            for each in (embedding, embedding.new_zeros(embedding.shape))
        ]

    def _forget(self) -> None:
        self.texts: list[Text] = []
        self._by_hand: list[EncoderCall] = []
        self._put_together: list[tuple[int, Tensor, Text | None]] = []
        self.called, self._run = False, None
        self.settings: Mapping[str, Any] = {}
        self.guided = False
        self.copies = 1

    def _encode(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In the place of the pipeline's `encode_prompt`."""
        if getattr(self._local, "deaf", False):
            return method(*args, **kwargs)
        name = self._method.name if self._method is not None else "encode_prompt"
        bound = _signature(self.pipe, name).bind(*args, **kwargs)
        bound.apply_defaults()
        # Some pipelines write into the list of prompts.
        given = {
            key: list(value) if isinstance(value, list) else value
            for key, value in bound.arguments.items()
        }
        self._begin()
        calls: list[EncoderCall] = []
        self._local.inside, before = calls, getattr(self._local, "inside", None)
        try:
            result = method(*args, **kwargs)
        finally:
            self._local.inside = before
        role = None if _gives_negative(self.pipe, name) else self._role()
        texts, self.copies = texts_of_encoding(self.pipe, given, result, calls, role)
        if not calls:
            texts = [_recalled(each) for each in texts]
        self.settings = {key: given[key] for key in _SETTINGS if key in given}
        self.guided = bool(given.get("do_classifier_free_guidance", False))
        self._add(texts)
        return result

    def _encoder_called(self, name: str) -> Callable[..., Any]:
        def called(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            ids = kwargs.get("input_ids", args[0] if args else None)
            if not isinstance(ids, Tensor) or ids.ndim != 2:
                return result
            if owner_of_call([self.pipe]) not in (None, self.pipe):
                return result  # another pipeline has the same encoder
            tokenizer = tokenizer_beside(self.pipe, name)
            call = EncoderCall(name, tokenizer, ids.tolist(), _states(result))
            inside = getattr(self._local, "inside", None)
            if inside is not None:
                inside.append(call)
            else:
                self._begin()
                self._by_hand.append(call)
                self._add(texts_by_hand(call))
            return result

        return called

    def _role(self) -> str:
        """What an encoding is for, where the pipeline asks for prompts and for negative prompts by
        a call each, the prompts first."""
        before = any(text.role == CONDITIONAL for text in self.texts)
        return UNCONDITIONAL if before else CONDITIONAL

    def _begin(self) -> None:
        """Texts are about to be encoded: a further run's, where one has gone before."""
        now = running(self.pipe)
        if not self.called or (now is not None and now is self._run):
            return  # the run's own texts, or those of a callback on its way
        for each in list(self.listeners):
            each.run_again()
        self.number += 1
        self._forget()

    def _add(self, texts: list[Text]) -> None:
        self.texts += texts
        self.link()
        for each in list(self.listeners):
            each.heard()


@contextmanager
def unheard(pipe: Any) -> Iterator[None]:
    """What this thread has encoded meanwhile is heard by nobody who listens to the pipeline."""
    ears = _ears.get(id(pipe))
    if ears is None:
        yield
        return
    with ears.deaf():
        yield


def can_listen(pipe: Any) -> bool:
    """Whether the pipeline encodes its prompts by a method that can be listened to."""
    return _method_name(pipe) is not None


def text_encoders(pipe: Any) -> list[tuple[str, nn.Module]]:
    """The pipeline's text encoders, by name, in their order."""
    found = [f"text_encoder{end}" for end in ("", "_2", "_3", "_4")]
    named = [(name, getattr(pipe, name, None)) for name in found]
    return [(name, module) for name, module in named if isinstance(module, nn.Module)]


def _recalled(text: Text) -> Text:
    """A text that was given as an embedding, with what is known of its columns."""
    known = recall(text.embedding)
    return text if known is None else replace(known, role=text.role, picture=text.picture)


def _states(result: Any) -> tuple[Tensor, ...]:
    """The hidden states in an encoder's output that pipelines take their embeddings from."""
    last = getattr(result, "last_hidden_state", None)
    if last is None and isinstance(result, tuple | list) and result:
        last = result[0]
    hidden = getattr(result, "hidden_states", None) or ()
    found = [last, *reversed(hidden)]
    return tuple(each for each in found if isinstance(each, Tensor) and each.ndim == 3)


def _method_name(pipe: Any) -> str | None:
    # `_encode_prompt` is the older name, still the only one in InstructPix2Pix.
    for name in ("encode_prompt", "_encode_prompt"):
        if hasattr(pipe, name) and "prompt" in _signature(pipe, name).parameters:
            return name
    return None


def _gives_negative(pipe: Any, name: str) -> bool:
    """Whether a pipeline's encoding gives the negative prompts' embeddings too."""
    if name == "_encode_prompt":
        return True
    # A subclass may hand its arguments on.
    methods = [vars(kind).get(name) for kind in type(pipe).__mro__]
    known = {key for each in methods if each is not None for key in _names(each)}
    return not known.isdisjoint({"negative_prompt", "do_classifier_free_guidance"})


def _mask_beside(found: Any, tokens: int) -> Tensor | None:
    """The mask of one text `(tokens,)` in what an encoding gave."""
    listed = found if isinstance(found, tuple | list) else [found]
    masks = (each for each in listed if isinstance(each, Tensor) and each.shape == (1, tokens))
    return next((mask[0] for mask in masks), None)


def _names(method: Any) -> Collection[str]:
    return inspect.signature(method).parameters if callable(method) else ()


def _signature(pipe: Any, name: str) -> inspect.Signature:
    """The method's signature; the class's, if somebody put a bare `(*args, **kwargs)` before it."""
    signature = inspect.signature(getattr(pipe, name))
    if "prompt" not in signature.parameters and hasattr(type(pipe), name):
        return inspect.signature(getattr(type(pipe), name).__get__(pipe))
    return signature
