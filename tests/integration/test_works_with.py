"""Every pipeline and circumstance that the README says recording works with: the same bytes with
and without, the maps of the right rows, and a model that is left as it was found. Each is a real
run of a tiny random pipeline of the real class, held against what a `Probe` saw in a plain run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import t2i_xattn as tx
from conftest import make_pipeline, state_of
from probe import (
    Probe,
    Rule,
    all_rows,
    first_half,
    first_third,
    last_third,
    middle_third,
    rows_where,
    second_half,
)
from right_maps import (
    EXACT,
    HALF,
    WORDS,
    assert_right_heat,
    assert_right_maps,
    attempt,
    latent_size_of,
    one_sentence,
    own_processors,
    size_at,
)
from t2i_xattn import edits
from t2i_xattn.errors import UserError
from tiny_pipelines import (
    COMPILED,
    OFFLOADS,
    Run,
    add_lora,
    compile_unet,
    controlnet_pipeline,
    generator,
    load_ip_adapter,
    make_refiner,
    make_sdxl,
    make_svd,
    noise_picture,
    of_class,
    offload,
    picture_embeds,
    runner,
    sharpened,
    with_scheduler,
    with_unet,
)

pytestmark = pytest.mark.usefixtures("more_graphs")

Case = tuple[Any, Run]
SQUARE = torch.zeros(1, 1, 64, 64).index_fill_(2, torch.arange(20, 50), 1.0)


def stock(**options: Any) -> Callable[[], Case]:
    def make() -> Case:
        pipe = make_pipeline()
        return pipe, runner(pipe, **options)

    return make


def sdxl(name: str | None = None, **options: Any) -> Callable[[], Case]:
    def make() -> Case:
        pipe = sharpened(make_sdxl())
        pipe = pipe if name is None else of_class(name, pipe)
        return pipe, runner(pipe, **options)

    return make


def other(name: str, unet: dict[str, Any] | None = None, **options: Any) -> Callable[[], Case]:
    def make() -> Case:
        pipe = of_class(name, sharpened(with_unet(**unet)) if unet else None)
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


def refiner() -> Case:
    pipe = sharpened(make_refiner())
    return pipe, runner(pipe, image=noise_picture(), strength=0.7)


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
    pipe = sharpened(with_unet(time_cond_proj_dim=32))
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

    parts = sharpened(make_sdxl()).components
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


def offloaded(how: str) -> Callable[[], Case]:
    def make() -> Case:
        pipe = make_pipeline()
        offload(pipe, how)
        return pipe, runner(pipe)

    return make


def compiled(how: str) -> Callable[[], Case]:
    def make() -> Case:
        pipe = make_pipeline()
        compile_unet(pipe, how)
        return pipe, runner(pipe)

    return make


@dataclass(frozen=True)
class Row:
    """One circumstance.

    Attributes:
        make: the pipeline, and what draws a picture with it.
        rule: which rows of which calls are those of the prompt.
        tolerance: how far the maps may be from the oracle's.
        plain: the same without a compiled model, which the oracle cannot look into.
        words: whether the prompt is known, and not only its embeddings.
    """

    make: Callable[[], Case]
    rule: Rule = second_half
    tolerance: float = EXACT
    plain: Callable[[], Case] | None = None
    words: bool = True

    def __call__(self) -> Case:
        return self.make()

    def probed(self) -> tuple[Probe, Any]:
        """What the layers saw in a plain run of a pipeline of its own, and the picture."""
        pipe, draw = (self.plain or self.make)()
        with Probe(pipe.unet) as probe:
            picture = draw()
        return probe, picture


def until_guidance_ends(call: int, rows: int) -> range:
    """Unconditional, conditional in the first call; then conditional alone."""
    return second_half(call, rows) if call == 0 else all_rows(call, rows)


conditional_calls = rows_where(all_rows, lambda call: call % 2 == 0)
"""Modular Diffusers calls the denoiser twice a step, the conditional branch first."""

WORKS_WITH: dict[str, Row] = {
    "Stable Diffusion": Row(stock()),
    "guidance off": Row(stock(guidance_scale=1.0), all_rows),
    "negative prompt": Row(stock(negative_prompt="a cat")),
    "prompts in a batch, several images each": Row(
        stock(prompt=["a red circle", "blue"], num_images_per_prompt=2)
    ),
    "not square": Row(stock(height=64, width=96)),
    "odd latents": Row(stock(height=72, width=56)),
    "guidance changed by a callback": Row(guidance_that_ends, until_guidance_ends),
    "embeddings beyond 77 tokens": Row(long_embeddings, words=False),
    "PNDM": Row(scheduled("PNDMScheduler", skip_prk_steps=True)),
    "Heun": Row(scheduled("HeunDiscreteScheduler")),
    "DPM-Solver": Row(scheduled("DPMSolverMultistepScheduler")),
    "img2img": Row(other("StableDiffusionImg2ImgPipeline", image=noise_picture(), strength=0.7)),
    "inpainting": Row(
        other(
            "StableDiffusionInpaintPipeline",
            image=noise_picture(),
            mask_image=SQUARE,
            height=64,
            width=64,
        )
    ),
    "ControlNet": Row(controlnet),
    "ControlNet in guess mode": Row(lambda: controlnet(guess_mode=True)),
    "T2I-Adapter": Row(t2i_adapter),
    "InstructPix2Pix": Row(
        other("StableDiffusionInstructPix2PixPipeline", {"in_channels": 8}, image=noise_picture()),
        first_third,
    ),
    "InstructPix2Pix, guidance off": Row(
        other(
            "StableDiffusionInstructPix2PixPipeline",
            {"in_channels": 8},
            image=noise_picture(),
            guidance_scale=1.0,
        ),
        all_rows,
    ),
    "perturbed-attention guidance": Row(perturbed(5.0), middle_third),
    "perturbed-attention guidance alone": Row(perturbed(1.0), first_half),
    "latent consistency model": Row(consistency, all_rows),
    "SDXL": Row(sdxl()),
    "SDXL, guidance off": Row(sdxl(guidance_scale=1.0), all_rows),
    "SDXL img2img": Row(
        sdxl("StableDiffusionXLImg2ImgPipeline", image=noise_picture(), strength=0.7)
    ),
    "SDXL inpainting": Row(
        sdxl(
            "StableDiffusionXLInpaintPipeline",
            image=noise_picture(),
            mask_image=SQUARE,
            height=64,
            width=64,
        )
    ),
    "SDXL refiner": Row(refiner),
    "SDXL of Modular Diffusers": Row(modular, conditional_calls),
    "LoRA": Row(lora),
    "IP-Adapter": Row(ip_adapter),
    "IP-Adapter with masks": Row(masked_ip_adapter),
    "FreeU": Row(freeu),
    "attention slicing": Row(sliced),
    "fused projections": Row(fused_projections),
    "bfloat16": Row(precision(torch.bfloat16), tolerance=HALF),
    "float16": Row(precision(torch.float16), tolerance=HALF),
    **{how: Row(offloaded(how)) for how in OFFLOADS},
    "layerwise casting to float8": Row(layerwise_casting),
    **{how: Row(compiled(how), plain=stock()) for how in COMPILED},
    **{
        f"SDXL of Modular Diffusers, {how}": Row(
            partial(modular, how), conditional_calls, plain=modular
        )
        for how in COMPILED
    },
}


@pytest.mark.parametrize("name", WORKS_WITH)
def test_same_bytes_right_maps_and_left_as_found(name: str) -> None:
    row = WORKS_WITH[name]
    pipe, draw = row()
    plain = draw()
    assert np.isfinite(plain).all()
    before, own = state_of(pipe), own_processors(pipe)
    with tx.record(pipe) as trace:
        assert own_processors(pipe) == own
        recorded = draw()
        assert own_processors(pipe) == own
    assert recorded.tobytes() == plain.tobytes()
    assert state_of(pipe) == before
    assert draw().tobytes() == plain.tobytes()

    probe, probed = row.probed()
    assert np.allclose(probed, plain, atol=1e-5)
    latent_size = latent_size_of(plain)
    assert trace.picture_size == plain.shape[1:3]
    assert_right_maps(trace, probe, row.rule, latent_size, tolerance=row.tolerance)
    if name == "LoRA":
        weight = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.base_layer
        assert isinstance(weight, torch.nn.Linear)  # so it is in use
    if row.words:
        assert trace.prompts[0] == "a red circle"
        assert [word.text for word in trace.words] == ["a", "red", "circle"]
        assert_right_heat(trace, probe, row.rule, WORDS, latent_size, tolerance=row.tolerance)


@pytest.mark.parametrize("how", COMPILED)
@pytest.mark.parametrize("name", ["Stable Diffusion", "SDXL of Modular Diffusers"])
def test_compiled_while_recording(name: str, how: str) -> None:
    row = WORKS_WITH[name]
    probe, plain = row.probed()
    pipe, draw = row()
    with tx.record(pipe) as trace:
        compile_unet(pipe, how)
        assert np.array_equal(draw(), plain)
    # Modular Diffusers calls the UNet twice a step, once for each branch.
    assert trace.settings["calls"] == (6 if "Modular" in name else 3)
    assert_right_maps(trace, probe, row.rule)
    assert np.array_equal(draw(), plain)


def test_compiled_runs_do_not_compile_again() -> None:
    pipe, draw = WORKS_WITH["torch.compile(unet)"]()
    counter = torch._dynamo.testing.CompileCounter()
    pipe.unet = torch.compile(pipe.unet._orig_mod, backend=counter, fullgraph=True)
    draw()
    for _ in range(3):
        with tx.record(pipe):
            draw()
    # One graph without recording, and one with it, however many recordings come.
    assert counter.frame_count == 2
    draw()
    assert counter.frame_count == 2


def assert_right_pictures(
    trace: Any, probe: Probe, *, adapter: int = 0, latent_size: tuple[int, int] = (8, 8)
) -> None:
    """The stream of an IP-Adapter's pictures is that of the conditional half."""
    found = trace.to_numpy(f"picture {adapter + 1}")
    assert list(found) == probe.layers
    for site in trace.sites:
        expected = probe.pictures_mean(site.name, second_half, adapter)
        height, width = size_at(site.level, latent_size)
        # Axes: image branch step head height width token.
        assert found[site.name].shape == (1, 1, 1, 1, height, width, expected.shape[-1])
        assert np.abs(found[site.name].reshape(expected.shape) - expected).max() < EXACT


