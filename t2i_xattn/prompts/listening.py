"""Learns the prompts of a run by listening at the pipeline's own `encode_prompt`.

A pipeline without one (Modular Diffusers) is listened to at its text encoder.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.prompts.words import Word, check_whole, split_words

_SETTINGS = ("device", "lora_scale", "clip_skip")
"""Arguments of `encode_prompt` that say how, and not what."""


@dataclass(frozen=True)
class EncodedPrompts:
    """What a pipeline was asked to draw, one entry a picture, in the order of the pictures.

    Attributes:
        prompts: the prompt of each picture; None where it was given as embeddings only.
        words: the words of each prompt; empty where there is no text.
        guided: whether an unconditional half was encoded too.
        settings: with what they were encoded: `device`, `lora_scale`, `clip_skip`.
    """

    prompts: tuple[str | None, ...]
    words: tuple[tuple[Word, ...], ...]
    guided: bool
    settings: Mapping[str, Any] = field(default_factory=dict)

    def repeated(self, times: int) -> EncodedPrompts:
        """For so many pictures a prompt, prompt-major: a a b b."""
        return replace(
            self,
            prompts=tuple(each for each in self.prompts for _ in range(times)),
            words=tuple(each for each in self.words for _ in range(times)),
        )


def can_listen(pipe: Any) -> bool:
    """Whether the pipeline encodes its prompts by a method that can be listened to."""
    return _method_name(pipe) is not None


def encode_unheard(
    pipe: Any, texts: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Texts as the pipeline's own text encoders give them, past all who listen.

    Args:
        pipe: the pipeline.
        texts: each by itself, without an unconditional half.
        settings: of the encoding, see `EncodedPrompts`; what the pipeline does not know is left
            out.

    Returns:
        By text, its embeddings `(tokens, text channels)`.

    Raises:
        UserError: if the pipeline has no method to encode prompts, or a text is too long for it.
    """
    name = _method_name(pipe)
    if name is None:
        raise UserError(
            "expected a pipeline with `encode_prompt` to encode other texts with, but came "
            f"{type(pipe).__name__}; use a pipeline such as StableDiffusionXLPipeline"
        )
    listening = vars(pipe).get(name)
    method = listening.method if isinstance(listening, _Listening) else getattr(pipe, name)
    known = _signature(pipe, name).parameters
    options = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False, "device": None}
    options = {key: value for key, value in (options | dict(settings)).items() if key in known}
    for text, words in zip(texts, _encoded(pipe, {"prompt": list(texts)}).words, strict=True):
        check_whole(text, words)
    with torch.no_grad():
        found = method(prompt=list(texts), **options)
    # The prompts come first of several tensors; `_encode_prompt` gives one.
    embeddings = found[0] if isinstance(found, tuple) else found
    return dict(zip(texts, embeddings, strict=True))


@contextmanager
def listen(pipe: Any, heard: Callable[[EncodedPrompts], None]) -> Iterator[None]:
    """Calls `heard` before each `encode_prompt` of this pipeline; what it raises stops the run.

    The method is covered on the instance only, and uncovered when the last listener leaves, in
    whatever order they do. In a pipeline without the method each call of the text encoder is heard,
    as if it made one picture a prompt; one without a text encoder is left as it is, unheard.
    """
    name = _method_name(pipe)
    if name is None:
        with _listen_to_encoder(pipe, heard):
            yield
        return
    signature = _signature(pipe, name)
    # The instance's dictionary, past `DiffusionPipeline.__setattr__`, which is for components.
    own = vars(pipe)
    before = own.get(name)
    listening = before if isinstance(before, _Listening) else _Listening(pipe, name, signature)
    own[name] = listening
    listening.listeners.append(heard)
    try:
        yield
    finally:
        listening.listeners.remove(heard)
        if not listening.listeners and own.get(name) is listening:
            if listening.covered is None:
                del own[name]
            else:
                own[name] = listening.covered


@contextmanager
def _listen_to_encoder(pipe: Any, heard: Callable[[EncodedPrompts], None]) -> Iterator[None]:
    encoder = getattr(pipe, "text_encoder", None) or getattr(pipe, "text_encoder_2", None)
    tokenizer = getattr(pipe, "tokenizer", None) or getattr(pipe, "tokenizer_2", None)
    if encoder is None or tokenizer is None:
        yield
        return

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        # In the tokenizer's spelling, CLIP's in small letters; the columns are the same.
        prompts = tuple(tokenizer.batch_decode(ids, skip_special_tokens=True))
        words = tuple(split_words(tokenizer, prompt) for prompt in prompts)
        heard(EncodedPrompts(prompts, words, guided=False))

    handle = encoder.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _Listening:
    """Stands in for the method on the instance, with its name, documentation and signature."""

    def __init__(self, pipe: Any, name: str, signature: inspect.Signature) -> None:
        self.pipe = pipe
        self.covered = vars(pipe).get(name)
        self.method = getattr(pipe, name)
        self.signature = signature
        self.listeners: list[Callable[[EncodedPrompts], None]] = []
        functools.update_wrapper(self, self.method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        encoded = _encoded(self.pipe, bound.arguments)
        for heard in self.listeners:
            heard(encoded)
        return self.method(*args, **kwargs)


def _method_name(pipe: Any) -> str | None:
    # `_encode_prompt` is the older name, still the only one in InstructPix2Pix.
    for name in ("encode_prompt", "_encode_prompt"):
        if hasattr(pipe, name) and "prompt" in _signature(pipe, name).parameters:
            return name
    return None


def _signature(pipe: Any, name: str) -> inspect.Signature:
    """The method's signature; the class's, if somebody put a bare `(*args, **kwargs)` before it."""
    signature = inspect.signature(getattr(pipe, name))
    if "prompt" not in signature.parameters and hasattr(type(pipe), name):
        return inspect.signature(getattr(type(pipe), name).__get__(pipe))
    return signature


def _encoded(pipe: Any, arguments: dict[str, Any]) -> EncodedPrompts:
    prompt, embeds = arguments.get("prompt"), arguments.get("prompt_embeds")
    prompts: list[str | None]
    if embeds is not None:
        # The embeddings win over a text given beside them, in diffusers too.
        prompts = [None] * embeds.shape[0]
    elif isinstance(prompt, str):
        prompts = [prompt]
    else:
        prompts = list(prompt or ())
    # A textual inversion of several vectors stands for several tokens; this is what is tokenized.
    convert = getattr(pipe, "maybe_convert_prompt", None)
    if convert is not None:
        prompts = [p if p is None else convert(p, pipe.tokenizer) for p in prompts]
    words = [() if p is None else split_words(pipe.tokenizer, p) for p in prompts]
    # Prompt-major, as the pipelines repeat the embeddings: a a b b.
    images = arguments.get("num_images_per_prompt") or 1
    guided = bool(arguments.get("do_classifier_free_guidance", False))
    settings = {key: arguments[key] for key in _SETTINGS if key in arguments}
    return EncodedPrompts(tuple(prompts), tuple(words), guided, settings).repeated(images)
