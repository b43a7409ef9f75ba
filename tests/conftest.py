"""Tiny random-weight models of the real classes, so that whole pipelines run in a blink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.overrides import _get_current_function_mode_stack
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

# As byte-level BPE joins them: these words are one token, all others several.
_MERGES = ["r e", "re d</w>", "b l", "u e</w>", "bl ue</w>", "c i", "ci r", "cir c", "l e</w>"]
_MERGES += ["circ le</w>", "o f</w>", "l e", "le f", "lef t</w>"]


def _byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def make_tokenizer() -> CLIPTokenizer:
    alphabet = _byte_alphabet()
    merges = [tuple(merge.split()) for merge in _MERGES]
    tokens = alphabet + [f"{character}</w>" for character in alphabet]
    tokens += ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def make_unet(**changes: Any) -> UNet2DConditionModel:
    """Two levels with cross-attention, one without: sites at levels 0, 1, 2 (middle), 1, 0."""
    config: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**(config | changes)).eval()


def make_pipeline() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    unet = make_unet()
    # Random weights look at every token alike; larger keys make attention differ between them.
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn2.to_k" in name or "attn2.to_q" in name:
                parameter.mul_(4)
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text_config).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def state_of(pipe: Any) -> dict[str, Any]:
    """All that recording, editing and guidance touch; identities, not equality.

    To be taken after a first run, in which a pipeline and its scheduler get attributes.
    """
    unet, names = pipe.unet, ("unet", "controlnet", "text_encoder", "text_encoder_2")
    parts = {name: part for name in names if (part := getattr(pipe, name, None)) is not None}
    own = vars(pipe)
    # Model offloading is set up anew at the end of each run, by the pipeline itself.
    renewed = bool(getattr(pipe, "_all_hooks", None))
    return {
        "processors": {name: id(p) for name, p in unet.attn_processors.items()},
        "repr": repr(unet),
        "keys": list(unet.state_dict()),
        "modules": {
            (part, name): _state_of_module(module, renewed)
            for part, model in parts.items()
            for name, module in model.named_modules()
        },
        "gradients": [
            (part, number)
            for part, model in parts.items()
            for number, parameter in enumerate(model.parameters())
            if parameter.requires_grad
        ],
        "parts": {name: id(part) for name, part in parts.items()},
        "pipeline": own.keys() - {"_guidance_scale"},
        "own": [(key, id(each)) for key, each in own.items() if "encode_prompt" in key],
        "scheduler": (frozenset(vars(pipe.scheduler)), id(vars(pipe.scheduler).get("step"))),
        "modes": len(_get_current_function_mode_stack()),
        "grad": torch.is_grad_enabled(),
    }


_HOOKS = [
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
]


def _state_of_module(module: torch.nn.Module, renewed: bool) -> tuple[Any, ...]:
    own, kind = vars(module), type(module)
    return (
        frozenset(own),
        list(module._modules),
        None if renewed else id(own.get("forward")),
        id(own.get("_compiled_call_impl")),
        {name: list(own[name]) for name in _HOOKS if own[name]},
        id(kind),
        id(kind.forward),
        module.training,
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long is left to `make check` and CI: see `_SLOW`."""
    for item in items:
        if any(part in item.nodeid.lower() for part in _SLOW):
            item.add_marker(pytest.mark.slow)


_SLOW = (
    "compile",
    "interrupts",
    # The lab, which makes and measures the models.
    *(f"test_{lab}" for lab in ("drawing", "training", "judge", "world", "grown", "even_styles")),
    "test_evaluation",
    # diffusers' own tests of pipelines, and those for SDXL of what is tried on Stable Diffusion.
    "pipelines_as_diffusers_asks",
    "pipelines.py::teststeered::test_outputs_callbacks_and_saving[xl",
    "prompt_to_prompt_pipelines.py::testofafamily",
    # Runs of a hundred steps, and inversions that come to a fixed point.
    "at_4_and_at_100_steps",
    "the_way_back_is_the_pipeline_s_way",
    "the_noise_alone_holds_the_picture_with_guidance[chroma",
    "what_grows_is_seen",
    "the_first_sheet_is_right",
    "stock_diffusers_loads_the_models",
    "test_pictures_of_shapes_come_back",
    "test_auto_works_with",
)
"""Parts of the names of tests that take long."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def more_graphs() -> Iterator[None]:
    """All blocks share the graphs of one forward, of which torch makes 8 unless told otherwise.

    The tests' UNets have three shapes of blocks, each with a plain graph, a recording one and,
    where the branches are called one by one, one for the calls in which nothing is recorded.
    """
    with torch._dynamo.config.patch(recompile_limit=9):
        yield


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    return make_tokenizer()


@pytest.fixture
def pipe() -> StableDiffusionPipeline:
    """A fresh pipeline with the same weights each time."""
    return make_pipeline()


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """Runs a pipeline with a fixed seed; the pictures as an array, for comparing bytes."""

    def run(pipe: Any, prompt: Any = "a red circle", **options: Any) -> np.ndarray:
        settings = {"num_inference_steps": 2, "output_type": "np"} | options
        generator = torch.Generator().manual_seed(7)
        return pipe(prompt, generator=generator, **settings).images

    return run
