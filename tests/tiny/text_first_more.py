"""More pipelines whose attention has the text in front of the picture: those made after FLUX, and
more of FLUX.2's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import diffusers
import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Model,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from tiny.case import Case, Column, Heard, Picture, Seen
from tiny.text_first import (
    BLOCKS,
    GRID,
    OF_FLUX2,
    SIZE,
    SPREAD,
    TEXT,
    WIDTH,
    first_heard,
    make_klein,
    make_t5_encoder,
    make_vae,
    painted,
    quiet,
    qwen3,
    sharpened,
    text_first,
)
from tiny.tokenizers import byte_level_bpe, make_qwen, make_t5


def make_chroma() -> Any:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=4,
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
        **BLOCKS,
    )
    pipe = diffusers.ChromaPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=make_t5_encoder(tokenizer),
        tokenizer=tokenizer,
        vae=make_vae(),
        transformer=sharpened(transformer),
    )
    return quiet(pipe)


def make_longcat() -> Any:
    torch.manual_seed(0)
    tokenizer = make_qwen()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "initializer_range": SPREAD,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision | {"out_hidden_size": WIDTH})
    transformer = diffusers.LongCatImageTransformer2DModel(
        in_channels=64, pooled_projection_dim=WIDTH, **BLOCKS
    )
    pipe = diffusers.LongCatImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        text_processor=tokenizer,
        vae=make_vae(16),
        transformer=sharpened(transformer),
    )
    pipe.tokenizer_max_length = TEXT
    return quiet(pipe)


def longcat_columns(heard: Sequence[Heard]) -> list[Column]:
    """The words without the template around them; the new ones, if the pipeline has rewritten the
    prompt, as it does unless told otherwise: the negative prompt's call is the last."""
    suffix = make_qwen()("<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    whole = first_heard(heard[-2:])
    return whole[-TEXT - len(suffix) : -len(suffix)]


_OVIS = "Describe the image by detailing the color quantity text shape size texture spatial"
_OVIS += " relationships of the objects and background"
OVIS_DROPS = 28


def make_ovis_tokenizer() -> Qwen2Tokenizer:
    """Every word of the pipeline's instruction is one token, as with the real vocabulary: 28 up to
    its colon."""
    tokenizer = make_qwen()
    first, *words = _OVIS.split()
    new = {"user", first, *(f" {word}" for word in words)} - {" of"}
    tokenizer.add_tokens(sorted(new))
    return tokenizer


def make_ovis() -> Any:
    torch.manual_seed(0)
    tokenizer = make_ovis_tokenizer()
    transformer = diffusers.OvisImageTransformer2DModel(in_channels=4, out_channels=4, **BLOCKS)
    pipe = diffusers.OvisImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=Qwen3Model(qwen3(tokenizer)),
        tokenizer=tokenizer,
        vae=make_vae(),
        transformer=sharpened(transformer),
    )
    return quiet(pipe)


def make_bria() -> Any:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = diffusers.BriaTransformer2DModel(
        in_channels=16, pooled_projection_dim=None, **BLOCKS
    )
    pipe = diffusers.BriaPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=make_t5_encoder(tokenizer),
        tokenizer=tokenizer,
        vae=make_vae(4),
        transformer=sharpened(transformer),
    )
    return quiet(pipe)


def bria_columns(heard: Sequence[Heard]) -> list[Column]:
    """The pipeline fills up with zeros what the tokenizer has not padded."""
    words = first_heard(heard)
    return words + [None] * (TEXT - len(words))


def make_fibo() -> Any:
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(), pad_token="<pad>", eos_token="</s>"
    )
    config = SmolLM3Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        initializer_range=SPREAD,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformer = diffusers.BriaFiboTransformer2DModel(
        in_channels=16,
        text_encoder_dim=WIDTH,
        **BLOCKS | {"joint_attention_dim": 2 * WIDTH},
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        num_res_blocks=1,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        temperal_downsample=[False, True, True],
        z_dim=16,
    )
    pipe = diffusers.BriaFiboPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=SmolLM3ForCausalLM(config),
        tokenizer=tokenizer,
        vae=vae,
        transformer=sharpened(transformer),
    )
    return quiet(pipe)


def fibo_columns(heard: Sequence[Heard]) -> list[Column]:
    """Both prompts are filled up with zeros to the longer one's length."""
    words = first_heard(heard)
    return words + [None] * (max(len(each.ids[0]) for each in heard) - len(words))


_PLACES = prod(GRID)


def with_cached_reference(seen: Seen) -> list[Picture] | None:
    """`[text, picture]` look at `[text, reference, picture]`. In the first call the reference looks
    at itself, in a second kernel call; in the others its keys come from a cache."""
    if seen.number:
        return None
    text = seen.given["encoder_hidden_states"].shape[1]
    assert (seen.queries, seen.keys) == (text + _PLACES, text + 8 * 9 + _PLACES)
    return [Picture(row, range(text, text + _PLACES), range(text)) for row in range(seen.rows)]


CASES: list[Case] = [
    Case(
        name="ChromaPipeline",
        make=make_chroma,
        grid=GRID,
        pictures=text_first(_PLACES, calls=2),
        columns=first_heard,
        options=SIZE,
        negative=True,
    ),
    Case(
        name="LongCatImagePipeline",
        make=make_longcat,
        grid=GRID,
        pictures=text_first(_PLACES, calls=2),
        columns=longcat_columns,
        options={"height": 12, "width": 20, "enable_prompt_rewrite": False},
        negative=True,
    ),
    Case(
        name="LongCatImagePipeline with the prompt rewritten",
        make=make_longcat,
        grid=GRID,
        pictures=text_first(_PLACES, calls=2),
        columns=longcat_columns,
        options={"height": 12, "width": 20},
        negative=True,
    ),
    Case(
        name="OvisImagePipeline",
        make=make_ovis,
        grid=GRID,
        pictures=text_first(_PLACES, calls=2),
        columns=lambda heard: first_heard(heard)[OVIS_DROPS:],
        options=SIZE,
        negative=True,
    ),
    Case(
        name="BriaPipeline",
        make=make_bria,
        grid=GRID,
        pictures=text_first(_PLACES, branches=2),
        columns=bria_columns,
        options=SIZE,
        negative=True,
    ),
    Case(
        name="BriaFiboPipeline",
        make=make_fibo,
        grid=(3, 5),
        pictures=text_first(15, branches=2),
        columns=fibo_columns,
        options={"height": 48, "width": 80},
        negative=True,
    ),
    Case(
        name="Flux2KleinPipeline distilled",
        make=partial(make_klein, kind=partial(diffusers.Flux2KleinPipeline, is_distilled=True)),
        grid=GRID,
        pictures=text_first(_PLACES),
        columns=first_heard,
        options=SIZE | OF_FLUX2 | {"guidance_scale": 1.0},
    ),
    Case(
        name="Flux2KleinKVPipeline with a reference",
        make=partial(make_klein, blocks=3, kind=diffusers.Flux2KleinKVPipeline),
        grid=GRID,
        pictures=with_cached_reference,
        columns=first_heard,
        options={"height": 48, "width": 80, "image": painted(64, 72)} | OF_FLUX2,
    ),
]
