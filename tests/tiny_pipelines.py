"""Tiny random pipelines of the real classes, one for each thing that recording works with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from conftest import make_pipeline, make_tokenizer, make_unet

Run = Callable[[], Any]
"""Draws the picture, always the same, as a numpy array."""


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def noise_picture() -> torch.Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def runner(pipe: Any, **options: Any) -> Run:
    settings = {"prompt": "a red circle", "num_inference_steps": 3, "output_type": "np"} | options
    return lambda: pipe(generator=generator(), **settings).images


def of_class(name: str, pipe: Any = None, **more: Any) -> Any:
    """A pipeline of another class with the parts of a stock one."""
    parts = (pipe or make_pipeline()).components
    other = getattr(diffusers, name)
    expected = other._get_signature_keys(other)[0]
    parts = {key: part for key, part in parts.items() if key in expected}
    safety = (
        {"safety_checker": None, "feature_extractor": None} if name.startswith("Stable") else {}
    )
    safety = {key: None for key in ("safety_checker", "feature_extractor") if key in expected}
    made = other(**(parts | safety | more))
    made.set_progress_bar_config(disable=True)
    return made


def make_sdxl() -> Any:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=3,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = make_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
        transformer_layers_per_block=(1, 2, 2),
    )
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=make_pipeline().vae,
        text_encoder=CLIPTextModel(config).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config).eval(),
        tokenizer=tokenizer,
        tokenizer_2=make_tokenizer(),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def with_scheduler(pipe: Any, name: str, **more: Any) -> Any:
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **more)
    return pipe


def with_unet(**changes: Any) -> Any:
    torch.manual_seed(1)
    pipe = make_pipeline()
    pipe.unet = make_unet(**changes)
    return pipe


def load_ip_adapter(pipe: Any, adapters: int = 1) -> None:
    """Random weights in the layout of an IP-Adapter's file; four tokens a picture."""
    torch.manual_seed(2)
    unet = pipe.unet
    width = unet.config.cross_attention_dim
    weights: dict[str, torch.Tensor] = {}
    key = 1
    for name in unet.attn_processors:
        if not name.endswith("attn2.processor"):
            continue
        layer = unet.get_submodule(name.removesuffix(".processor"))
        made = IPAdapterAttnProcessor(layer.to_q.out_features, width).state_dict()
        weights[f"{key}.to_k_ip.weight"] = made["to_k_ip.0.weight"]
        weights[f"{key}.to_v_ip.weight"] = made["to_v_ip.0.weight"]
        key += 2
    projection = diffusers.models.embeddings.ImageProjection(
        image_embed_dim=width, cross_attention_dim=width, num_image_text_embeds=4
    ).state_dict()
    names = {"image_embeds": "proj", "norm": "norm"}
    proj = {f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in projection.items()}
    unet._load_ip_adapter_weights([{"image_proj": proj, "ip_adapter": weights}] * adapters)


def add_lora(pipe: Any) -> None:
    """Random weights that change the picture, for queries, keys, values and outputs."""
    from peft import LoraConfig

    torch.manual_seed(4)
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    pipe.unet.add_adapter(LoraConfig(r=4, target_modules=names, init_lora_weights="gaussian"))
    for name, parameter in pipe.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)


def picture_embeds(guided: bool = True, pictures: int = 1) -> list[torch.Tensor]:
    embeds = torch.randn(1, pictures, 32, generator=torch.Generator().manual_seed(3))
    return [torch.cat([torch.zeros_like(embeds), embeds])] if guided else [embeds]


def controlnet_pipeline(**more: Any) -> Any:
    pipe = make_pipeline()
    torch.manual_seed(1)
    net = diffusers.ControlNetModel.from_unet(
        pipe.unet, conditioning_channels=3, conditioning_embedding_out_channels=(8, 8, 16, 16)
    ).eval()
    for each in net.controlnet_down_blocks:
        torch.nn.init.normal_(each.weight, std=0.1)
    return of_class("StableDiffusionControlNetPipeline", pipe, controlnet=net, **more)
