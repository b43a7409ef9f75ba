"""More of cross.py: Kandinsky 5, Cosmos and Stable Cascade."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
    ConfigMixin,
    Cosmos2TextToImagePipeline,
    CosmosTransformer3DModel,
    DDPMWuerstchenScheduler,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5T2IPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    ModelMixin,
    StableCascadePriorPipeline,
)
from diffusers.models.unets import StableCascadeUNet
from torch import nn
from transformers import CLIPTextModel, Qwen2VLProcessor

from conftest import make_tokenizer
from tiny.case import Case, Column, Heard, Picture, Seen
from tiny.cross_parts import (
    OtherOutput,
    clip_config,
    crossed,
    encoded,
    first,
    in_turn,
    make_clip,
    make_t5_encoder,
    make_vae,
    ready,
    tokens,
    unpadded,
)
from tiny.llm import make_processor, make_qwen_vl, make_tokenizer_of_template
from tiny.tokenizers import make_t5


def make_kandinsky(kind: Any, vae: nn.Module, template: str) -> Any:
    torch.manual_seed(0)
    tokenizer = make_tokenizer_of_template(template)
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=4,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=2,
        num_visual_blocks=2,
        axes_dims=(2, 2, 4),
    )
    return ready(
        kind(
            transformer=transformer,
            vae=vae,
            text_encoder=make_qwen_vl(tokenizer),
            tokenizer=make_processor(tokenizer, Qwen2VLProcessor),
            text_encoder_2=CLIPTextModel(clip_config(16)),
            tokenizer_2=make_tokenizer(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    )


def make_kandinsky_picture() -> Kandinsky5T2IPipeline:
    """Its own sizes are all too large; this is one more."""
    torch.manual_seed(0)
    pipe = make_kandinsky(Kandinsky5T2IPipeline, make_vae(levels=4), IMAGE_TEMPLATE)
    pipe.resolutions = [(96, 64)]
    return pipe


def make_kandinsky_video() -> Kandinsky5T2VPipeline:
    torch.manual_seed(0)
    return make_kandinsky(Kandinsky5T2VPipeline, make_hunyuan_vae(), VIDEO_TEMPLATE)


def make_hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


def after_template(dropped: int) -> Callable[[Sequence[Heard]], list[Column]]:
    def columns(heard: Sequence[Heard]) -> list[Column]:
        return tokens(first(heard)[dropped:])

    return columns


class SafetyChecker(ModelMixin, ConfigMixin):
    """Cosmos refuses to work without one."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def make_cosmos() -> Cosmos2TextToImagePipeline:
    torch.manual_seed(0)
    tokenizer = make_t5()
    transformer = CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        concat_padding_mask=False,
        extra_pos_embed_type="learnable",
    )
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return ready(
        Cosmos2TextToImagePipeline(
            transformer=transformer,
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
            text_encoder=make_t5_encoder(tokenizer),
            tokenizer=tokenizer,
            safety_checker=SafetyChecker(),
        )
    )


def make_cascade() -> StableCascadePriorPipeline:
    torch.manual_seed(0)
    prior = StableCascadeUNet(
        conditioning_dim=32,
        block_out_channels=(32, 32),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        switch_level=(False,),
        timestep_ratio_embedding_dim=16,
        clip_image_in_channels=16,
        clip_text_in_channels=32,
        clip_text_pooled_in_channels=32,
    )
    pipe = StableCascadePriorPipeline(
        prior=prior,
        text_encoder=make_clip(32),
        tokenizer=make_tokenizer(),
        scheduler=DDPMWuerstchenScheduler(),
    )
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            if name.endswith("kv_mapper.1.weight"):
                parameter.mul_(8)
    return ready(pipe, "prior")


def cascade_pictures(seen: Seen) -> Sequence[Picture] | None:
    """Keys: the picture's, the text's, then 4 of the pooled text and 4 of an image (zeros); the
    conditional rows are the first half."""
    text = range(seen.queries, seen.queries + 77)
    return [Picture(row, range(seen.queries), text) for row in range(seen.rows // 2)]


def kandinsky_pictures(seen: Seen) -> Sequence[Picture] | None:
    """The conditional call is the first of two; the text's own blocks are none of the picture."""
    if seen.call % 2 or not seen.site.endswith("cross_attention"):
        return None
    return crossed(seen, range(seen.rows))


def cosmos_columns(heard: Sequence[Heard]) -> list[Column]:
    """T5's tokens up to the end, then zeros from the pipeline."""
    return unpadded(first(heard), 16)


IMAGE_TEMPLATE = (
    "<|im_start|>system\nYou are a prompt engineer. Describe the image by detailing the color, "
    "shape, size, texture, quantity, text, spatial relationships of the objects and background:"
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>"
)
VIDEO_TEMPLATE = (
    "<|im_start|>system\nYou are a prompt engineer. Describe the video in detail.\nDescribe how "
    "the camera moves or shakes, describe the zoom and view angle, whether it follows the objects."
    "\nDescribe the location of the video, main characters or objects and their action.\nDescribe "
    "the dynamism of the video and presented actions.\nName the visual style of the video: whether "
    "it is a professional footage, user generated content, some kind of animation, video game or "
    "scren content.\nDescribe the visual effects, postprocessing and transitions if they are "
    "presented in the video.\nPay attention to the order of key actions shown in the scene."
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>"
)

CASES: list[Case] = [
    OtherOutput(
        name="Kandinsky5T2IPipeline",
        make=make_kandinsky_picture,
        grid=(4, 6),
        pictures=kandinsky_pictures,
        columns=after_template(40),
        options={"height": 64, "width": 96, "guidance_scale": 3.5},
        negative=True,
    ),
    Case(
        name="Kandinsky5T2VPipeline",
        make=make_kandinsky_video,
        grid=(2, 2, 3),
        pictures=kandinsky_pictures,
        columns=after_template(128),
        options={"height": 32, "width": 48, "num_frames": 5, "guidance_scale": 5.0},
        negative=True,
    ),
    Case(
        name="Cosmos2TextToImagePipeline",
        make=make_cosmos,
        grid=(2, 3),
        pictures=in_turn,
        columns=cosmos_columns,
        options={"height": 32, "width": 48, "guidance_scale": 5.0, "max_sequence_length": 16},
        negative=True,
    ),
    OtherOutput(
        name="StableCascadePriorPipeline",
        make=make_cascade,
        grid=(4, 6),
        pictures=cascade_pictures,
        columns=encoded,
        options={"height": 170, "width": 256, "guidance_scale": 4.0},
        negative=True,
        denoiser="prior",
    ),
]
