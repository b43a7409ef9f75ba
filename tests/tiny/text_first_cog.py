"""More pipelines whose attention has the text in front of the picture: AuraFlow, CogView and
CogVideoX."""

from __future__ import annotations

from math import prod
from typing import Any

import diffusers
import torch
from tokenizers import processors
from transformers import (
    GlmConfig,
    GlmModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from tiny.case import Case
from tiny.text_first import (
    GRID,
    SIZE,
    SPREAD,
    TEXT,
    WIDTH,
    first_heard,
    make_t5_encoder,
    make_vae,
    quiet,
    sharpened,
    text_first,
)
from tiny.tokenizers import byte_level_bpe, make_t5

REGISTERS = 8
"""AuraFlow's, always as many."""


def make_aura() -> Any:
    torch.manual_seed(0)
    tokenizer = make_t5()
    config = UMT5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4
    )
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_projection_dim=32,
        joint_attention_dim=WIDTH,
        pos_embed_max_size=256,
    )
    pipe = diffusers.AuraFlowPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=UMT5EncoderModel(config),
        tokenizer=tokenizer,
        vae=make_vae(4),
        transformer=sharpened(transformer),
    )
    return quiet(pipe)


def make_glm() -> PreTrainedTokenizerFast:
    """Puts `[gMASK]<sop>` in front and pads there."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(), pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["[gMASK]", "<sop>"]})
    marks = [(mark, tokenizer.convert_tokens_to_ids(mark)) for mark in ("[gMASK]", "<sop>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=marks
    )
    return tokenizer


def make_cogview4() -> Any:
    torch.manual_seed(0)
    tokenizer = make_glm()
    config = GlmConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        initializer_range=SPREAD,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.pad_token_id,
    )
    transformer = diffusers.CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        base_shift=0.25,
        max_shift=0.75,
        base_image_seq_len=256,
        use_dynamic_shifting=True,
        time_shift_type="linear",
    )
    pipe = diffusers.CogView4Pipeline(
        scheduler=scheduler,
        text_encoder=GlmModel(config),
        tokenizer=tokenizer,
        vae=make_vae(4, blocks=2),
        transformer=sharpened(transformer),
    )
    return quiet(pipe)


def make_cogview3() -> Any:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = diffusers.CogView3PlusTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=16,
    )
    pipe = diffusers.CogView3PlusPipeline(
        scheduler=diffusers.CogVideoXDDIMScheduler(),
        text_encoder=make_t5_encoder(tokenizer),
        tokenizer=tokenizer,
        vae=make_vae(4, blocks=2),
        transformer=sharpened(transformer),
    )
    return quiet(pipe)


def make_cogvideo() -> Any:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=WIDTH,
        num_layers=2,
        sample_width=10,
        sample_height=6,
        sample_frames=9,
        max_text_seq_length=TEXT,
        use_rotary_positional_embeddings=True,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    pipe = diffusers.CogVideoXPipeline(
        scheduler=diffusers.DDIMScheduler(),
        text_encoder=make_t5_encoder(tokenizer),
        tokenizer=tokenizer,
        vae=vae,
        transformer=sharpened(transformer),
    )
    return quiet(pipe)


_PLACES = prod(GRID)

CASES: list[Case] = [
    Case(
        name="AuraFlowPipeline",
        make=make_aura,
        grid=GRID,
        pictures=text_first(_PLACES, registers=REGISTERS, branches=2),
        columns=first_heard,
        options=SIZE,
        negative=True,
    ),
    Case(
        name="CogView4Pipeline",
        make=make_cogview4,
        grid=(4, 12),
        pictures=text_first(48, calls=2),
        columns=first_heard,
        options={"height": 16, "width": 48},
        negative=True,
    ),
    Case(
        name="CogView3PlusPipeline",
        make=make_cogview3,
        grid=GRID,
        pictures=text_first(_PLACES, branches=2),
        columns=first_heard,
        options=SIZE | {"height": 24, "width": 40},
        negative=True,
    ),
    Case(
        name="CogVideoXPipeline",
        make=make_cogvideo,
        grid=(3, 3, 5),
        pictures=text_first(45, branches=2),
        columns=first_heard,
        options={"height": 48, "width": 80, "num_frames": 9, "max_sequence_length": TEXT},
        negative=True,
    ),
]
