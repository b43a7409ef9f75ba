"""Adapters and processors that are loaded, set and changed while a context is open, by the user or
by the pipeline: they act as they would without it, they are whole afterwards, and the maps are
those of a plain run. And models that are copied, pickled and saved meanwhile."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers.callbacks import IPAdapterScaleCutoffCallback
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

import t2i_xattn as tx
from conftest import make_pipeline, make_unet, state_of
from probe import Probe, change_attention, last_third, middle_third, second_half, without
from right_maps import WORDS, assert_right_heat, assert_right_maps, attempt, own_processors
from t2i_xattn import edits, losses
from tiny_pipelines import (
    add_lora,
    generator,
    load_ip_adapter,
    of_class,
    picture_embeds,
    runner,
)


def nothing(pipe: Any) -> Any:
    return tx.edit(pipe, lambda probs, _: probs)


CONTEXTS: dict[str, Callable[[Any], Any]] = {
    "record": tx.record,
    "edit": nothing,
}


def with_ip_adapter(scale: float = 1.0) -> Any:
    pipe = make_pipeline()
    load_ip_adapter(pipe)
    pipe.set_ip_adapter_scale(scale)
    return pipe


def scales(pipe: Any) -> list[Any]:
    return [each.scale for each in pipe.unet.attn_processors.values() if hasattr(each, "scale")]


@pytest.mark.parametrize("context", CONTEXTS)
class TestIPAdapter:
    @staticmethod
    def drawn(pipe: Any, **more: Any) -> np.ndarray:
        embeds = picture_embeds()
        draw = runner(pipe, num_inference_steps=4, ip_adapter_image_embeds=embeds, **more)
        picture: np.ndarray = draw()
        return picture

    def test_a_callback_that_takes_it_off_on_the_way(self, context: str) -> None:
        full = self.drawn(with_ip_adapter())
        cut = IPAdapterScaleCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
        pipe = with_ip_adapter()
        with Probe(pipe.unet) as probe:
            plain = self.drawn(pipe, callback_on_step_end=cut)
        assert not np.allclose(plain, full, atol=1e-3)
        # The pictures' tokens were asked in the first two calls only.
        assert [len(each) for each in probe.pictures[probe.layers[0]]] == [1, 1, 0, 0]
        pipe = with_ip_adapter()
        before = state_of(pipe)
        own = own_processors(pipe)
        with CONTEXTS[context](pipe) as trace:
            assert own_processors(pipe) == own
            assert self.drawn(pipe, callback_on_step_end=cut).tobytes() == plain.tobytes()
            assert own_processors(pipe) == own
        assert before["processors"] == state_of(pipe)["processors"]
        assert scales(pipe) == [[0.0]] * 7
        if trace is not None:
            assert_right_maps(trace, probe, second_half)
            assert_right_heat(trace, probe, second_half, WORDS)

    def test_another_scale(self, context: str) -> None:
        full = self.drawn(with_ip_adapter())
        expected = with_ip_adapter(0.3)
        with Probe(expected.unet) as probe:
            plain = self.drawn(expected)
        assert not np.allclose(plain, full, atol=1e-3)
        pipe = with_ip_adapter()
        with CONTEXTS[context](pipe) as trace:
            pipe.set_ip_adapter_scale(0.3)
            assert self.drawn(pipe).tobytes() == plain.tobytes()
        assert scales(pipe) == [[0.3]] * 7
        assert self.drawn(pipe).tobytes() == plain.tobytes()
        if trace is not None:
            assert_right_maps(trace, probe, second_half)

    def test_unloaded(self, context: str) -> None:
        expected = make_pipeline()
        with Probe(expected.unet) as probe:
            plain = runner(expected)()
        pipe = with_ip_adapter()
        with CONTEXTS[context](pipe) as trace:
            pipe.unload_ip_adapter()
            assert runner(pipe)().tobytes() == plain.tobytes()
        kinds = {name: type(each) for name, each in expected.unet.attn_processors.items()}
        assert {name: type(each) for name, each in pipe.unet.attn_processors.items()} == kinds
        assert runner(pipe)().tobytes() == plain.tobytes()
        if trace is not None:
            assert_right_maps(trace, probe, second_half)

    def test_loaded_and_unloaded(self, context: str) -> None:
        pipe = make_pipeline()
        plain = runner(pipe)()
        with CONTEXTS[context](pipe):
            load_ip_adapter(pipe)
            pipe.unload_ip_adapter()
            assert runner(pipe)().tobytes() == plain.tobytes()
        assert runner(pipe)().tobytes() == plain.tobytes()


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_lora_loaded_inside(context: str) -> None:
    expected = make_pipeline()
    without_it = runner(expected)()
    add_lora(expected)
    with Probe(expected.unet) as probe:
        plain = runner(expected)()
    assert not np.allclose(plain, without_it, atol=1e-3)
    pipe = make_pipeline()
    with CONTEXTS[context](pipe) as trace:
        add_lora(pipe)
        assert runner(pipe)().tobytes() == plain.tobytes()
    assert runner(pipe)().tobytes() == plain.tobytes()
    if trace is not None:
        assert_right_maps(trace, probe, second_half)


Inside = Callable[[Any], object]


def sliced() -> Any:
    pipe = make_pipeline()
    pipe.enable_attention_slicing(1)
    return pipe


def fused() -> Any:
    pipe = make_pipeline()
    pipe.fuse_qkv_projections()
    return pipe


def own_for_each(pipe: Any) -> None:
    pipe.unet.set_attn_processor({name: AttnProcessor() for name in pipe.unet.attn_processors})


def saved_and_set_again(pipe: Any) -> None:
    """As frameworks do that save the processors, set others and restore."""
    saved = dict(pipe.unet.attn_processors)
    pipe.unet.set_attn_processor(AttnProcessor())
    pipe.unet.set_attn_processor(saved)


def fused_and_taken_apart(pipe: Any) -> None:
    pipe.fuse_qkv_projections()
    pipe.unfuse_qkv_projections()


INSIDE: dict[str, tuple[Callable[[], Any], Inside]] = {
    "one processor for all": (
        make_pipeline,
        lambda pipe: pipe.unet.set_attn_processor(AttnProcessor()),
    ),
    "a processor for each": (make_pipeline, own_for_each),
    "the default ones": (make_pipeline, lambda pipe: pipe.unet.set_default_attn_processor()),
    "the same ones": (
        make_pipeline,
        lambda pipe: pipe.unet.set_attn_processor(pipe.unet.attn_processors),
    ),
    "saved and set again": (make_pipeline, saved_and_set_again),
    "attention slicing on": (make_pipeline, lambda pipe: pipe.enable_attention_slicing(1)),
    "attention slicing off": (sliced, lambda pipe: pipe.disable_attention_slicing()),
    "projections fused": (make_pipeline, lambda pipe: pipe.fuse_qkv_projections()),
    "projections taken apart": (fused, lambda pipe: pipe.unfuse_qkv_projections()),
    "projections fused and taken apart": (make_pipeline, fused_and_taken_apart),
    "FreeU": (make_pipeline, lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4)),
    "xFormers off": (
        make_pipeline,
        lambda pipe: pipe.disable_xformers_memory_efficient_attention(),
    ),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", INSIDE)
def test_processors_set_inside(name: str, context: str) -> None:
    make, change = INSIDE[name]
    expected = make()
    change(expected)
    with Probe(expected.unet) as probe:
        plain = runner(expected)()
    kinds = {key: type(each) for key, each in expected.unet.attn_processors.items()}
    pipe = make()
    with CONTEXTS[context](pipe) as trace:
        change(pipe)
        theirs = own_processors(pipe)
        assert {key: type(each) for key, each in pipe.unet.attn_processors.items()} == kinds
        assert runner(pipe)().tobytes() == plain.tobytes()
        assert own_processors(pipe) == theirs
    assert {key: type(each) for key, each in pipe.unet.attn_processors.items()} == kinds
    left = {key: id(each) for key, each in pipe.unet.attn_processors.items()}
    assert left == theirs
    assert runner(pipe)().tobytes() == plain.tobytes()
    if trace is not None:
        assert_right_maps(trace, probe, second_half)
        assert_right_heat(trace, probe, second_half, WORDS)


def test_a_processor_set_on_the_way() -> None:
    """In a callback between two steps, at one layer."""
    plain = runner(make_pipeline())()

    def doubling(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
            layer.set_processor(Doubling())
        return inputs

    expected, pipe = make_pipeline(), make_pipeline()
    with Probe(expected.unet) as probe:
        doubled = runner(expected, callback_on_step_end=doubling)()
    assert not np.allclose(doubled, plain, atol=1e-4)
    with tx.record(pipe) as trace:
        assert runner(pipe, callback_on_step_end=doubling)().tobytes() == doubled.tobytes()
    assert_right_maps(trace, probe, second_half)
    processors = pipe.unet.attn_processors.values()
    assert [type(each) for each in processors].count(Doubling) == 1


class Doubling:
    """A user's own processor."""

    def __init__(self) -> None:
        self.inner = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
    ) -> Any:
        return 2 * self.inner(attn, hidden_states, encoder_hidden_states, attention_mask)


