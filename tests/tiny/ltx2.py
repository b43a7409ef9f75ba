"""LTX-2: video and sound; the text's padding gives way to learnt registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from tiny.by_row import make_gemma
from tiny.case import Case, Column, Heard, Picture, Seen
from tiny.llm import sharpen

LENGTH = 32
"""Of the text, tokens and registers."""


def make_ltx2() -> LTX2Pipeline:
    torch.manual_seed(0)
    tokenizer = make_gemma()
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "initializer_range": 0.5,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
    )
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=32,
        rope_double_precision=False,
        rope_type="split",
        perturbed_attn=True,
    ).eval()
    sharpen(transformer, 3.0)
    vae = AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        timestep_conditioning=False,
        patch_size=4,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    ).eval()
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    pipe = LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        audio_vae=_make_audio_vae(),
        text_encoder=Gemma3ForConditionalGeneration(config).eval(),
        tokenizer=tokenizer,
        connectors=_make_connectors(),
        transformer=transformer,
        vocoder=_make_vocoder(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _make_connectors() -> LTX2TextConnectors:
    sizes: dict[str, Any] = {}
    for stream in ("video", "audio"):
        sizes[f"{stream}_connector_num_attention_heads"] = 4
        sizes[f"{stream}_connector_attention_head_dim"] = 8
        sizes[f"{stream}_connector_num_layers"] = 1
        sizes[f"{stream}_connector_num_learnable_registers"] = 16
    return LTX2TextConnectors(
        caption_channels=32,
        text_proj_in_factor=3,
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        rope_type="split",
        **sizes,
    ).eval()


def _make_audio_vae() -> AutoencoderKLLTX2Audio:
    return AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        mid_block_add_attention=False,
        mel_bins=8,
    ).eval()


def _make_vocoder() -> LTX2Vocoder:
    return LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        out_channels=2,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    ).eval()


def of_ltx2(calls: int) -> Any:
    """`attn2`, not the sound's; a step's first call has both branches, the unconditional first."""

    def pictures(seen: Seen) -> list[Picture] | None:
        if seen.call % calls or seen.site.split(".")[-1] != "attn2":
            return None
        return [Picture(1, range(seen.queries), range(seen.keys))]

    return pictures


def ltx2_columns(heard: Sequence[Heard]) -> list[Column]:
    """Padded on the left for the text encoder; then the tokens go first, registers behind them."""
    padding = make_gemma().pad_token_id
    tokens: list[Column] = [("tokenizer", t) for t in heard[0].ids[0] if t != padding]
    return tokens + [None] * (LENGTH - len(tokens))


_SIZE: dict[str, Any] = {
    "height": 32,
    "width": 64,
    "num_frames": 3,
    "frame_rate": 25.0,
    "max_sequence_length": LENGTH,
    "spatio_temporal_guidance_blocks": [1],
    "use_cross_timestep": False,
}
_ONE_CALL = {"stg_scale": 0.0, "audio_stg_scale": 0.0}
_ONE_CALL |= {"modality_scale": 1.0, "audio_modality_scale": 1.0}

CASES: list[Case] = [
    Case(
        name="LTX2Pipeline, guided",
        make=make_ltx2,
        grid=(2, 4, 8),
        pictures=of_ltx2(1),
        columns=ltx2_columns,
        options=_SIZE | _ONE_CALL,
        negative=True,
    ),
    Case(
        name="LTX2Pipeline, guided in three ways",
        make=make_ltx2,
        grid=(2, 4, 8),
        pictures=of_ltx2(3),
        columns=ltx2_columns,
        options=_SIZE,
        negative=True,
    ),
]
