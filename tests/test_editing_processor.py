from __future__ import annotations

import doctest
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from t2i_xattn import processors
from t2i_xattn.errors import UserError
from t2i_xattn.kernel import attention
from t2i_xattn.processors import EditingProcessor, attention_forward
from test_interception import (
    ADDED_FAST,
    ALL_CASES,
    CASES,
    FAST,
    HEADS,
    QUERIES,
    TOKENS,
    close,
    make_call,
    make_mask,
)
from test_recording_processor import FUSED, in_fp64
from tiny_pipelines import add_lora

Draw = Callable[..., np.ndarray]


def same(probs: Tensor, attn: Any) -> Tensor:
    return probs


def double(probs: Tensor, attn: Any) -> Tensor:
    """The column 3 twice, the row's sum as before."""
    probs = probs.clone()
    probs[..., 3] *= 2
    return probs / probs.sum(-1, keepdim=True)


def set_at_cross(pipe: Any, processor: Any) -> None:
    processors = {
        name: processor if name.endswith("attn2.processor") else each
        for name, each in pipe.unet.attn_processors.items()
    }
    pipe.unet.set_attn_processor(processors)


class TestWhatIsNotEditedKeepsItsBytes:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("name", sorted(FUSED))
    @torch.no_grad()
    def test_where_nothing_changes(self, name: str, dtype: torch.dtype) -> None:
        layer, call = make_call(ALL_CASES[name], dtype)
        expected = (FAST if name in CASES else ADDED_FAST)(layer, **call)
        back = (lambda probs, _: probs * 2, lambda probs, _: probs / 2)
        for functions in [(), (same,), back]:
            for rows in [None, slice(1, None)]:
                out = EditingProcessor(*functions, rows=rows)(layer, **call)
                assert torch.equal(out, expected)

    @torch.no_grad()
    def test_other_rows_and_other_queries(self) -> None:
        layer, call = make_call(CASES["cross"])
        plain = FAST(layer, **call)

        def first_query(probs: Tensor, attn: Any) -> Tensor:
            probs[:, :, 0] = probs[:, :, 0].flip(-1)  # in place
            return probs

        out = EditingProcessor(first_query, rows=slice(1, None))(layer, **call)
        assert torch.equal(out[0], plain[0])
        assert torch.equal(out[1, 1:], plain[1, 1:])
        assert not torch.allclose(out[1, 0], plain[1, 0], atol=1e-3)
        fewer = EditingProcessor(double, rows=slice(0, None, 2))(layer, **call)
        assert torch.equal(fewer[1], plain[1])
        assert not torch.allclose(fewer[0], plain[0], atol=1e-3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
    def test_signs_of_zeros_and_gradients_too(self, dtype: torch.dtype) -> None:
        taken = torch.tensor([-0.0, 0.0, 1e-40, -3.3, float("inf")], dtype=dtype)
        change = torch.tensor([0.0, -0.0, 0.0, 0.0, 0.0], requires_grad=True)
        out = attention.plus(taken, change)
        assert out.dtype == dtype
        assert torch.equal(out.signbit(), taken.signbit())
        assert torch.equal(out, taken)
        out.sum().backward()
        assert change.grad is not None
        assert torch.equal(change.grad, torch.ones(5))


class TestWhatIsEdited:
    @pytest.mark.parametrize("name", sorted(FUSED))
    @torch.no_grad()
    def test_equals_an_interception(self, name: str) -> None:
        layer, call = make_call(ALL_CASES[name])
        expected = attention_forward(layer, **call, intercept=lambda probs: double(probs, layer))
        close(EditingProcessor(double)(layer, **call), expected)
        plain = attention_forward(layer, **call)
        out = EditingProcessor(double, rows=slice(1))(layer, **call)
        close(out[0], expected[0])
        assert torch.equal(out[1], plain[1])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @torch.no_grad()
    def test_equals_an_fp64_softmax(self, dtype: torch.dtype) -> None:
        layer, call = make_call(CASES["cross"], dtype)
        mask = make_mask((2, 1, TOKENS)).to(dtype)
        probs = double(in_fp64(layer, call, mask[:, None]), layer)
        text, out = call["encoder_hidden_states"].double(), layer.to_out[0]
        value = (text @ layer.to_v.weight.double().T).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        taken = (probs @ value).transpose(1, 2).flatten(2)
        expected = taken @ out.weight.double().T + out.bias.double()
        edited = EditingProcessor(double)(layer, **call, attention_mask=mask)
        tolerance = 1e-5 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(edited.double(), expected, atol=tolerance, rtol=tolerance)

    @torch.no_grad()
    def test_functions_are_applied_in_order_to_the_rows_in_fp32(self) -> None:
        layer, call = make_call(CASES["cross"], torch.bfloat16)
        seen: list[Any] = []

        def look(probs: Tensor, attn: Any) -> Tensor:
            seen.append((probs.shape, probs.dtype, attn, probs.sum().item()))
            return probs * 3

        EditingProcessor(look, look, rows=slice(1, None))(layer, **call)
        (shape, dtype, attn, total), second = seen
        assert shape == (1, HEADS, QUERIES, TOKENS)
        assert (dtype, attn) == (torch.float32, layer)
        assert total == pytest.approx(HEADS * QUERIES)
        assert second[-1] == pytest.approx(3 * total)

    @pytest.mark.parametrize("hidden", [True, float("-inf")])
    @torch.no_grad()
    def test_a_query_whose_tokens_are_all_masked_takes_nothing(self, hidden: bool | float) -> None:
        layer, call = make_call(CASES["cross"])
        mask = torch.zeros(2, 1, TOKENS)
        mask[1] = float("-inf")
        call["attention_mask"] = mask == 0 if hidden is True else mask
        out = EditingProcessor(lambda probs, _: probs * 2)(layer, **call)
        close(out[1], layer.to_out[0].bias.expand_as(out[1]))

    def test_gradients_are_those_of_an_interception(self) -> None:
        """At a gain of 1 too, where nothing changes."""
        layer, call = make_call(CASES["residual and rescale"])
        gradients = []
        for edited in (True, False):
            gain = torch.ones(QUERIES, requires_grad=True)
            layer.zero_grad()
            if edited:
                function = partial(lambda probs, attn, gain: probs * gain, gain=gain)
                out = EditingProcessor(function, rows=slice(0, 2))(layer, **call)
            else:
                out = attention_forward(layer, **call, intercept=partial(torch.mul, gain))
            out.square().sum().backward()
            gradients.append([gain.grad, *(each.grad.clone() for each in layer.parameters())])
        for ours, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-4)
        assert gradients[0][0].any()

    @pytest.mark.parametrize("name", ["cross", "spatial norm, self", "added"])
    @torch.no_grad()
    def test_one_graph_when_compiled(self, name: str) -> None:
        torch.compiler.reset()
        layer, call = make_call(ALL_CASES[name])
        for rows in (None, slice(1, None)):
            processor = EditingProcessor(double, rows=rows)
            layer.set_processor(processor)
            compiled = torch.compile(layer, fullgraph=True, backend="eager")
            close(compiled(**call), processor(layer, **call))


