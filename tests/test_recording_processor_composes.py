from __future__ import annotations

import copy
import doctest
import gc
import pickle
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from swapping import make_small_unet
from t2i_xattn.errors import UserError
from t2i_xattn.processors import RecordingProcessor, recording
from test_interception import (
    ADDED_FAST,
    ALL_CASES,
    CASES,
    FAST,
    QUERIES,
    TOKENS,
    make_call,
    make_layer,
)
from tiny_pipelines import add_lora

Draw = Callable[..., np.ndarray]
FUSED = {name for name, case in ALL_CASES.items() if {FAST, ADDED_FAST} & set(case.stock)}


def set_at_cross(pipe: Any, **options: Any) -> dict[str, RecordingProcessor]:
    """A recorder for each cross-attention, set as a user does."""
    names = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    recorders = {name: RecordingProcessor(**options) for name in names}
    pipe.unet.set_attn_processor(pipe.unet.attn_processors | recorders)
    return recorders


class TestCompiled:
    @pytest.mark.parametrize("name", ["cross", "spatial norm, self", "added"])
    @torch.no_grad()
    def test_a_layer(self, name: str) -> None:
        """The first call makes the tensor, all others add to it: two graphs."""
        torch.compiler.reset()
        layer, call = make_call(ALL_CASES[name])
        plain = RecordingProcessor()
        plain(layer, **call)
        expected = plain(layer, **call)
        counter = CompileCounter()
        recorder = RecordingProcessor()
        layer.set_processor(recorder)
        compiled = torch.compile(layer, fullgraph=True, backend=counter)
        for _ in range(4):
            torch.testing.assert_close(compiled(**call), expected)
        assert counter.frame_count == 2
        assert recorder.calls == 4
        torch.testing.assert_close(recorder.probs, plain.probs)
        recorder.reset()
        with torch.inference_mode():
            compiled(**call)
        compiled(**call)
        assert recorder.calls == 2

    @torch.no_grad()
    def test_a_unet_compiled_before_and_after(self) -> None:
        torch.compiler.reset()
        inputs = torch.randn(2, 4, 8, 8), 1, torch.randn(2, TOKENS, 32)
        unet = make_small_unet()
        compiled = torch.compile(unet, fullgraph=True, backend="eager")
        plain = compiled(*inputs).sample
        names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
        recorders = {name: RecordingProcessor() for name in names}
        unet.set_attn_processor(unet.attn_processors | recorders)
        for _ in range(3):
            assert torch.equal(compiled(*inputs).sample, plain)
        assert {each.calls for each in recorders.values()} == {3}

    @torch.no_grad()
    def test_a_second_layer_is_told(self) -> None:
        torch.compiler.reset()
        layers = [make_layer(), make_layer()]
        _, call = make_call(CASES["cross"])
        for layer in layers:
            layer.set_processor(RecordingProcessor())

        def run() -> list[Tensor]:
            return [layer(**call) for layer in layers]

        compiled = torch.compile(run, backend="eager", fullgraph=True)
        compiled()
        layers[1].set_processor(layers[0].processor)
        with pytest.raises(torch._dynamo.exc.Unsupported, match="expected one RecordingProcessor"):
            compiled()
        with pytest.raises(UserError, match="expected one RecordingProcessor"):
            torch.compile(run, backend="eager")()


class TestInAPipeline:
    @pytest.mark.parametrize("lora", [False, True])
    def test_the_same_bytes(self, pipe: Any, draw: Draw, lora: bool) -> None:
        plain = draw(pipe)
        if lora:
            add_lora(pipe)
            assert draw(pipe).tobytes() != plain.tobytes()
            plain = draw(pipe)
        recorders = set_at_cross(pipe)
        assert draw(pipe).tobytes() == plain.tobytes()
        for recorder in recorders.values():
            assert recorder.calls == 2
            assert recorder.probs.shape[::2] == (2, 77)
            torch.testing.assert_close(recorder.probs.sum(-1), torch.ones(recorder.probs.shape[:2]))

    def test_lora_is_in_the_probs(self, pipe: Any, draw: Draw) -> None:
        add_lora(pipe)
        recorder = next(iter(set_at_cross(pipe).values()))
        draw(pipe, num_inference_steps=1)
        pipe.unet.disable_adapters()
        with_lora = recorder.probs
        recorder.reset()
        draw(pipe, num_inference_steps=1)
        assert not torch.allclose(recorder.probs, with_lora, atol=1e-3)

    def test_half_precision(self, pipe: Any, draw: Draw) -> None:
        pipe.to(torch.bfloat16)
        plain = draw(pipe)
        recorders = set_at_cross(pipe)
        assert draw(pipe).tobytes() == plain.tobytes()
        assert {each.probs.dtype for each in recorders.values()} == {torch.float32}

    def test_another_batch_is_told(self, pipe: Any, draw: Draw) -> None:
        recorders = set_at_cross(pipe)
        draw(pipe)
        with pytest.raises(UserError, match=r"came \(1, 64, 77\)"):
            draw(pipe, guidance_scale=1)
        for each in recorders.values():
            each.reset()
        draw(pipe, guidance_scale=1)

    def test_a_copied_unet_has_recorders_of_its_own(self, pipe: Any, draw: Draw) -> None:
        name, recorder = next(iter(set_at_cross(pipe).items()))
        draw(pipe)
        copied = pipe.unet, copy.deepcopy(pipe.unet)
        pipe.unet = copied[1]
        assert pipe.unet.attn_processors[name] is not recorder
        draw(pipe)
        assert recorder.calls == 2
        assert pipe.unet.attn_processors[name].calls == 4
        pipe.unet = copied[0]
        draw(pipe)
        assert recorder.calls == 4
        assert torch.equal(pickle.loads(pickle.dumps(recorder)).probs, recorder.probs)

    def test_what_is_kept_does_not_keep_the_model(self) -> None:
        layer, call = make_call(CASES["cross"])
        recorder = RecordingProcessor()
        layer.set_processor(recorder)
        layer(**call)
        gone = weakref.ref(layer)
        del layer
        gc.collect()
        assert gone() is None
        assert recorder.probs.shape == (2, QUERIES, TOKENS)

    def test_the_example(self, pipe: Any) -> None:
        names = {"pipe": partial(pipe, num_inference_steps=1), **vars(recording)}
        names["pipe"].unet = pipe.unet
        finder = doctest.DocTestFinder(recurse=False)
        (example,) = finder.find(RecordingProcessor, "example", globs=names)
        assert doctest.DocTestRunner().run(example) == doctest.TestResults(0, 5)
