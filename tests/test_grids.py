"""How latents lie, where position ids tell it."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import Tensor

from t2i_xattn.denoisers.families.grids import by_ids

read = by_ids("img_ids")


def ids_of(height: int, width: int) -> Tensor:
    """`(height · width, 3)`, as FLUX has them."""
    ids = torch.zeros(height, width, 3)
    ids[..., 1] = torch.arange(height)[:, None]
    ids[..., 2] = torch.arange(width)
    return ids.flatten(0, 1)


def test_each_has_the_grid_of_its_own_ids() -> None:
    """Also where two take turns, as two pipelines in two threads do."""
    one, other = ids_of(2, 3), ids_of(3, 2)
    for _ in range(2):
        assert read(None, {"img_ids": one}, None)[1] == (1, 2, 3)
        assert read(None, {"img_ids": other}, None)[1] == (1, 3, 2)


def test_ids_are_not_kept_alive() -> None:
    ids = ids_of(2, 3)
    read(None, {"img_ids": ids}, None)
    gone = weakref.ref(ids)
    del ids
    gc.collect()
    assert gone() is None