class TestIPAdapter:
    @pytest.mark.parametrize(("name", "tokens"), [("IP-Adapter", 4), ("IP-Adapter with masks", 8)])
    def test_pictures_are_a_stream(self, name: str, tokens: int) -> None:
        """Under masks each of the two pictures has a softmax of its own."""
        pipe, draw = WORKS_WITH[name]()
        probe, _ = WORKS_WITH[name].probed()
        with tx.record(pipe) as trace:
            draw()
        assert list(trace.run.maps) == ["text", "picture 1"]
        assert {each.shape[-1] for each in trace.to_numpy("picture 1").values()} == {tokens}
        assert_right_pictures(trace, probe)
        both = trace.heatmap(columns=[0, 1], stream="picture 1").array
        each = [trace.heatmap(columns=[n], stream="picture 1").array for n in (0, 1)]
        assert np.allclose(both, each[0] + each[1], atol=1e-6)
        assert not np.allclose(each[0], each[1], atol=1e-3)

    def test_an_adapter_without_a_mask_beside_one_with(self) -> None:
        pipe = make_pipeline()
        load_ip_adapter(pipe, adapters=2)
        draw = runner(
            pipe,
            ip_adapter_image_embeds=picture_embeds(pictures=2) * 2,
            cross_attention_kwargs={"ip_adapter_masks": [torch.ones(1, 2, 64, 64), None]},
        )
        with Probe(pipe.unet) as probe:
            plain = draw()
        with tx.record(pipe) as trace:
            assert draw().tobytes() == plain.tobytes()
        assert_right_maps(trace, probe, second_half)
        for adapter, sum_of_shares in enumerate((2, 1)):
            assert_right_pictures(trace, probe, adapter=adapter)
            for array in trace.to_numpy(f"picture {adapter + 1}").values():
                assert np.allclose(array.sum(-1), sum_of_shares, atol=1e-5)

    @pytest.mark.parametrize("how", OFFLOADS)
    def test_pictures_in_an_offloaded_model(self, how: str) -> None:
        """Where the layers that make tokens of them may not lie ready before the call."""
        probe, plain = WORKS_WITH["IP-Adapter"].probed()
        pipe, draw = ip_adapter()
        offload(pipe, how)
        assert draw().tobytes() == plain.tobytes()
        before = state_of(pipe)
        with tx.record(pipe) as trace:
            assert draw().tobytes() == plain.tobytes()
        assert state_of(pipe) == before
        assert_right_maps(trace, probe, second_half)
        assert_right_pictures(trace, probe)

    def test_loaded_while_recording(self) -> None:
        probe, plain = WORKS_WITH["IP-Adapter"].probed()
        expected_pipe, _ = ip_adapter()
        pipe = make_pipeline()
        with tx.record(pipe) as trace:
            load_ip_adapter(pipe)
            draw = runner(pipe, ip_adapter_image_embeds=picture_embeds())
            assert draw().tobytes() == plain.tobytes()
        assert_right_maps(trace, probe, second_half)
        assert_right_pictures(trace, probe)
        found = {name: type(each) for name, each in pipe.unet.attn_processors.items()}
        assert found == {n: type(each) for n, each in expected_pipe.unet.attn_processors.items()}
        assert draw().tobytes() == plain.tobytes()


