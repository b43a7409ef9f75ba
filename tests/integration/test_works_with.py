"""Every pipeline and circumstance that the README says recording works with: the same bytes with
and without, whole maps, and a model that is left as it was found. Each is a real run of a tiny
random pipeline of the real class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from conftest import make_pipeline, state_of
from tiny_pipelines import (
    Run,
    add_lora,
    controlnet_pipeline,
    generator,
    load_ip_adapter,
    make_sdxl,
    noise_picture,
    of_class,
    picture_embeds,
    runner,
    with_scheduler,
    with_unet,
)

from t2i_xattn.recording import record

Case = tuple[Any, Run]
SQUARE = torch.zeros(1, 1, 64, 64).index_fill_(2, torch.arange(20, 50), 1.0)


def stock(**options: Any) -> Callable[[], Case]:
    def make() -> Case:
        pipe = make_pipeline()
        return pipe, runner(pipe, **options)

    return make


def sdxl(name: str | None = None, **options: Any) -> Callable[[], Case]:
    def make() -> Case:
        pipe = make_sdxl() if name is None else of_class(name, make_sdxl())
        return pipe, runner(pipe, **options)

    return make


def other(name: str, unet: dict[str, Any] | None = None, **options: Any) -> Callable[[], Case]:
    def make() -> Case:
        pipe = of_class(name, with_unet(**unet) if unet else None)
        return pipe, runner(pipe, **options)

    return make


def scheduled(name: str, **more: Any) -> Callable[[], Case]:
    def make() -> Case:
        pipe = with_scheduler(make_pipeline(), name, **more)
        return pipe, runner(pipe)

    return make


def controlnet(**options: Any) -> Case:
    pipe = controlnet_pipeline()
    return pipe, runner(pipe, image=noise_picture(), **options)


def t2i_adapter() -> Case:
    torch.manual_seed(1)
    adapter = diffusers.T2IAdapter(
        in_channels=3, channels=[16, 32, 32], num_res_blocks=1, downscale_factor=8
    ).eval()
    pipe = of_class("StableDiffusionAdapterPipeline", adapter=adapter)
    return pipe, runner(pipe, image=noise_picture())


def perturbed(guidance: float) -> Callable[[], Case]:
    def make() -> Case:
        pipe = of_class("StableDiffusionPAGPipeline", pag_applied_layers=["mid"])
        return pipe, runner(pipe, pag_scale=3.0, guidance_scale=guidance)

    return make


def consistency() -> Case:
    pipe = with_unet(time_cond_proj_dim=32)
    pipe.scheduler = diffusers.LCMScheduler()
    pipe = of_class("LatentConsistencyModelPipeline", pipe)
    return pipe, runner(pipe)


def ip_adapter() -> Case:
    pipe = make_pipeline()
    load_ip_adapter(pipe)
    return pipe, runner(pipe, ip_adapter_image_embeds=picture_embeds())


def freeu() -> Case:
    pipe = make_pipeline()
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return pipe, runner(pipe)


def sliced() -> Case:
    pipe = make_pipeline()
    pipe.enable_attention_slicing(1)
    return pipe, runner(pipe)


def fused_projections() -> Case:
    pipe = make_pipeline()
    pipe.fuse_qkv_projections()
    return pipe, runner(pipe)


def precision(dtype: torch.dtype) -> Callable[[], Case]:
    def make() -> Case:
        pipe = make_pipeline().to(dtype=dtype)
        return pipe, runner(pipe)

    return make


def lora() -> Case:
    pipe = make_pipeline()
    add_lora(pipe)
    return pipe, runner(pipe, cross_attention_kwargs={"scale": 0.5})


def modular() -> Case:
    from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks

    parts = make_sdxl().components
    pipe = StableDiffusionXLAutoBlocks().init_pipeline()
    names = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    pipe.update_components(scheduler=parts["scheduler"], **{name: parts[name] for name in names})

    def draw() -> np.ndarray:
        return pipe(
            prompt="a red circle",
            num_inference_steps=3,
            height=64,
            width=64,
            output_type="np",
            generator=generator(),
            output="images",
        )

    return pipe, draw


def guidance_that_ends() -> Case:
    pipe = make_pipeline()

    def end(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            pipe._guidance_scale = 0.0
            inputs["prompt_embeds"] = inputs["prompt_embeds"].chunk(2)[-1]
        return inputs

    return pipe, runner(
        pipe,
        callback_on_step_end=end,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )


def long_embeddings() -> Case:
    pipe = make_pipeline()
    with torch.no_grad():
        parts = [pipe.encode_prompt(text, "cpu", 1, True) for text in ("a red circle", "blue left")]
    text, none = (torch.cat([part[index] for part in parts], dim=1) for index in (0, 1))
    return pipe, runner(pipe, prompt=None, prompt_embeds=text, negative_prompt_embeds=none)


def model_offload() -> Case:
    pipe = make_pipeline()
    for part in ("text_encoder", "unet", "vae"):
        module = getattr(pipe, part)
        _, hook = __import__("accelerate").cpu_offload_with_hook(module, torch.device("cpu"))
        pipe._all_hooks = [*getattr(pipe, "_all_hooks", []), hook]
    return pipe, runner(pipe)


def sequential_offload() -> Case:
    import accelerate

    pipe = make_pipeline()
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"), offload_buffers=True)
    return pipe, runner(pipe)


def group_offload() -> Case:
    pipe = make_pipeline()
    pipe.unet.enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
    )
    return pipe, runner(pipe)


def compiled(whole: bool, in_place: bool = False) -> Callable[[], Case]:
    def make() -> Case:
        torch._dynamo.reset()
        pipe = make_pipeline()
        options = {"backend": "eager", "fullgraph": True}
        if not whole:
            pipe.unet.compile_repeated_blocks(**options)
        elif in_place:
            pipe.unet.compile(**options)
        else:
            pipe.unet = torch.compile(pipe.unet, **options)
        return pipe, runner(pipe)

    return make


WORKS_WITH: dict[str, Callable[[], Case]] = {
    "Stable Diffusion": stock(),
    "guidance off": stock(guidance_scale=1.0),
    "negative prompt": stock(negative_prompt="a cat"),
    "prompts in a batch, several images each": stock(
        prompt=["a red circle", "blue"], num_images_per_prompt=2
    ),
    "not square": stock(height=64, width=96),
    "odd latents": stock(height=72, width=56),
    "guidance changed by a callback": guidance_that_ends,
    "embeddings beyond 77 tokens": long_embeddings,
    "PNDM": scheduled("PNDMScheduler", skip_prk_steps=True),
    "Heun": scheduled("HeunDiscreteScheduler"),
    "DPM-Solver": scheduled("DPMSolverMultistepScheduler"),
    "img2img": other("StableDiffusionImg2ImgPipeline", image=noise_picture(), strength=0.7),
    "inpainting": other(
        "StableDiffusionInpaintPipeline",
        image=noise_picture(),
        mask_image=SQUARE,
        height=64,
        width=64,
    ),
    "ControlNet": controlnet,
    "ControlNet in guess mode": lambda: controlnet(guess_mode=True),
    "T2I-Adapter": t2i_adapter,
    "InstructPix2Pix": other(
        "StableDiffusionInstructPix2PixPipeline", {"in_channels": 8}, image=noise_picture()
    ),
    "InstructPix2Pix, guidance off": other(
        "StableDiffusionInstructPix2PixPipeline",
        {"in_channels": 8},
        image=noise_picture(),
        guidance_scale=1.0,
    ),
    "perturbed-attention guidance": perturbed(5.0),
    "perturbed-attention guidance alone": perturbed(1.0),
    "latent consistency model": consistency,
    "SDXL": sdxl(),
    "SDXL, guidance off": sdxl(guidance_scale=1.0),
    "SDXL img2img": sdxl("StableDiffusionXLImg2ImgPipeline", image=noise_picture(), strength=0.7),
    "SDXL inpainting": sdxl(
        "StableDiffusionXLInpaintPipeline",
        image=noise_picture(),
        mask_image=SQUARE,
        height=64,
        width=64,
    ),
    "SDXL of Modular Diffusers": modular,
    "LoRA": lora,
    "IP-Adapter": ip_adapter,
    "FreeU": freeu,
    "attention slicing": sliced,
    "fused projections": fused_projections,
    "bfloat16": precision(torch.bfloat16),
    "float16": precision(torch.float16),
    "model offload": model_offload,
    "sequential offload": sequential_offload,
    "group offload": group_offload,
    "torch.compile(unet)": compiled(whole=True),
    "unet.compile()": compiled(whole=True, in_place=True),
    "compile_repeated_blocks": compiled(whole=False),
}


@pytest.mark.parametrize("name", WORKS_WITH)
def test_same_bytes_whole_maps_and_left_as_found(name: str) -> None:
    pipe, draw = WORKS_WITH[name]()
    plain = draw()
    assert np.isfinite(plain).all()
    before = state_of(pipe)
    with record(pipe) as trace:
        recorded = draw()
    assert recorded.tobytes() == plain.tobytes()
    assert state_of(pipe) == before
    assert draw().tobytes() == plain.tobytes()

    height, width = plain.shape[1:3]
    assert trace.picture_size == (height, width)
    assert len(trace.sites) == 7 + 4 * ("SDXL" in name)
    for site in trace.sites:
        maps = trace.maps[site.name]
        assert maps.shape[:3] == (len(plain), *site.size(height // 8, width // 8))
        assert np.allclose(maps.sum(-1), 1, atol=1e-5)
    if name == "LoRA":
        weight = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.base_layer
        assert isinstance(weight, torch.nn.Linear)  # so it is in use
    if "embeddings" not in name:
        assert trace.prompts[0] == "a red circle"
        assert trace.heatmap("red circle").share > 0


@pytest.mark.parametrize(
    "name", ["torch.compile(unet)", "unet.compile()", "compile_repeated_blocks"]
)
def test_compiled_while_recording(name: str) -> None:
    pipe, draw = WORKS_WITH["Stable Diffusion"]()
    plain = draw()
    with record(pipe) as expected:
        draw()
    torch._dynamo.reset()
    with record(pipe) as trace:
        if name == "unet.compile()":
            pipe.unet.compile(backend="eager", fullgraph=True)
        elif name == "compile_repeated_blocks":
            pipe.unet.compile_repeated_blocks(backend="eager", fullgraph=True)
        else:
            pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
        assert draw().tobytes() == plain.tobytes()
    for site, maps in expected.maps.items():
        assert np.allclose(trace.maps[site], maps, atol=1e-6)


def test_compiled_runs_do_not_compile_again() -> None:
    pipe, draw = WORKS_WITH["torch.compile(unet)"]()
    counter = torch._dynamo.testing.CompileCounter()
    pipe.unet = torch.compile(pipe.unet._orig_mod, backend=counter, fullgraph=True)
    draw()
    for _ in range(3):
        with record(pipe):
            draw()
    # One graph without recording, and one with it, however many recordings come.
    assert counter.frame_count == 2


class TestIPAdapter:
    def test_pictures_are_a_stream(self) -> None:
        pipe, draw = ip_adapter()
        with record(pipe) as trace:
            draw()
        assert list(trace.run.maps) == ["text", "picture 1"]
        for array in trace.to_numpy("picture 1").values():
            assert array.shape[-1] == 4
            assert np.allclose(array.sum(-1), 1, atol=1e-5)
        heat = trace.heatmap(columns=[0, 1], stream="picture 1")
        assert 0 < heat.share < 1

    def test_loaded_while_recording(self) -> None:
        expected_pipe, expected_draw = ip_adapter()
        plain = expected_draw()
        pipe = make_pipeline()
        with record(pipe) as trace:
            load_ip_adapter(pipe)
            assert runner(pipe, ip_adapter_image_embeds=picture_embeds())().tobytes() == (
                plain.tobytes()
            )
        assert "picture 1" in trace.run.maps
        found = {name: type(each) for name, each in pipe.unet.attn_processors.items()}
        assert found == {n: type(each) for n, each in expected_pipe.unet.attn_processors.items()}


class TestControlNet:
    @pytest.mark.parametrize("guess", [False, True])
    def test_its_own_sites(self, guess: bool) -> None:
        pipe, draw = controlnet(guess_mode=guess)
        plain = draw()
        with record(pipe, controlnet=True) as trace:
            assert draw().tobytes() == plain.tobytes()
        names = [site.name for site in trace.sites]
        assert sum(name.startswith("controlnet.") for name in names) == 3
        assert len(names) == 10
        for name in names:
            assert np.allclose(trace.maps[name].sum(-1), 1, atol=1e-5)
        only = trace.heatmap("red", sites=lambda site: site.name.startswith("controlnet."))
        assert not np.allclose(only.array, trace.heatmap("red").array, atol=1e-6)


def test_the_branches_of_a_third_kind() -> None:
    pipe, draw = WORKS_WITH["InstructPix2Pix"]()
    with record(pipe, branches=["conditional", "image", "unconditional"]) as trace:
        draw()
    # Both have no prompt, but only one has the picture.
    arrays = next(iter(trace.to_numpy().values()))
    assert arrays.shape[1] == 3
    assert not np.allclose(arrays[:, 1], arrays[:, 2], atol=1e-7)


def test_prompts_are_heard_in_sdxl_by_their_signature() -> None:
    pipe, draw = WORKS_WITH["SDXL"]()
    signature = inspect.signature(pipe.encode_prompt)
    with record(pipe) as trace:
        assert inspect.signature(pipe.encode_prompt) == signature
        draw()
    assert [word.text for word in trace.words] == ["a", "red", "circle"]


def test_two_pipelines_that_share_a_unet() -> None:
    first = make_pipeline()
    second = of_class("StableDiffusionImg2ImgPipeline", first)
    with record(first) as one, record(second) as two:
        runner(first, num_inference_steps=2)()
        runner(second, prompt="blue", image=noise_picture(), num_inference_steps=4)()
    assert (one.prompts, one.settings["calls"]) == (("a red circle",), 2)
    assert (two.prompts, two.settings["calls"]) == (("blue",), 3)


def test_two_pipelines_in_two_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    pipes = [make_pipeline(), make_pipeline()]
    prompts = ["a red circle", "blue left"]
    alone = []
    for pipe, prompt in zip(pipes, prompts, strict=True):
        with record(pipe) as trace:
            runner(pipe, prompt=prompt)()
        alone.append(trace)

    def recorded(index: int) -> Any:
        with record(pipes[index]) as trace:
            for _ in range(1):
                runner(pipes[index], prompt=prompts[index])()
        return trace

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(recorded, range(2)))
    for trace, expected in zip(together, alone, strict=True):
        assert trace.prompts == expected.prompts
        for name, maps in expected.maps.items():
            assert np.allclose(trace.maps[name], maps, atol=1e-6)
