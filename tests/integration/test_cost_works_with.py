"""What a run costs is seen in every circumstance that recording works with, and nothing is left."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from test_works_with import WORKS_WITH

from conftest import state_of
from t2i_xattn.costs.cost import cost

COMPUTED = {"layerwise casting to float8"}
"""Whose hooks compute something, so that the call has to be run."""


class _Asked(Exception):
    pass


def arguments_of(pipe: Any, draw: Any) -> dict[str, Any]:
    """What a pipeline is called with."""
    found: dict[str, Any] = {}

    def called(self: Any, prompt: Any = None, **given: Any) -> None:
        found.update(given, prompt=prompt)
        raise _Asked

    with patch.object(type(pipe), "__call__", called), pytest.raises(_Asked):
        draw()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS_WITH)
def test_seen_and_left_as_found(name: str) -> None:
    pipe, draw = WORKS_WITH[name]()
    plain, before = draw(), state_of(pipe)
    found = cost(pipe, **arguments_of(pipe, draw))
    assert found.decoding_bytes is not None
    assert found.decoding_bytes > 4 * plain.size // 2  # numbers of the picture, of 16 bits or more
    assert all(call.computed == (name in COMPUTED) for call, _ in found.calls)
    assert state_of(pipe) == before
    assert np.array_equal(draw(), plain)
