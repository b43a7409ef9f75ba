"""Tiny random pipelines of the real classes, one for each thing that recording works with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import accelerate
import diffusers
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

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


def sharpened(pipe: Any, factor: float = 4) -> Any:
    """With larger queries and keys: random weights look at every token alike, so that the maps of
    one row could be taken for another's."""
    with torch.no_grad():
        for name, parameter in pipe.unet.named_parameters():
            if "attn2.to_k" in name or "attn2.to_q" in name:
                parameter.mul_(factor)
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


def make_refiner() -> Any:
    """SDXL's second model: one text encoder, which it calls its second, and a picture to refine."""
    base = make_sdxl()
    torch.manual_seed(3)
    unet = make_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=5 * 8 + 32,
        cross_attention_dim=32,
        transformer_layers_per_block=(1, 2, 2),
    )
    pipe = diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=base.text_encoder_2,
        tokenizer_2=base.tokenizer_2,
        unet=unet,
        scheduler=base.scheduler,
        requires_aesthetics_score=True,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_animatediff() -> Any:
    """Videos: rows of the attention layers are the branches' videos, frame by frame."""
    base = make_pipeline()
    torch.manual_seed(2)
    adapter = diffusers.MotionAdapter(
        block_out_channels=(16, 32, 32),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )
    pipe = diffusers.AnimateDiffPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        motion_adapter=adapter,
        scheduler=base.scheduler,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_svd() -> Any:
    """Stable Video Diffusion, which is conditioned on a picture and has no words."""
    torch.manual_seed(0)
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=2,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D"] * 2,
        latent_channels=4,
    )
    config = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        intermediate_size=37,
        patch_size=1,
    )
    pipe = diffusers.StableVideoDiffusionPipeline(
        unet=unet.eval(),
        image_encoder=CLIPVisionModelWithProjection(config).eval(),
        scheduler=diffusers.EulerDiscreteScheduler(
            prediction_type="v_prediction",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
            timestep_type="continuous",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        vae=vae.eval(),
        feature_extractor=CLIPImageProcessor(crop_size=32, size=32),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


OFFLOADS = ("model offload", "sequential offload", "group offload")


def offload(pipe: Any, how: str) -> None:
    """One of `OFFLOADS`, from a CPU to a CPU."""
    cpu = torch.device("cpu")
    if how == "model offload":
        for part in ("text_encoder", "unet", "vae"):
            _, hook = accelerate.cpu_offload_with_hook(getattr(pipe, part), cpu)
            pipe._all_hooks = [*getattr(pipe, "_all_hooks", []), hook]
    elif how == "sequential offload":
        accelerate.cpu_offload(pipe.unet, cpu, offload_buffers=True)
    else:
        pipe.unet.enable_group_offload(
            onload_device=cpu, offload_device=cpu, offload_type="leaf_level"
        )


COMPILED = ("torch.compile(unet)", "unet.compile()", "compile_repeated_blocks")


def compile_unet(pipe: Any, how: str) -> None:
    """One of `COMPILED`; what was compiled before is forgotten."""
    torch._dynamo.reset()
    options: dict[str, Any] = {"backend": "eager", "fullgraph": True}
    if how == "compile_repeated_blocks":
        pipe.unet.compile_repeated_blocks(**options)
    elif how == "unet.compile()":
        pipe.unet.compile(**options)
    else:
        pipe.unet = torch.compile(pipe.unet, **options)
