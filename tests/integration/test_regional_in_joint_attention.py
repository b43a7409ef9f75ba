"""Regional prompts in joint attention, held against the same by hand: the regions' texts as further
rows of the batch, whose picture is kept in step with the first row's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

import t2i_xattn as tx
from t2i_xattn.edits import Drop, RegionalPrompts
from t2i_xattn.errors import UserError
from tiny.case import PROMPT, Case
from tiny.double_streams import CASES as EVERY
from tiny.double_streams import case_of

LEFT, MIDDLE = (0.0, 0.0, 1.0, 0.5), (0.1, 0.3, 0.8, 0.7)
REGIONS = {"dull green star": LEFT, "a blue circle": MIDDLE}
WHOLE = (0.0, 0.0, 1.0, 1.0)

TWO = "QwenImagePipeline, two prompts, guided"
CASES = {name: case for name, case in EVERY.items() if name != TWO}
FLUX, SD3 = CASES["FluxPipeline"], CASES["StableDiffusion3Pipeline"]


def picture_of(case: Case, pipe: Any, **more: Any) -> NDArray[Any]:
    return np.asarray(case.run(pipe, **more).float())


def own_names(denoiser: nn.Module) -> dict[str, set[str]]:
    return {name: set(vars(module)) for name, module in denoiser.named_modules()}


def part_inside(box: tuple[float, ...], y: int, x: int, height: int, width: int) -> float:
    """How much of one place a box covers."""
    top, left, bottom, right = box
    rows = max(0.0, min(bottom, (y + 1) / height) - max(top, y / height)) * height
    columns = max(0.0, min(right, (x + 1) / width) - max(left, x / width)) * width
    return rows * columns


class InStep(TorchFunctionMode):
    """At every attention of the first row's picture, it takes by `REGIONS` of what the rows behind
    it take, and they take the same: so their pictures stay the first one's, and their texts see
    it."""

    def __init__(self, denoiser: Any, grid: tuple[int, int], rows: int, places: Any) -> None:
        super().__init__()
        height, width = grid
        self.inside = torch.tensor(
            [
                [part_inside(box, y, x, height, width) for y in range(height) for x in range(width)]
                for box in REGIONS.values()
            ],
            dtype=torch.float64,
        )
        self.rows, self.places, self.depth = rows, places, 0
        for module in denoiser.modules():
            if hasattr(module, "processor"):
                module.register_forward_pre_hook(self.enters)
                module.register_forward_hook(self.leaves)

    def enters(self, *_: Any) -> None:
        self.depth += 1

    def leaves(self, *_: Any) -> None:
        self.depth -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is not nn.functional.scaled_dot_product_attention or not self.depth:
            return output
        place = self.places(output.shape[2])
        if place is None or output.shape[0] < self.rows:
            return output
        output = output.clone()
        own, *others = output[-self.rows :, :, place].double()
        total = self.inside.sum(0)
        mean = sum(part[:, None] * each for part, each in zip(self.inside, others, strict=True))
        mean = mean / total.clamp_min(1e-9)[:, None]
        held = (0.7 * total.clamp(max=1))[:, None]
        output[-self.rows :, :, place] = ((1 - held) * own + held * mean).to(output)
        return output


@torch.no_grad()
def by_hand(name: str, case: Case) -> NDArray[Any]:
    """The picture of the first row, by `REGIONS` and a base weight of 0.3."""
    pipe = case.make()
    texts = [PROMPT, *REGIONS]
    options: dict[str, Any] = dict(case.options)
    names = ("max_sequence_length", "text_encoder_out_layers")
    length = {each: options[each] for each in names if each in options}
    height, width = case.grid
    count = height * width

    def behind(first: int) -> Callable[[int], slice | None]:
        return lambda queries: slice(first, first + count)

    if name.startswith("StableDiffusion3"):
        embeds, negative, pooled, negative_pooled = pipe.encode_prompt(
            texts, None, None, negative_prompt=["dull green star"] * 3, **length
        )
        given = {
            "prompt_embeds": embeds,
            "negative_prompt_embeds": negative,
            "pooled_prompt_embeds": pooled[:1].expand(3, -1),
            "negative_pooled_prompt_embeds": negative_pooled,
        }
        # Of a block's attention to the picture alone the rows are alike by themselves.
        places: Any = lambda queries: slice(0, count) if queries > count else None  # noqa: E731
    elif name.startswith("Chroma"):
        embeds, _, mask, negative, _, negative_mask = pipe.encode_prompt(
            texts, ["dull green star"] * 3, **length
        )
        given = {
            "prompt_embeds": embeds,
            "prompt_attention_mask": mask,
            "negative_prompt_embeds": negative,
            "negative_prompt_attention_mask": negative_mask,
        }
        places = behind(embeds.shape[1])
    elif name.startswith("Flux2"):
        embeds, _ = pipe.encode_prompt(texts, **length)
        negative, _ = pipe.encode_prompt([""] * 3, **length)
        given = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
        places = behind(embeds.shape[1])
    else:
        embeds, pooled, _ = pipe.encode_prompt(texts, None, **length)
        given = {
            "prompt_embeds": embeds,
            "pooled_prompt_embeds": pooled[:1].expand(3, -1),
        }
        places = behind(embeds.shape[1])
    denoiser = pipe.transformer
    generators = [torch.Generator().manual_seed(0) for _ in texts]
    calls = 2 if name.startswith(("Chroma", "Flux2")) else 1
    number = iter(range(10_000))
    mode = InStep(denoiser, (height, width), len(texts), places)

    def only_conditional(*_: Any) -> None:
        conditional = next(number) % calls == 0
        mode.places = places if conditional else lambda queries: None

    denoiser.register_forward_pre_hook(only_conditional)
    with mode:
        found = pipe(
            **options,
            **given,
            num_inference_steps=2,
            output_type="pt",
            generator=generators,
        ).images
    return np.asarray(found)[:1]


@pytest.mark.parametrize(
    "name",
    [
        "FluxPipeline",
        "Flux2KleinPipeline",
        "StableDiffusion3Pipeline",
        "StableDiffusion3Pipeline, dual attention",
        "ChromaPipeline",
    ],
)
def test_every_place_takes_the_mean_of_all_texts(name: str) -> None:
    case = CASES[name]
    pipe = case.make()
    plain = picture_of(case, pipe)
    with tx.edit(pipe, RegionalPrompts(REGIONS, base_weight=0.3)):
        found = picture_of(case, pipe)
    assert np.allclose(found, by_hand(name, case), rtol=0, atol=1e-5)
    assert not np.allclose(found, plain, atol=1e-3)


@pytest.mark.parametrize("case", CASES.values(), ids=str)
class TestInEach:
    def test_the_same_text_everywhere(self, case: Case) -> None:
        pipe = case.make()
        with tx.edit(pipe, RegionalPrompts({PROMPT: WHOLE}, base_weight=0.0)):
            found = picture_of(case, pipe)
        assert np.allclose(found, picture_of(case, pipe), rtol=0, atol=1e-5)

    def test_all_is_left_as_found(self, case: Case) -> None:
        pipe = case.make()
        plain, before = picture_of(case, pipe), own_names(pipe.transformer)
        with tx.edit(pipe, RegionalPrompts(REGIONS)):
            found = picture_of(case, pipe)
            assert np.array_equal(picture_of(case, pipe), found), "a second run"
        assert np.isfinite(found).all()
        assert not np.allclose(found, plain, atol=1e-4)
        assert own_names(pipe.transformer) == before
        assert np.array_equal(picture_of(case, pipe), plain)


def test_a_text_of_another_length_in_a_batch_with_padding() -> None:
    case = EVERY[TWO]
    pipe = case.make()
    plain = picture_of(case, pipe)
    with tx.edit(pipe, RegionalPrompts({PROMPT: WHOLE}, base_weight=0.0)):
        found = picture_of(case, pipe)
    # The first picture's own prompt; the second's is another one.
    assert np.allclose(found[0], plain[0], rtol=0, atol=1e-4)
    assert not np.allclose(found[1], plain[1], atol=1e-3)


class TestWhenAndWhere:
    def test_steps_images_and_sites(self) -> None:
        pipe = SD3.make()
        two = {"prompt": [PROMPT, "a green star"], "negative_prompt": ["", ""]}
        plain = picture_of(SD3, pipe, **two)
        with tx.edit(pipe, RegionalPrompts(REGIONS, images=[1])):
            found = picture_of(SD3, pipe, **two)
        assert np.array_equal(found[0], plain[0])
        assert not np.allclose(found[1], plain[1], atol=1e-4)

    def test_each_other_picture(self) -> None:
        pipe = FLUX.make()
        drawn = [picture_of(FLUX, pipe)]
        for options in (
            {"steps": (0, 1)},
            {"steps": (1, 2)},
            {"sites": ["transformer_blocks.1.attn"]},
            {"sites": ["single_transformer_blocks.0.attn"]},
            {},
        ):
            with tx.edit(pipe, RegionalPrompts(REGIONS, **options)):
                drawn.append(picture_of(FLUX, pipe))
        assert len({each.tobytes() for each in drawn}) == len(drawn)

    def test_a_text_goes_no_further_than_where_it_is_looked_at(self) -> None:
        pipe, ran = FLUX.make(), []
        for name in ("transformer_blocks.0", "single_transformer_blocks.1"):
            block = pipe.transformer.get_submodule(name)
            inner = block.norm1 if hasattr(block, "norm1") else block.norm
            inner.register_forward_hook(lambda *_, name=name: ran.append(name))
        with tx.edit(pipe, RegionalPrompts({"blue": LEFT}, sites=["transformer_blocks.1.attn"])):
            picture_of(FLUX, pipe)
        assert ran.count("transformer_blocks.0") == 2 * ran.count("single_transformer_blocks.1")


class TestBesideOthers:
    def test_record_concepts_and_other_edits(self) -> None:
        pipe = FLUX.make()
        regional, drop = RegionalPrompts(REGIONS), Drop("red")
        drawn = []
        for edits in ((regional,), (drop,), (regional, drop), (drop, regional)):
            with tx.edit(pipe, *edits):
                drawn.append(picture_of(FLUX, pipe))
        assert np.array_equal(drawn[2], drawn[3])
        assert len({each.tobytes() for each in drawn}) == 3
        for outer in (True, False):
            first, second = (
                tx.record(pipe, concepts=["sky", "blue"]),
                tx.edit(pipe, regional),
            )
            one, two = (first, second) if outer else (second, first)
            with one as a, two as b:
                assert np.array_equal(picture_of(FLUX, pipe), drawn[0])
            trace: Any = a or b
            assert trace.prompts == (PROMPT,)
            assert trace.concepts == ("sky", "blue")
            tokens = FLUX.options["max_sequence_length"]
            assert all(each.shape[-1] == tokens for each in trace.maps.values())

    def test_gradients(self) -> None:
        """They reach the latents through the regions' texts too."""
        case = FLUX
        pipe = case.make()
        calls: list[dict[str, Any]] = []
        pipe.transformer.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True
        )
        picture_of(case, pipe)
        latents = calls[0]["hidden_states"].clone().requires_grad_(True)
        found = []
        for edit in (RegionalPrompts(REGIONS), RegionalPrompts(REGIONS, base_weight=1.0)):
            with tx.edit(pipe, edit):
                output = pipe.transformer(**(calls[0] | {"hidden_states": latents}))[0]
            (gradient,) = torch.autograd.grad(output.square().sum(), latents)
            assert torch.isfinite(gradient).all()
            found.append(gradient)
        assert not torch.allclose(*found)

    def test_blocks_compiled_one_by_one(self) -> None:
        pipe = FLUX.make()
        with tx.edit(pipe, RegionalPrompts(REGIONS)):
            expected = picture_of(FLUX, pipe)
        torch._dynamo.reset()
        pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
        with tx.edit(pipe, RegionalPrompts(REGIONS)):
            assert np.allclose(picture_of(FLUX, pipe), expected, rtol=0, atol=1e-5)

    def test_bfloat16(self) -> None:
        pipe = SD3.make().to(torch.bfloat16)
        plain = picture_of(SD3, pipe)
        with tx.edit(pipe, RegionalPrompts(REGIONS)):
            found = picture_of(SD3, pipe)
        assert np.isfinite(found).all()
        assert not np.allclose(found, plain, atol=1e-3)


