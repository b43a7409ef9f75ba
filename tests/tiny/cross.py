"""Tiny pipelines whose attention to the text has the text's keys alone; see cross_video.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from transformers import BertConfig, BertModel, BertTokenizer, Gemma2Config, Gemma2Model

from tiny import cross_more, cross_video
from tiny.case import Case, Column, Heard, Picture, Seen
from tiny.cross_parts import (
    crossed,
    encoded,
    first,
    guided,
    make_gemma,
    make_t5_encoder,
    make_vae,
    ready,
    tokens,
    unpadded,
)
from tiny.tokenizers import make_t5


def alone(seen: Seen) -> Sequence[Picture] | None:
    """`attn2` of a distilled denoiser: every row is conditional."""
    return crossed(seen, range(seen.rows)) if seen.site.endswith("attn2") else None


def make_pixart(kind: Any) -> Any:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
    )
    return ready(
        kind(
            transformer=transformer,
            vae=make_vae(),
            scheduler=DDIMScheduler(clip_sample=False),
            text_encoder=make_t5_encoder(tokenizer),
            tokenizer=tokenizer,
        )
    )


def make_sana(kind: Any, scheduler: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    tokenizer = make_gemma()
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=32,
        sample_size=8,
        **changes,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        encoder_layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
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
    return ready(
        kind(
            transformer=transformer,
            vae=vae,
            scheduler=scheduler,
            text_encoder=Gemma2Model(encoder),
            tokenizer=tokenizer,
        )
    )


SANA_LENGTH = 32


def sana_columns(heard: Sequence[Heard]) -> list[Column]:
    """The start token, then the last of what was encoded: the instruction before is dropped."""
    ids = first(heard)
    return tokens([ids[0], *ids[1 - SANA_LENGTH :]])


def make_bert() -> BertTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cir", "##cle", "left", "of"]
    words += ["blue", "squ", "##are", "dull", "gre", "##en", "star"]
    vocab = {word: number for number, word in enumerate(words)}
    return BertTokenizer(vocab=vocab, model_max_length=77)


def make_hunyuan_dit() -> HunyuanDiTPipeline:
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = make_bert(), make_t5(256)
    encoder = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
    )
    transformer = HunyuanDiT2DModel(
        sample_size=16,
        num_layers=4,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
    )
    pipe = HunyuanDiTPipeline(
        transformer=transformer,
        vae=make_vae(levels=4),
        scheduler=DDPMScheduler(),
        text_encoder=BertModel(encoder),
        tokenizer=tokenizer,
        text_encoder_2=make_t5_encoder(tokenizer_2),
        tokenizer_2=tokenizer_2,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return ready(pipe)


def hunyuan_dit_columns(heard: Sequence[Heard]) -> list[Column]:
    """BERT's (CLIP's text model), then T5's; learnt vectors stand where either is padded."""
    bert: list[Column] = [("tokenizer", each) if each else None for each in first(heard)]
    return bert + unpadded(first(heard, "text_encoder_2"), 256, "tokenizer_2")


PIXART = {
    "height": 16,
    "width": 24,
    "guidance_scale": 4.5,
    "max_sequence_length": 16,
    "use_resolution_binning": False,
    "clean_caption": False,
}
SANA = {
    "height": 32,
    "width": 64,
    "guidance_scale": 4.5,
    "max_sequence_length": SANA_LENGTH,
    "use_resolution_binning": False,
    "clean_caption": False,
}

CASES: list[Case] = [
    Case(
        name="PixArtAlphaPipeline",
        make=lambda: make_pixart(PixArtAlphaPipeline),
        grid=(4, 6),
        pictures=guided,
        columns=encoded,
        options=PIXART,
        negative=True,
    ),
    Case(
        name="PixArtSigmaPipeline",
        make=lambda: make_pixart(PixArtSigmaPipeline),
        grid=(4, 6),
        pictures=guided,
        columns=encoded,
        options=PIXART,
        negative=True,
    ),
    Case(
        name="SanaPipeline",
        make=lambda: make_sana(SanaPipeline, FlowMatchEulerDiscreteScheduler(shift=3.0)),
        grid=(4, 8),
        pictures=guided,
        columns=sana_columns,
        options=SANA,
        negative=True,
    ),
    Case(
        name="SanaPipeline, no instruction",
        make=lambda: make_sana(SanaPipeline, FlowMatchEulerDiscreteScheduler(shift=3.0)),
        grid=(4, 8),
        pictures=guided,
        columns=encoded,
        options=SANA | {"complex_human_instruction": None},
        negative=True,
    ),
    Case(
        name="SanaSprintPipeline",
        make=lambda: make_sana(
            SanaSprintPipeline,
            SCMScheduler(prediction_type="trigflow", sigma_data=0.5),
            qk_norm="rms_norm_across_heads",
            guidance_embeds=True,
        ),
        grid=(4, 8),
        pictures=alone,
        columns=sana_columns,
        options=SANA,
    ),
    Case(
        name="HunyuanDiTPipeline",
        make=make_hunyuan_dit,
        grid=(4, 6),
        pictures=guided,
        columns=hunyuan_dit_columns,
        options={
            "height": 64,
            "width": 96,
            "guidance_scale": 5.0,
            "use_resolution_binning": False,
        },
        negative=True,
    ),
    *cross_video.CASES,
    *cross_more.CASES,
]