class TestControlNet:
    @pytest.mark.parametrize("guess", [False, True])
    def test_its_own_sites(self, guess: bool) -> None:
        pipe, draw = controlnet(guess_mode=guess)
        with Probe(pipe.unet) as probe, Probe(pipe.controlnet) as controls:
            plain = draw()
        own = {name: id(each) for name, each in pipe.controlnet.attn_processors.items()}
        with tx.record(pipe, controlnet=True) as trace:
            assert draw().tobytes() == plain.tobytes()
            inside = {name: id(each) for name, each in pipe.controlnet.attn_processors.items()}
            assert inside == own
        assert len(trace.sites) == 10
        assert_right_maps(
            trace.select(sites=lambda site: not site.name.startswith("controlnet.")),
            probe,
            second_half,
        )
        theirs = [site for site in trace.sites if site.name.startswith("controlnet.")]
        assert [site.name.removeprefix("controlnet.") for site in theirs] == controls.layers
        # In guess mode it sees the conditional half only.
        rule = all_rows if guess else second_half
        for site in theirs:
            expected = controls.mean(site.name.removeprefix("controlnet."), rule)
            found = trace.maps[site.name]
            assert found.shape[1:3] == size_at(site.level, (8, 8))
            assert np.abs(found.reshape(expected.shape) - expected).max() < EXACT
        only = trace.heatmap("red", sites=lambda site: site.name.startswith("controlnet."))
        assert not np.allclose(only.array, trace.heatmap("red").array, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "branches"),
    [
        (
            "InstructPix2Pix",
            {"conditional": first_third, "image": middle_third, "unconditional": last_third},
        ),
        (
            "perturbed-attention guidance",
            {"unconditional": first_third, "conditional": middle_third, "perturbed": last_third},
        ),
        (
            "SDXL of Modular Diffusers",
            {
                "conditional": conditional_calls,
                "unconditional": rows_where(all_rows, lambda call: call % 2 == 1),
            },
        ),
        ("negative prompt", {"conditional": second_half, "unconditional": first_half}),
    ],
)
def test_every_branch(name: str, branches: dict[str, Rule]) -> None:
    probe, plain = WORKS_WITH[name].probed()
    pipe, draw = WORKS_WITH[name]()
    with tx.record(pipe, branches=list(branches)) as trace:
        assert draw().tobytes() == plain.tobytes()
    assert trace.run.branches == tuple(branches)
    parts = {branch: trace.select(branch=branch) for branch in branches}
    for branch, rule in branches.items():
        for layer in probe.layers:
            expected, found = probe.mean(layer, rule), parts[branch].maps[layer]
            assert np.abs(found.reshape(expected.shape) - expected).max() < EXACT, branch
    # The branches differ somewhere, so that one taken for another would have been noticed.
    first, *others = parts.values()
    for another in others:
        away = max(np.abs(first.maps[layer] - another.maps[layer]).max() for layer in probe.layers)
        assert away > 100 * EXACT


