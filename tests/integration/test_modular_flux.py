"""FLUX of Modular Diffusers, whose blocks encode the prompt without an `encode_prompt`."""

from __future__ import annotations

import importlib
from typing import Any

import diffusers
import numpy as np
import torch

import t2i_xattn as tx
from t2i_xattn import edits
from tiny.case import PROMPT, Case
from tiny.oracle import Oracle, expected_maps


def case() -> Case:
    cases: Any = importlib.import_module("tiny.text_first").CASES
    (found,) = [each for each in cases if each.name == "FluxPipeline"]
    return found


def modular() -> Any:
    parts = case().make().components
    pipe = diffusers.FluxAutoBlocks().init_pipeline()
    pipe.update_components(
        **{name: part for name, part in parts.items() if name in pipe._component_specs and part}
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any) -> Any:
    images = pipe(
        prompt=PROMPT,
        num_inference_steps=2,
        height=case().options["height"],
        width=case().options["width"],
        max_sequence_length=32,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        output="images",
    )
    return np.asarray(images)


def test_maps_are_the_oracle_s() -> None:
    pipe = modular()
    plain = draw(pipe)
    with Oracle(pipe) as oracle:
        draw(pipe)
    with tx.record(pipe) as trace:
        same = draw(pipe)
    assert np.array_equal(plain, same)
    for site, expected in expected_maps(case(), oracle).items():
        found = trace.run.maps["text"][site][:, 0, 0, 0]
        assert np.abs(found - expected).max() < 1e-5
    columns = case().columns(oracle.heard)
    for word in trace.words:
        ids = [columns[column][1] for column in word.columns]  # type: ignore[index]
        assert pipe.tokenizer_2.decode(ids).strip() == word.text
    assert [word.text for word in trace.words] == PROMPT.split()


def test_edits() -> None:
    pipe = modular()
    plain = draw(pipe)
    with tx.edit(pipe, edits.Drop("circle")):
        edited = draw(pipe)
    assert not np.array_equal(edited, plain)
    assert np.array_equal(draw(pipe), plain)
