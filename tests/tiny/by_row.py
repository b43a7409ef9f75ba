"""Pipelines whose text differs in length from row to row, or from token to token in its place."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizerFast, Qwen3Config, Qwen3Model

from tiny.case import PROMPT, Case, Column, Heard, Picture, Seen
from tiny.llm import PIECES, make_tokenizer_of_template, sharpen

MULTIPLE = 32
"""Z-Image pads each row's picture and each row's text to a multiple of it."""

SHORT = "a blue square"
LONG = "a dull green star that is far away and looks at you with three eyes"


class Fresh(UserDict[str, Any]):
    """Options copied each time: Z-Image writes its chat template into the caller's list."""

    def __getitem__(self, key: str) -> Any:
        return deepcopy(self.data[key])


def make_kl(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D", "DownEncoderBlock2D"],
        up_block_types=["UpDecoderBlock2D", "UpDecoderBlock2D"],
        block_out_channels=[8, 8],
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).eval()


def make_z_image() -> ZImagePipeline:
    torch.manual_seed(0)
    tokenizer = make_tokenizer_of_template()
    config = Qwen3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.5,
    )
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    ).eval()
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    sharpen(transformer)
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=make_kl(4),
        text_encoder=Qwen3Model(config).eval(),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_z_image(prompts: int, before: int = 0) -> Any:
    """`[picture, its padding, text, its padding, padding of the batch]`; the prompts come first,
    so that as many rows stand `before` the negative ones."""

    def pictures(seen: Seen) -> list[Picture] | None:
        if not seen.site.startswith("layers.") or seen.rows < before + prompts:
            return None
        found = []
        for row in range(before, before + prompts):
            *_, height, width = seen.given["x"][row].shape
            places = height // 2 * (width // 2)
            first = -(-places // MULTIPLE) * MULTIPLE
            text = -(-len(seen.given["cap_feats"][row]) // MULTIPLE) * MULTIPLE
            found.append(Picture(row, range(places), range(first, first + text)))
        return found

    return pictures


def z_image_columns(heard: Sequence[Heard]) -> list[Column]:
    """The tokens without the tokenizer's padding, then the learnt padding to the multiple."""
    padding = make_tokenizer_of_template().pad_token_id
    tokens: list[Column] = [("tokenizer", t) for t in heard[0].ids[0] if t != padding]
    return tokens + [None] * (-len(tokens) % MULTIPLE)


def make_gemma() -> GemmaTokenizerFast:
    """Gemma's BPE over spaces written as `▁`, with a start token; pads on the left by itself."""
    words = [piece.replace("Ġ", "▁") for piece in PIECES]
    merges = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    merges = list(dict.fromkeys(merges))
    letters = [chr(number) for number in range(32, 127)]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *letters]
    tokens = list(dict.fromkeys([*tokens, *("".join(merge) for merge in merges)]))
    return GemmaTokenizerFast(
        vocab={token: number for number, token in enumerate(tokens)}, merges=merges
    )


def make_lumina2() -> Lumina2Pipeline:
    torch.manual_seed(0)
    tokenizer = make_gemma()
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        head_dim=4,
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=2,
        sliding_window=2,
        initializer_range=0.5,
    )
    transformer = Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=2,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 16, 16),
        cap_feat_dim=8,
    ).eval()
    sharpen(transformer)
    pipe = Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=make_kl(4),
        text_encoder=Gemma2Model(config).eval(),
        tokenizer=tokenizer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_lumina2(calls: int, places: int, rows: int = 1) -> Any:
    """`[text, picture, padding of the batch]`; the conditional call is a step's first."""

    def pictures(seen: Seen) -> list[Picture] | None:
        if not seen.site.startswith("layers.") or seen.call % calls:
            return None
        lengths = seen.given["encoder_attention_mask"].sum(1).tolist()[:rows]
        return [Picture(row, range(n, n + places), range(n)) for row, n in enumerate(lengths)]

    return pictures


def lumina2_columns(heard: Sequence[Heard]) -> list[Column]:
    padding = make_gemma().pad_token_id
    return [("tokenizer", token) for token in heard[0].ids[0] if token != padding]


CASES: list[Case] = [
    Case(
        name="ZImagePipeline, guided",
        make=make_z_image,
        grid=(3, 4),
        pictures=of_z_image(1),
        negatives=of_z_image(1, before=1),
        columns=z_image_columns,
        options={"height": 12, "width": 16, "max_sequence_length": 96, "negative_prompt": LONG},
    ),
    Case(
        name="ZImagePipeline, two prompts, guided",
        make=make_z_image,
        grid=(3, 4),
        pictures=of_z_image(2),
        negatives=of_z_image(2, before=2),
        columns=z_image_columns,
        options=Fresh(
            prompt=[PROMPT, SHORT],
            negative_prompt=["", LONG],
            height=12,
            width=16,
            max_sequence_length=96,
        ),
    ),
    Case(
        name="ZImagePipeline",
        make=make_z_image,
        grid=(5, 9),
        pictures=of_z_image(1),
        columns=z_image_columns,
        options={"height": 20, "width": 36, "max_sequence_length": 96, "guidance_scale": 0.0},
    ),
    Case(
        name="Lumina2Pipeline, guided",
        make=make_lumina2,
        grid=(3, 4),
        pictures=of_lumina2(2, 12),
        columns=lumina2_columns,
        options={"height": 48, "width": 64},
        negative=True,
    ),
    Case(
        name="ZImagePipeline, guided in its first step alone",
        make=make_z_image,
        grid=(3, 4),
        pictures=of_z_image(1),
        negatives=of_z_image(1, before=1),
        columns=z_image_columns,
        options={
            "height": 12,
            "width": 16,
            "max_sequence_length": 96,
            "negative_prompt": LONG,
            "cfg_truncation": 0.1,
        },
    ),
    Case(
        name="Lumina2Pipeline, guided in its first step alone",
        make=make_lumina2,
        grid=(3, 4),
        pictures=of_lumina2(2, 12),
        columns=lumina2_columns,
        options={"height": 48, "width": 64, "cfg_trunc_ratio": 0.5},
        negative=True,
    ),
]

UNEVEN: list[Case] = [
    Case(
        name="ZImagePipeline, two prompts of 32 and 64 columns, guided",
        make=make_z_image,
        grid=(3, 4),
        pictures=of_z_image(2),
        negatives=of_z_image(2, before=2),
        columns=z_image_columns,
        options=Fresh(
            prompt=[PROMPT, LONG],
            negative_prompt=["", SHORT],
            height=12,
            width=16,
            max_sequence_length=96,
        ),
    ),
    Case(
        name="Lumina2Pipeline, two prompts of different lengths, guided",
        make=make_lumina2,
        grid=(3, 4),
        pictures=of_lumina2(2, 12, rows=2),
        columns=lumina2_columns,
        options={
            "prompt": [PROMPT, SHORT],
            "negative_prompt": ["", LONG],
            "height": 48,
            "width": 64,
        },
    ),
]
"""Cases whose pictures have texts of different lengths: their maps do not stack."""
