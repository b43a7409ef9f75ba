from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.words import Word
from t2i_xattn.recording.keep import Keep
from t2i_xattn.recording.store import MapStore
from t2i_xattn.recording.sums import CallShape
from t2i_xattn.recording.targets import Target

SITES = [
    AttentionSite("fine", "cross", "down", 0, 2),
    AttentionSite("coarse", "cross", "mid", 1, 3),
]
SHAPE = CallShape(2, (3, 5), {"text": 4})
GUIDED = {"unconditional": slice(0, 2), "conditional": slice(2, 4)}


def begin(keep: Keep | None = None, steps: int | None = None, groups: Any = None) -> MapStore:
    store = MapStore(SITES, keep or Keep())
    store.begin_run(SHAPE, groups, steps)
    return store


def call(
    store: MapStore, share: float = 1.0, end: bool = True, shape: CallShape = SHAPE
) -> dict[str, tuple[Target, ...]]:
    targets = store.begin_call(shape, GUIDED, torch.tensor(1), torch.device("cpu"))
    for target in [each for of_site in targets.values() for each in of_site]:
        target.total[..., 1] += share
        target.calls.add_(1)
    if end:
        store.end_call()
    return targets


def test_means_have_all_axes_and_the_sites_sizes() -> None:
    store = begin()
    for _ in range(3):
        call(store)
    means = store.means()["text"]
    assert {name: array.shape for name, array in means.items()} == {
        "fine": (2, 1, 1, 1, 3, 5, 4),
        "coarse": (2, 1, 1, 1, 2, 3, 4),
    }
    assert (means["fine"][..., 1] == 1).all()
    assert (means["fine"][..., 0] == 0).all()


def test_targets_are_the_rows_of_the_branches() -> None:
    targets = call(begin(Keep(branches=("conditional", "unconditional"), heads="each")))
    first, second = targets["coarse"]
    assert (first.rows, second.rows) == (slice(2, 4), slice(0, 2))
    assert first.total.shape == (2, 3, 6, 4)
    first.total.fill_(7)
    assert second.total.max() == 1


def test_memory_is_fixed_by_the_first_call() -> None:
    store = begin()
    pointers = {t.total.data_ptr() for each in call(store).values() for t in each}
    assert store.nbytes == store.window_nbytes == 4 * 2 * 4 * (15 + 6)
    for _ in range(50):
        assert {t.total.data_ptr() for each in call(store).values() for t in each} == pointers
    assert store.nbytes == 4 * 2 * 4 * (15 + 6)


@pytest.mark.parametrize(
    ("steps", "expected", "windows"),
    [
        ("each", [0, 1, 2, 3, 4], tuple((step, step + 1) for step in range(5))),
        ([(0, 2), (2, 9)], [0.5, 3], ((0, 2), (2, 5))),
        ([(1, 2), (4, 5)], [1, 4], ((1, 2), (4, 5))),
    ],
)
def test_steps(steps: Any, expected: list[float], windows: Any) -> None:
    store = begin(Keep(steps=steps))
    for step in range(5):
        call(store, share=step)
    assert store.means()["text"]["fine"][0, 0, :, 0, 0, 0, 1].tolist() == expected
    assert store.windows() == windows


def test_a_branch_that_did_not_run_to_the_end() -> None:
    store = begin(Keep(steps="each", branches=("conditional", "unconditional")))
    call(store)
    targets = store.begin_call(SHAPE, {"conditional": slice(0, 2)}, 1, torch.device("cpu"))
    for target in [each for of_site in targets.values() for each in of_site]:
        target.calls.add_(1)
    store.end_call()
    fine = store.means()["text"]["fine"]
    assert np.isnan(fine[:, 1, 1]).all()
    assert not np.isnan(fine[:, 0]).any()
    assert not np.isnan(fine[:, 1, 0]).any()


def test_a_branch_that_never_ran() -> None:
    store = begin(Keep(branches=("image",)))
    call(store)
    with pytest.raises(UserError, match="has not run yet"):
        store.means()