@pytest.mark.parametrize(
    "options", [{"walk": 1}, {"self_attention": [(0.5, 0.5)]}, {"heads": "auto"}]
)
def test_what_looks_at_self_attention_while_an_adapter_is_loaded(options: dict[str, Any]) -> None:
    """Loading one makes the processors of self-attention anew."""
    expected = with_ip_adapter()
    plain = runner(expected, ip_adapter_image_embeds=picture_embeds())()
    with tx.record(expected, **options) as before:
        runner(expected, ip_adapter_image_embeds=picture_embeds())()
    pipe = make_pipeline()
    with tx.record(pipe, **options) as trace:
        load_ip_adapter(pipe)
        draw = runner(pipe, ip_adapter_image_embeds=picture_embeds())
        assert draw().tobytes() == plain.tobytes()
    assert trace.run.maps.keys() == before.run.maps.keys()
    for stream in trace.run.maps:
        for name, maps in before.to_numpy(stream).items():
            assert np.allclose(trace.to_numpy(stream)[name], maps, atol=1e-6)
    kinds = {name: type(each) for name, each in expected.unet.attn_processors.items()}
    assert {name: type(each) for name, each in pipe.unet.attn_processors.items()} == kinds


def test_fused_inside_and_taken_apart_afterwards() -> None:
    pipe = make_pipeline()
    plain = runner(pipe)()
    with tx.record(pipe):
        pipe.fuse_qkv_projections()
        runner(pipe)()
    pipe.unfuse_qkv_projections()
    assert {type(each) for each in pipe.unet.attn_processors.values()} == {AttnProcessor2_0}
    with nothing(pipe):
        assert runner(pipe)().tobytes() == plain.tobytes()
    pipe.unet.set_default_attn_processor()  # an unfused one
    assert np.allclose(runner(pipe)(), plain, atol=1e-4)


