"""NucleusMoE and EasyAnimate: a language model's tokens with the whole of its chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLMagvit,
    BriaFibo2Pipeline,
    BriaFibo2Transformer2DModel,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
)
from diffusers.pipelines.nucleusmoe_image.pipeline_nucleusmoe_image import DEFAULT_SYSTEM_PROMPT
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from tiny.case import PROMPT, Case, Column, Heard, Picture, Seen
from tiny.llm import (
    after,
    make_processor,
    make_qwen3_vl_config,
    make_tokenizer_of_template,
    make_vae,
    sharpen,
    text_first,
)


def make_nucleus() -> NucleusMoEImagePipeline:
    torch.manual_seed(0)
    tokenizer = make_tokenizer_of_template(DEFAULT_SYSTEM_PROMPT)
    transformer = NucleusMoEImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        moe_enabled=False,
        capacity_factors=[8.0, 8.0],
    ).eval()
    sharpen(transformer)
    text_encoder = Qwen3VLForConditionalGeneration(make_qwen3_vl_config(tokenizer, layers=8))
    pipe = NucleusMoEImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=make_vae(),
        text_encoder=text_encoder.eval(),
        processor=make_processor(tokenizer, Qwen3VLProcessor),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_easy_animate() -> EasyAnimatePipeline:
    """Two blocks with a stream for each of text and picture, two with one for both."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer_of_template()
    transformer = EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=4,
        mmdit_layers=2,
        sample_width=16,
        sample_height=16,
        patch_size=2,
        add_norm_text_encoder=True,
    ).eval()
    sharpen(transformer)
    blocks = ("SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3)
    vae = AutoencoderKLMagvit(
        down_block_types=blocks,
        up_block_types=tuple(block.replace("Down", "Up") for block in blocks),
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "initializer_range": 0.5,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        },
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2},
    )
    pipe = EasyAnimatePipeline(
        vae=vae.eval(),
        text_encoder=Qwen2VLForConditionalGeneration(config).eval(),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_fibo2() -> BriaFibo2Pipeline:
    """Gists read the text first; two of the four blocks also let gists and picture read it."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer_of_template()
    transformer = BriaFibo2Transformer2DModel(
        in_channels=4,
        patch_size=2,
        dim=32,
        n_layers=4,
        n_refiner_layers=2,
        n_heads=2,
        cap_feat_dim=48,
        injection_layer_ids=(1, 3),
        min_num_gist_tokens=4,
        max_num_gist_tokens=16,
        gist_step=4,
        gist_min_text_len=8,
        gist_max_text_len=64,
        axes_dims=(8, 4, 4),
        axes_lens=(64, 32, 32),
    ).eval()
    for block in transformer.layers:
        if block.cross_attention is not None:
            block.cross_attn_gate.data.fill_(0.7)
    sharpen(transformer)
    vae = AutoencoderKLFlux2(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    pipe = BriaFibo2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=Qwen3VLForConditionalGeneration(make_qwen3_vl_config(tokenizer, 3)).eval(),
        processor=make_processor(tokenizer, Qwen3VLProcessor),
    )
    pipe.text_encoder_out_layers = ((0, 1, 2), (1, 2, 3), (0, 2, 3))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_fibo2(rows: int = 1) -> Any:
    """Queries `[gists, picture]`, or `[picture, gists]` where prompts differ in the number of
    gists; all of the text as keys; the conditional call first."""

    def pictures(seen: Seen) -> list[Picture] | None:
        if seen.call % 2 or not re.fullmatch(r"layers\.\d+\.cross_attention", seen.site):
            return None
        height, width = seen.given["hidden_states"].shape[-2:]
        places = height // 2 * (width // 2)
        first = seen.queries - places if rows == 1 else 0
        own = range(first, first + places)
        return [Picture(row, own, range(seen.keys)) for row in range(rows)]

    return pictures


def before_padding(heard: Sequence[Heard]) -> list[Column]:
    padding = make_tokenizer_of_template().pad_token_id
    return [None if token == padding else ("processor", token) for token in heard[0].ids[0]]


def picture_keys_first(places: int, calls: int) -> Any:
    """Queries of the picture alone, keys `[picture, text]`."""

    def pictures(seen: Seen) -> list[Picture] | None:
        if seen.call % calls:
            return None
        text = seen.given["encoder_hidden_states"].shape[1]
        return [Picture(0, range(places), range(places, places + text))]

    return pictures


CASES: list[Case] = [
    Case(
        name="NucleusMoEImagePipeline, guided",
        make=make_nucleus,
        grid=(3, 4),
        pictures=picture_keys_first(12, 2),
        columns=after(0, "processor"),
        options={"height": 24, "width": 32},
        negative=True,
    ),
    Case(
        name="EasyAnimatePipeline, guided",
        make=make_easy_animate,
        grid=(2, 2, 3),
        pictures=text_first(12, rows=(1,)),
        columns=after(0),
        options={"height": 32, "width": 48, "num_frames": 5},
        negative=True,
    ),
    Case(
        name="BriaFibo2Pipeline, guided",
        make=make_fibo2,
        grid=(3, 4),
        pictures=of_fibo2(),
        columns=after(0, "processor"),
        options={"height": 6, "width": 8},
        negative=True,
    ),
    Case(
        name="BriaFibo2Pipeline, two prompts, guided",
        make=make_fibo2,
        grid=(3, 4),
        pictures=of_fibo2(rows=2),
        columns=before_padding,
        options={
            "prompt": [PROMPT, f"a dull green star that looks at you, {PROMPT}, {PROMPT}"],
            "negative_prompt": ["dull", ""],
            "height": 6,
            "width": 8,
        },
    ),
]
