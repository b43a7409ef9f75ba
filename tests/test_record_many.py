"""`record_many`: each picture and trace as if its prompt were alone, whatever the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from conftest import make_pipeline, state_of

PROMPTS = ["a red circle", "blue", "left of a blue circle, red", "a red circle left of blue"]
OPTIONS: dict[str, Any] = {"num_inference_steps": 2, "height": 64, "width": 64}


def alone(pipe: Any, prompt: str, seed: int, **more: Any) -> tuple[Any, tx.Trace]:
    generator = torch.Generator().manual_seed(seed)
    with tx.record(pipe, walk=1) as trace:
        picture = pipe(prompt, generator=generator, **OPTIONS, **more).images[0]
    return picture, trace


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_one_by_one_it_is_what_record_gives(guidance_scale: float) -> None:
    pipe = make_pipeline()
    more: dict[str, Any] = {"guidance_scale": guidance_scale}
    found = list(tx.record_many(pipe, PROMPTS, seeds=3, walk=1, **OPTIONS, **more))
    assert len(found) == len(PROMPTS)
    for number, (picture, trace) in enumerate(found):
        expected, maps = alone(pipe, PROMPTS[number], 3 + number, **more)
        assert picture.tobytes() == expected.tobytes()
        for stream in ("text", "walked"):
            arrays = trace.to_numpy(stream)
            for site, array in maps.to_numpy(stream).items():
                np.testing.assert_array_equal(arrays[site], array)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_prompts_in_a_batch_keep_their_words_and_maps(size: int) -> None:
    pipe = make_pipeline()
    seeds = [7, 1, 4, 4]
    found = list(
        tx.record_many(pipe, iter(PROMPTS), seeds=iter(seeds), batch_size=size, walk=1, **OPTIONS)
    )
    for prompt, seed, (picture, trace) in zip(PROMPTS, seeds, found, strict=True):
        expected, maps = alone(pipe, prompt, seed)
        assert np.abs(np.asarray(picture, float) - np.asarray(expected, float)).max() <= 1
        assert trace.prompts == (prompt,)
        assert trace.words == maps.words
        for word in trace.words:
            heat = maps.heatmap(word.text).array
            np.testing.assert_allclose(trace.heatmap(word.text).array, heat, atol=1e-5)


@pytest.mark.slow
def test_a_negative_prompt_for_each_or_for_all() -> None:
    pipe = make_pipeline()
    negatives = ["blue", "", "left", "red"]
    for given, each in ((negatives, negatives), ("left", ["left"] * 4)):
        found = tx.record_many(pipe, PROMPTS, negative_prompt=given, **OPTIONS)
        for number, (picture, _) in enumerate(found):
            expected, _ = alone(pipe, PROMPTS[number], number, negative_prompt=each[number])
            assert picture.tobytes() == expected.tobytes()


def test_prompts_are_taken_as_they_are_needed() -> None:
    taken = []

    def prompts() -> Iterator[str]:
        for number in range(100):
            taken.append(number)
            yield f"red {number}"

    found = tx.record_many(make_pipeline(), prompts(), batch_size=2, **OPTIONS)
    assert taken == []
    for _ in range(3):
        next(found)
    assert len(taken) == 4


def test_words_are_kept_alone() -> None:
    prompts = ["a red circle", "circle of blue"]
    found = tx.record_many(make_pipeline(), prompts, words=["circle"], batch_size=2, **OPTIONS)
    for _, trace in found:
        assert all(array.shape[-1] == 1 for array in trace.to_numpy().values())
        assert trace.heatmap("circle").share > 0


def of_torch() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def of_cpu() -> Exception:
    return RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")


class Room:
    """A UNet with memory for so many rows."""

    def __init__(self, pipe: Any, rows: int, error: Callable[[], Exception]) -> None:
        self.rows, self.error = rows, error
        self.tried: list[int] = []
        pipe.unet.register_forward_pre_hook(self)

    def __call__(self, module: Any, inputs: tuple[Any, ...]) -> None:
        rows = len(inputs[0])
        if rows > self.rows:
            self.tried.append(rows)
            raise self.error()


@pytest.mark.slow
@pytest.mark.parametrize("error", [of_torch, of_cpu])
def test_a_batch_without_memory_is_halved(error: Callable[[], Exception]) -> None:
    pipe = make_pipeline()
    prompts = [f"red {number}" for number in range(11)]
    pipe("red", **OPTIONS)
    before = state_of(pipe)
    room = Room(pipe, 2, error)
    found = list(tx.record_many(pipe, prompts, batch_size=8, guidance_scale=1.0, **OPTIONS))
    assert room.tried == [8, 4]  # and no batch after them
    assert state_of(pipe)["repr"] == before["repr"]
    assert [trace.prompts for _, trace in found] == [(prompt,) for prompt in prompts]
    plain = make_pipeline()
    for number, (picture, _) in enumerate(found):
        expected, _ = alone(plain, prompts[number], number, guidance_scale=1.0)
        assert np.abs(np.asarray(picture, float) - np.asarray(expected, float)).max() <= 1


@pytest.mark.slow
def test_no_memory_for_one_picture_is_told_as_it_is() -> None:
    pipe = make_pipeline()
    room = Room(pipe, 0, of_torch)
    with pytest.raises(torch.OutOfMemoryError):
        list(tx.record_many(pipe, PROMPTS, batch_size=4, guidance_scale=1.0, **OPTIONS))
    assert room.tried == [4, 2, 1]


def test_another_error_is_no_lack_of_memory() -> None:
    pipe = make_pipeline()
    room = Room(pipe, 0, lambda: RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(tx.record_many(pipe, PROMPTS, batch_size=4, guidance_scale=1.0, **OPTIONS))
    assert room.tried == [4]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"prompts": "red"}, "a list of prompts, but came one text; give \\['red'\\]"),
        ({"prompts": ["red", 3]}, "texts as prompts, but came 3"),
        ({"batch_size": 0}, "batch size of at least 1, but came 0"),
        ({"batch_size": 1.5}, "a whole number as batch_size of record_many"),
        ({"seeds": [1]}, "as many seeds as prompts, but they end before 'blue'"),
        ({"negative_prompt": ["x"]}, "as many negative_prompt as prompts"),
        ({"negative_prompt": ["x", None], "batch_size": 2}, "for every prompt or for none"),
        ({"generator": None}, "seeds=… instead of generator"),
        ({"num_images_per_prompt": 2}, "instead of num_images_per_prompt"),
        ({"words": ["green"]}, "'green' is not in the prompt"),
    ],
)
def test_mistakes(arguments: dict[str, Any], sentence: str) -> None:
    prompts = arguments.pop("prompts", ["red", "blue"])
    with pytest.raises(tx.UserError, match=sentence):
        list(tx.record_many(make_pipeline(), prompts, **OPTIONS, **arguments))
