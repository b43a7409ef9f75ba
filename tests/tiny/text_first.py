"""Pipelines whose attention has the text in front of the picture: FLUX and FLUX.2, with two streams
in their first blocks and one in the others. More in `text_first_more` and `text_first_cog`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from conftest import make_tokenizer
from tiny.case import Case, Column, Heard, Picture, Seen
from tiny.tokenizers import byte_level_bpe, make_qwen, make_t5

WIDTH = 32
"""Of the text encoders."""

SPREAD = 0.3
"""Of the random weights of the text encoders that would have small ones, and all texts alike."""

TEXT = 32
"""Columns of text, where the caller says how many."""

GRID = (6, 10)
REFERENCE = (4, 7)

SIZE: dict[str, Any] = {"height": 12, "width": 20, "max_sequence_length": TEXT}
"""The tiny autoencoders do not shrink the picture; patches are of 2 × 2."""


def text_first(
    places: int, calls: int = 1, behind: int = 0, registers: int = 0, branches: int = 1
) -> Callable[[Seen], list[Picture] | None]:
    """`[registers, text, picture, others]`, the text as long as the denoiser's argument. The
    conditional call is the first of the step's `calls`, the conditional rows the last of the
    `branches` in a batch."""

    def pictures(seen: Seen) -> list[Picture] | None:
        if seen.call % calls:
            return None
        text = registers + seen.given["encoder_hidden_states"].shape[1]
        assert seen.queries == seen.keys == text + places + behind
        rows = range(seen.rows - seen.rows // branches, seen.rows)
        own = range(registers, text)
        return [Picture(row, range(text, text + places), own) for row in rows]

    return pictures


def first_heard(
    heard: Sequence[Heard], encoder: str = "text_encoder", tokenizer: str = "tokenizer"
) -> list[Column]:
    """All that the encoder was given in its first call: the prompt's."""
    ids = next(each.ids for each in heard if each.encoder == encoder)
    return [(tokenizer, token) for token in ids[0]]


def sharpened(denoiser: Any) -> Any:
    """Larger queries and keys, so that no place looks at everything alike."""
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if re.search(r"\bnorm_(added_)?[qk]\.weight$", name):
                parameter.mul_(2)
    return denoiser.eval()


def quiet(pipe: Any) -> Any:
    """No progress bar, no dropout."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_vae(channels: int = 1, blocks: int = 1) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(4,) * blocks,
        latent_channels=channels,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )


def make_t5_encoder(tokenizer: Any) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4
    )
    return T5EncoderModel(config)


def qwen3(tokenizer: Any) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        initializer_range=SPREAD,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )


def _clip(tokenizer: Any) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


BLOCKS: dict[str, Any] = {
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (4, 4, 8),
}
"""Of the denoisers that FLUX's has been the pattern for."""


def make_flux(kind: Any, latents: int = 1, guidance: bool = True, **changes: Any) -> Any:
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = make_tokenizer(), make_t5()
    config = {"in_channels": 4 * latents, "pooled_projection_dim": WIDTH} | BLOCKS | changes
    transformer = diffusers.FluxTransformer2DModel(guidance_embeds=guidance, **config)
    pipe = kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=make_t5_encoder(tokenizer_2),
        tokenizer_2=tokenizer_2,
        vae=make_vae(latents),
        transformer=sharpened(transformer),
    )
    return quiet(pipe)


def make_flux2(
    kind: Any, tokenizer: Any, text_encoder: Any, guidance: bool, blocks: int = 1
) -> Any:
    """FLUX.2 reads several layers of its text encoder: here two."""
    config = BLOCKS | {"joint_attention_dim": 2 * WIDTH, "axes_dims_rope": (4, 4, 4, 4)}
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=4, guidance_embeds=guidance, **config
    )
    vae = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(4,) * blocks,
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    pipe = kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        vae=vae,
        transformer=sharpened(transformer),
    )
    return quiet(pipe)


def make_klein(blocks: int = 1, kind: Any = diffusers.Flux2KleinPipeline) -> Any:
    torch.manual_seed(0)
    tokenizer = make_qwen()
    encoder = Qwen3ForCausalLM(qwen3(tokenizer))
    return make_flux2(kind, tokenizer, encoder, False, blocks)


_MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}[SYSTEM_PROMPT]{% else %}[INST]{% endif %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}"
    "{% if message['role'] == 'system' %}[/SYSTEM_PROMPT]{% else %}[/INST]{% endif %}{% endfor %}"
)


def make_mistral() -> PreTrainedTokenizerFast:
    """For a `PixtralProcessor`, which torchvision would be needed for; pads on the left."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        chat_template=_MISTRAL,
    )
    marks = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    return tokenizer


def make_dev2() -> Any:
    torch.manual_seed(0)
    tokenizer = make_mistral()
    text = {
        "model_type": "mistral",
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "initializer_range": SPREAD,
        "intermediate_size": 37,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": None,
    }
    vision = {"model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 4, "intermediate_size": 37, "image_size": 30}
    config = Mistral3Config(
        text_config=text, vision_config=vision | {"patch_size": 6}, image_token_index=1
    )
    encoder = Mistral3ForConditionalGeneration(config)
    return make_flux2(diffusers.Flux2Pipeline, tokenizer, encoder, guidance=True)


def painted(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


_PLACES = prod(GRID)
_OF_T5 = partial(first_heard, encoder="text_encoder_2", tokenizer="tokenizer_2")
_SHOWN = painted(12, 20)
OF_FLUX2: dict[str, Any] = {"max_sequence_length": 48, "text_encoder_out_layers": (1, 2)}

CASES: list[Case] = [
    Case(
        name="FluxPipeline",
        make=partial(make_flux, diffusers.FluxPipeline),
        grid=GRID,
        pictures=text_first(_PLACES),
        columns=_OF_T5,
        options=SIZE,
    ),
    Case(
        name="FluxPipeline with true guidance",
        make=partial(make_flux, diffusers.FluxPipeline, guidance=False),
        grid=GRID,
        pictures=text_first(_PLACES, calls=2),
        columns=_OF_T5,
        options=SIZE | {"true_cfg_scale": 3.0},
        negative=True,
    ),
    Case(
        name="FluxImg2ImgPipeline",
        make=partial(make_flux, diffusers.FluxImg2ImgPipeline),
        grid=GRID,
        pictures=text_first(_PLACES),
        columns=_OF_T5,
        options=SIZE | {"image": _SHOWN, "strength": 0.9},
    ),
    Case(
        name="FluxKontextPipeline with a reference",
        make=partial(make_flux, diffusers.FluxKontextPipeline),
        grid=GRID,
        pictures=text_first(_PLACES, behind=prod(REFERENCE)),
        columns=_OF_T5,
        options=SIZE
        | {
            "image": painted(2 * REFERENCE[0], 2 * REFERENCE[1]),
            "max_area": 12 * 20,
            "_auto_resize": False,
        },
    ),
    Case(
        name="FluxFillPipeline",
        make=partial(
            make_flux, diffusers.FluxFillPipeline, latents=2, in_channels=20, out_channels=8
        ),
        grid=GRID,
        pictures=text_first(_PLACES),
        columns=_OF_T5,
        options=SIZE | {"image": _SHOWN, "mask_image": _SHOWN.convert("L")},
    ),
    Case(
        name="FluxControlPipeline",
        make=partial(make_flux, diffusers.FluxControlPipeline, in_channels=8, out_channels=4),
        grid=GRID,
        pictures=text_first(_PLACES),
        columns=_OF_T5,
        options=SIZE | {"control_image": _SHOWN},
    ),
    Case(
        name="Flux2KleinPipeline",
        make=make_klein,
        grid=GRID,
        pictures=text_first(_PLACES, calls=2),
        columns=first_heard,
        options=SIZE | OF_FLUX2,
    ),
    Case(
        name="Flux2KleinPipeline with a reference",
        make=partial(make_klein, blocks=3),
        grid=GRID,
        pictures=text_first(_PLACES, calls=2, behind=8 * 9),
        columns=first_heard,
        options={"height": 48, "width": 80, "image": painted(64, 72)} | OF_FLUX2,
    ),
    Case(
        name="Flux2Pipeline",
        make=make_dev2,
        grid=GRID,
        pictures=text_first(_PLACES),
        columns=first_heard,
        options=SIZE | OF_FLUX2 | {"max_sequence_length": 224},
    ),
]
