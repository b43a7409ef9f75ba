"""Compiled transformers: the same bytes as the compiled plain run, the right maps and edits."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from t2i_xattn import edits
from tiny.case import Case
from tiny.oracle import Oracle, expected_maps

CASES = [
    case
    for module, name in (
        ("text_first", "FluxPipeline"),
        ("picture_first", "StableDiffusion3Pipeline"),
        ("llm", "QwenImagePipeline, guided"),
        ("cross", "PixArtSigmaPipeline"),
    )
    for case in importlib.import_module(f"tiny.{module}").CASES
    if case.name == name
]
WAYS = [
    *((case, how) for case in CASES for how in ("module.compile()", "torch.compile")),
    (CASES[0], "inductor"),
]


def compiled(pipe: Any, how: str) -> None:
    options: Any = {"fullgraph": True}
    if how != "inductor":
        options["backend"] = "eager"
    if how == "torch.compile":
        pipe.transformer = torch.compile(pipe.transformer, **options)
    else:
        pipe.transformer.compile(**options)


@pytest.mark.usefixtures("more_graphs")
@pytest.mark.parametrize(("case", "how"), WAYS, ids=str)
def test_compiled(case: Case, how: str) -> None:
    pipe = case.make()
    with Oracle(pipe) as oracle:
        case.run(pipe)
    compiled(pipe, how)
    plain = np.asarray(case.run(pipe))
    with tx.record(pipe) as trace:
        same = np.asarray(case.run(pipe))
    assert np.array_equal(plain, same)
    for site, expected in expected_maps(case, oracle).items():
        found = trace.run.maps["text"][site][:, 0, 0, 0]
        assert np.abs(found - expected).max() < (1e-4 if how == "inductor" else 1e-5)
    with tx.edit(pipe, edits.Drop("circle")):
        edited = np.asarray(case.run(pipe))
    reference = case.make()
    with tx.edit(reference, edits.Drop("circle")):
        expected_edit = np.asarray(case.run(reference))
    assert np.abs(edited - expected_edit).max() < 1e-4
    assert np.array_equal(np.asarray(case.run(pipe)), plain)
