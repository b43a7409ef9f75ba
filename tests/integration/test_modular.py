"""FLUX and SD3 of Modular Diffusers, whose blocks encode the prompt without an `encode_prompt`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import t2i_xattn as tx
from t2i_xattn import edits
from t2i_xattn.prompts.texts import text_by_value
from tiny.case import PROMPT, Case
from tiny.double_streams import case_of
from tiny.oracle import Oracle, expected_maps

FLUX = case_of("text_first", "FluxPipeline")
# Guided by two calls, the prompt's first, where the pipeline has one batch.
SD3 = case_of("picture_first", "StableDiffusion3Pipeline")
EACH = pytest.mark.parametrize(
    ("case", "blocks", "calls"),
    [
        (FLUX, diffusers.FluxAutoBlocks, 1),
        (SD3, diffusers.StableDiffusion3AutoBlocks, 2),
    ],
    ids=str,
)


def modular(case: Case, blocks: Callable[[], Any]) -> Any:
    parts = case.make().components
    pipe = blocks().init_pipeline()
    pipe.update_components(
        **{name: part for name, part in parts.items() if name in pipe._component_specs and part}
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(case: Case, pipe: Any) -> Any:
    names = ("height", "width", "max_sequence_length")
    more = {"negative_prompt": "dull green star"} if case.negative else {}
    images = pipe(
        prompt=PROMPT,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        output="images",
        **{name: case.options[name] for name in names if name in case.options},
        **more,
    )
    return np.asarray(images)


@EACH
def test_maps_are_the_oracle_s(case: Case, blocks: Any, calls: int) -> None:
    pipe = modular(case, blocks)
    plain = draw(case, pipe)
    with Oracle(pipe) as oracle:
        draw(case, pipe)
    with tx.record(pipe) as trace:
        same = draw(case, pipe)
    assert np.array_equal(plain, same)
    oracle.seen = [each for each in oracle.seen if each.call % calls == 0]
    for site, expected in expected_maps(case, oracle).items():
        found = trace.run.maps["text"][site][:, 0, 0, 0]
        assert np.abs(found - expected).max() < 1e-5
    columns = case.columns(oracle.heard)
    for word in trace.words:
        by_tokenizer: dict[str, list[int]] = {}
        for column in word.columns:
            tokenizer, token = columns[column]  # type: ignore[misc]
            by_tokenizer.setdefault(tokenizer, []).append(token)
        assert by_tokenizer
        for name, ids in by_tokenizer.items():
            assert getattr(pipe, name).decode(ids).strip() == word.text
    assert [word.text for word in trace.words] == PROMPT.split()


@EACH
def test_edits(case: Case, blocks: Any, calls: int) -> None:
    pipe = modular(case, blocks)
    plain = draw(case, pipe)
    with tx.edit(pipe, edits.Drop("circle")):
        edited = draw(case, pipe)
    assert not np.array_equal(edited, plain)
    assert np.array_equal(draw(case, pipe), plain)


def test_a_text_is_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though two branches take turns, and come again in every step."""
    made: list[Any] = []

    def counted(*given: Any) -> Any:
        made.append(text_by_value(*given))
        return made[-1]

    monkeypatch.setattr("t2i_xattn.prompts.listening.text_by_value", counted)
    pipe = modular(SD3, diffusers.StableDiffusion3AutoBlocks)
    with tx.record(pipe) as trace:
        draw(SD3, pipe)
    assert [word.text for word in trace.words] == PROMPT.split()
    assert len(made) == 2
