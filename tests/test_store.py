from __future__ import annotations

import pytest
import torch

from t2i_xattn.errors import UserError
from t2i_xattn.sites import AttentionSite
from t2i_xattn.store import MapStore

SITES = [
    AttentionSite("fine", "cross", "down", 0, 2),
    AttentionSite("coarse", "cross", "mid", 1, 2),
]


def call(store: MapStore, images: int = 2, share: float = 1.0, end: bool = True) -> None:
    store.begin_call((3, 5), images, 4, torch.tensor(1), torch.device("cpu"))
    for total in store.sums.values():
        total[..., 1] += share
    if end:
        store.end_call()


def test_means_have_the_sites_sizes() -> None:
    store = MapStore(SITES)
    for _ in range(3):
        call(store)
    means = store.means()
    assert {name: array.shape for name, array in means.items()} == {
        "fine": (2, 3, 5, 4),
        "coarse": (2, 2, 3, 4),
    }
    assert (means["fine"][..., 1] == 1).all()
    assert (means["fine"][..., 0] == 0).all()


def test_memory_is_fixed_by_the_first_call() -> None:
    store = MapStore(SITES)
    call(store)
    pointers = [total.data_ptr() for total in store.sums.values()]
    assert store.nbytes == 4 * 2 * 4 * (15 + 6)
    for _ in range(50):
        call(store)
    assert store.nbytes == 4 * 2 * 4 * (15 + 6)
    assert [total.data_ptr() for total in store.sums.values()] == pointers


def test_means_are_a_copy() -> None:
    store = MapStore(SITES)
    call(store)
    before = store.means()["fine"].copy()
    means = store.means()["fine"]
    call(store, share=0.5)
    assert (means == before).all()


def test_reading_too_early() -> None:
    with pytest.raises(UserError, match="has not run yet; call it inside"):
        MapStore(SITES).means()


def test_a_call_that_broke_off() -> None:
    store = MapStore(SITES)
    call(store)
    call(store, end=False)
    with pytest.raises(UserError, match="broke off inside UNet call 2"):
        store.means()


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_a_site_that_was_passed_by_or_reached_twice(share: float) -> None:
    store = MapStore(SITES)
    call(store)
    call(store, share=share)
    with pytest.raises(UserError, match="expected 2 calls at fine, but"):
        store.means()


def test_nan_is_named() -> None:
    store = MapStore(SITES)
    call(store, share=float("nan"))
    with pytest.raises(UserError, match="gave NaN"):
        store.means()


def test_another_shape_within_a_run() -> None:
    store = MapStore(SITES)
    call(store)
    with pytest.raises(UserError, match=r"\(2, 3, 5, 4\), but came \(1, 3, 5, 4\)"):
        call(store, images=1)
