"""The mechanism: what `edit` changes, what it leaves alone, and how it composes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import t2i_xattn as tx
from conftest import make_tokenizer, state_of
from t2i_xattn.denoisers.wrapping import wrappers
from t2i_xattn.editing.editing_processor import EditingProcessor
from t2i_xattn.editing.schedule import EditSchedule
from t2i_xattn.errors import UserError
from t2i_xattn.processors.intercepting import attention_forward
from t2i_xattn.prompts.words import split_words, token_ids
from t2i_xattn.recording.sums import CallShape
from test_interception import CASES, make_call
from tiny_pipelines import add_lora, load_ip_adapter, of_class, picture_embeds, runner

Draw = Callable[..., np.ndarray]
PROMPTS = ["a red circle", "a blue circle"]


def same(probs: Tensor, context: tx.EditContext) -> Tensor:
    return probs


def louder(probs: Tensor, context: tx.EditContext) -> Tensor:
    return probs * (1 + 2 * context.span("red"))


class Seen:
    """An edit that changes nothing and remembers where it was."""

    def __init__(self) -> None:
        self.contexts: list[tx.EditContext] = []
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, probs: Tensor, context: tx.EditContext) -> Tensor:
        self.contexts.append(context)
        self.shapes.append(tuple(probs.shape))
        return probs


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_output_is_that_of_the_edited_probs(name: str) -> None:
    """Of every kind of layer, against one whole attention forward with P′ in the place of P."""
    layer, call = make_call(CASES[name])
    change = lambda probs: probs.roll(1, -1) * 1.5  # noqa: E731
    expected = attention_forward(layer, **call, intercept=change)
    wrapper = EditingProcessor.around(layer.processor)
    layer.processor = wrapper
    rows = slice(0, call["hidden_states"].shape[0])
    aim(wrapper, rows, tx.EditFunction(lambda probs, _: change(probs)))
    assert torch.allclose(layer(**call), expected, atol=2e-5)
    aim(wrapper, rows, tx.EditFunction(same))
    changed = layer(**call)
    layer.processor = wrapper.inner
    assert torch.equal(changed, layer(**call))


def aim(wrapper: EditingProcessor, rows: slice, edit: tx.Edit) -> None:
    from t2i_xattn.editing.editing_processor import ActingEdit, BranchEdits

    context: Any = None
    wrapper.targets = (
        BranchEdits(rows, (ActingEdit(edit, None, context, None, torch.tensor(True)),)),
    )


class TestLeavingAlone:
    @pytest.mark.parametrize(
        "edit",
        [
            same,
            lambda probs, _: probs * 1,
            tx.Reweight("red", 1.0),
            tx.EditFunction(same, attention="self"),
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

    def test_untouched_sites_keep_their_processors(self, pipe: Any, draw: Draw) -> None:
        processors = pipe.unet.attn_processors
        mid = [site.name for site in tx.find_sites(pipe.unet) if site.place == "mid"]
        with tx.edit(pipe, tx.Reweight("red", 2.0, sites=mid)):
            inside = pipe.unet.attn_processors
            draw(pipe)
        changed = [name for name in processors if inside[name] is not processors[name]]
        assert changed == [f"{name}.processor" for name in mid]

    def test_where_nothing_acts_the_wrapper_has_nothing_to_do(self, pipe: Any, draw: Draw) -> None:
        plain = draw(pipe)
        seen = Seen()
        edit = tx.EditFunction(seen, steps=(1, 2))
        busy = []

        def watch(pipe: Any, step: int, timestep: Any, inputs: Any) -> Any:
            busy.append([bool(each.targets) for each in editors(pipe)])
            return inputs

        with tx.edit(pipe, edit):
            assert draw(pipe, callback_on_step_end=watch).tobytes() == plain.tobytes()
        assert busy == [[False] * 7, [True] * 7]
        assert {context.step for context in seen.contexts} == {1}


def editors(pipe: Any) -> list[EditingProcessor]:
    return [
        each
        for processor in pipe.unet.attn_processors.values()
        for each in wrappers(processor)
        if isinstance(each, EditingProcessor)
    ]


class TestWhereAndWhen:
    def test_the_context(self, pipe: Any, draw: Draw) -> None:
        seen = Seen()
        with tx.edit(pipe, seen):
            draw(pipe, PROMPTS, height=64, width=96, num_inference_steps=3)
        assert len(seen.contexts) == 7 * 3
        first, last = seen.contexts[0], seen.contexts[-1]
        assert (first.site, last.site) == tuple(tx.find_sites(pipe.unet)[at] for at in (0, -1))
        assert [(c.step, c.steps) for c in (first, last)] == [(0, 3), (2, 3)]
        assert float(first.timestep) > float(last.timestep)
        assert (first.branch, first.latent_size, first.tokens) == ("conditional", (8, 12), 77)
        assert [word.text for word in first.words[1]] == ["a", "blue", "circle"]
        assert [len(ids) for ids in first.token_ids if ids] == [5, 5]
        for context, shape in zip(seen.contexts, seen.shapes, strict=True):
            assert (context.height, context.width) == context.site.size(8, 12)
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
        seen = Seen()
        with tx.edit(pipe, tx.EditFunction(seen, steps=steps)):
            draw(pipe, num_inference_steps=4)
        assert {context.step for context in seen.contexts} == expected

    def test_branches(self, pipe: Any, draw: Draw) -> None:
        plain = draw(pipe)
        edits = [
            tx.TopK(3, branches=branch)
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

    def test_images_and_words(self, pipe: Any, draw: Draw) -> None:
        plain = draw(pipe, PROMPTS)
        with tx.edit(pipe, tx.Reweight("red", 3.0, images=[0])), tx.record(pipe) as trace:
            drawn = draw(pipe, PROMPTS)
        assert drawn[1].tobytes() == plain[1].tobytes()
        assert drawn[0].tobytes() != plain[0].tobytes()
        site = trace.sites[0].name
        with tx.edit(pipe, tx.TopK(1, words=["circle"])), tx.record(pipe) as trace:
            draw(pipe, num_inference_steps=1)
        text, edited = (trace.to_numpy(s)[site][0, 0, 0, 0] for s in ("text", "edited"))
        others = np.delete(np.arange(77), 3)
        assert np.array_equal(text[..., others], edited[..., others])
        assert not np.allclose(text[..., 3], edited[..., 3])

    def test_several_runs_in_one_context(self, pipe: Any, draw: Draw) -> None:
        expected = []
        for prompt in ("a red circle", "blue left of a red circle"):
            with tx.edit(pipe, tx.Drop("red")):
                expected.append(draw(pipe, prompt))
        with tx.edit(pipe, tx.Drop("red")):
            for prompt, drawn in zip(
                ("a red circle", "blue left of a red circle"), expected, strict=True
            ):
                assert draw(pipe, prompt).tobytes() == drawn.tobytes()

    def test_embeddings_with_spans(self, pipe: Any, draw: Draw) -> None:
        with tx.edit(pipe, tx.Drop("red")):
            expected = draw(pipe)
        with torch.no_grad():
            text, none = pipe.encode_prompt("a red circle", "cpu", 1, True)
        with tx.edit(pipe, tx.Drop("red"), spans={"red": [2]}):
            drawn = draw(pipe, None, prompt_embeds=text, negative_prompt_embeds=none)
        assert drawn.tobytes() == expected.tobytes()


class TestComposing:
    def test_edits_compose_in_order(self, pipe: Any, draw: Draw) -> None:
        one, two = tx.Reweight("red", 5.0), tx.TopK(2)
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
        with tx.edit(pipe, tx.Drop("red", steps=(1, 2))), tx.record(pipe, **keep) as trace:
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
        with tx.edit(pipe, tx.TopK(4, branches=["conditional", "unconditional"])):
            drawn = draw()
        processors = dict(pipe.unet.attn_processors)
        for name in processors:
            if "attn2" in name:
                processors[name] = tx.InterceptingProcessor(
                    lambda probs: tx.TopK(4).apply(probs, None, None)
                )
        pipe.unet.set_attn_processor(processors)
        expected = draw()
        assert np.allclose(drawn, expected, atol=1e-4)
        assert not np.allclose(drawn, plain, atol=1e-3)

    def test_ip_adapter(self, pipe: Any) -> None:
        """The pictures' attention is a softmax of its own, and stays."""
        draw = runner(pipe, ip_adapter_image_embeds=picture_embeds())
        with tx.edit(pipe, tx.Drop("red")), tx.record(pipe) as trace:
            load_ip_adapter(pipe)  # while the context is open
            drawn = draw()
        assert list(trace.run.maps) == ["text", "picture 1", "edited"]
        assert trace.heatmap("red", stream="edited").share == 0
        plain = draw()
        assert np.isfinite(drawn).all()
        assert not np.allclose(drawn, plain, atol=1e-4)
        with tx.edit(pipe, same):
            assert draw().tobytes() == plain.tobytes()

    def test_compiled(self, pipe: Any, draw: Draw) -> None:
        where: dict[str, Any] = {"sites": lambda site: site.place == "mid"}
        edits = [tx.Reweight("red", 3.0, steps=(0, 2), **where), tx.Drop("circle", **where)]
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
        # One with both edits, one after the window of the first.
        assert counter.frame_count == 2

    def test_every_edit_is_compiled(self) -> None:
        """At one layer, in one graph however many steps and runs there are."""
        edits = [
            tx.Replace(),
            tx.Refine(),
            tx.Reweight("circle", 3.0, renormalise=True),
            tx.Drop("circle", images=[1]),
            tx.TopK(20, words=["circle"]),
            tx.Temperature(0.5),
            tx.Restrict("circle", (0, 0, 0.5, 1)),
            tx.MaskPadding(),
            tx.SwapMaps("a", "circle"),
            tx.InjectMap("circle", np.eye(4, dtype=bool)),
            tx.Add("circle", 0.1),
            tx.EditFunction(lambda probs, context: probs / context.height),
        ]
        assert graphs_of_a_layer(*edits) == 1

    def test_the_look_at_the_numbers_is_compiled_too(self) -> None:
        endless = tx.EditFunction(lambda probs, _: probs / 0)
        with pytest.raises(UserError, match="<lambda> to return finite probs at attn2"):
            graphs_of_a_layer(endless)

    def test_bfloat16(self, pipe: Any, draw: Draw) -> None:
        pipe.to(torch.bfloat16)
        plain = draw(pipe)
        with tx.edit(pipe, same):
            assert draw(pipe).tobytes() == plain.tobytes()
        with tx.edit(pipe, tx.Drop("red")), tx.record(pipe) as trace:
            assert np.isfinite(draw(pipe)).all()
        assert trace.heatmap("red", stream="edited").share == 0

    def test_guidance_off_and_several_images(self, pipe: Any, draw: Draw) -> None:
        seen = Seen()
        with tx.edit(pipe, seen):
            draw(pipe, PROMPTS, guidance_scale=1.0, num_images_per_prompt=2)
        assert seen.shapes[0][0] == 4
        assert [len(words) for words in seen.contexts[0].words] == [3] * 4

    def test_two_pipelines_that_share_a_unet(self, pipe: Any) -> None:
        other = of_class("StableDiffusionPipeline", pipe)
        plain = runner(other, prompt="blue")()
        with tx.edit(pipe, tx.Drop("red")), tx.edit(other, same):
            assert runner(other, prompt="blue")().tobytes() == plain.tobytes()


