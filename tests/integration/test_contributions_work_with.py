"""Contributions of words beside what else changes a run: the picture stays the same to the byte,
the pipeline is left as it was found, and the maps are those of the plain circumstance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_works_with import WORKS_WITH

from conftest import make_pipeline, state_of
from t2i_xattn.recording.record import record
from t2i_xattn.traces.trace import Trace
from tiny_pipelines import OFFLOADS, add_lora, generator, make_animatediff, offload, runner

NAMES = [
    "prompts in a batch, several images each",
    "not square",
    "img2img",
    "ControlNet",
    "InstructPix2Pix",
    "perturbed-attention guidance",
    "SDXL",
    "SDXL refiner",
    "LoRA",
    "IP-Adapter",
    "bfloat16",
    "layerwise casting to float8",
    pytest.param("torch.compile(unet)", marks=pytest.mark.slow),
]


def recorded(pipe: Any, draw: Any) -> Trace:
    plain = draw()
    before = state_of(pipe)
    with record(pipe, walk=1, contributions=True) as trace:
        assert draw().tobytes() == plain.tobytes()
    assert state_of(pipe) == before
    return trace


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes(name: str) -> None:
    trace = recorded(*WORKS_WITH[name]())
    heat = trace.heatmap("red")
    carried = trace.heatmap("red", stream="carried contribution").array
    assert heat.array.shape == trace.picture_size
    assert heat.array.min() >= 0
    assert carried.max() > carried.min() >= 0


@pytest.mark.slow
@pytest.mark.parametrize("how", OFFLOADS)
def test_offloaded_weights_count_as_ever(how: str) -> None:
    traces = []
    for offloaded in (True, False):
        pipe = make_pipeline()
        add_lora(pipe)
        if offloaded:
            offload(pipe, how)
        traces.append(recorded(pipe, runner(pipe)))
    found, expected = (trace.heatmap("red").array for trace in traces)
    assert found == pytest.approx(expected, abs=1e-6)


def test_frames_of_a_video_have_their_own() -> None:
    pipe = make_animatediff()

    def draw() -> Any:
        settings = {"num_frames": 2, "num_inference_steps": 2, "output_type": "np"}
        return np.asarray(pipe("a red circle", generator=generator(), **settings).frames)

    draw()
    trace = recorded(pipe, draw)
    first, second = (trace.heatmap("red", frame=frame).array for frame in (0, 1))
    assert not np.allclose(first, second)
