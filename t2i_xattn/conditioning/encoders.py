"""The text encoders of a pipeline, and how it puts together what they give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.denoisers.of_pipeline import main_denoiser
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.module_calls import uncompiled
from t2i_xattn.prompts.own_tokenizer import tokenizer_beside


@dataclass(frozen=True)
class Encoder:
    """A text encoder as a pipeline reads it.

    Attributes:
        name: in the pipeline.
        tokenizer, module: its parts.
        window: columns of one call.
        whole: whether a text has one window only, as T5's; else it may have several.
        skipped: layers that are left out at the end, before the last norm; None: the last states.
        penultimate: whether the states of the last layer but one are taken as they are (SDXL).
        pooled: the name of the pooled text in what it gives; None: not used.
        device: of the ids.
    """

    name: str
    tokenizer: Any
    module: Any
    window: int
    device: Any
    whole: bool = False
    skipped: int | None = None
    penultimate: bool = False
    pooled: str | None = None
    _known: dict[Any, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False)

    def __call__(
        self, ids: Sequence[int], mask: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """States `(1, window, channels)` and the pooled text `(1, channels)` of one window, which
        is encoded once."""
        key = (tuple(ids), mask and tuple(mask))
        if key not in self._known:
            self._known[key] = self._encoded(ids, mask)
        return self._known[key]

    @torch.no_grad()
    def _encoded(
        self, ids: Sequence[int], mask: Sequence[int] | None
    ) -> tuple[Tensor, Tensor | None]:
        given = torch.tensor([list(ids)], device=self.device)
        masked = None if mask is None else torch.tensor([list(mask)], device=self.device)
        if masked is None and getattr(self.module.config, "use_attention_mask", False):
            filling = self.tokenizer.pad_token_id
            end = len(ids)
            while end > 1 and ids[end - 1] == filling and ids[end - 2] == filling:
                end -= 1
            masked = (torch.arange(len(ids), device=self.device) < end).long()[None]
        hidden = self.penultimate or self.skipped is not None
        options: dict[str, Any] = {} if masked is None else {"attention_mask": masked}
        if hidden:
            options["output_hidden_states"] = True
        found = self.module(given, **options)
        pooled = None if self.pooled is None else getattr(found, self.pooled)
        return self._states(found), pooled

    def _states(self, found: Any) -> Tensor:
        if self.penultimate:
            return found.hidden_states[-2 - (self.skipped or 0)]
        if self.skipped is None:
            return found[0]
        # transformers 5 has the norm on the model itself.
        model = getattr(self.module, "text_model", self.module)
        return model.final_layer_norm(found.hidden_states[-1 - self.skipped])


@dataclass(frozen=True)
class Scheme:
    """How a pipeline's text is put together.

    Attributes:
        streams: encoders that stand beside each other, channel by channel; the streams stand behind
            each other.
        pooled: encoders whose pooled texts are joined.
        width: channels of the text; None: what the streams give.
        filling: columns of zeros behind, in the place of an encoder that is not there.
        zeros: whether no negative prompt is zeros and not the empty one.
        negative: whether the negative prompt is encoded even where none is given.
    """

    streams: tuple[tuple[Encoder, ...], ...]
    pooled: tuple[Encoder, ...] = ()
    width: int | None = None
    filling: int = 0
    zeros: bool = False
    negative: bool = True

    @property
    def of_negative(self) -> Scheme:
        """As negative prompts are encoded, whose layers pipelines do not skip."""
        skipping = [each for stream in self.streams for each in stream if each.skipped is not None]
        if not skipping:
            return self
        own = {each.name: replace(each, skipped=None, _known={}) for each in skipping}
        return replace(
            self,
            streams=tuple(tuple(own.get(e.name, e) for e in stream) for stream in self.streams),
            pooled=tuple(own.get(each.name, each) for each in self.pooled),
        )


def scheme_of(pipe: Any, clip_skip: int | None, max_sequence_length: int | None) -> Scheme:
    """How a pipeline puts its text together.

    Raises:
        UserError: if that is not known.
    """
    if clip_skip is not None and (not isinstance(clip_skip, int) or clip_skip < 0):
        raise UserError(f"expected clip_skip as a whole number from 0 on, but came {clip_skip!r}")
    kind = type(uncompiled(main_denoiser(pipe))).__name__
    make = _SCHEMES.get(kind)
    if make is None or "prompt_embeds" not in inspect.signature(pipe.__call__).parameters:
        raise UserError(
            "expected a pipeline of Stable Diffusion, SDXL, SD3 or FLUX that takes prompt_embeds, "
            f"but came {type(pipe).__name__}; give it the prompt without weights and chunks"
        )
    return make(pipe, clip_skip, max_sequence_length)


def _encoder(pipe: Any, end: str, **options: Any) -> Encoder:
    """Raises `UserError` if the pipeline was loaded without it."""
    name = f"text_encoder{end}"
    module, tokenizer = getattr(pipe, name, None), tokenizer_beside(pipe, name)
    if module is None or tokenizer is None:
        raise UserError(
            f"expected a pipeline with its {name} and tokenizer, but {type(pipe).__name__} has "
            "none; load it with them"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "expected a fast tokenizer, which knows the place of each token in the prompt, but "
            f"came {type(tokenizer).__name__}; load the pipeline with transformers 5 or newer"
        )
    window = options.pop("window", None) or min(tokenizer.model_max_length, 77)
    if (skipped := options.get("skipped")) is not None:
        layers = module.config.num_hidden_layers - bool(options.get("penultimate"))
        if skipped >= layers:
            raise UserError(
                f"expected clip_skip below {layers}, the layers of {name} that can be left out, "
                f"but came {skipped}"
            )
    return Encoder(name, tokenizer, module, window, pipe._execution_device, **options)


def _check_clip(pipe: Any) -> None:
    """Raises `UserError` for a text encoder that is not CLIP's: pipelines of such ones with the
    same denoiser (DeepFloyd IF, Kolors, AudioLDM) mask and pick what it gives in their own ways."""
    for name in ("text_encoder", "text_encoder_2"):
        module = getattr(pipe, name, None)
        kind = getattr(getattr(module, "config", None), "model_type", None)
        if module is not None and kind not in ("clip_text_model", "clip"):
            raise UserError(
                f"expected CLIP as {name} of a pipeline of Stable Diffusion or SDXL, but came "
                f"{type(uncompiled(module)).__name__} in {type(pipe).__name__}; give it the prompt "
                "without weights and chunks"
            )


def _unet(pipe: Any, clip_skip: int | None, _: int | None) -> Scheme:
    _check_clip(pipe)
    if getattr(pipe, "text_encoder_2", None) is None:
        return Scheme(((_encoder(pipe, "", skipped=clip_skip),),))
    last = _encoder(pipe, "_2", skipped=clip_skip, penultimate=True, pooled="text_embeds")
    both: tuple[Encoder, ...] = (last,)
    if getattr(pipe, "text_encoder", None) is not None:  # which SDXL's refiner has not
        both = (_encoder(pipe, "", skipped=clip_skip, penultimate=True), last)
    zeros = bool(getattr(pipe.config, "force_zeros_for_empty_prompt", False))
    return Scheme((both,), pooled=(last,), zeros=zeros)


def _sd3(pipe: Any, clip_skip: int | None, length: int | None) -> Scheme:
    options: dict[str, Any] = {"skipped": clip_skip, "penultimate": True, "pooled": "text_embeds"}
    window = int(pipe.tokenizer_max_length)
    clip = tuple(_encoder(pipe, end, window=window, **options) for end in ("", "_2"))
    length = length or 256
    width = int(pipe.transformer.config.joint_attention_dim)
    if getattr(pipe, "text_encoder_3", None) is None:
        return Scheme((clip,), pooled=clip, width=width, filling=length)
    t5 = _encoder(pipe, "_3", window=length, whole=True)
    return Scheme((clip, (t5,)), pooled=clip, width=int(t5.module.config.d_model))


def _flux(pipe: Any, clip_skip: int | None, length: int | None) -> Scheme:
    if clip_skip is not None:
        raise UserError(
            "expected no clip_skip for FLUX, which takes no states of CLIP; leave it out"
        )
    window = int(pipe.tokenizer_max_length)
    clip = _encoder(pipe, "", window=window, pooled="pooler_output")
    t5 = _encoder(pipe, "_2", window=length or 512, whole=True)
    return Scheme(((t5,),), pooled=(clip,), negative=False)


_SCHEMES: Mapping[str, Callable[[Any, int | None, int | None], Scheme]] = {
    "UNet2DConditionModel": _unet,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
}