@torch.no_grad()
def graphs_of_a_layer(*edits: tx.Edit) -> int:
    """How many a compiled layer has after two runs of three steps, each like the plain layer."""
    layer, _ = make_call(CASES["cross"])
    picture = torch.randn(2, 16, layer.query_dim)
    text = torch.randn(2, 77, layer.to_k.in_features)
    wrapper = layer.processor = EditingProcessor.around(layer.processor)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    site = tx.AttentionSite("attn2", "cross", "mid", 1, layer.heads)
    schedule = EditSchedule([(each, [site]) for each in edits])
    shape = CallShape(2, (8, 8), {"text": 77})
    tokenizer = make_tokenizer()
    for _ in range(2):
        schedule.reset()
        words = tuple(split_words(tokenizer, prompt) for prompt in PROMPTS)
        ids = tuple(token_ids(tokenizer, prompt) for prompt in PROMPTS)
        schedule.begin_run(shape, words, ids, 3)
        for step in range(3):
            branches = {"conditional": slice(0, 2)}
            targets = schedule.begin_call(
                shape, branches, torch.tensor(900 - step), torch.device("cpu")
            )
            wrapper.targets = targets["attn2"]
            out = compiled(picture, text)
            schedule.end_call()
            assert torch.allclose(out, layer(picture, text), atol=1e-5)
    return int(counter.frame_count)


