from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from t2i_xattn.errors import UserError
from t2i_xattn.processors import RecordingProcessor
from test_interception import (
    ADDED_FAST,
    ALL_CASES,
    CASES,
    FAST,
    HEADS,
    QUERIES,
    TEXT_WIDTH,
    TOKENS,
    WIDTH,
    make_call,
    make_layer,
    make_mask,
)

Draw = Callable[..., np.ndarray]
FUSED = {name for name, case in ALL_CASES.items() if {FAST, ADDED_FAST} & set(case.stock)}


def in_fp64(layer: Any, call: dict[str, Any], mask: Tensor | None = None) -> Tensor:
    """softmax(Q Kᵀ / √d + mask) of a layer without norms, `(batch, heads, queries, tokens)`."""
    picture, text = call["hidden_states"].double(), call["encoder_hidden_states"].double()
    query = (picture @ layer.to_q.weight.double().T).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    key = (text @ layer.to_k.weight.double().T).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores if mask is None else scores + mask.double()
    shares = (scores - scores.amax(-1, keepdim=True)).exp()
    return shares / shares.sum(-1, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(FUSED))
@torch.no_grad()
def test_the_output_is_diffusers_to_the_byte(name: str, dtype: torch.dtype) -> None:
    layer, call = make_call(ALL_CASES[name], dtype)
    stock = FAST if name in CASES else ADDED_FAST
    recorder = RecordingProcessor()
    assert torch.equal(recorder(layer, **call), stock(layer, **call))
    assert recorder.probs.dtype == torch.float32
    assert recorder.probs.shape[:2] == (2, QUERIES)
    torch.testing.assert_close(recorder.probs.sum(-1), torch.ones(2, QUERIES))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_the_probs_are_those_of_an_fp64_softmax(dtype: torch.dtype, masked: bool) -> None:
    layer, call = make_call(CASES["cross"], dtype)
    mask = make_mask((2, 1, TOKENS)).to(dtype) if masked else None
    mean, each = RecordingProcessor(), RecordingProcessor(heads="each")
    for recorder in (mean, each):
        recorder(layer, **call, attention_mask=mask)
    expected = in_fp64(layer, call, None if mask is None else mask[:, None])
    # In bf16 the queries and keys themselves are rounded.
    near = partial(
        torch.testing.assert_close, rtol=0, atol=1e-6 if dtype == torch.float32 else 0.02
    )
    near(each.probs.double(), expected)
    near(mean.probs.double(), expected.mean(1))
    assert each.probs.shape == (2, HEADS, QUERIES, TOKENS)


@torch.no_grad()
def test_calls_are_averaged_into_one_tensor() -> None:
    layer, call = make_call(CASES["cross"])
    other = call | {"hidden_states": torch.randn(2, QUERIES, WIDTH)}
    recorder = RecordingProcessor()
    assert recorder.calls == 0
    recorder(layer, **call)
    total = recorder._total
    for _ in range(3):
        recorder(layer, **other)
    expected = (in_fp64(layer, call) + 3 * in_fp64(layer, other)).mean(1) / 4
    torch.testing.assert_close(recorder.probs.double(), expected, atol=1e-6, rtol=1e-5)
    assert recorder.calls == 4
    assert recorder._total is total  # added to in place
    read = recorder.probs
    read.zero_()
    assert recorder.probs.any()


@torch.no_grad()
def test_reset_forgets_all() -> None:
    layer, call = make_call(CASES["cross"])
    recorder = RecordingProcessor()
    recorder(layer, **call)
    recorder.reset()
    assert recorder.calls == 0
    other = make_layer(heads=2, dim_head=16)
    recorder(other, torch.randn(1, 3, WIDTH), torch.randn(1, TOKENS, TEXT_WIDTH))
    assert recorder.probs.shape == (1, 3, TOKENS)
    assert recorder.calls == 1


@torch.no_grad()
def test_mistakes_are_told() -> None:
    layer, call = make_call(CASES["cross"])
    recorder = RecordingProcessor()
    with pytest.raises(UserError, match=r"expected a call to read .* has had none; set it"):
        _ = recorder.probs
    recorder(layer, **call)
    fewer = {name: tensor[:1] for name, tensor in call.items()}
    with pytest.raises(UserError, match=r"\(2, 8, 5\) \(batch, queries, .*came \(1, 8, 5\); read"):
        recorder(layer, **fewer)
    with pytest.raises(UserError, match=r"one RecordingProcessor for each layer, .* second layer"):
        recorder(make_layer(), **call)
    assert recorder.calls == 1
    with pytest.raises(UserError, match=r'expected heads="mean" or "each", but came .sum.'):
        RecordingProcessor(heads="sum")  # type: ignore[arg-type]
    each = RecordingProcessor(heads="each")
    each(layer, **call)
    with pytest.raises(UserError, match=r"\(2, 4, 8, 5\) \(batch, heads, queries, tokens\)"):
        each(layer, **fewer)


def test_one_set_at_all_layers_is_told(pipe: Any, draw: Draw) -> None:
    pipe.unet.set_attn_processor(RecordingProcessor())
    with pytest.raises(UserError, match="make one for each"):
        draw(pipe)


@torch.no_grad()
def test_its_repr_tells() -> None:
    layer, call = make_call(CASES["cross"])
    recorder = RecordingProcessor(heads="each")
    assert repr(recorder) == "RecordingProcessor(heads='each', no calls yet)"
    recorder(layer, **call)
    assert repr(recorder) == "RecordingProcessor(heads='each', calls=1, probs=(2, 4, 8, 5))"


def test_every_mode_of_autograd_in_any_order() -> None:
    layer, call = make_call(CASES["cross"])
    contexts = [torch.inference_mode, torch.no_grad, torch.enable_grad]
    for first in contexts:
        recorder = RecordingProcessor()
        for context in [first, *contexts]:
            with context():
                recorder(layer, **call)
        assert recorder.calls == 4
        assert not recorder.probs.requires_grad
        torch.testing.assert_close(recorder.probs.double(), in_fp64(layer, call).mean(1).detach())


def test_gradients_are_those_of_diffusers() -> None:
    layer, call = make_call(CASES["residual and rescale"])
    gradients = []
    recorder = RecordingProcessor()
    for processor in (FAST, recorder):
        layer.zero_grad()
        processor(layer, **call).square().sum().backward()
        gradients.append([each.grad.clone() for each in layer.parameters()])
    assert all(map(torch.equal, *gradients))
    assert recorder.probs.grad_fn is None


@torch.no_grad()
def test_the_fused_kernel_is_the_one_that_is_used() -> None:
    """With no other kernel allowed; an explicit softmax as the output would go unnoticed."""
    layer, call = make_call(CASES["cross"])
    seen: list[tuple[Any, ...]] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is kernel:
                seen.append(args)
            return func(*args, **(kwargs or {}))

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), Watch():
        RecordingProcessor()(layer, **call)
    assert len(seen) == 1


@torch.no_grad()
def test_what_intercepts_is_recorded_as_it_goes_on() -> None:
    layer, call = make_call(CASES["cross"])

    class Doubling(RecordingProcessor):
        def intercept(self, probs: Tensor, attn: Any) -> Tensor:
            return probs * 2

    plain = RecordingProcessor()
    plain(layer, **call)
    for doubling in (RecordingProcessor(lambda probs: probs * 2), Doubling()):
        assert not torch.allclose(doubling(layer, **call), FAST(layer, **call))
        assert torch.equal(doubling.probs, plain.probs * 2)
    with pytest.raises(UserError, match="to return probs of shape"):
        RecordingProcessor(lambda probs: probs.mean(1))(layer, **call)
