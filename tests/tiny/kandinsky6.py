"""Kandinsky 6 without its sound: the text cut out of a template, a picture's frame at the end."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky6TI2VAPipeline,
    Kandinsky6Transformer3DModel,
)
from diffusers.pipelines.kandinsky6.pipeline_kandinsky6_ti2va import _PROMPT_TEMPLATE
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, Qwen2_5_VLProcessor

from conftest import make_tokenizer
from tiny.case import Case, Picture, Seen
from tiny.llm import after, make_processor, make_qwen_vl, make_tokenizer_of_template, sharpen

DROPPED = 129
PLACES = 12


def make_kandinsky6() -> Kandinsky6TI2VAPipeline:
    torch.manual_seed(0)
    tokenizer, words = make_tokenizer_of_template(_PROMPT_TEMPLATE), make_tokenizer()
    transformer = Kandinsky6Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        model_dim=32,
        ff_dim=32,
        num_text_blocks=2,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
        in_audio_dim=4,
        out_audio_dim=4,
        visual_token_type_num_embeddings=2,
    ).eval()
    for name, parameter in transformer.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    sharpen(transformer)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    clip = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    pipe = Kandinsky6TI2VAPipeline(
        transformer=transformer,
        vae=vae.eval(),
        text_encoder=make_qwen_vl(tokenizer),
        tokenizer=make_processor(tokenizer, Qwen2_5_VLProcessor),
        text_encoder_2=CLIPTextModel(clip).eval(),
        tokenizer_2=words,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_kandinsky6(seen: Seen) -> list[Picture] | None:
    """All of the text as keys; queries `[video, the given picture's frame]`; conditional first."""
    if seen.call % 2 or not seen.site.endswith("video_dec_block.cross_attention"):
        return None
    return [Picture(0, range(PLACES), range(seen.keys))]


_SIZE: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 5, "sample_audio": False}
_SIZE |= {"max_sequence_length": 20}

CASES: list[Case] = [
    Case(
        name="Kandinsky6TI2VAPipeline, guided",
        make=make_kandinsky6,
        grid=(2, 2, 3),
        pictures=of_kandinsky6,
        columns=after(DROPPED),
        options=_SIZE,
        negative=True,
    ),
    Case(
        name="Kandinsky6TI2VAPipeline, guided, from a picture",
        make=make_kandinsky6,
        grid=(2, 2, 3),
        pictures=of_kandinsky6,
        columns=after(DROPPED),
        options=_SIZE | {"image": Image.linear_gradient("L").resize((48, 32)).convert("RGB")},
        negative=True,
    ),
]