class TestMistakes:
    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda probs, _: probs.mean(1), r"`<lambda>` to return .*\(1, 4, 8, 5\).*\(1, 8, 5\)"),
            (lambda probs, _: None, r"`<lambda>` to return .* but came NoneType"),
            (lambda probs, _: probs / 0, "to return finite probs, but came 0 NaN and 160 infinite"),
        ],
    )
    @torch.no_grad()
    def test_what_a_function_may_not_return(self, function: Any, message: str) -> None:
        layer, call = make_call(CASES["cross"])
        with pytest.raises(UserError, match=message):
            EditingProcessor(same, function, rows=slice(1, None))(layer, **call)

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (3, "but came 3; write"),
            (lambda probs: probs, "`<lambda>`, which cannot be called with these two"),
            (dict, "the class dict"),
        ],
    )
    def test_what_is_no_function(self, function: Any, message: str) -> None:
        with pytest.raises(UserError, match=rf"expected functions \(probs, attn\) .*{message}"):
            EditingProcessor(function)

    @pytest.mark.parametrize("rows", [1, [0], slice("a"), slice(0, 2, 0), slice(None, None, -1)])
    def test_rows_that_are_no_slice(self, rows: Any) -> None:
        with pytest.raises(UserError, match=r"slice of the batch .* slice\(1, None\), but came"):
            EditingProcessor(same, rows=rows)

    @torch.no_grad()
    def test_rows_that_the_batch_does_not_have(self) -> None:
        layer, call = make_call(CASES["cross"])
        with pytest.raises(UserError, match=r"rows=slice\(2, None\) to choose .* it has 2"):
            EditingProcessor(same, rows=slice(2, None))(layer, **call)

    def test_its_repr_tells(self) -> None:
        assert repr(EditingProcessor()) == "EditingProcessor(rows=None)"
        made = EditingProcessor(same, double, rows=slice(1, None))
        assert repr(made) == "EditingProcessor(same, double, rows=slice(1, None))"


class TestInAPipeline:
    @pytest.mark.parametrize("lora", [False, True])
    def test_the_same_bytes_and_others(self, pipe: Any, draw: Draw, lora: bool) -> None:
        if lora:
            add_lora(pipe)
        plain = draw(pipe)
        set_at_cross(pipe, EditingProcessor(same, rows=slice(1, None)))
        assert draw(pipe).tobytes() == plain.tobytes()
        set_at_cross(pipe, EditingProcessor(double))
        everywhere = draw(pipe)
        set_at_cross(pipe, EditingProcessor(double, rows=slice(1, None)))
        conditional = draw(pipe)
        assert not np.allclose(conditional, plain, atol=1e-4)
        assert not np.allclose(conditional, everywhere, atol=1e-5)

    def test_a_run_without_guidance_is_told(self, pipe: Any, draw: Draw) -> None:
        set_at_cross(pipe, EditingProcessor(same, rows=slice(1, None)))
        with pytest.raises(UserError, match="without guidance there is no unconditional half"):
            draw(pipe, guidance_scale=1)

    def test_the_example(self, pipe: Any, draw: Draw) -> None:
        before = draw(pipe)
        names = {"pipe": partial(pipe, num_inference_steps=1), **vars(processors)}
        names["pipe"].unet = pipe.unet
        finder = doctest.DocTestFinder(recurse=False)
        (example,) = finder.find(EditingProcessor, "example", globs=names)
        assert doctest.DocTestRunner().run(example) == doctest.TestResults(0, 4)
        assert not np.allclose(draw(pipe), before, atol=1e-4)