def test_prompts_are_heard_in_sdxl_by_their_signature() -> None:
    pipe, draw = WORKS_WITH["SDXL"]()
    signature = inspect.signature(pipe.encode_prompt)
    with tx.record(pipe) as trace:
        assert inspect.signature(pipe.encode_prompt) == signature
        draw()
    assert [word.text for word in trace.words] == ["a", "red", "circle"]


def test_a_base_that_hands_its_latents_to_a_refiner() -> None:
    """The ensemble of experts: the first model stops on the way and gives latents."""
    pipe = sharpened(make_sdxl())

    def draw() -> torch.Tensor:
        latents: torch.Tensor = pipe(
            "a red circle",
            num_inference_steps=4,
            denoising_end=0.5,
            output_type="latent",
            generator=generator(),
        ).images
        return latents

    with Probe(pipe.unet) as probe:
        plain = draw()
    with tx.record(pipe) as trace:
        assert torch.equal(draw(), plain)
    assert trace.settings["calls"] == len(probe.texts) < 4
    assert_right_maps(trace, probe, second_half)
    assert_right_heat(trace, probe, second_half, WORDS)


def test_a_crop_that_is_painted_and_pasted_into_the_picture() -> None:
    """Inpainting "only masked": the maps are those of the crop, and the overlay lies there, or it
    is told."""
    pipe = of_class("StableDiffusionInpaintPipeline", sharpened(with_unet(in_channels=9)))
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    image, mask = Image.fromarray(noise), np.zeros((128, 128), np.uint8)
    mask[80:120, 80:120] = 255
    mask_image = Image.fromarray(mask)

    def draw() -> Image.Image:
        drawn: Image.Image = pipe(
            "a red circle",
            image=image,
            mask_image=mask_image,
            height=64,
            width=64,
            strength=0.99,
            num_inference_steps=3,
            padding_mask_crop=4,
            generator=generator(),
        ).images[0]
        return drawn

    with Probe(pipe.unet) as probe:
        plain = draw()
    with tx.record(pipe) as trace:
        drawn = draw()
    assert drawn.size == (128, 128)
    assert drawn.tobytes() == plain.tobytes()
    assert_right_maps(trace, probe, second_half)
    assert_right_heat(trace, probe, second_half, WORDS)
    shown, refusal = attempt(lambda: trace.heatmap("red").overlay(drawn))
    if refusal is not None:
        assert "crop" in refusal
        return
    left, top, right, bottom = pipe.mask_processor.get_crop_region(mask_image, 64, 64, pad=4)
    away = np.abs(np.asarray(shown).astype(int) - np.asarray(drawn).astype(int)).max(-1)
    assert away[top:bottom, left:right].any()
    away[top:bottom, left:right] = 0
    assert not away.any()


