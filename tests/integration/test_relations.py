"""In joint attention text and picture look at both: each of the four relations against the softmax
over all keys."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from t2i_xattn.errors import UserError
from tiny.case import Case, Seen
from tiny.oracle import Oracle, probs

CASES = [
    case
    for module, name in (
        ("text_first", "FluxPipeline"),
        ("text_first", "FluxKontextPipeline with a reference"),
        ("picture_first", "StableDiffusion3Pipeline"),
        ("llm", "QwenImagePipeline, guided"),
        ("by_row", "ZImagePipeline, guided"),
        ("text_first_cog", "CogVideoXPipeline"),
    )
    for case in importlib.import_module(f"tiny.{module}").CASES
    if case.name == name
]


def means(case: Case, oracle: Oracle, queries: str, keys: str, tokens: int) -> dict[str, Any]:
    """By site the mean over heads and calls, `(queries, keys)`, of the first picture."""
    found: dict[str, list[torch.Tensor]] = {}

    def places(seen: Seen, which: str) -> list[int]:
        (picture, *_) = case.pictures(seen) or ()
        return list(picture.queries) if which == "picture" else list(picture.keys)[:tokens]

    for seen in oracle.seen:
        pictures = case.pictures(seen)
        if pictures:
            of_row = probs(seen)[pictures[0].row].mean(0)
            each = of_row[places(seen, queries)][:, places(seen, keys)]
            found.setdefault(seen.site, []).append(each)
    return {site: torch.stack(each).mean(0).numpy() for site, each in found.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_the_text_looks_at(case: Case) -> None:
    pipe = case.make()
    plain = np.asarray(case.run(pipe))
    with Oracle(pipe) as oracle:
        case.run(pipe)
    with tx.record(pipe, text_looks=True) as trace:
        same = np.asarray(case.run(pipe))
    assert np.array_equal(plain, same)
    maps = trace.run.maps
    tokens = maps["text"][trace.sites[0].name].shape[-1]
    looks = means(case, oracle, "text", "picture", tokens)
    between = means(case, oracle, "text", "text", tokens)
    assert list(maps["looks"]) == list(looks)
    for site, expected in looks.items():
        found = maps["looks"][site][0, 0, 0, 0].reshape(-1, tokens)
        assert np.abs(found.T - expected).max() < 1e-5
        found = maps["between"][site][0, 0, 0, 0].reshape(tokens, tokens)
        assert np.abs(found - between[site]).max() < 1e-5
    words = {word.text: list(word.columns) for word in trace.words}
    red, circle = words["red"], words["circle"]
    given = np.mean([each[red][:, circle].sum(-1).mean() for each in between.values()])
    assert abs(trace.between("red", "circle") - given) < 1e-5
    heat = trace.heatmap("circle", stream="looks")
    shares = np.mean([each[circle].mean(0).mean() for each in looks.values()])
    assert abs(heat.share - shares) < 1e-5


@pytest.mark.parametrize("case", CASES[:-1], ids=str)
def test_where_a_place_of_the_picture_looks(case: Case) -> None:
    pipe = case.make()
    with Oracle(pipe) as oracle:
        case.run(pipe)
    with tx.record(pipe, self_attention=[(0.0, 0.0), (0.99, 0.99)], walk=1, walk_every=1) as trace:
        case.run(pipe)
    expected = means(case, oracle, "picture", "picture", 0)
    for site, each in expected.items():
        found = trace.run.maps["self"][site][0, 0, 0, 0].reshape(-1, 2)
        assert np.abs(found - each[[0, -1]].T).max() < 1e-5
    tokens = trace.run.maps["text"][site].shape[-1]
    text = means(case, oracle, "picture", "text", tokens)
    words = trace.run.walked_columns
    assert words
    for site in expected:
        # Carried along the attention of the picture to itself, its shares made to sum to 1.
        found = trace.run.maps["walked"][site][0, 0, 0, 0].reshape(-1, len(words))
        before = text[site][:, list(words)]
        assert np.all(found >= before.min(0) - 1e-4)
        assert np.all(found <= before.max(0) + 1e-4)


def test_a_trace_without_it_says_so() -> None:
    pipe = CASES[0].make()
    with tx.record(pipe) as trace:
        CASES[0].run(pipe)
    with pytest.raises(UserError, match="text_looks=True"):
        trace.between("red", "circle")
    with pytest.raises(UserError, match="expected a stream of text"):
        trace.heatmap("red", stream="looks")


def test_in_cross_attention_the_text_looks_at_nothing() -> None:
    (case,) = [
        each
        for each in importlib.import_module("tiny.cross").CASES
        if each.name == "PixArtSigmaPipeline"
    ]
    pipe = case.make()
    with (
        pytest.raises(UserError, match="the text looks at nothing"),
        tx.record(pipe, text_looks=True),
    ):
        pass