def test_groups_of_columns() -> None:
    store = begin(groups=(((1, 2), (3,)), ((0,), (2,))))
    (target,) = call(store)["fine"]
    assert target.total.shape == (2, 1, 15, 2)
    assert target.selection is not None
    assert target.selection[0].tolist() == [[0, 0], [1, 0], [1, 0], [0, 1]]
    assert target.selection[1].tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]]


class TestBudget:
    def test_what_fits_is_kept(self) -> None:
        store = begin(Keep(budget=4 * 2 * 4 * 21))
        call(store)
        assert store.means()

    def test_refused_before_the_run(self) -> None:
        message = r"at most 671 bytes .* would keep 672: 2 sites, 1 of steps, 1 branches"
        with pytest.raises(UserError, match=message):
            begin(Keep(budget=671))

    def test_each_step_counts(self) -> None:
        keep = Keep(budget=672 * 10, steps="each")
        begin(keep, steps=10)
        with pytest.raises(UserError, match=r"would keep 7,392: .* 11 of steps"):
            begin(keep, steps=11)

    def test_a_run_of_unknown_length_stops_where_it_is_full(self) -> None:
        store = begin(Keep(budget=672 * 2, steps="each"))
        call(store)
        call(store)
        with pytest.raises(UserError, match="step 2 goes beyond it"):
            call(store)


def test_means_are_a_copy() -> None:
    store = begin()
    call(store)
    means = store.means()["text"]["fine"]
    before = means.copy()
    call(store, share=0.5)
    assert (means == before).all()


def test_reading_too_early() -> None:
    with pytest.raises(UserError, match="has not run yet"):
        MapStore(SITES, Keep()).means()


def test_a_call_that_broke_off() -> None:
    store = begin()
    call(store)
    call(store, end=False)
    with pytest.raises(UserError, match="broke off inside UNet call 2"):
        store.means()


@pytest.mark.parametrize("extra", [-1.0, 1.0])
def test_a_site_that_was_passed_by_or_reached_twice(extra: float) -> None:
    store = begin()
    call(store)
    call(store)["fine"][0].calls.add_(extra)
    with pytest.raises(UserError, match=r"expected \[2.0\] calls at fine, but"):
        store.means()


def test_nan_is_named() -> None:
    store = begin()
    call(store, share=float("nan"))
    with pytest.raises(UserError, match="gave NaN"):
        store.means()


def test_another_shape_within_a_run() -> None:
    store = begin()
    call(store)
    with pytest.raises(UserError, match=r"images=2.* but came CallShape\(images=1"):
        call(store, shape=CallShape(1, (3, 5), {"text": 4}))


class TestKeep:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"words": ["red"], "columns": [1]}, "but came both"),
            ({"words": "red"}, r"expected words=\[…\] with at least one entry, but came 'red'"),
            ({"columns": []}, r"expected columns=\[…\] with at least one"),
            ({"heads": "max"}, "or \"auto\", but came 'max'"),
            ({"branches": ("uncond",)}, r"but came 'uncond' \(did you mean 'unconditional'\?\)"),
            ({"branches": ()}, "at least one branch"),
            ({"steps": "all"}, "or windows such as"),
            ({"steps": [(3, 3)]}, r"follow each other, .* but came \[\(3, 3\)\]"),
            ({"steps": [(0, 5), (4, 8)]}, "follow each other"),
            ({"steps": []}, "at least one window"),
        ],
    )
    def test_mistakes(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            Keep(**options)

    def test_groups(self) -> None:
        words = [(Word("red", 0, 3, (1,)), Word("cat", 4, 7, (2, 3)))] * 2
        assert Keep(words=["cat", "red cat"]).groups(words, 5) == (((2, 3), (1, 2, 3)),) * 2
        assert Keep(columns=[4, 0]).groups(words, 5) == (((4,), (0,)),) * 2
        assert Keep().groups(words, 5) is None
        with pytest.raises(UserError, match="columns from 0 to 4, but came 5"):
            Keep(columns=[5]).groups(words, 5)
