"""A prompt and its settings, checked before anything runs, and the pictures they give."""

from __future__ import annotations

import inspect
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t2i_xattn.asking.painting import painted
from t2i_xattn.asking.picture_prompt import PicturePrompt
from t2i_xattn.errors import UserError, listed, shown
from t2i_xattn.prompts.own_tokenizer import tokenizer_beside
from t2i_xattn.prompts.words import cut_words, find_phrase

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Request:
    """What is asked of a pipeline.

    Attributes:
        prompt: what to paint.
        seed: of the first picture; the others take the numbers that follow.
        steps: of the sampler.
        guidance: scale of classifier-free guidance; 1 and less is without.
        size: width and height in pixels; ``None`` is the model's own.
        count: how many pictures.
        negative: what to keep away from, under guidance.
        words: phrases to look into; empty means every word of the prompt.
        picture: one that stands beside the prompt; None: none.
    """

    prompt: str
    seed: int = 0
    steps: int = 25
    guidance: float = 5.0
    size: tuple[int, int] | None = None
    count: int = 1
    negative: str | None = None
    words: tuple[str, ...] = ()
    picture: PicturePrompt | None = None

    def check(self) -> None:
        """What can be known without the model.

        Raises:
            UserError: the prompt has no word, a text is none, or a number is out of range.
        """
        for text in (self.prompt, self.negative or "", *self.words):
            check_text(text)
        if not any(character.isalnum() for character in self.prompt):
            raise UserError(
                "expected a prompt with at least one word, but it is empty; say what to paint, "
                'such as "a red circle left of a blue square"'
            )
        for name, value in (("steps", self.steps), ("count", self.count)):
            if value < 1:
                raise UserError(f"expected --{name} of at least 1, but came {shown(value)}")
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise UserError(
                f"expected a --guidance of 0 or more, but came {self.guidance}; 1 is without"
            )
        if not 0 <= self.seed < 2**63 - self.count:
            raise UserError(f"expected a --seed from 0 to 2^63, but came {shown(self.seed)}")
        if self.picture is not None:
            self.picture.check()

    def check_against(self, pipe: Any, *, scheduled: bool = False) -> None:
        """What depends on the model: its sizes, its window of tokens, its noise levels.

        Args:
            pipe: the model's.
            scheduled: whether the prompts may change on the way; not where the words of a whole
                run are looked at, since a column is then several words.

        Raises:
            UserError: the model cannot take the size or the steps, the prompt has more tokens than
                the model reads, a negative prompt would do nothing, a prompt changes on the way and
                may not, or a word that is asked for is not in the prompt.
        """
        if self.picture is not None:
            self.picture.load_into(pipe)
        multiple = int(getattr(pipe, "vae_scale_factor", 8))
        for side in self.size or ():
            if side < multiple or side % multiple:
                near = max(multiple, round(side / multiple) * multiple)
                raise UserError(
                    f"expected a --size in multiples of {multiple} pixels, but came {side}; "
                    f"the nearest is {near}"
                )
        levels = int(pipe.scheduler.config.num_train_timesteps)
        if self.steps > levels:
            raise UserError(
                f"expected at most {levels} --steps for this model, but came {shown(self.steps)}; "
                "take fewer"
            )
        from t2i_xattn.conditioning.within import is_scheduled, words_read

        for text in (self.prompt, self.negative):
            if not scheduled and is_scheduled(pipe, text):
                raise UserError(
                    "expected a prompt that says the same in all steps, since its words are looked "
                    f"at over the whole run, but came {shown(text)}; leave [before:after:step] "
                    "out, or paint it with generate"
                )
        tokenizer = tokenizer_of(pipe)
        spans = words_read(pipe, tokenizer, self.prompt)
        spans += () if self.picture is None else self.picture.words
        negative = words_read(pipe, tokenizer, self.negative or "")
        for name, read in (("prompt", spans), ("negative prompt", negative)):
            cut = cut_words(read)
            if cut:
                words = listed(word.text for word in cut)
                raise UserError(
                    f"expected a {name} that fits into the window of the text encoder, but these "
                    f"words lie beyond: {words}; shorten it"
                )
        self._check_guidance(pipe)
        if scheduled and is_scheduled(pipe, self.prompt):
            return  # its words differ from step to step; each is looked for where it is read
        for phrase in self.words:
            find_phrase(spans, phrase)

    def _check_guidance(self, pipe: Any) -> None:
        from t2i_xattn.inversion.flow import guidance_of

        way = guidance_of(pipe)
        if self.negative and way.embedded:
            raise UserError(
                f"expected no --negative for {type(pipe).__name__}, whose guidance is part of the "
                "model and has no negative prompt; leave --negative out"
            )
        if self.negative and self.guidance <= way.none:
            raise UserError(
                f"expected a --guidance above {way.none:g} for --negative, but came "
                f"{self.guidance:g}, without which a negative prompt does nothing; raise it or "
                "leave --negative out"
            )