class TestMistakes:
    @pytest.mark.parametrize("wrong", [math.nan, math.inf])
    def test_numbers_that_are_not_finite(self, pipe: Any, draw: Draw, wrong: float) -> None:
        def divides_by_nothing(probs: Tensor, context: tx.EditContext) -> Tensor:
            return probs * wrong

        before = state_of(pipe)
        site = tx.find_sites(pipe.unet)[3].name
        edit = tx.EditFunction(divides_by_nothing, sites=[site])
        with (
            pytest.raises(UserError, match=f"divides_by_nothing to return finite .* at {site}"),
            tx.edit(pipe, same, edit),
        ):
            draw(pipe)
        assert state_of(pipe)["processors"] == before["processors"]

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
            (tx.Reweight("green", 2.0), "'green' is not in the prompt"),
            (tx.Reweight("rde", 2.0), "did you mean 'red'"),
            (tx.Drop("red", images=[1]), "expected images from 0 to 0 for Drop, but came 1"),
            (tx.Drop("red", steps=(5, 9)), "holds one of 2 for Drop"),
            (tx.Drop("red", branches="unconditional"), "whose prompt is another one"),
            (tx.Drop("red", branches="image"), "the branch 'image' for Drop"),
            (tx.TopK(3, words=["green"]), "'green' is not in the prompt"),
            (tx.Replace(), r"a source and other images in one batch for Replace, but came 1"),
            (tx.Restrict("red", np.ones((8, 16))), "picture's aspect, 8:8"),
            (tx.InjectMap("red", np.ones((16, 8))), "picture's aspect, 8:8"),
            (tx.SwapMaps("red", "red circle"), "have columns in common"),
        ],
    )
    def test_before_the_first_step(self, pipe: Any, draw: Draw, edit: Any, match: str) -> None:
        def must_not_run(*_: Any) -> None:
            raise AssertionError

        pipe.unet.conv_in.register_forward_pre_hook(must_not_run)
        with pytest.raises(UserError, match=match), tx.edit(pipe, edit):
            draw(pipe, height=64, width=64)

    def test_a_word_beyond_the_window(self, pipe: Any, draw: Draw) -> None:
        with pytest.raises(UserError, match="beyond the window"), tx.edit(pipe, tx.Drop("red")):
            draw(pipe, "a " * 80 + "red")

    def test_a_word_in_only_one_prompt(self, pipe: Any, draw: Draw) -> None:
        match = r"'red' is not in the prompt.*\(in image 1 of the batch; images=\[…\]"
        with pytest.raises(UserError, match=match), tx.edit(pipe, tx.Drop("red")):
            draw(pipe, PROMPTS)

    def test_a_call_of_another_shape(self, pipe: Any) -> None:
        text, match = torch.randn(1, 77, 32), "every UNet call of a run to be like the first"
        with torch.no_grad(), tx.edit(pipe, same):
            pipe.unet(torch.randn(1, 4, 8, 8), 1, text)
            with pytest.raises(UserError, match=match):
                pipe.unet(torch.randn(1, 4, 16, 16), 1, text)

    def test_arguments(self, pipe: Any) -> None:
        before = state_of(pipe)
        for wrong, match in [
            ((), "at least one edit"),
            ((3,), "but came 3"),
            ((tx.MaskPadding,), "the class MaskPadding; call it first"),
            ((tx.Drop("red", sites=["mid"]),), "the name of a site"),
        ]:
            with pytest.raises(UserError, match=match), tx.edit(pipe, *wrong):
                pass
        with pytest.raises(UserError, match="with a `unet`"), tx.edit(object(), same):
            pass
        assert state_of(pipe) == before
