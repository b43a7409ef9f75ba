"""Every pipeline and circumstance that the README says recording works with: the same bytes with
and without, whole maps, and a model that is left as it was found. Each is a real run of a tiny
random pipeline of the real class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import accelerate
import diffusers
import numpy as np
import pytest
import torch

from conftest import make_pipeline, state_of
from t2i_xattn.recording.denoiser_calls import DenoiserCalls
from t2i_xattn.recording.record import record
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


def masked_ip_adapter() -> Case:
    """Two pictures, each for its own half."""
    pipe = make_pipeline()
    load_ip_adapter(pipe)
    halves = torch.zeros(1, 2, 64, 64)
    halves[:, 0, :, :32] = halves[:, 1, :, 32:] = 1
    return pipe, runner(
        pipe,
        ip_adapter_image_embeds=picture_embeds(pictures=2),
        cross_attention_kwargs={"ip_adapter_masks": [halves]},
    )


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


def layerwise_casting() -> Case:
    pipe = make_pipeline()
    pipe.unet.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )
    return pipe, runner(pipe)


def modular(how: str | None = None) -> Case:
    from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks

    parts = make_sdxl().components
    pipe = StableDiffusionXLAutoBlocks().init_pipeline()
    names = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    pipe.update_components(scheduler=parts["scheduler"], **{name: parts[name] for name in names})
    if how is not None:
        compile_unet(pipe, how)

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


def offloaded(how: str) -> Callable[[], Case]:
    def make() -> Case:
        pipe = make_pipeline()
        offload(pipe, how)
        return pipe, runner(pipe)

    return make


COMPILED = ("torch.compile(unet)", "unet.compile()", "compile_repeated_blocks")


def compile_unet(pipe: Any, how: str) -> None:
    """One of `COMPILED`; what was compiled before is forgotten."""
    torch._dynamo.reset()
    options = {"backend": "eager", "fullgraph": True}
    if how == "compile_repeated_blocks":
        pipe.unet.compile_repeated_blocks(**options)
    elif how == "unet.compile()":
        pipe.unet.compile(**options)
    else:
        pipe.unet = torch.compile(pipe.unet, **options)


def compiled(how: str) -> Callable[[], Case]:
    def make() -> Case:
        pipe = make_pipeline()
        compile_unet(pipe, how)
        return pipe, runner(pipe)

    return make


@pytest.fixture(autouse=True)
def _graphs() -> Iterator[None]:
    """All blocks share the graphs of one forward, of which torch makes 8 unless told otherwise.

    These UNets have three shapes of blocks, each with a plain graph, a recording one and, where the
    branches are called one by one, one for the calls in which nothing is recorded.
    """
    with torch._dynamo.config.patch(recompile_limit=9):
        yield


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
    "IP-Adapter with masks": masked_ip_adapter,
    "FreeU": freeu,
    "attention slicing": sliced,
    "fused projections": fused_projections,
    "bfloat16": precision(torch.bfloat16),
    "float16": precision(torch.float16),
    **{how: offloaded(how) for how in OFFLOADS},
    "layerwise casting to float8": layerwise_casting,
    **{how: compiled(how) for how in COMPILED},
    **{f"SDXL of Modular Diffusers, {how}": partial(modular, how) for how in COMPILED},
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


@pytest.mark.parametrize("how", COMPILED)
@pytest.mark.parametrize("name", ["Stable Diffusion", "SDXL of Modular Diffusers"])
def test_compiled_while_recording(name: str, how: str) -> None:
    pipe, draw = WORKS_WITH[name]()
    plain = draw()
    with record(pipe) as expected:
        draw()
    with record(pipe) as trace:
        compile_unet(pipe, how)
        assert draw().tobytes() == plain.tobytes()
    # Modular Diffusers calls the UNet twice a step, once for each branch.
    assert trace.settings["calls"] == (6 if "Modular" in name else 3)
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

    def test_pictures_with_masks_have_a_softmax_each(self) -> None:
        pipe, draw = masked_ip_adapter()
        with record(pipe) as trace:
            draw()
        assert list(trace.run.maps) == ["text", "picture 1"]
        for array in trace.to_numpy("picture 1").values():
            assert array.shape[-1] == 8
            each = array.reshape(*array.shape[:-1], 2, 4)
            assert np.allclose(each.sum(-1), 1, atol=1e-5)
            assert not np.allclose(each[..., 0, :], each[..., 1, :], atol=1e-3)

    def test_an_adapter_without_a_mask_beside_one_with(self) -> None:
        pipe = make_pipeline()
        load_ip_adapter(pipe, adapters=2)
        draw = runner(
            pipe,
            ip_adapter_image_embeds=picture_embeds(pictures=2) * 2,
            cross_attention_kwargs={"ip_adapter_masks": [torch.ones(1, 2, 64, 64), None]},
        )
        plain = draw()
        with record(pipe) as trace:
            assert draw().tobytes() == plain.tobytes()
        for stream, sum_of_shares in (("picture 1", 2), ("picture 2", 1)):
            for array in trace.to_numpy(stream).values():
                assert np.allclose(array.sum(-1), sum_of_shares, atol=1e-5)

    def test_pictures_on_another_device_than_an_offloaded_model(self) -> None:
        """Model offloading moves the UNet when it is called, which is after we look."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        pipe, _ = ip_adapter()
        denoiser = DenoiserCalls(pipe.unet)
        with FakeTensorMode(allow_non_fake_inputs=True):
            embeds = [torch.zeros(2, 1, 32, device="cuda")]
            given = {"added_cond_kwargs": {"image_embeds": embeds}}
            assert denoiser._picture_tokens(given) == (4,)

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
            runner(pipes[index], prompt=prompts[index])()
        return trace

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(recorded, range(2)))
    for trace, expected in zip(together, alone, strict=True):
        assert trace.prompts == expected.prompts
        for name, maps in expected.maps.items():
            assert np.allclose(trace.maps[name], maps, atol=1e-6)
