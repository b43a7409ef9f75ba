"""PRX, Allegro and GLM-Image: T5's and Gemma's tokens, or only the words in quotes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKL,
    AutoencoderKLAllegro,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    GlmImagePipeline,
    GlmImageTransformer2DModel,
    PRXPipeline,
    PRXTransformer2DModel,
)
from diffusers.pipelines.prx import pipeline_prx
from PIL import Image
from torch import nn
from transformers import ByT5Tokenizer
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from tiny.by_row import make_gemma, make_kl
from tiny.by_row_more import make_t5_encoder
from tiny.case import Case, Column, Heard, Picture, Seen
from tiny.cross_parts import fixes_no_text
from tiny.llm import after, sharpen, text_first
from tiny.tokenizers import make_t5

QUOTING = 'a red circle left of a blue square, "of me"'


def make_prx() -> PRXPipeline:
    torch.manual_seed(0)
    fixes_no_text(pipeline_prx)
    tokenizer = make_gemma()
    tokenizer.model_max_length, tokenizer.padding_side = 24, "right"
    config = T5GemmaModuleConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        query_pre_attn_scalar=4,
        dropout_rate=0.0,
        initializer_range=0.5,
    )
    transformer = PRXTransformer2DModel(
        patch_size=2,
        in_channels=4,
        context_in_dim=8,
        hidden_size=16,
        mlp_ratio=2.0,
        num_heads=2,
        depth=2,
        axes_dim=[4, 4],
    ).eval()
    for block in transformer.blocks:
        nn.init.normal_(block.modulation.lin.weight, std=0.2)
    sharpen(transformer)
    pipe = PRXPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=T5GemmaEncoder(config).eval(),
        tokenizer=tokenizer,
        vae=make_kl(4),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_prx(seen: Seen) -> list[Picture]:
    """Queries of the picture alone, keys `[text, picture]`; the unconditional row first."""
    return [Picture(1, range(seen.queries), range(seen.keys - seen.queries))]


def second_row(heard: Sequence[Heard]) -> list[Column]:
    """The text encoder hears both branches in one batch, the negative prompt first."""
    return [("tokenizer", token) for token in heard[0].ids[1]]


def make_allegro() -> AllegroPipeline:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=32,
    ).eval()
    sharpen(transformer, 6.0)
    vae = AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    ).eval()
    vae.enable_tiling()
    pipe = AllegroPipeline(
        tokenizer=tokenizer,
        text_encoder=make_t5_encoder(len(tokenizer)),
        vae=vae,
        transformer=transformer,
        scheduler=DDIMScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_allegro(seen: Seen) -> list[Picture] | None:
    """`attn2`: all of the text as keys; the unconditional row first."""
    if not seen.site.endswith("attn2"):
        return None
    return [Picture(1, range(seen.queries), range(seen.keys))]


def make_glm() -> GlmImagePipeline:
    """Without the language model, whose picture tokens (`prior_token_ids`) are an option here."""
    torch.manual_seed(0)
    tokenizer = ByT5Tokenizer()
    transformer = GlmImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=32,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=128,
    ).eval()
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipe = GlmImagePipeline(
        tokenizer=tokenizer,
        processor=None,
        text_encoder=make_t5_encoder(len(tokenizer)),
        vision_language_encoder=None,
        vae=vae.eval(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _options_of_glm() -> dict[str, Any]:
    prior = torch.randint(0, 128, (1, 24), generator=torch.Generator().manual_seed(0))
    return {"prompt": QUOTING, "prior_token_ids": prior, "height": 64, "width": 96}


def _reference_of_glm() -> dict[str, Any]:
    ids = torch.randint(0, 128, (4,), generator=torch.Generator().manual_seed(1))
    return {
        "image": [[Image.linear_gradient("L").resize((32, 32)).convert("RGB")]],
        "prior_token_image_ids": [ids],
        "source_image_grid_thw": [torch.tensor([[1, 2, 2]])],
    }


def of_glm(seen: Seen) -> list[Picture] | None:
    """`[reference, text, picture]`, the reference's keys kept from the run's first call, which has
    no text; then two calls a step, the conditional first."""
    if seen.call % 2 == 0:
        return None
    text = seen.queries - 24
    first = seen.keys - seen.queries
    return [Picture(0, range(text, seen.queries), range(first, first + text))]


CASES: list[Case] = [
    Case(
        name="PRXPipeline, guided",
        make=make_prx,
        grid=(3, 4),
        pictures=of_prx,
        columns=second_row,
        options={"height": 12, "width": 16, "use_resolution_binning": False},
        negative=True,
    ),
    Case(
        name="AllegroPipeline, guided",
        make=make_allegro,
        grid=(2, 2, 3),
        pictures=of_allegro,
        columns=after(0),
        options={"height": 32, "width": 48, "num_frames": 8, "max_sequence_length": 24},
        negative=True,
    ),
    Case(
        name="GlmImagePipeline, guided, with words in quotes",
        make=make_glm,
        grid=(4, 6),
        pictures=text_first(24, 2),
        columns=after(0),
        options=_options_of_glm(),
    ),
    Case(
        name="GlmImagePipeline, guided, with a reference",
        make=make_glm,
        grid=(4, 6),
        pictures=of_glm,
        columns=after(0),
        options=_options_of_glm() | _reference_of_glm(),
    ),
]
