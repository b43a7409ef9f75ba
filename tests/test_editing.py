"""The mechanism: what `edit` changes, what it leaves alone, and how it composes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import t2i_xattn as tx
from captured import size_of
from conftest import state_of
from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.seen import Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.editing.acting import ActingEdit
from t2i_xattn.edits import (
    Add,
    Drop,
    Edit,
    EditContext,
    EditFunction,
    InjectMap,
    MaskPadding,
    Refine,
    RegionalPrompts,
    Replace,
    Restrict,
    Reweight,
    SwapMaps,
    Temperature,
    TopK,
)
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.tap import SiteTap
from t2i_xattn.processors import InterceptingProcessor
from t2i_xattn.processors.intercepting import attention_forward
from test_interception import CASES, make_call
from tiny_pipelines import add_lora, load_ip_adapter, of_class, picture_embeds, runner

Draw = Callable[..., np.ndarray]
PROMPTS = ["a red circle", "a blue circle"]


def same(probs: Tensor, context: EditContext) -> Tensor:
    return probs


def louder(probs: Tensor, context: EditContext) -> Tensor:
    return probs * (1 + 2 * context.span("red"))


class Watching:
    """An edit that changes nothing and remembers where it was."""

    def __init__(self) -> None:
        self.contexts: list[EditContext] = []
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, probs: Tensor, context: EditContext) -> Tensor:
        self.contexts.append(context)
        self.shapes.append(tuple(probs.shape))
        return probs


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_output_is_that_of_the_edited_probs(name: str) -> None:
    """Of every kind of layer, with a fused kernel and without, against one whole attention forward
    with P′ in the place of P."""
    layer, call = make_call(CASES[name])
    change = lambda probs: probs.roll(1, -1) * 1.5  # noqa: E731
    expected = attention_forward(layer, **call, intercept=change)
    for processor in CASES[name].stock:
        layer.processor = processor
        plain = layer(**call)
        with edited(layer, EditFunction(lambda probs, _: change(probs))):
            assert torch.allclose(layer(**call), expected, atol=2e-5)
        assert not torch.allclose(plain, expected, atol=1e-3)
        with edited(layer, EditFunction(same)):
            assert torch.equal(layer(**call), plain)
        assert torch.equal(layer(**call), plain)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_rows_that_are_not_edited_keep_their_bytes(name: str) -> None:
    layer, call = make_call(CASES[name])
    for processor in CASES[name].stock:
        layer.processor = processor
        plain = layer(**call)
        with edited(layer, EditFunction(lambda probs, _: probs.roll(1, -1)), rows=(1,)):
            drawn = layer(**call)
        assert torch.equal(drawn[0], plain[0])
        assert not torch.allclose(drawn[1], plain[1], atol=1e-3)


@contextmanager
def edited(layer: Any, edit: Edit, rows: tuple[int, ...] = (0, 1)) -> Iterator[None]:
    """An edit of some rows of one layer."""
    context: Any = None
    site = AttentionSite("attn2", "cross", 0, "mid", 1, layer.heads)
    acting = ActingEdit(edit, None, context, None, torch.tensor(True))
    calls = []

    def receive(kernel: KernelCall) -> Tensor:
        calls.append(kernel)
        seen = Seen(site, layer, kernel, Reading(None))
        return seen.output([(rows, acting)])

    tap = SiteTap(layer, lambda: True, receive)
    for cover in tap.covers:
        cover.put()
    try:
        yield
    finally:
        for cover in tap.covers:
            cover.take_off()
    assert len(calls) == 1
    assert acting.finite


class TestLeavingAlone:
    @pytest.mark.parametrize(
        "edit",
        [
            same,
            lambda probs, _: probs * 1,
            Reweight("red", 1.0),
            EditFunction(same, attention="self"),
        ],
    )
    def test_the_identity_leaves_the_same_bytes(self, pipe: Any, draw: Draw, edit: Any) -> None:
        plain = draw(pipe)
        with tx.edit(pipe, edit):
            assert draw(pipe).tobytes() == plain.tobytes()

    def test_all_is_as_it_was_found(self, pipe: Any, draw: Draw) -> None:
        plain = draw(pipe)
        before = state_of(pipe)
        with tx.edit(pipe, louder):
            assert draw(pipe).tobytes() != plain.tobytes()
        assert state_of(pipe) == before
        assert draw(pipe).tobytes() == plain.tobytes()
        with pytest.raises(RuntimeError, match="mine"), tx.edit(pipe, louder):
            raise RuntimeError("mine")
        assert state_of(pipe) == before

    def test_untouched_sites_are_not_covered(self, pipe: Any, draw: Draw) -> None:
        """And nobody's processor is, at any site."""
        processors = pipe.unet.attn_processors
        mid = [site.name for site in tx.find_sites(pipe.unet) if site.place == "mid"]
        with tx.edit(pipe, Reweight("red", 2.0, sites=mid)):
            inside = pipe.unet.attn_processors
            modules = pipe.unet.named_modules()
            covered = {name for name, module in modules if "forward" in vars(module)}
            draw(pipe)
        assert covered == {*mid, ""}
        assert all(inside[name] is processor for name, processor in processors.items())

    def test_where_nothing_acts_nothing_is_formed(
        self, pipe: Any, draw: Draw, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = draw(pipe)
        watching = Watching()
        edit = EditFunction(watching, steps=(1, 2))
        formed, after = [], []
        probs = KernelCall.probs

        def counted(call: KernelCall, rows: Any) -> Tensor:
            formed.append(rows)
            return probs(call, rows)

        def watch(pipe: Any, step: int, timestep: Any, inputs: Any) -> Any:
            after.append(len(formed))
            return inputs

        monkeypatch.setattr(KernelCall, "probs", counted)
        with tx.edit(pipe, edit):
            drawn = draw(pipe, num_inference_steps=3, callback_on_step_end=watch)
        monkeypatch.undo()
        assert drawn.tobytes() == draw(pipe, num_inference_steps=3).tobytes()
        assert drawn.tobytes() != plain.tobytes()  # of two steps
        assert after == [0, 7, 7]
        assert set(formed) == {(1,)}  # the conditional row
        assert {context.step for context in watching.contexts} == {1}


class TestWhereAndWhen:
    def test_the_context(self, pipe: Any, draw: Draw) -> None:
        watching = Watching()
        with tx.edit(pipe, watching):
            draw(pipe, PROMPTS, height=64, width=96, num_inference_steps=3)
        assert len(watching.contexts) == 7 * 3
        first, last = watching.contexts[0], watching.contexts[-1]
        assert (first.site, last.site) == tuple(tx.find_sites(pipe.unet)[at] for at in (0, -1))
        assert [(c.step, c.steps) for c in (first, last)] == [(0, 3), (2, 3)]
        assert float(first.timestep) > float(last.timestep)
        assert (first.branch, first.latent_size, first.tokens) == ("conditional", (8, 12), 77)
        assert [word.text for word in first.words[1]] == ["a", "blue", "circle"]
        assert [len(ids) for ids in first.token_ids if ids] == [5, 5]
        for context, shape in zip(watching.contexts, watching.shapes, strict=True):
            assert (context.height, context.width) == size_of(context.site, (8, 12))
            assert shape == (2, 2, context.height * context.width, 77)

    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            ((0, 2), {0, 1}),
            ((0, 0.5), {0, 1}),
            ((0.5, 1.0), {2, 3}),
            ((0, 1), {0}),
            ((3, 9), {3}),
            ((1, 0.75), {1, 2}),
        ],
    )
    def test_steps(self, pipe: Any, draw: Draw, steps: Any, expected: set[int]) -> None:
        watching = Watching()
        with tx.edit(pipe, EditFunction(watching, steps=steps)):
            draw(pipe, num_inference_steps=4)
        assert {context.step for context in watching.contexts} == expected

    def test_branches(self, pipe: Any, draw: Draw) -> None:
        plain = draw(pipe)
        edits = [
            TopK(3, branches=branch)
            for branch in ("unconditional", "conditional", ["conditional", "unconditional"])
        ]
        drawn = []
        for edit in edits:
            with (
                tx.edit(pipe, edit),
                tx.record(pipe, branches=["conditional", "unconditional"]) as t,
            ):
                drawn.append(draw(pipe).tobytes())
            text, edited = (next(iter(t.to_numpy(s).values())) for s in ("text", "edited"))
            for at, branch in enumerate(("conditional", "unconditional")):
                assert np.allclose(text[:, at], edited[:, at], atol=1e-6) == (
                    branch not in edit.of_branches
                )
        assert len({*drawn, plain.tobytes()}) == 4

    def test_words_of_the_negative_prompt(self, pipe: Any, draw: Draw) -> None:
        """In the unconditional branch a word is one of its own text, in its own column."""
        branches = ["conditional", "unconditional"]
        edit = Drop("circle", branches="unconditional")
        with tx.edit(pipe, edit), tx.record(pipe, branches=branches, heads="each") as trace:
            draw(pipe, negative_prompt="blue left of a circle", num_inference_steps=1)
        for name, text in trace.to_numpy().items():
            after = trace.to_numpy("edited")[name]
            assert np.array_equal(text[:, 0], after[:, 0])
            assert not after[:, 1, ..., 5].any()
            assert text[:, 1, ..., 5].min() > 0
            assert np.allclose(after[:, 1].sum(-1), 1, atol=1e-5)
            kept = text[:, 1, ..., 3] / (1 - text[:, 1, ..., 5])
            assert np.allclose(after[:, 1, ..., 3], kept, atol=1e-6)

    def test_images_and_words(self, pipe: Any, draw: Draw) -> None:
        plain = draw(pipe, PROMPTS)
        with tx.edit(pipe, Reweight("red", 3.0, images=[0])), tx.record(pipe) as trace:
            drawn = draw(pipe, PROMPTS)
        assert drawn[1].tobytes() == plain[1].tobytes()
        assert drawn[0].tobytes() != plain[0].tobytes()
        site = trace.sites[0].name
        with tx.edit(pipe, TopK(1, words=["circle"])), tx.record(pipe) as trace:
            draw(pipe, num_inference_steps=1)
        text, edited = (trace.to_numpy(s)[site][0, 0, 0, 0] for s in ("text", "edited"))
        others = np.delete(np.arange(77), 3)
        assert np.array_equal(text[..., others], edited[..., others])
        assert not np.allclose(text[..., 3], edited[..., 3])

    def test_several_runs_in_one_context(self, pipe: Any, draw: Draw) -> None:
        expected = []
        for prompt in ("a red circle", "blue left of a red circle"):
            with tx.edit(pipe, Drop("red")):
                expected.append(draw(pipe, prompt))
        with tx.edit(pipe, Drop("red")):
            for prompt, drawn in zip(
                ("a red circle", "blue left of a red circle"), expected, strict=True
            ):
                assert draw(pipe, prompt).tobytes() == drawn.tobytes()

    def test_embeddings_with_spans(self, pipe: Any, draw: Draw) -> None:
        with tx.edit(pipe, Drop("red")):
            expected = draw(pipe)
        with torch.no_grad():
            text, none = pipe.encode_prompt("a red circle", "cpu", 1, True)
        with tx.edit(pipe, Drop("red"), spans={"red": [2]}):
            drawn = draw(pipe, None, prompt_embeds=text, negative_prompt_embeds=none)
        assert drawn.tobytes() == expected.tobytes()