PERTURBED: dict[str, dict[str, Any]] = {
    "maps": {},
    "its branch": {"branches": ["conditional", "perturbed"]},
    "walk": {"walk": 1},
    "auto": {"heads": "auto"},
    "self-attention": {"self_attention": [(0.5, 0.5)]},
    "walk elsewhere": {"walk": 1, "sites": lambda site: site.place == "up"},
}


class TestPerturbedAttentionGuidance:
    """The pipeline sets processors of its own at self-attention inside its call."""

    @staticmethod
    def make() -> Any:
        return of_class("StableDiffusionPAGPipeline", pag_applied_layers=["mid"])

    @pytest.mark.parametrize("name", PERTURBED)
    def test_recorded(self, name: str) -> None:
        pipe = self.make()
        draw = runner(pipe, pag_scale=3.0)
        with Probe(pipe.unet) as probe:
            plain = draw()
        before = state_of(pipe)

        def recorded() -> Any:
            with tx.record(pipe, **PERTURBED[name]) as trace:
                assert draw().tobytes() == plain.tobytes()
            return trace

        trace, refusal = attempt(recorded)
        assert state_of(pipe) == before
        assert draw().tobytes() == plain.tobytes()
        if name in ("maps", "its branch", "walk elsewhere"):
            assert refusal is None
        if trace is None or name == "auto":
            return  # heads="auto" weighs the heads, so that its maps are not their means
        assert trace.maps
        for layer in probe.layers:
            if layer not in trace.maps:
                assert name == "walk elsewhere"
                continue
            expected = probe.mean(layer, middle_third)
            assert np.abs(trace.maps[layer].reshape(expected.shape) - expected).max() < 1e-5
        if name == "its branch":
            assert_right_maps(trace.select(branch="conditional"), probe, middle_third)
            part = trace.select(branch="perturbed")
            assert_right_maps(part, probe, last_third)
            assert_right_heat(part, probe, last_third, WORDS)

    def test_edited(self) -> None:
        """By default the rows of the prompt; those that are perturbed only if they are named."""
        plain = runner(self.make(), pag_scale=3.0)()
        for change, rules in (
            (edits.Drop("red"), [middle_third]),
            (edits.Drop("red", branches=["conditional", "perturbed"]), [middle_third, last_third]),
        ):
            reference = self.make()

            def rule(call: int, rows: int, rules: Any = rules) -> list[int]:
                return [row for each in rules for row in each(call, rows)]

            change_attention(reference.unet, without(2), rule)
            expected = runner(reference, pag_scale=3.0)()
            assert not np.allclose(expected, plain, atol=1e-3)
            pipe = self.make()
            with tx.edit(pipe, change):
                drawn = runner(pipe, pag_scale=3.0)()
            assert np.allclose(drawn, expected, atol=1e-4)

    def test_prompt_to_prompt(self) -> None:
        pipe = self.make()

        def draw() -> np.ndarray:
            images: np.ndarray = pipe(
                ["a red circle", "a blue circle"],
                generator=[generator(), generator()],
                num_inference_steps=3,
                pag_scale=3.0,
                output_type="np",
            ).images
            return images

        plain = draw()
        before = state_of(pipe)
        # The second edits self-attention, which this pipeline's own processors replace in the
        # middle block.
        several = [edits.Replace(steps=(0, 2)), edits.SelfReplace(steps=(0, 2))]
        for chosen in (several[:1], several):

            def edited(chosen: Any = chosen) -> np.ndarray:
                with tx.edit(pipe, *chosen):
                    return draw()

            drawn, refusal = attempt(edited)
            assert state_of(pipe) == before
            assert draw().tobytes() == plain.tobytes()
            if len(chosen) == 1:
                assert refusal is None
            if drawn is not None:
                assert np.allclose(drawn[0], plain[0], atol=1e-5)
                assert not np.allclose(drawn[1], plain[1], atol=1e-3)