def test_a_video_from_a_picture_has_no_words() -> None:
    """Stable Video Diffusion's layers look at an embedding of the picture."""
    pipe = make_svd()
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def draw() -> np.ndarray:
        return np.asarray(
            pipe(
                image=picture,
                num_frames=2,
                num_inference_steps=2,
                min_guidance_scale=1.0,
                max_guidance_scale=2.5,
                height=32,
                width=32,
                generator=generator(),
                output_type="np",
            ).frames
        )

    plain = draw()
    before = state_of(pipe)
    for context in (tx.record(pipe), tx.edit(pipe, lambda probs, _: probs)):
        with pytest.raises(UserError) as raised, context:
            draw()
        one_sentence(raised.value)
        assert state_of(pipe) == before
        assert draw().tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    "merged",
    [
        {"max_downsample": 1},
        {"max_downsample": 1, "merge_crossattn": True},
        {"max_downsample": 4, "merge_crossattn": True, "merge_mlp": True},
    ],
)
def test_merged_tokens(merged: dict[str, Any]) -> None:
    """With tomesd a layer's queries may be fewer than the places of the picture: right maps where
    they are not, and one sentence (or maps whose shares sum to 1) where they are."""
    tomesd = pytest.importorskip("tomesd")
    pipe = make_pipeline()
    tomesd.apply_patch(pipe, ratio=0.5, use_rand=False, **merged)
    draw = runner(pipe)
    with Probe(pipe.unet) as probe:
        plain = draw()
    before = state_of(pipe)
    whole = all(len(probe.mean(layer, second_half)[0]) in (64, 16, 4) for layer in probe.layers)
    assert whole == ("merge_crossattn" not in merged)

    def recorded(**options: Any) -> Any:
        with tx.record(pipe, **options) as trace:
            assert draw().tobytes() == plain.tobytes()
        return trace

    trace, refusal = attempt(recorded)
    assert state_of(pipe) == before
    if whole:
        assert refusal is None
        assert_right_maps(trace, probe, second_half)
    elif trace is not None:
        for maps in trace.maps.values():
            assert np.allclose(maps.sum(-1), 1, atol=1e-5)
    options: list[dict[str, Any]] = [
        {"walk": 1},
        {"self_attention": [(0.5, 0.5)]},
        {"heads": "auto"},
    ]
    for each in options:
        attempt(partial(recorded, **each))
        assert state_of(pipe) == before
    for change in (edits.Restrict("red", (0, 0, 1, 0.5)), edits.Reweight("red", 2.0)):

        def edited(change: Any = change) -> np.ndarray:
            with tx.edit(pipe, change):
                drawn: np.ndarray = draw()
            return drawn

        drawn, refusal = attempt(edited)
        assert (drawn is None) == (refusal is not None)
        assert drawn is None or not np.allclose(drawn, plain, atol=1e-5)
        assert state_of(pipe) == before
    assert draw().tobytes() == plain.tobytes()
