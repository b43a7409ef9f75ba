"""More pipelines whose text differs in length from row to row, or in its order from the tokens'."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLMochi,
    ClassifierFreeGuidance,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
)
from tokenizers import processors
from torch import nn
from transformers import (
    ByT5Tokenizer,
    Mistral3Config,
    Mistral3Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLTextModel,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
)

from tiny.case import Case, Column, Heard, Picture, Seen
from tiny.llm import make_qwen_vl_config, make_tokenizer_of_template, sharpen
from tiny.tokenizers import byte_level_bpe, make_t5

LONG = "a dull green star that is far away and looks at you with three eyes"
QUOTING = 'a red circle left of a blue square, "of me"'

GLYPHS, LANGUAGE, VISION = 18, 24, 5
"""HunyuanVideo 1.5: columns of ByT5, of the language model and of a picture's tokens."""


def make_t5_encoder(vocabulary: int) -> T5EncoderModel:
    config = T5Config(vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)
    return T5EncoderModel(config).eval()


def make_mochi() -> MochiPipeline:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=24,
    ).eval()
    nn.init.normal_(transformer.pos_frequencies)
    sharpen(transformer)
    vae = AutoencoderKLMochi(
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    pipe = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=make_t5_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_mochi(row: int) -> Any:
    """A kernel call for each row of the batch, unconditional first: `[video, its own tokens]`."""

    def pictures(seen: Seen) -> list[Picture] | None:
        if seen.number != row:
            return None
        text = int(seen.given["encoder_attention_mask"][row].sum())
        return [Picture(0, range(seen.queries - text), range(seen.keys - text, seen.keys))]

    return pictures


def t5_columns(heard: Sequence[Heard]) -> list[Column]:
    """No padding."""
    return [("tokenizer", token) for token in heard[0].ids[0] if token]


def make_ernie() -> ErnieImagePipeline:
    torch.manual_seed(0)
    words = byte_level_bpe()
    words.add_special_tokens(["<s>", "</s>"])
    start = words.token_to_id("<s>")
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", model_max_length=64
    )
    config = Mistral3Config(
        text_config={
            "model_type": "ministral3",
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "initializer_range": 0.5,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
        },
    )
    transformer = ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=16,
        rope_axes_dim=(8, 4, 4),
    ).eval()
    for linear in (transformer.adaLN_modulation[-1], transformer.final_linear):
        nn.init.normal_(linear.weight, std=0.1)
    sharpen(transformer)
    vae = AutoencoderKLFlux2(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    pipe = ErnieImagePipeline(
        transformer=transformer,
        vae=vae.eval(),
        text_encoder=Mistral3Model(config).eval(),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_ernie(seen: Seen) -> list[Picture]:
    """`[picture, text, zeros up to the longest text]`, the unconditional row first."""
    places = seen.keys - seen.given["text_bth"].shape[1]
    return [Picture(1, range(places), range(places, seen.keys))]


def ernie_columns(heard: Sequence[Heard]) -> list[Column]:
    own, other = heard[0].ids[0], heard[1].ids[0]
    tokens: list[Column] = [("tokenizer", token) for token in own]
    return tokens + [None] * (len(other) - len(own))


@cache
def hunyuan_tokenizer() -> tuple[Qwen2Tokenizer, int]:
    """With the number of tokens before the prompt, 108 with the real vocabulary."""
    encode = inspect.signature(HunyuanVideo15Pipeline._get_mllm_prompt_embeds)
    message = encode.parameters["system_message"].default
    tokenizer = make_tokenizer_of_template(message)
    before = f"<|im_start|>system\n{message}<|im_end|>\n<|im_start|>user\n"
    return tokenizer, len(tokenizer(before).input_ids)


def make_hunyuan() -> HunyuanVideo15Pipeline:
    torch.manual_seed(0)
    tokenizer, before = hunyuan_tokenizer()
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_refiner_layers=2,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    ).eval()
    sharpen(transformer)
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    config = make_qwen_vl_config(tokenizer).text_config
    glyphs = ByT5Tokenizer()
    pipe = HunyuanVideo15Pipeline(
        text_encoder=Qwen2_5_VLTextModel(config).eval(),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=make_t5_encoder(len(glyphs)),
        tokenizer_2=glyphs,
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )
    pipe.prompt_template_encode_start_idx = before
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length = LANGUAGE, GLYPHS
    pipe.vision_num_semantic_tokens = VISION
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_hunyuan(seen: Seen) -> list[Picture] | None:
    """`[video, ByT5's, language model's, no picture's, both paddings]`, conditional call first."""
    if seen.call % 2 or not seen.site.startswith("transformer_blocks"):
        return None
    places = seen.keys - (GLYPHS + LANGUAGE + VISION)
    return [Picture(0, range(places), range(places, seen.keys))]


def hunyuan_columns(heard: Sequence[Heard]) -> list[Column]:
    tokenizer, before = hunyuan_tokenizer()
    quoted = [each.ids[0] for each in heard if each.encoder == "text_encoder_2"]
    tokens: list[Column] = [("tokenizer_2", token) for row in quoted for token in row if token]
    own = heard[0].ids[0][before:]
    tokens += [("tokenizer", token) for token in own if token != tokenizer.pad_token_id]
    return tokens + [None] * (GLYPHS + LANGUAGE + VISION - len(tokens))


CASES: list[Case] = [
    Case(
        name="MochiPipeline, guided",
        make=make_mochi,
        grid=(2, 2, 3),
        pictures=of_mochi(1),
        negatives=of_mochi(0),
        columns=t5_columns,
        options={"height": 32, "width": 48, "num_frames": 7, "max_sequence_length": 24},
        negative=True,
    ),
    Case(
        name="ErnieImagePipeline, guided",
        make=make_ernie,
        grid=(3, 4),
        pictures=of_ernie,
        columns=ernie_columns,
        options={"height": 6, "width": 8, "negative_prompt": LONG},
    ),
    Case(
        name="HunyuanVideo15Pipeline, guided",
        make=make_hunyuan,
        grid=(3, 2, 3),
        pictures=of_hunyuan,
        columns=hunyuan_columns,
        options={"height": 8, "width": 12, "num_frames": 5},
        negative=True,
    ),
    Case(
        name="HunyuanVideo15Pipeline, guided, with words in quotes",
        make=make_hunyuan,
        grid=(3, 2, 3),
        pictures=of_hunyuan,
        columns=hunyuan_columns,
        options={"height": 8, "width": 12, "num_frames": 5, "prompt": QUOTING},
        negative=True,
    ),
]
