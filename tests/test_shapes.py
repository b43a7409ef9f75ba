"""Shapes in annotations hold: in tests a call that breaks them is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

import t2i_xattn
from t2i_xattn.kernel.reference import Weights, probs, scores, split_heads

PACKAGE = Path(t2i_xattn.__file__).parent


def test_an_axis_has_one_size_in_a_call() -> None:
    with pytest.raises(TypeCheckError, match="parameter 'k'"):
        scores(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 6))


def test_a_missing_axis_and_another_type_are_told() -> None:
    with pytest.raises(TypeCheckError, match="parameter 'x'"):
        split_heads(torch.zeros(3, 4), heads=2)
    with pytest.raises(TypeCheckError, match="parameter 'mask'"):
        probs(torch.zeros(1, 1, 2, 3), torch.ones(1, 4))


def test_dataclasses_are_checked_too() -> None:
    square = torch.zeros(4, 4)
    with pytest.raises(TypeCheckError, match="parameter 'value'"):
        Weights(square, square, torch.zeros(5, 4), square)


def test_compiling_is_not_in_the_way() -> None:
    q, k = torch.randn(2, 1, 1, 3, 4)
    compiled = torch.compile(scores, backend="eager", fullgraph=True)
    assert torch.equal(compiled(q, k), scores(q, k))


def test_every_module_with_shapes_is_checked(pytestconfig: pytest.Config) -> None:
    *checked, _ = pytestconfig.getoption("jaxtyping_packages").split(",")
    with_shapes = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if "from t2i_xattn.shapes import" in path.read_text("utf-8")
    }
    assert with_shapes == set(checked), "--jaxtyping-packages in pyproject.toml lists them"


def test_jaxtyping_need_not_be_there() -> None:
    code = "import sys; sys.modules['jaxtyping'] = None; from t2i_xattn.shapes import Float"
    subprocess.run([sys.executable, "-c", f"{code}; Float[int, 'a b']"], check=True)