def check_text(text: str) -> None:
    """Raises `UserError` for what came from bytes that are no text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"expected text in UTF-8, but came {shown(text)}; write it in UTF-8"
        ) from error


def tokenizer_of(pipe: Any) -> Any:
    """What parts a pipeline's prompts into tokens: of several, the one with the longest window,
    since what one text encoder cuts off is read by another (SD3, FLUX).

    Raises:
        UserError: if it has none.
    """
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
    found = [each for name in encoders if (each := tokenizer_beside(pipe, name)) is not None]
    if not found:
        raise UserError(
            f"expected a pipeline that paints a prompt, but {type(pipe).__name__} has no "
            "tokenizer; take a text-to-image pipeline"
        )
    return max(found, key=lambda each: int(each.model_max_length))


def paint(pipe: Any, request: Request, **others: Any) -> list[Image.Image]:
    """The pictures of a request: number ``n`` has the seed ``request.seed + n``.

    So the pictures do not depend on how many are made at once. `others` are further arguments of
    the pipeline's call.
    """
    if "callback_on_step_end" in others and is_scheduled_for(pipe, request):
        raise UserError(
            "expected a prompt without a schedule where each step is looked at, but came "
            f"{shown(request.prompt)}; leave [before:after:step] out"
        )
    with nullcontext() if request.picture is None else request.picture.scaled(pipe):
        return painted(pipe, **arguments_of(pipe, request), **others)


def arguments_of(pipe: Any, request: Request) -> dict[str, Any]:
    """What a pipeline is called with for a request, noise and all."""
    import torch

    generators = [torch.Generator().manual_seed(request.seed + n) for n in range(request.count)]
    known = inspect.signature(pipe.__call__).parameters
    options = {"num_images_per_prompt": request.count, "generator": generators}
    given = {"prompt": request.prompt, **settings_of(pipe, request)}
    given |= {name: value for name, value in options.items() if name in known}
    if request.picture is not None:
        return request.picture.arguments(pipe, given)
    if is_scheduled_for(pipe, request):
        from t2i_xattn.conditioning.condition import condition

        texts = (given.pop(name, None) for name in ("prompt", "negative_prompt"))
        given |= condition(pipe, *texts)
    return given


def is_scheduled_for(pipe: Any, request: Request) -> bool:
    """Whether the prompt or the negative prompt changes on the way."""
    from t2i_xattn.conditioning.within import is_scheduled

    return is_scheduled(pipe, request.prompt, request.negative)


def settings_of(pipe: Any, request: Request) -> dict[str, Any]:
    """What a request says beside prompt, seed and count, as arguments of the pipeline's call.

    Raises:
        UserError: for a negative prompt, if the pipeline takes none.
    """
    if "negative_prompt" in inspect.signature(pipe.__call__).parameters:
        return {**sampling_of(pipe, request), "negative_prompt": request.negative}
    if request.negative is not None:
        raise UserError(
            f"expected a pipeline that takes a negative prompt, but {type(pipe).__name__} takes "
            "none; leave --negative out"
        )
    return sampling_of(pipe, request)


def sampling_of(pipe: Any, request: Request) -> dict[str, Any]:
    """Size, steps and guidance of a request, as those arguments that the pipeline's call has."""
    from t2i_xattn.inversion.flow import guidance_of

    width, height = request.size or (None, None)
    options = {
        "width": width,
        "height": height,
        "num_inference_steps": request.steps,
        guidance_of(pipe).argument: request.guidance,
    }
    known = inspect.signature(pipe.__call__).parameters
    return {name: value for name, value in options.items() if name in known}