class TestComposing:
    def test_edits_compose_in_order(self, pipe: Any, draw: Draw) -> None:
        one, two = Reweight("red", 5.0), TopK(2)
        drawn = {}
        for name, edits in {"one two": (one, two), "two one": (two, one)}.items():
            with tx.edit(pipe, *edits):
                drawn[name] = draw(pipe)
            outer, inner = edits
            with tx.edit(pipe, outer), tx.edit(pipe, inner):
                assert draw(pipe).tobytes() == drawn[name].tobytes()
        assert drawn["one two"].tobytes() != drawn["two one"].tobytes()

    @pytest.mark.parametrize("outer", ["record", "edit"])
    def test_with_record_in_either_order(self, pipe: Any, draw: Draw, outer: str) -> None:
        with tx.edit(pipe, louder):
            plain = draw(pipe)
        before = state_of(pipe)
        if outer == "record":
            with tx.record(pipe) as trace, tx.edit(pipe, louder):
                drawn = draw(pipe)
        else:
            with tx.edit(pipe, louder), tx.record(pipe) as trace:
                drawn = draw(pipe)
        assert drawn.tobytes() == plain.tobytes()
        assert state_of(pipe) == before
        assert list(trace.run.maps) == ["text", "edited"]
        for name, text in trace.to_numpy().items():
            edited = trace.to_numpy("edited")[name]
            assert np.allclose(text.sum(-1), 1, atol=1e-5)
            assert np.allclose(edited[..., 2], 3 * text[..., 2], atol=1e-6)
            assert np.allclose(edited[..., 3:], text[..., 3:], atol=1e-6)
        expected = 3 * trace.heatmap("red").share
        assert trace.heatmap("red", stream="edited").share == pytest.approx(expected, rel=1e-4)

    def test_without_edits_there_is_no_stream(self, pipe: Any, draw: Draw) -> None:
        with tx.record(pipe) as trace:
            draw(pipe)
        assert list(trace.run.maps) == ["text"]

    def test_a_trace_with_the_stream_is_saved(self, pipe: Any, draw: Draw, tmp_path: Any) -> None:
        keep: dict[str, Any] = {"words": ["red"], "heads": "each", "steps": "each"}
        with tx.edit(pipe, Drop("red", steps=(1, 2))), tx.record(pipe, **keep) as trace:
            draw(pipe)
        trace.save(tmp_path / "run.safetensors")
        loaded = tx.Trace.load(tmp_path / "run.safetensors")
        for text, edited in zip(
            loaded.to_numpy().values(), loaded.to_numpy("edited").values(), strict=True
        ):
            assert np.array_equal(text[:, :, 0], edited[:, :, 0])
            assert not edited[:, :, 1].any()


