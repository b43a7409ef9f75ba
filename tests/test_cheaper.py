"""`cheaper`: exact where it says so, right in what is recorded and edited under it, and gone
afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from conftest import make_pipeline, state_of
from probe import Probe, all_rows, change_attention, rows_where, second_half, without
from right_maps import assert_right_maps
from t2i_xattn import UserError, edits, variants
from t2i_xattn.kernel.cover import Cover
from t2i_xattn.variants.variant import Variant
from tiny import cross, cross_video, picture_first, text_first
from tiny.case import Case
from tiny_pipelines import OFFLOADS, make_sdxl, offload, runner

ALL: dict[str, Callable[[], Variant]] = {
    "kept": variants.KeptKeys,
    "chunked": lambda: variants.Chunked(queries=7, keys=5),
    "late": lambda: variants.SkipLate(after=1),
    "merged": lambda: variants.MergedPlaces(ratio=0.5),
    "pruned": variants.PrunedKeys,
    "pruned by share": lambda: variants.PrunedKeys(padding=False, share=0.3),
    "top": lambda: variants.TopKeys(4),
}


@pytest.fixture(params=ALL, ids=str)
def variant(request: pytest.FixtureRequest) -> Variant:
    return ALL[request.param]()


class Counted:
    """How often layers that make keys and values are run, whoever is asked."""

    def __init__(self, unet: Any) -> None:
        self.calls = 0
        names = ("attn2.to_k", "attn2.to_v")
        layers = [m for n, m in unet.named_modules() if n.endswith(names)]
        self.covers = [Cover(each, "forward", self._count) for each in layers]

    def _count(self, forward: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return forward(*args, **kwargs)

    def __enter__(self) -> Counted:
        for each in self.covers:
            each.put()
        return self

    def __exit__(self, *_: object) -> None:
        for each in reversed(self.covers):
            each.take_off()


def test_all_is_as_it_was(pipe: Any, variant: Variant) -> None:
    draw = runner(pipe)
    plain, before = draw(), state_of(pipe)
    with tx.cheaper(pipe, variant):
        there = draw()
        assert (variant.exact and np.array_equal(there, plain)) or not variant.exact
    with pytest.raises(ZeroDivisionError), tx.cheaper(pipe, variant):
        1 / 0  # noqa: B018
    assert state_of(pipe) == before
    assert np.array_equal(draw(), plain)


def test_each_changes_what_it_says_and_is_the_same_each_time(pipe: Any, variant: Variant) -> None:
    draw = runner(pipe)
    plain = draw()
    with tx.cheaper(pipe, variant):
        first, second = draw(), draw()
    assert np.array_equal(first, second)  # nothing is left of a run in the next
    assert variant.error
    if isinstance(variant, variants.Chunked):
        assert np.abs(first - plain).max() < 1e-4
    assert np.array_equal(first, plain) == variant.exact


@pytest.mark.parametrize("how", OFFLOADS)
def test_offloaded_all_is_as_ever(how: str, variant: Variant) -> None:
    with tx.cheaper(alone := make_pipeline(), variant):
        expected = runner(alone)()
    pipe = make_pipeline()
    offload(pipe, how)
    draw = runner(pipe)
    plain, before = draw(), state_of(pipe)
    with tx.cheaper(pipe, variant):
        assert np.array_equal(draw(), expected)
    assert state_of(pipe) == before
    assert np.array_equal(draw(), plain)


# K and V kept


@pytest.mark.parametrize("make", [make_pipeline, make_sdxl], ids=["sd", "sdxl"])
def test_kept_keys_are_made_once(make: Callable[[], Any]) -> None:
    pipe = make()
    draw = runner(pipe, num_inference_steps=5)
    with Counted(pipe.unet) as plain_calls:
        plain = draw()
    with Counted(pipe.unet) as calls, tx.cheaper(pipe, variants.KeptKeys()):
        kept = draw()
    assert np.array_equal(kept, plain)
    assert calls.calls * 5 == plain_calls.calls


# Not of models, whose weights would be copied in each step where they go from a CPU to a CPU.
@pytest.mark.parametrize("how", OFFLOADS[1:])
def test_kept_keys_of_weights_that_are_loaded_for_each_call_are_made_once(how: str) -> None:
    pipe = make_pipeline()
    offload(pipe, how)
    draw = runner(pipe, num_inference_steps=5)
    with Counted(pipe.unet) as plain_calls:
        draw()
    with Counted(pipe.unet) as calls, tx.cheaper(pipe, variants.KeptKeys()):
        draw()
    assert calls.calls * 5 == plain_calls.calls


def test_kept_keys_follow_what_changes_in_a_run(pipe: Any) -> None:
    """The text, rows of the batch, weights: changed by a callback at each step."""

    def change(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        text = kwargs["prompt_embeds"]
        if step == 1:
            text.mul_(1.5)  # in place
        if step == 2:
            return {"prompt_embeds": text.flip(0)}
        if step == 3:
            with torch.no_grad():
                for name, weight in pipe.unet.named_parameters():
                    if "attn2.to_" in name:
                        weight.mul_(0.5)
        return {"prompt_embeds": text.clone()} if step == 4 else {}

    options = {
        "num_inference_steps": 7,
        "callback_on_step_end": change,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }
    plain = runner(pipe, **options)()
    other = make_pipeline()
    with tx.cheaper(other, variants.KeptKeys()):
        assert np.array_equal(runner(other, **options)(), plain)


def test_kept_keys_follow_adapters_and_their_scale(pipe: Any) -> None:
    from peft import LoraConfig

    torch.manual_seed(1)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))

    def change(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            pipe.unet.disable_adapters()
        if step == 2:
            pipe.unet.enable_adapters()
        return {}

    for scale in (1.0, 0.3):
        options = {"cross_attention_kwargs": {"scale": scale}, "callback_on_step_end": change}
        draw = runner(pipe, num_inference_steps=5, **options)
        plain = draw()
        with tx.cheaper(pipe, variants.KeptKeys()):
            assert np.array_equal(draw(), plain)


CROSS = [case for case in cross.CASES if "Cascade" not in case.name]


@pytest.mark.parametrize("case", [*CROSS, cross_video.CASES[0]], ids=str)
def test_kept_keys_of_transformers(case: Case) -> None:
    """Of branches in one batch, and that are called one by one."""
    pipe = case.make()
    plain = case.run(pipe)
    with tx.cheaper(pipe, variants.KeptKeys()):
        assert np.array_equal(np.asarray(case.run(pipe)), np.asarray(plain))


def test_kept_keys_in_inference_mode_and_with_gradients(pipe: Any) -> None:
    draw = runner(pipe)
    with torch.inference_mode():
        plain = draw()
        with Counted(pipe.unet) as calls, tx.cheaper(pipe, variants.KeptKeys()):
            assert np.array_equal(draw(), plain)
        assert calls.calls == len(calls.covers)
    text = torch.randn(1, 77, 32, requires_grad=True)
    gradients = []
    for kept in (False, True):
        with ExitStack() as stack:
            if kept:
                stack.enter_context(tx.cheaper(pipe, variants.KeptKeys()))
            for level in (999, 500):
                noise = pipe.unet(torch.ones(1, 4, 8, 8), level, text).sample
                gradients.append(torch.autograd.grad(noise.square().sum(), text)[0])
    assert torch.equal(gradients[0], gradients[2])
    assert torch.equal(gradients[1], gradients[3])


def test_a_text_that_never_comes_again_is_told(pipe: Any) -> None:
    def change(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": kwargs["prompt_embeds"] + 0.01}

    draw = runner(
        pipe,
        num_inference_steps=40,
        callback_on_step_end=change,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    with (
        tx.cheaper(pipe, variants.KeptKeys()),
        pytest.raises(UserError, match="none of them twice"),
    ):
        draw()


# What is recorded and edited under a variant


PADDING = range(5, 77)
"""Behind start, "a", "red", "circle" and end."""

UNGUIDED = {"guidance_scale": 1.0}


def test_recorded_under_pruned_keys_is_what_was_looked_at(pipe: Any) -> None:
    oracle, prune = make_pipeline(), without(*PADDING)
    change_attention(oracle.unet, prune, all_rows)
    with Probe(oracle.unet) as probe:
        right = runner(oracle, **UNGUIDED)()
    opens = [lambda: tx.cheaper(pipe, variants.PrunedKeys()), lambda: tx.record(pipe)]
    for order in permutations(opens):
        with ExitStack() as stack:
            opened = [stack.enter_context(each()) for each in order]
            drawn = runner(pipe, **UNGUIDED)()
        (trace,) = (each for each in opened if each is not None)
        np.testing.assert_allclose(drawn, right, atol=2e-5)
        for name, found in trace.maps.items():
            expected = torch.stack([prune(each).mean(1) for each in probe.probs[name]]).mean(0)
            np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


def test_an_edit_changes_what_pruned_keys_left(pipe: Any) -> None:
    """Without "red" among the columns that are not padding, in either order."""
    oracle = make_pipeline()
    change_attention(oracle.unet, without(2, *PADDING), all_rows)
    right = runner(oracle, **UNGUIDED)()
    for order in (1, -1):
        contexts = [tx.cheaper(pipe, variants.PrunedKeys()), tx.edit(pipe, edits.Drop("red"))]
        with ExitStack() as stack:
            for each in contexts[::order]:
                stack.enter_context(each)
            drawn = runner(pipe, **UNGUIDED)()
        np.testing.assert_allclose(drawn, right, atol=5e-5)


def test_exact_variants_leave_maps_and_edits_as_they_are(pipe: Any) -> None:
    draw = runner(pipe)
    with tx.edit(pipe, edits.Drop("red")), tx.record(pipe) as trace:
        right = draw()
    opens = [
        lambda: tx.cheaper(pipe, variants.KeptKeys()),
        lambda: tx.edit(pipe, edits.Drop("red")),
        lambda: tx.record(pipe),
    ]
    for order in permutations(opens):
        with ExitStack() as stack:
            opened = [stack.enter_context(each()) for each in order]
            assert np.array_equal(draw(), right)
        found = next(each for each in opened if each is not None)
        for word in ("red", "circle"):
            assert np.array_equal(found.heatmap(word).array, trace.heatmap(word).array)


def test_maps_under_late_skipping_are_those_of_the_steps_that_ran(pipe: Any) -> None:
    """Of four steps the first two: those before the gate, and that of the gate."""
    with Probe(pipe.unet) as probe:
        runner(pipe, num_inference_steps=4)()
    first_two = rows_where(second_half, lambda call: call < 2)
    opens = [lambda: tx.cheaper(pipe, variants.SkipLate(after=1)), lambda: tx.record(pipe)]
    for order in permutations(opens):
        with ExitStack() as stack:
            opened = [stack.enter_context(each()) for each in order]
            runner(pipe, num_inference_steps=4)()
        (trace,) = (each for each in opened if each is not None)
        assert_right_maps(trace, probe, first_two)


def test_late_skipping_gives_what_the_gate_gave(pipe: Any) -> None:
    """Held against processors that keep their outputs by themselves."""
    oracle = make_pipeline()
    for module in oracle.unet.modules():
        if getattr(module, "is_cross_attention", False):
            module.set_processor(Keeping(module.processor, 2))
    right = runner(oracle, num_inference_steps=5)()
    for after in (2, 0.4):
        with tx.cheaper(pipe, variants.SkipLate(after=after)):
            assert np.array_equal(runner(pipe, num_inference_steps=5)(), right)


class Keeping:
    """A processor that gives from a call on what it gave in it."""

    def __init__(self, inner: Any, gate: int) -> None:
        self.inner, self.gate, self.calls, self.kept = inner, gate, 0, None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.kept is not None:
            return self.kept
        output = self.inner(*args, **kwargs)
        if self.calls > self.gate:
            self.kept = output
        return output


# What does not fit, and what excludes each other


@pytest.mark.parametrize("case", [text_first.CASES[0], picture_first.CASES[0]], ids=str)
def test_what_does_not_fit_is_told_before_anything_is_changed(case: Case) -> None:
    pipe = case.make()
    for each in (variants.KeptKeys(), variants.SkipLate(), variants.MergedPlaces()):
        with pytest.raises(UserError, match=f"leave {each.name} out"), tx.cheaper(pipe, each):
            pass
    assert "forward" not in vars(next(iter(pipe.transformer.modules())))


def test_two_of_a_kind_exclude_each_other(pipe: Any) -> None:
    both = variants.PrunedKeys(), variants.TopKeys(3)
    with pytest.raises(UserError, match="exclude each other"), tx.cheaper(pipe, *both):
        pass
    with (
        tx.cheaper(pipe, both[0]),
        pytest.raises(UserError, match="exclude each other"),
        tx.cheaper(pipe, both[1]),
    ):
        pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: variants.SkipLate(after=1.5),
        lambda: variants.SkipLate(after=-1),
        lambda: variants.SkipLate(after=float("nan")),
        lambda: variants.TopKeys(0),
        lambda: variants.TopKeys("2"),  # type: ignore[arg-type]
        lambda: variants.Chunked(queries=0),
        lambda: variants.MergedPlaces(ratio=1.0),
        lambda: variants.MergedPlaces(levels=0),
        lambda: variants.PrunedKeys(padding=False),
        lambda: variants.PrunedKeys(share=0.0),
        lambda: variants.PrunedKeys(words="the"),
        lambda: variants.PrunedKeys(after=0),
    ],
)
def test_wrong_settings_are_one_sentence(make: Callable[[], Variant]) -> None:
    with pytest.raises(UserError, match="expected"):
        make()


def test_wrong_variants_are_one_sentence(pipe: Any) -> None:
    for wrong in ((), (variants.KeptKeys,), ("kept",)):
        with pytest.raises(UserError, match="expected"), tx.cheaper(pipe, *wrong):
            pass


def test_padding_of_embeddings_is_not_known(pipe: Any) -> None:
    text = torch.randn(1, 77, 32)
    draw = runner(pipe, prompt=None, prompt_embeds=text, negative_prompt_embeds=text)
    with tx.cheaper(pipe, variants.PrunedKeys()), pytest.raises(UserError, match="embeddings"):
        draw()
    with tx.cheaper(pipe, variants.PrunedKeys(padding=False, share=0.2)):
        draw()


def test_a_processor_that_forms_the_probs_itself_is_told(pipe: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    pipe.unet.set_attn_processor(AttnProcessor())
    draw = runner(pipe)
    plain = draw()
    for each in (variants.Chunked(), variants.PrunedKeys()):
        with tx.cheaper(pipe, each), pytest.raises(UserError, match="AttnProcessor forms"):
            draw()
    with tx.cheaper(pipe, variants.KeptKeys()):
        assert np.array_equal(draw(), plain)


def test_a_compiled_denoiser_is_told(pipe: Any) -> None:
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    with pytest.raises(UserError, match="not compiled"), tx.cheaper(pipe, variants.KeptKeys()):
        pass


def test_one_compiled_inside_is_told(pipe: Any) -> None:
    with tx.cheaper(pipe, variants.PrunedKeys()):
        pipe.unet = torch.compile(pipe.unet, backend="eager")
        with pytest.raises(UserError, match="not compiled"):
            runner(pipe)()


def test_fewer_keys_where_attention_is_joint() -> None:
    """Of the text each head looks at two columns from the second step on, of the picture at all:
    seen by an edit that is given the probs."""
    case = text_first.CASES[0]
    pipe = case.make()
    looked_at: dict[int, set[int]] = {0: set(), 1: set()}

    def look(probs: torch.Tensor, context: Any) -> torch.Tensor:
        columns = (probs > 0).any(dim=2).sum(dim=-1)  # (images, heads)
        looked_at[context.step] |= set(columns.flatten().tolist())
        return probs

    plain = case.run(pipe)
    with tx.cheaper(pipe, variants.TopKeys(2)), tx.edit(pipe, look):
        drawn = case.run(pipe)
    assert min(looked_at[0]) > 2
    assert looked_at[1] == {2}
    assert not np.array_equal(np.asarray(drawn), np.asarray(plain))


def test_other_pipelines_on_the_denoiser_are_left_alone(pipe: Any) -> None:
    other = make_pipeline()
    other.unet = pipe.unet
    plain = runner(other)()
    with tx.cheaper(pipe, variants.PrunedKeys()):
        assert np.array_equal(runner(other)(), plain)
        assert not np.array_equal(runner(pipe)(), plain)


def test_maps_under_blocks_are_right(pipe: Any) -> None:
    with Probe(pipe.unet) as probe:
        runner(pipe)()
    with tx.cheaper(pipe, variants.Chunked(queries=9, keys=10)), tx.record(pipe) as trace:
        runner(pipe)()
    assert_right_maps(trace, probe, second_half)