class TestMistakes:
    def refused(self, case: Case, pipe: Any, match: str, regions: Any = REGIONS) -> None:
        case.run(pipe)  # some pipelines leave a hook of their own
        before = own_names(pipe.transformer)
        with pytest.raises(UserError, match=match), tx.edit(pipe, RegionalPrompts(regions)):
            case.run(pipe)
        assert own_names(pipe.transformer) == before

    def test_a_denoiser_whose_blocks_are_not_known(self) -> None:
        case = case_of("text_first_cog", "AuraFlowPipeline")
        self.refused(case, case.make(), "stream of its own .*, but came AuraFlowTransformer2DModel")

    def test_compiled_as_a_whole(self) -> None:
        pipe = FLUX.make()
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
        self.refused(FLUX, pipe, "compiled as a whole for RegionalPrompts")

    def test_compiled_as_a_whole_inside(self) -> None:
        pipe = FLUX.make()
        with tx.edit(pipe, RegionalPrompts(REGIONS)):
            pipe.transformer.compile(backend="eager")
            with pytest.raises(UserError, match="compiled as a whole for RegionalPrompts"):
                FLUX.run(pipe)

    def test_a_step_cache(self) -> None:
        from diffusers import FirstBlockCacheConfig

        pipe = FLUX.make()
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
        self.refused(FLUX, pipe, "without step caches and other hooks for RegionalPrompts")

    def test_a_text_that_is_too_long(self) -> None:
        self.refused(FLUX, FLUX.make(), "goes beyond it from", {"a red " * 40: LEFT})
