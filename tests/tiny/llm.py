"""QwenImage and its kin: a language model's tokens, cut out of a chat template, then the picture's
places."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from PIL import Image
from torch import nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLModel,
)

from conftest import _byte_alphabet
from tiny.case import NEGATIVE, PROMPT, Case, Column, Heard, Picture, Seen

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>", "<think>", "</think>"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

PIECES = ["Ġa", "Ġred", "Ġcir", "Ġleft", "Ġof", "Ġblue", "Ġsqu", "Ġdull", "Ġ(", "),", "Ġ" * 7]
PIECES += ["cle", "are"]


def make_tokenizer_of_template(template: str = "", length: int = 1024) -> Qwen2Tokenizer:
    """Qwen's byte-level BPE: each word of the template is one token, of the prompt some are not."""
    plain = re.sub(r"<\|.*?\|>", "\n", template)
    words = [word.replace(" ", "Ġ") for word in re.findall(r"'s| ?[A-Za-z]+", plain)]
    words = sorted([*words, "system", "user", "assistant"], key=lambda word: word[0] != "Ġ")
    pieces = [*PIECES[:-2], *words, *PIECES[-2:]]
    merges = [(piece[:end], piece[end]) for piece in pieces for end in range(1, len(piece))]
    merges = list(dict.fromkeys(merges))
    tokens = dict.fromkeys([*_byte_alphabet(), *("".join(merge) for merge in merges)])
    tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        model_max_length=length,
        chat_template=CHATML,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


def sharpen(module: nn.Module, factor: float = 2.0) -> None:
    """Makes its attention look at some things more than at others."""
    names = ["norm_q", "norm_k", "norm_added_q", "norm_added_k", "query_norm", "key_norm"]
    names += ["to_q", "to_k", "add_q_proj", "add_k_proj"]
    for name, parameter in module.named_parameters():
        if any(name.endswith(f"{kind}.weight") for kind in names):
            parameter.data.mul_(factor)


def make_vae() -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def make_qwen_vl_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "initializer_range": 0.5,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "rope_theta": 1000000.0,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )


def make_qwen_vl(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration(make_qwen_vl_config(tokenizer)).eval()


def make_qwen_transformer() -> QwenImageTransformer2DModel:
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    ).eval()
    sharpen(transformer)
    return transformer


def make_qwen_image() -> QwenImagePipeline:
    torch.manual_seed(0)
    tokenizer = make_tokenizer_of_template(_QWEN_TEMPLATE)
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=make_vae(),
        text_encoder=make_qwen_vl(tokenizer),
        tokenizer=tokenizer,
        transformer=make_qwen_transformer(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_processor(tokenizer: Qwen2Tokenizer, kind: type[Any]) -> Any:
    """The real processor of text and pictures, without that of videos, which needs torchvision."""
    bare = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda *_: object})
    pictures = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=4 * 28 * 28)
    return bare(image_processor=pictures, tokenizer=tokenizer, chat_template=CHATML)


def make_qwen_edit() -> QwenImageEditPlusPipeline:
    torch.manual_seed(0)
    pipeline_qwenimage_edit_plus.VAE_IMAGE_SIZE = 64 * 64
    pipeline_qwenimage_edit_plus.CONDITION_IMAGE_SIZE = 56 * 56
    tokenizer = make_tokenizer_of_template(_EDIT_TEMPLATE)
    pipe = QwenImageEditPlusPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=make_vae(),
        text_encoder=make_qwen_vl(tokenizer),
        tokenizer=tokenizer,
        processor=make_processor(tokenizer, Qwen2VLProcessor),
        transformer=make_qwen_transformer(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_krea2() -> Krea2Pipeline:
    torch.manual_seed(0)
    tokenizer = make_tokenizer_of_template(_QWEN_TEMPLATE)
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=2,
        num_refiner_text_blocks=2,
        axes_dims_rope=(4, 2, 2),
        rope_theta=1000.0,
    ).eval()
    for name, parameter in transformer.named_parameters():
        if name.endswith(("norm_q.weight", "norm_k.weight")):
            torch.nn.init.ones_(parameter)
    pipe = Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=make_vae(),
        text_encoder=Qwen3VLModel(make_qwen3_vl_config(tokenizer, layers=2)).eval(),
        tokenizer=tokenizer,
        transformer=transformer,
        text_encoder_select_layers=(0, 1, 2),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_qwen3_vl_config(tokenizer: Qwen2Tokenizer, layers: int) -> Qwen3VLConfig:
    return Qwen3VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": len(tokenizer),
            "initializer_range": 0.5,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
    )


_EDIT_TEMPLATE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, "
    "texture, objects, background), then explain how the user's text instruction should alter or "
    "modify the image. Generate a new image that meets the user's requirements while maintaining "
    "consistency with the original input where appropriate.<|im_end|>\n<|im_start|>user\n"
)

_QWEN_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)


def text_first(places: int, calls: int = 1, rows: Sequence[int] = (0,)) -> Any:
    """`[text, picture, …]`; the conditional call is the first of a step's `calls`."""

    def pictures(seen: Seen) -> list[Picture] | None:
        if seen.call % calls or not seen.site.startswith("transformer_blocks"):
            return None
        text = seen.given["encoder_hidden_states"].shape[1]
        return [Picture(row, range(text, text + places), range(text)) for row in rows]

    return pictures


def after(dropped: int, tokenizer: str = "tokenizer") -> Any:
    """The first row that a text encoder heard, without its first tokens."""

    def columns(heard: Sequence[Heard]) -> list[Column]:
        return [(tokenizer, token) for token in heard[0].ids[0][dropped:]]

    return columns


def before_zeros(heard: Sequence[Heard]) -> list[Column]:
    """QwenImage cuts the tokenizer's padding off and puts zeros up to the longest prompt."""
    padding = make_tokenizer_of_template(_QWEN_TEMPLATE).pad_token_id
    row = heard[0].ids[0][34:]
    return [None if token == padding else ("tokenizer", token) for token in row]


CASES: list[Case] = [
    Case(
        name="QwenImagePipeline, guided",
        make=make_qwen_image,
        grid=(3, 4),
        pictures=text_first(12, 2),
        columns=after(34),
        options={"height": 24, "width": 32, "true_cfg_scale": 4.0},
        negative=True,
    ),
    Case(
        name="QwenImagePipeline",
        make=make_qwen_image,
        grid=(3, 4),
        pictures=text_first(12, 1),
        columns=after(34),
        options={"height": 24, "width": 32, "true_cfg_scale": 1.0},
    ),
    Case(
        name="QwenImagePipeline, two prompts, guided",
        make=make_qwen_image,
        grid=(3, 4),
        pictures=text_first(12, 2, rows=(0, 1)),
        columns=before_zeros,
        options={
            "prompt": [PROMPT, "a dull green star that looks at you"],
            "negative_prompt": ["", NEGATIVE],
            "height": 24,
            "width": 32,
        },
    ),
    Case(
        name="QwenImageEditPlusPipeline, guided",
        make=make_qwen_edit,
        grid=(3, 4),
        pictures=text_first(12, 2),
        columns=after(64),
        options={
            "image": Image.linear_gradient("L").resize((40, 32)).convert("RGB"),
            "height": 24,
            "width": 32,
            "true_cfg_scale": 4.0,
        },
        negative=True,
    ),
    Case(
        name="Krea2Pipeline, guided",
        make=make_krea2,
        grid=(3, 4),
        pictures=text_first(12, 2),
        columns=after(34),
        options={"height": 24, "width": 32, "max_sequence_length": 24},
        negative=True,
    ),
]
