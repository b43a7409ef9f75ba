"""HunyuanVideo and HunyuanImage: `[picture, text]`, the text refined by blocks of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLHunyuanImage,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from transformers import ByT5Tokenizer, CLIPTextModel, LlamaConfig, LlamaModel

from conftest import make_tokenizer
from tiny.case import PROMPT, Case, Column, Heard, Picture, Seen
from tiny.cross_more import make_hunyuan_vae
from tiny.cross_parts import (
    clip_config,
    first,
    make_llama,
    make_t5_encoder,
    ready,
    tokens,
)
from tiny.llm import make_qwen_vl, make_tokenizer_of_template

DROPPED = 34
LENGTH, GLYPHS = 32, 24
"""Of the texts of HunyuanImage, in place of 1,000 and 128."""


def make_hunyuan_video() -> HunyuanVideoPipeline:
    torch.manual_seed(0)
    tokenizer = make_llama(DEFAULT_PROMPT_TEMPLATE["template"])
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=32,
        pooled_projection_dim=16,
        rope_axes_dim=(2, 4, 4),
    )
    encoder = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
    )
    return ready(
        HunyuanVideoPipeline(
            transformer=transformer,
            vae=make_hunyuan_vae(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            text_encoder=LlamaModel(encoder),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModel(clip_config(16)),
            tokenizer_2=make_tokenizer(),
        )
    )


def make_hunyuan_image(guided: bool = True) -> HunyuanImagePipeline:
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = make_tokenizer_of_template(QWEN_TEMPLATE), ByT5Tokenizer()
    transformer = HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        patch_size=(1, 1),
        guidance_embeds=not guided,
        text_embed_dim=16,
        text_embed_2_dim=32,
        rope_axes_dim=(4, 4),
    )
    vae = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        sample_size=128,
    )
    pipe = HunyuanImagePipeline(
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder=make_qwen_vl(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=make_t5_encoder(tokenizer_2),
        tokenizer_2=tokenizer_2,
        guider=AdaptiveProjectedMixGuidance() if guided else None,
        ocr_guider=AdaptiveProjectedMixGuidance() if guided else None,
    )
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length = LENGTH, GLYPHS
    return ready(pipe)


def joint(calls: int) -> Callable[[Seen], Sequence[Picture] | None]:
    """The conditional call is the first of a step's; refiners see the text alone."""

    def pictures(seen: Seen) -> Sequence[Picture] | None:
        if seen.call % calls or "refiner" in seen.site:
            return None
        sizes = seen.given["hidden_states"].shape[2:]
        places = int(torch.tensor(sizes).prod())
        return [Picture(row, range(places), range(places, seen.keys)) for row in range(seen.rows)]

    return pictures


def video_columns(heard: Sequence[Heard]) -> list[Column]:
    return tokens(first(heard)[DEFAULT_PROMPT_TEMPLATE["crop_start"] :])


def image_columns(heard: Sequence[Heard]) -> list[Column]:
    """The tokens of the words in quotes (ByT5's), then Qwen's, then the padding of either; zeros
    from the pipeline where nothing is in quotes."""
    ids = first(heard)[DROPPED:]
    own, padding = (
        [("tokenizer", each) for each in ids if (each == ids[-1]) == end] for end in (False, True)
    )
    if not any(each.encoder == "text_encoder_2" for each in heard):
        return [*own, *[None] * GLYPHS, *padding]
    glyphs = first(heard, "text_encoder_2")
    quoted = tokens([each for each in glyphs if each], "tokenizer_2")
    return [*quoted, *own, *tokens([0] * (GLYPHS - len(quoted)), "tokenizer_2"), *padding]


QWEN_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>"
)
VIDEO: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 5, "max_sequence_length": 24}
IMAGE: dict[str, Any] = {"height": 32, "width": 48}

CASES: list[Case] = [
    Case(
        name="HunyuanVideoPipeline",
        make=make_hunyuan_video,
        grid=(2, 4, 6),
        pictures=joint(1),
        columns=video_columns,
        options=VIDEO,
    ),
    Case(
        name="HunyuanVideoPipeline, guided",
        make=make_hunyuan_video,
        grid=(2, 4, 6),
        pictures=joint(2),
        columns=video_columns,
        options=VIDEO | {"true_cfg_scale": 4.0},
        negative=True,
    ),
    Case(
        name="HunyuanImagePipeline",
        make=make_hunyuan_image,
        grid=(4, 6),
        pictures=joint(2),
        columns=image_columns,
        options=IMAGE,
        negative=True,
    ),
    Case(
        name="HunyuanImagePipeline, words in quotes",
        make=make_hunyuan_image,
        grid=(4, 6),
        pictures=joint(2),
        columns=image_columns,
        options=IMAGE | {"prompt": PROMPT.replace("left of", "'left of'")},
        negative=True,
    ),
    Case(
        name="HunyuanImagePipeline, distilled",
        make=lambda: make_hunyuan_image(guided=False),
        grid=(4, 6),
        pictures=joint(1),
        columns=image_columns,
        options=IMAGE | {"distilled_guidance_scale": 3.25},
    ),
]
