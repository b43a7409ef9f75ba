"""Kin of other pipelines' transformers: SanaVideo, Lumina-Next, Wan's VACE, AnyFlow and ChronoEdit,
and ConsisID."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    CogVideoXDPMScheduler,
    ConsisIDTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from diffusers.pipelines.chronoedit import pipeline_chronoedit
from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline
from diffusers.pipelines.wan import pipeline_wan_vace
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Gemma2Config,
    Gemma2Model,
    GemmaConfig,
    GemmaModel,
)

from tiny.case import Case, Picture, Seen
from tiny.cross import SANA_LENGTH, sana_columns
from tiny.cross_parts import (
    crossed,
    encoded,
    fixes_no_text,
    guided,
    in_turn,
    make_gemma,
    make_t5_encoder,
    make_vae,
    ready,
)
from tiny.cross_video import WAN, behind_the_image, wan_columns, wan_parts, wan_transformer
from tiny.tokenizers import make_t5

PICTURE = Image.linear_gradient("L").resize((48, 32)).convert("RGB")


def make_sana_video() -> SanaVideoPipeline:
    torch.manual_seed(0)
    tokenizer = make_gemma()
    transformer = SanaVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=32,
        sample_size=8,
        rope_max_seq_len=32,
    )
    encoder = Gemma2Config(
        vocab_size=len(tokenizer),
        head_dim=8,
        hidden_size=32,
        intermediate_size=32,
        num_attention_heads=4,
        num_hidden_layers=2,
        num_key_value_heads=2,
    )
    vae: AutoencoderKLWan = wan_parts()["vae"]
    return ready(
        SanaVideoPipeline(
            transformer=transformer,
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            text_encoder=Gemma2Model(encoder),
            tokenizer=tokenizer,
        )
    )


def make_lumina() -> LuminaPipeline:
    torch.manual_seed(0)
    tokenizer = make_gemma()
    transformer = LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=32,
    )
    torch.nn.init.normal_(transformer.pad_token)
    encoder = GemmaConfig(
        vocab_size=len(tokenizer),
        head_dim=8,
        hidden_size=32,
        intermediate_size=32,
        num_attention_heads=4,
        num_hidden_layers=2,
        num_key_value_heads=4,
    )
    pipe = LuminaPipeline(
        transformer=transformer,
        vae=make_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=GemmaModel(encoder),
        tokenizer=tokenizer,
    )
    for block in transformer.layers:
        torch.nn.init.normal_(block.gate)
    return ready(pipe)


def first_half(seen: Seen) -> Sequence[Picture] | None:
    """`attn2` of one batch with the conditional rows first."""
    return crossed(seen, range(seen.rows // 2)) if seen.site.endswith("attn2") else None


def make_vace() -> WanVACEPipeline:
    torch.manual_seed(0)
    fixes_no_text(pipeline_wan_vace)
    transformer = wan_transformer(
        WanVACETransformer3DModel, vace_layers=[0], vace_in_channels=96, num_layers=2
    )
    return ready(WanVACEPipeline(transformer=transformer, **wan_parts()))


def of_vace(seen: Seen) -> Sequence[Picture] | None:
    """Not the blocks of the control."""
    return in_turn(seen) if seen.site.startswith("blocks.") else None


def make_anyflow() -> AnyFlowPipeline:
    torch.manual_seed(0)
    transformer = AnyFlowTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    parts = wan_parts() | {"scheduler": FlowMapEulerDiscreteScheduler()}
    return ready(AnyFlowPipeline(transformer=transformer, **parts))


def make_chronoedit() -> ChronoEditPipeline:
    torch.manual_seed(0)
    fixes_no_text(pipeline_chronoedit)
    vision = CLIPVisionConfig(
        hidden_size=8,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        intermediate_size=16,
        patch_size=4,
    )
    transformer = wan_transformer(
        ChronoEditTransformer3DModel, in_channels=36, image_dim=8, added_kv_proj_dim=24
    )
    return ready(
        ChronoEditPipeline(
            transformer=transformer,
            image_encoder=CLIPVisionModel(vision),
            image_processor=CLIPImageProcessor(crop_size=16, size=16),
            **wan_parts(),
        )
    )


def make_consisid() -> ConsisIDPipeline:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = ConsisIDTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=2,
        sample_width=6,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=16,
        cross_attn_interval=1,
        cross_attn_dim_head=8,
        cross_attn_num_heads=1,
        is_train_face=True,
        LFE_id_dim=2,
        LFE_vit_dim=2,
        LFE_depth=5,
        LFE_dim_head=8,
        LFE_num_heads=2,
        LFE_num_id_token=1,
        LFE_num_querie=1,
        LFE_output_dim=21,
        LFE_ff_mult=1,
        LFE_num_scale=1,
    )
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    return ready(
        ConsisIDPipeline(
            transformer=transformer,
            vae=vae,
            scheduler=CogVideoXDPMScheduler(),
            text_encoder=make_t5_encoder(tokenizer),
            tokenizer=tokenizer,
        )
    )


def of_consisid(seen: Seen) -> Sequence[Picture] | None:
    """`[text, video]`, the unconditional row first; not the attention to the face."""
    if not seen.site.endswith("attn1"):
        return None
    text = seen.given["encoder_hidden_states"].shape[1]
    return [Picture(1, range(text, seen.queries), range(text))]


VIDEO: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 9, "guidance_scale": 5.0}

CASES: list[Case] = [
    Case(
        name="SanaVideoPipeline",
        make=make_sana_video,
        grid=(3, 2, 4),
        pictures=guided,
        columns=sana_columns,
        options={
            "height": 32,
            "width": 64,
            "frames": 9,
            "guidance_scale": 4.5,
            "max_sequence_length": SANA_LENGTH,
            "use_resolution_binning": False,
        },
        negative=True,
    ),
    Case(
        name="LuminaPipeline",
        make=make_lumina,
        grid=(4, 6),
        pictures=first_half,
        columns=encoded,
        options={
            "height": 64,
            "width": 96,
            "guidance_scale": 4.5,
            "max_sequence_length": 16,
            "clean_caption": False,
        },
        negative=True,
    ),
    Case(
        name="WanVACEPipeline",
        make=make_vace,
        grid=(3, 2, 3),
        pictures=of_vace,
        columns=wan_columns(16),
        options=WAN,
        negative=True,
    ),
    Case(
        name="AnyFlowPipeline",
        make=make_anyflow,
        grid=(3, 2, 3),
        pictures=guided,
        columns=wan_columns(16),
        options=WAN,
        negative=True,
    ),
    Case(
        name="ChronoEditPipeline",
        make=make_chronoedit,
        grid=(2, 2, 3),
        pictures=behind_the_image,
        columns=wan_columns(512),
        options=VIDEO | {"image": PICTURE},
        negative=True,
    ),
    Case(
        name="ConsisIDPipeline",
        make=make_consisid,
        grid=(3, 2, 3),
        pictures=of_consisid,
        columns=encoded,
        options=VIDEO
        | {
            "image": PICTURE,
            "max_sequence_length": 16,
            "id_vit_hidden": [torch.ones(1, 2, 2)],
            "id_cond": torch.ones(1, 2),
        },
        negative=True,
    ),
]
