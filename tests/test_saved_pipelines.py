"""Whatever diffusers saves and loads again, `load_pipeline` loads too, and to the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import tiny_pipelines
from t2i_xattn.errors import UserError
from t2i_xattn.models.default import load_pipeline
from tiny.all_cases import CASES

MAKES: dict[str, Callable[[], Any]] = {repr(case.make): case.make for case in reversed(CASES)} | {
    name: getattr(tiny_pipelines, name) for name in ("make_refiner", "make_animatediff")
}
MAKES |= {name: getattr(tiny_pipelines, name) for name in ("make_svd", "controlnet_pipeline")}
NAMES = {repr(case.make): str(case) for case in reversed(CASES)}


@pytest.mark.slow
@pytest.mark.parametrize("make", [pytest.param(m, id=NAMES.get(n, n)) for n, m in MAKES.items()])
def test_it_is_loaded_as_diffusers_loads_it(make: Callable[[], Any], tmp_path: Path) -> None:
    pipe = make()
    try:
        pipe.save_pretrained(tmp_path)
    except AttributeError as error:
        pytest.skip(f"diffusers cannot save a part that is none: {error}")
    # A class of the tests' own is handed over, and not read.
    own = {
        name: part
        for name, part in pipe.components.items()
        if type(part).__module__.startswith("tiny.")
    }
    try:
        stock = diffusers.DiffusionPipeline.from_pretrained(tmp_path, **own)
    except Exception:
        with pytest.raises(UserError):
            load_pipeline(tmp_path, **own)
        return
    ours = load_pipeline(tmp_path, **own)
    assert type(ours) is type(stock)
    for name, part in stock.components.items():
        mine = getattr(ours, name)
        assert type(mine) is type(part), name
        if isinstance(part, torch.nn.Module):
            expected, found = part.state_dict(), mine.state_dict()
            assert expected.keys() == found.keys()
            for key, value in expected.items():
                assert found[key].dtype is value.dtype
                assert torch.equal(found[key], value), (name, key)