class TestCircumstances:
    def test_lora(self, pipe: Any) -> None:
        """At the values and the output projection too."""
        add_lora(pipe)
        draw = runner(pipe, cross_attention_kwargs={"scale": 0.5})
        plain = draw()
        with tx.edit(pipe, TopK(4, branches=["conditional", "unconditional"])):
            drawn = draw()
        anywhere: Any = SimpleNamespace(site=SimpleNamespace(kind="cross"))
        processors = dict(pipe.unet.attn_processors)
        for name in processors:
            if "attn2" in name:
                processors[name] = InterceptingProcessor(lambda probs: TopK(4)(probs, anywhere))
        pipe.unet.set_attn_processor(processors)
        expected = draw()
        assert np.allclose(drawn, expected, atol=1e-4)
        assert not np.allclose(drawn, plain, atol=1e-3)

    def test_ip_adapter(self, pipe: Any) -> None:
        """The pictures' attention is a softmax of its own, and stays."""
        draw = runner(pipe, ip_adapter_image_embeds=picture_embeds())
        with tx.edit(pipe, Drop("red")), tx.record(pipe) as trace:
            load_ip_adapter(pipe)  # while the context is open
            drawn = draw()
        assert sorted(trace.run.maps) == ["edited", "picture 1", "text"]
        assert trace.heatmap("red", stream="edited").share == 0
        plain = draw()
        assert np.isfinite(drawn).all()
        assert not np.allclose(drawn, plain, atol=1e-4)
        with tx.edit(pipe, same):
            assert draw().tobytes() == plain.tobytes()

    def test_compiled(self, pipe: Any, draw: Draw) -> None:
        where: dict[str, Any] = {"sites": lambda site: site.place == "mid"}
        edits = [Reweight("red", 3.0, steps=(0, 2), **where), Drop("circle", **where)]
        with tx.edit(pipe, *edits), tx.record(pipe, **where) as expected:
            plain = draw(pipe, num_inference_steps=4)
        torch._dynamo.reset()
        counter = CompileCounter()
        pipe.unet = torch.compile(pipe.unet, backend=counter, fullgraph=True)
        for _ in range(2):
            with tx.edit(pipe, *edits), tx.record(pipe, **where) as trace:
                assert np.allclose(draw(pipe, num_inference_steps=4), plain, atol=1e-4)
        for name, maps in expected.to_numpy("edited").items():
            assert np.allclose(trace.to_numpy("edited")[name], maps, atol=1e-5)
        # Whatever acts, in whatever steps: it is not in the graph.
        assert counter.frame_count == 1

    def test_every_edit_in_one_compiled_graph(self, pipe: Any, draw: Draw) -> None:
        """However many there are, and whatever they do."""
        where: dict[str, Any] = {"sites": lambda site: site.place == "mid"}
        edits: list[Edit] = [
            Replace(**where),
            Refine(**where),
            Reweight("circle", 3.0, renormalise=True, **where),
            Drop("circle", images=[1], **where),
            TopK(20, words=["circle"], **where),
            Temperature(0.5, **where),
            Restrict("circle", (0, 0, 0.5, 1), **where),
            MaskPadding(**where),
            SwapMaps("a", "circle", **where),
            InjectMap("circle", np.eye(4, dtype=bool), **where),
            Add("circle", 0.1, **where),
            RegionalPrompts({"blue": (0, 0, 0.5, 1)}, **where),
            EditFunction(lambda probs, context: probs * (1 + float(context.timestep)), **where),
        ]
        drawn = []
        for edit in edits:
            with tx.edit(pipe, edit):
                drawn.append(draw(pipe, PROMPTS, num_inference_steps=3))
        plain = draw(pipe, PROMPTS, num_inference_steps=3)
        torch._dynamo.reset()
        counter = CompileCounter()
        pipe.unet = torch.compile(pipe.unet, backend=counter, fullgraph=True)
        for edit, expected in zip(edits, drawn, strict=True):
            with tx.edit(pipe, edit):
                found = draw(pipe, PROMPTS, num_inference_steps=3)
            assert np.allclose(found, expected, atol=1e-4), edit.name
            assert not np.allclose(expected, plain, atol=1e-5), edit.name
        assert counter.frame_count == 1

    def test_numbers_are_looked_at_in_a_compiled_unet_too(self, pipe: Any, draw: Draw) -> None:
        torch._dynamo.reset()
        pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
        with (
            pytest.raises(UserError, match=r"endless to return finite probs at down_blocks\.0"),
            tx.edit(pipe, endless),
        ):
            draw(pipe)

    def test_a_compiled_unet_without_a_fused_kernel(self, pipe: Any, draw: Draw) -> None:
        """An edit that would do nothing is told."""
        pipe.unet.set_attn_processor(AttnProcessor())
        plain = draw(pipe)
        torch._dynamo.reset()
        pipe.unet = torch.compile(pipe.unet, fullgraph=True, backend="eager")
        before = state_of(pipe)
        match = r"at down_blocks\.0.* for Drop, but AttnProcessor does not call a kernel"
        with pytest.raises(UserError, match=match), tx.edit(pipe, Drop("red")):
            draw(pipe)
        assert state_of(pipe) == before
        assert np.allclose(draw(pipe), plain, atol=1e-5)

    def test_bfloat16(self, pipe: Any, draw: Draw) -> None:
        pipe.to(torch.bfloat16)
        plain = draw(pipe)
        with tx.edit(pipe, same):
            assert draw(pipe).tobytes() == plain.tobytes()
        with tx.edit(pipe, Drop("red")), tx.record(pipe) as trace:
            assert np.isfinite(draw(pipe)).all()
        assert trace.heatmap("red", stream="edited").share == 0

    def test_guidance_off_and_several_images(self, pipe: Any, draw: Draw) -> None:
        watching = Watching()
        with tx.edit(pipe, watching):
            draw(pipe, PROMPTS, guidance_scale=1.0, num_images_per_prompt=2)
        assert watching.shapes[0][0] == 4
        assert [len(words) for words in watching.contexts[0].words] == [3] * 4

    def test_two_pipelines_that_share_a_unet(self, pipe: Any) -> None:
        other = of_class("StableDiffusionPipeline", pipe)
        plain = runner(other, prompt="blue")()
        with tx.edit(pipe, Drop("red")), tx.edit(other, same):
            assert runner(other, prompt="blue")().tobytes() == plain.tobytes()


