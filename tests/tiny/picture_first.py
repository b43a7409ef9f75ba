"""Tiny pipelines of joint attention over `[picture, text]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import make_tokenizer
from tiny import picture_first_hunyuan
from tiny.case import Case, Column, Heard, Picture, Seen
from tiny.cross_parts import (
    first,
    make_clip,
    make_llama,
    make_t5_encoder,
    make_vae,
    ready,
    second_half,
    tokens,
)
from tiny.tokenizers import make_t5


def make_sd3(layers: int = 2, **changes: Any) -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
        **changes,
    )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=make_vae(shift_factor=0.06),
        text_encoder=make_clip(),
        tokenizer=make_tokenizer(),
        text_encoder_2=make_clip(),
        tokenizer_2=make_tokenizer(),
        text_encoder_3=make_t5_encoder(tokenizer),
        tokenizer_3=tokenizer,
    )
    return ready(pipe)


def sd3_pictures(seen: Seen) -> Sequence[Picture] | None:
    """`attn2` sees the picture alone; the call that skips layers is no branch of its own."""
    if seen.site.endswith("attn2") or seen.given.get("skip_layers") is not None:
        return None
    height, width = seen.given["hidden_states"].shape[-2:]
    places = height // 2 * (width // 2)
    return [Picture(row, range(places), range(places, seen.queries)) for row in second_half(seen)]


def sd3_columns(heard: Sequence[Heard]) -> list[Column]:
    """Both CLIPs' features side by side, then T5's."""
    t5 = tokens(first(heard, "text_encoder_3"), "tokenizer_3")
    return tokens(first(heard)) + t5


def make_hidream() -> HiDreamImagePipeline:
    """Its sizes are for as many pixels as a square of the default size has."""
    torch.manual_seed(0)
    tokenizer_3, tokenizer_4 = make_t5(128), make_llama()
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 32],
        text_emb_dim=32,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(16, 16),
        llama_layers=(0, 1, 2, 3),
    )
    encoder = LlamaConfig(
        vocab_size=len(tokenizer_4),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        attn_implementation="eager",
    )
    pipe = HiDreamImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=make_vae(shift_factor=0.06),
        text_encoder=make_clip(),
        tokenizer=make_tokenizer(),
        text_encoder_2=make_clip(),
        tokenizer_2=make_tokenizer(),
        text_encoder_3=make_t5_encoder(tokenizer_3),
        tokenizer_3=tokenizer_3,
        text_encoder_4=LlamaForCausalLM(encoder),
        tokenizer_4=tokenizer_4,
    )
    pipe.default_sample_size = 16
    return ready(pipe)


def hidream_pictures(seen: Seen) -> Sequence[Picture] | None:
    """A picture that is no square is padded to 64 places, whose keys are zeros."""
    height, width = seen.given["hidden_states"].shape[-2:]
    places = height // 2 * (width // 2)
    before = places if height == width else 64
    return [Picture(row, range(places), range(before, seen.queries)) for row in second_half(seen)]


def hidream_columns(heard: Sequence[Heard]) -> list[Column]:
    """T5's, then the last of the Llama's layers chosen, then the block's own: each word thrice."""
    llama = tokens(first(heard, "text_encoder_4"), "tokenizer_4")
    return tokens(first(heard, "text_encoder_3"), "tokenizer_3") + llama + llama


SD3 = {"height": 16, "width": 24, "guidance_scale": 5.0, "max_sequence_length": 16}
HIDREAM = {"guidance_scale": 5.0, "max_sequence_length": 16}
SKIPPING = {
    "num_inference_steps": 3,
    "skip_guidance_layers": [1],
    "skip_layer_guidance_stop": 1.0,
}

CASES: list[Case] = [
    Case(
        name="StableDiffusion3Pipeline",
        make=make_sd3,
        grid=(4, 6),
        pictures=sd3_pictures,
        columns=sd3_columns,
        options=SD3,
        negative=True,
    ),
    Case(
        name="StableDiffusion3Pipeline, skip-layer guidance",
        make=lambda: make_sd3(layers=3),
        grid=(4, 6),
        pictures=sd3_pictures,
        columns=sd3_columns,
        options=SD3 | SKIPPING,
        negative=True,
    ),
    Case(
        name="StableDiffusion3Pipeline, dual attention",
        make=lambda: make_sd3(dual_attention_layers=(0,), qk_norm="rms_norm"),
        grid=(4, 6),
        pictures=sd3_pictures,
        columns=sd3_columns,
        options=SD3,
        negative=True,
    ),
    Case(
        name="HiDreamImagePipeline",
        make=make_hidream,
        grid=(6, 10),
        pictures=hidream_pictures,
        columns=hidream_columns,
        options=HIDREAM | {"height": 24, "width": 40},
        negative=True,
    ),
    Case(
        name="HiDreamImagePipeline, square",
        make=make_hidream,
        grid=(8, 8),
        pictures=hidream_pictures,
        columns=hidream_columns,
        options=HIDREAM | {"height": 32, "width": 32},
        negative=True,
    ),
    *picture_first_hunyuan.CASES,
]