ALL: dict[str, Callable[[Any], Any]] = {
    "record": tx.record,
    "edit": lambda pipe: tx.edit(pipe, edits.Drop("red")),
    "guide": lambda pipe: tx.guide(pipe, losses.Layout({"circle": (0.0, 0.0, 1.0, 0.5)})),
}


@pytest.mark.parametrize("context", ALL)
class TestCopies:
    def test_a_copy_is_free(self, context: str) -> None:
        pipe = make_pipeline()
        draw = runner(pipe)
        plain = draw()
        with ALL[context](pipe):
            expected = draw()
        with ALL[context](pipe):
            other = copy.deepcopy(pipe)
            inside = runner(other)()
            drawn = draw()
        assert drawn.tobytes() == expected.tobytes()
        assert inside.tobytes() == plain.tobytes()
        assert runner(other)().tobytes() == plain.tobytes()
        assert draw().tobytes() == plain.tobytes()
        assert_free(other.unet, pipe.unet)
        for part in ("", "scheduler", "text_encoder"):
            copied, origin = (getattr(each, part) if part else each for each in (other, pipe))
            assert vars(copied).keys() - vars(origin).keys() <= {"encode_prompt", "step", "forward"}
        with Probe(other.unet) as probe:
            runner(other)()
        before = state_of(other)
        with tx.record(other) as trace:
            assert runner(other)().tobytes() == plain.tobytes()
        assert state_of(other) == before
        assert_right_maps(trace, probe, second_half)

    def test_what_a_copy_does_is_not_taken_for_its_origin(self, context: str) -> None:
        pipe = make_pipeline()
        draw = runner(pipe)
        with Probe(pipe.unet) as probe:
            draw()
        blue = runner(make_pipeline(), prompt="blue")()
        with ALL[context](pipe):
            expected = draw()
        with ALL[context](pipe) as trace:
            other = copy.deepcopy(pipe)
            assert runner(other, prompt="blue")().tobytes() == blue.tobytes()
            assert draw().tobytes() == expected.tobytes()
        if trace is not None:
            assert trace.prompts == ("a red circle",)
            assert trace.settings["calls"] == 3
            assert_right_maps(trace, probe, second_half)

    def test_pickled(self, context: str) -> None:
        """As outside: a UNet goes through pickle, and comes back free."""
        pipe = make_pipeline()
        plain = runner(pipe)()
        assert runner_with(pickle.loads(pickle.dumps(pipe.unet))).tobytes() == plain.tobytes()
        with ALL[context](pipe):
            kept = pickle.dumps(pipe.unet)
            runner(pipe)()
        other = pickle.loads(kept)
        assert runner_with(other).tobytes() == plain.tobytes()
        assert_free(other, pipe.unet)

    def test_saved(self, context: str, tmp_path: Path) -> None:
        pipe = make_pipeline()
        plain = runner(pipe)()  # in which the tokenizer gets settings that it saves
        pipe.save_pretrained(tmp_path / "before")
        with ALL[context](pipe):
            pipe.save_pretrained(tmp_path / "inside")
            runner(pipe)()
        files = sorted(
            path.relative_to(tmp_path / "before")
            for path in (tmp_path / "before").rglob("*")
            if path.is_file()
        )
        assert any(path.suffix == ".safetensors" for path in files)
        for path in files:
            before, inside = (tmp_path / where / path for where in ("before", "inside"))
            assert before.read_bytes() == inside.read_bytes(), path
        assert runner(pipe)().tobytes() == plain.tobytes()