def endless(probs: Tensor, context: EditContext) -> Tensor:
    return probs / 0


class TestMistakes:
    @pytest.mark.parametrize("wrong", [math.nan, math.inf])
    def test_numbers_that_are_not_finite(self, pipe: Any, draw: Draw, wrong: float) -> None:
        def divides_by_nothing(probs: Tensor, context: EditContext) -> Tensor:
            return probs * wrong

        draw(pipe)
        before = state_of(pipe)
        site = tx.find_sites(pipe.unet)[3].name
        edit = EditFunction(divides_by_nothing, sites=[site])
        with (
            pytest.raises(UserError, match=f"divides_by_nothing to return finite .* at {site}"),
            tx.edit(pipe, same, edit),
        ):
            draw(pipe)
        assert state_of(pipe) == before

    @pytest.mark.parametrize(
        ("wrong", "came"),
        [
            (lambda probs, _: probs.mean(1), r"\(1, 64, 77\)"),
            (lambda probs, _: probs[..., :5], r"\(1, 2, 64, 5\)"),
            (lambda probs, _: None, "NoneType"),
        ],
    )
    def test_another_shape(self, pipe: Any, draw: Draw, wrong: Any, came: str) -> None:
        match = rf"expected <lambda> .*down_blocks\.0.*but came {came}"
        with pytest.raises(UserError, match=match), tx.edit(pipe, wrong):
            draw(pipe)

    @pytest.mark.parametrize(
        ("edit", "match"),
        [
            (Reweight("green", 2.0), "'green' is not in the prompt"),
            (Reweight("rde", 2.0), "did you mean 'red'"),
            (Drop("red", images=[1]), "expected images from 0 to 0 for Drop, but came 1"),
            (Drop("red", steps=(5, 9)), "holds one of 2 for Drop"),
            (Drop("red", branches="unconditional"), "'red' is not in the prompt"),
            # However late it is to act.
            (Drop("green", steps=(1, 2)), "'green' is not in the prompt"),
            (TopK(3, words=["green"], steps=(0.5, 1.0)), "'green' is not in the prompt"),
            (Restrict("red", np.ones((8, 16)), steps=(1, 2)), "picture's aspect, 8:8"),
            (Drop("red", branches="image"), "the branch 'image' for Drop"),
            (TopK(3, words=["green"]), "'green' is not in the prompt"),
            (Replace(), r"a source and other prompts in one batch for Replace, but came 1"),
            (Restrict("red", np.ones((8, 16))), "picture's aspect, 8:8"),
            (InjectMap("red", np.ones((16, 8))), "picture's aspect, 8:8"),
            (SwapMaps("red", "red circle"), "have columns in common"),
        ],
    )
    def test_before_the_first_step(self, pipe: Any, draw: Draw, edit: Any, match: str) -> None:
        def must_not_run(*_: Any) -> None:
            raise AssertionError

        pipe.unet.conv_in.register_forward_pre_hook(must_not_run)
        with pytest.raises(UserError, match=match), tx.edit(pipe, edit):
            draw(pipe, height=64, width=64)

    def test_a_word_beyond_the_window(self, pipe: Any, draw: Draw) -> None:
        with pytest.raises(UserError, match="beyond the window"), tx.edit(pipe, Drop("red")):
            draw(pipe, "a " * 80 + "red")

    def test_a_word_in_only_one_prompt(self, pipe: Any, draw: Draw) -> None:
        match = r"'red' is not in the prompt.*\(in image 1 of the batch; images=\[…\]"
        with pytest.raises(UserError, match=match), tx.edit(pipe, Drop("red")):
            draw(pipe, PROMPTS)

    def test_gradient_checkpointing(self, pipe: Any) -> None:
        """What is computed again in a backward pass would be without the edits."""
        pipe.unet.enable_gradient_checkpointing()
        pipe.unet.train()
        sample, text = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(1, 77, 32)
        with tx.edit(pipe, same):
            output = pipe.unet(sample, 1, text).sample.sum()
            with pytest.raises(UserError, match=r"call disable_gradient_checkpointing\(\)"):
                output.backward()
            pipe.unet.disable_gradient_checkpointing()
            pipe.unet(sample, 1, text).sample.sum().backward()
        assert sample.grad is not None

    def test_a_call_of_another_shape(self, pipe: Any) -> None:
        text, match = torch.randn(1, 77, 32), "every call of a run to be like the first"
        with torch.no_grad(), tx.edit(pipe, same):
            pipe.unet(torch.randn(1, 4, 8, 8), 1, text)
            with pytest.raises(UserError, match=match):
                pipe.unet(torch.randn(1, 4, 16, 16), 1, text)

    def test_arguments(self, pipe: Any) -> None:
        before = state_of(pipe)
        mistakes: list[tuple[tuple[Any, ...], str]] = [
            ((), "at least one edit"),
            ((3,), "but came 3"),
            ((MaskPadding,), "the class MaskPadding; call it first"),
            ((Drop("red", sites=["mid"]),), "the name of a site"),
        ]
        for wrong, match in mistakes:
            with pytest.raises(UserError, match=match), tx.edit(pipe, *wrong):
                pass
        with pytest.raises(UserError, match="with a denoiser"), tx.edit(object(), same):
            pass
        assert state_of(pipe) == before
