"""Tiny video pipelines whose attention to the text has the text's keys alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.skyreels_v2 import pipeline_skyreels_v2
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tiny.case import Case, Column, Heard, Picture, Seen
from tiny.cross_parts import (
    encoded,
    first,
    fixes_no_text,
    guided,
    in_turn,
    make_t5_encoder,
    make_vae,
    ready,
    t5_config,
    unpadded,
)
from tiny.tokenizers import make_t5


def make_ltx() -> LTXPipeline:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
    )
    vae = AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        patch_size=1,
        patch_size_t=1,
    )
    return ready(
        LTXPipeline(
            transformer=transformer,
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder=make_t5_encoder(tokenizer),
            tokenizer=tokenizer,
        )
    )


def wan_transformer(kind: Any = WanTransformer3DModel, **changes: Any) -> Any:
    return kind(
        **{
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 16,
            "out_channels": 16,
            "text_dim": 32,
            "freq_dim": 32,
            "ffn_dim": 32,
            "num_layers": 2,
            "rope_max_seq_len": 32,
        }
        | changes
    )


def wan_parts() -> dict[str, Any]:
    tokenizer = make_t5()
    return {
        "vae": AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder": UMT5EncoderModel(t5_config(len(tokenizer), UMT5Config)),
        "tokenizer": tokenizer,
    }


def make_wan() -> WanPipeline:
    torch.manual_seed(0)
    return ready(WanPipeline(transformer=wan_transformer(), **wan_parts()))


def make_wan_22() -> WanPipeline:
    """Its second denoiser takes over below the boundary, in the second of two steps."""
    torch.manual_seed(0)
    both = {"transformer": wan_transformer(), "transformer_2": wan_transformer()}
    return ready(WanPipeline(boundary_ratio=0.9, **both, **wan_parts()), *both)


def make_wan_i2v() -> WanImageToVideoPipeline:
    torch.manual_seed(0)
    fixes_no_text(pipeline_wan_i2v)
    vision = CLIPVisionConfig(
        hidden_size=8,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        intermediate_size=16,
        patch_size=4,
    )
    return ready(
        WanImageToVideoPipeline(
            transformer=wan_transformer(in_channels=36, image_dim=8, added_kv_proj_dim=24),
            image_encoder=CLIPVisionModel(vision),
            image_processor=CLIPImageProcessor(crop_size=16, size=16),
            **wan_parts(),
        )
    )


def make_skyreels() -> SkyReelsV2Pipeline:
    torch.manual_seed(0)
    fixes_no_text(pipeline_skyreels_v2)
    scheduler = UniPCMultistepScheduler(flow_shift=8.0, use_flow_sigmas=True)
    parts = wan_parts() | {"scheduler": scheduler}
    transformer = wan_transformer(SkyReelsV2Transformer3DModel)
    return ready(SkyReelsV2Pipeline(transformer=transformer, **parts))


def behind_the_image(seen: Seen) -> Sequence[Picture] | None:
    """The first of `attn2`'s two kernels has the keys of the image given, the second the text's."""
    return in_turn(seen) if seen.number == 1 else None


def wan_columns(length: int) -> Any:
    """T5's tokens up to the end, then zeros from the pipeline."""

    def columns(heard: Sequence[Heard]) -> list[Column]:
        return unpadded(first(heard), length)

    return columns


def make_latte() -> LattePipeline:
    torch.manual_seed(0)
    tokenizer = make_t5(120)
    transformer = LatteTransformer3DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=2,
    )
    return ready(
        LattePipeline(
            transformer=transformer,
            vae=make_vae(),
            scheduler=DDIMScheduler(clip_sample=False),
            text_encoder=make_t5_encoder(tokenizer),
            tokenizer=tokenizer,
        )
    )


def latte_columns(heard: Sequence[Heard]) -> list[Column]:
    """One prompt's padding is cut off."""
    ids = first(heard)
    return unpadded(ids, ids.index(1) + 1)


VIDEO = {"height": 32, "width": 48, "num_frames": 9, "guidance_scale": 5.0}
WAN = VIDEO | {"max_sequence_length": 16}

CASES: list[Case] = [
    Case(
        name="LTXPipeline",
        make=make_ltx,
        grid=(2, 4, 8),
        pictures=guided,
        columns=encoded,
        options=WAN | {"width": 64},
        negative=True,
    ),
    Case(
        name="WanPipeline",
        make=make_wan,
        grid=(3, 2, 3),
        pictures=in_turn,
        columns=wan_columns(16),
        options=WAN,
        negative=True,
    ),
    Case(
        name="WanPipeline, two denoisers, the first",
        make=make_wan_22,
        grid=(3, 2, 3),
        pictures=in_turn,
        columns=wan_columns(16),
        options=WAN,
        negative=True,
    ),
    Case(
        name="WanPipeline, two denoisers, the second",
        make=make_wan_22,
        grid=(3, 2, 3),
        pictures=in_turn,
        columns=wan_columns(16),
        options=WAN,
        negative=True,
        denoiser="transformer_2",
    ),
    Case(
        name="WanImageToVideoPipeline",
        make=make_wan_i2v,
        grid=(3, 2, 3),
        pictures=behind_the_image,
        columns=wan_columns(512),
        options=VIDEO | {"image": Image.new("RGB", (48, 32), (200, 40, 90))},
        negative=True,
    ),
    Case(
        name="SkyReelsV2Pipeline",
        make=make_skyreels,
        grid=(3, 2, 3),
        pictures=in_turn,
        columns=wan_columns(16),
        options=WAN,
        negative=True,
    ),
    Case(
        name="LattePipeline",
        make=make_latte,
        grid=(4, 6),
        pictures=guided,
        columns=latte_columns,
        options={
            "height": 16,
            "width": 24,
            "video_length": 2,
            "guidance_scale": 5.0,
            "clean_caption": False,
        },
        negative=True,
    ),
]