def assert_free(model: Any, clean: Any) -> None:
    """A copy that was made inside a context has nothing of it but, at most, a `forward` that is its
    own, since a copy cannot be told to leave out an attribute."""
    assert repr(model) == repr(clean)
    assert list(model.state_dict()) == list(clean.state_dict())
    for name, module in model.named_modules():
        expected = clean.get_submodule(name)
        assert vars(module).keys() - {"forward"} == vars(expected).keys() - {"forward"}, name
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name
        forward = vars(module).get("forward")
        assert getattr(forward, "__self__", module) is module, name
    assert {type(each) for each in model.attn_processors.values()} == {AttnProcessor2_0}


def runner_with(unet: Any) -> np.ndarray:
    pipe = make_pipeline()
    pipe.unet = unet
    picture: np.ndarray = runner(pipe)()
    return picture


def test_another_unet_put_into_the_pipeline_inside() -> None:
    """What ran is another model, and the map says so or there is none."""
    pipe = make_pipeline()
    other = make_unet()
    reference = make_pipeline()
    reference.unet = other
    with Probe(other) as probe:
        plain = runner(reference)()

    def recorded() -> Any:
        with tx.record(pipe) as trace:
            pipe.unet = other
            assert runner(pipe)().tobytes() == plain.tobytes()
        assert trace.maps
        return trace

    before = other.attn_processors
    trace, _ = attempt(recorded)
    assert other.attn_processors == before
    assert runner(pipe)().tobytes() == plain.tobytes()
    if trace is not None:
        assert_right_maps(trace, probe, second_half, tolerance=1e-6)
