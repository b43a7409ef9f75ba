from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.words import Word
from t2i_xattn.recording.keep import Keep
from t2i_xattn.recording.store import MapStore, steps_of

SITES = [
    AttentionSite("fine", "cross", 0, "down", 0, 2),
    AttentionSite("coarse", "cross", 1, "mid", 1, 3),
]
SIZES = {"fine": (3, 5), "coarse": (2, 3)}
LATENT, TOKENS = (3, 5), 4
WORDS = ((Word("red", 0, 3, (1,)), Word("cat", 4, 7, (2,))),) * 2
NEGATIVE = ((Word("red", 0, 3, (2,)),),) * 2


def layout(*branches: str, images: int = 2, text: Text | None = None) -> Layout:
    branches = branches or ("unconditional", "conditional")
    return Layout(
        rows={
            branch: tuple(range(number * images, (number + 1) * images))
            for number, branch in enumerate(branches)
        },
        images=images,
        frames=1,
        texts=dict.fromkeys(branches, (text,) * images),
    )


GUIDED = layout()


def begin(keep: Keep | None = None, steps: int | None = None) -> MapStore:
    store = MapStore(SITES, keep or Keep())
    store.begin_run(GUIDED, LATENT, steps)
    for branch in store.keep.branches:
        words = NEGATIVE if branch == "unconditional" else WORDS
        store.begin_branch(branch, words, (None, None), TOKENS)
    return store


def begin_call(
    store: MapStore, given: Layout, latent: tuple[int, int] = LATENT, tokens: int = TOKENS
) -> dict[str, int]:
    of_branches, gone = dict.fromkeys(given.rows, tokens), dict.fromkeys(given.rows, 0)
    return store.begin_call(given, latent, of_branches, torch.tensor(1), gone)


def call(
    store: MapStore, share: float = 1.0, end: bool = True, given: Layout = GUIDED, heads: int = 1
) -> None:
    """A call in which every place looks at column 1 with a share."""
    windows = begin_call(store, given)
    for branch, window in windows.items():
        for name, size in SIZES.items():
            store.sizes[name] = size
            maps = torch.zeros(2, heads, size[0] * size[1], TOKENS)
            maps[..., 1] = share
            selection = store.selection(branch, "text", maps.device)
            kept = maps if selection is None else maps @ selection[:, None]
            store.add(window, branch, ("text", name), kept)
    if end:
        store.finished += 1


def text_means(store: MapStore) -> Any:
    return store.means(steps_of([store]))[0]["text"]


def test_means_have_all_axes_and_the_sites_sizes() -> None:
    store = begin()
    for _ in range(3):
        call(store)
    means = text_means(store)
    assert {name: array.shape for name, array in means.items()} == {
        "fine": (2, 1, 1, 1, 3, 5, 4),
        "coarse": (2, 1, 1, 1, 2, 3, 4),
    }
    assert (means["fine"][..., 1] == 1).all()
    assert (means["fine"][..., 0] == 0).all()


def test_branches_are_kept_apart_in_the_order_that_was_asked_for() -> None:
    store = begin(Keep(branches=("conditional", "unconditional"), heads="each"))
    windows = begin_call(store, GUIDED)
    assert windows == {"conditional": 0, "unconditional": 0}
    for branch, share in (("conditional", 0.25), ("unconditional", 0.75)):
        for name, (height, width) in SIZES.items():
            store.sizes[name] = (height, width)
            maps = torch.full((2, 3, height * width, TOKENS), share)
            store.add(0, branch, ("text", name), maps)
    store.finished += 1
    coarse = text_means(store)["coarse"]
    assert coarse.shape == (2, 2, 1, 3, 2, 3, 4)
    assert (coarse[:, 0] == 0.25).all()
    assert (coarse[:, 1] == 0.75).all()


def test_places_are_in_reading_order() -> None:
    """Those of a video frame by frame."""
    store = MapStore(SITES[:1], Keep())
    video = Layout({"conditional": (0, 1)}, images=1, frames=2, texts={"conditional": (None,)})
    store.begin_run(video, LATENT, None)
    store.begin_branch("conditional", ((),), (None,), TOKENS)
    begin_call(store, video)
    store.sizes["fine"] = (3, 5)
    store.add(0, "conditional", ("text", "fine"), torch.arange(30.0).reshape(1, 1, 30, 1))
    store.finished += 1
    fine = text_means(store)["fine"]
    assert fine.shape == (1, 1, 1, 1, 2, 3, 5, 1)
    assert fine[0, 0, 0, 0, 1, 2, 3, 0] == 15 + 2 * 5 + 3


def pointers(store: MapStore) -> set[int]:
    return {each.data_ptr() for window in store._windows.values() for each in window.maps.values()}


def test_memory_is_fixed_by_the_first_call() -> None:
    store = begin()
    assert store.nbytes == 0
    call(store)
    first = pointers(store)
    assert len(first) == 2
    assert store.nbytes == 4 * 2 * 4 * (15 + 6)
    for _ in range(50):
        call(store)
        assert pointers(store) == first
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
    assert text_means(store)["fine"][0, 0, :, 0, 0, 0, 1].tolist() == expected
    assert tuple(steps_of([store]).values()) == windows
    counts = store.means(steps_of([store]))[1]["text"]["fine"]
    assert counts.tolist() == [[min(5, end) - first for first, end in windows]]


def test_fractions_of_the_run() -> None:
    store = begin(Keep(steps=[(0, 0.4), (0.4, 1.0)]), steps=5)
    for step in range(5):
        call(store, share=step)
    assert text_means(store)["fine"][0, 0, :, 0, 0, 0, 1].tolist() == [0.5, 3]
    assert tuple(steps_of([store]).values()) == ((0, 2), (2, 5))
    with pytest.raises(UserError, match="in whole steps for record"):
        begin(Keep(steps=[(0, 0.4)]))


@pytest.mark.parametrize(
    "steps", [[(0, 5), (4, 8)], [(4, 8), (0, 4)], [(0, 0.5), (0.4, 1.0)], [(0, 0.6), (5, 10)]]
)
def test_windows_that_do_not_follow_each_other(steps: Any) -> None:
    with pytest.raises(UserError, match="follow each other"):
        begin(Keep(steps=steps), steps=10)


def test_a_branch_that_did_not_run_to_the_end() -> None:
    store = begin(Keep(steps="each", branches=("conditional", "unconditional")))
    call(store)
    call(store, given=layout("conditional"))
    fine = text_means(store)["fine"]
    assert np.isnan(fine[:, 1, 1]).all()
    assert not np.isnan(fine[:, 0]).any()
    assert not np.isnan(fine[:, 1, 0]).any()
    assert store.means(steps_of([store]))[1]["text"]["fine"].tolist() == [[1, 1], [1, 0]]


def test_a_branch_s_steps_are_its_own_calls() -> None:
    """Where the denoiser is called for one branch after the other."""
    store = begin(Keep(steps="each", branches=("conditional", "unconditional")))
    for step in range(3):
        call(store, share=step, given=layout("conditional"))
        call(store, share=10 + step, given=layout("unconditional"))
    fine = text_means(store)["fine"]
    assert fine[0, :, :, 0, 0, 0, 1].tolist() == [[0, 1, 2], [10, 11, 12]]
    assert tuple(steps_of([store]).values()) == ((0, 1), (1, 2), (2, 3))


def test_a_branch_that_never_ran() -> None:
    store = begin(Keep(branches=("conditional", "image")))
    call(store)
    with pytest.raises(UserError, match="expected a run with the branch 'image', but this one"):
        store.check_readable()


def test_groups_of_columns_of_each_branch() -> None:
    store = begin(Keep(words=["red"], branches=("conditional", "unconditional")))
    assert store.groups == {"conditional": (((1,),),) * 2, "unconditional": (((2,),),) * 2}
    for branch, column in (("conditional", 1), ("unconditional", 2)):
        selection = store.selection(branch, "text", torch.device("cpu"))
        assert selection is not None
        expected = torch.zeros(2, 4, 1)
        expected[:, column] = 1
        assert torch.equal(selection, expected)
    call(store)
    fine = text_means(store)["fine"]
    assert fine.shape == (2, 2, 1, 1, 3, 5, 1)
    assert (fine[:, 0] == 1).all()
    assert (fine[:, 1] == 0).all()


def test_columns_of_several_tokens_are_added_up() -> None:
    words = ((Word("red", 0, 3, (1, 2)), Word("cat", 4, 7, (3,))),) * 2
    store = MapStore(SITES, Keep(words=["red", "cat"]))
    store.begin_run(GUIDED, LATENT, None)
    store.begin_branch("conditional", words, (None, None), TOKENS)
    selection = store.selection("conditional", "text", torch.device("cpu"))
    assert selection is not None
    assert selection[0].tolist() == [[0, 0], [1, 0], [1, 0], [0, 1]]


class TestBudget:
    def test_what_fits_is_kept(self) -> None:
        store = begin(Keep(budget=4 * 2 * 4 * 21))
        call(store)
        assert text_means(store).keys() == {"fine", "coarse"}

    def test_refused_in_the_first_call(self) -> None:
        message = r"at most 671 bytes .* would keep 672 or more: 2 sites, 1 of steps, 1 branches"
        with pytest.raises(UserError, match=message):
            call(begin(Keep(budget=671)))

    def test_each_step_counts(self) -> None:
        keep = Keep(budget=672 * 10, steps="each")
        call(begin(keep, steps=10))
        with pytest.raises(UserError, match=r"would keep 7,392 .* 11 of steps"):
            call(begin(keep, steps=11))

    def test_each_window_counts(self) -> None:
        keep = Keep(budget=672, steps=[(0, 1), (1, 5)])
        with pytest.raises(UserError, match=r"would keep 960 or more: .* 2 of steps"):
            call(begin(keep, steps=5))

    def test_a_run_of_unknown_length_stops_where_it_is_full(self) -> None:
        store = begin(Keep(budget=672 * 2, steps="each"))
        call(store)
        call(store)
        with pytest.raises(UserError, match="at most 1,344 bytes"):
            call(store)


def test_means_are_a_copy() -> None:
    store = begin()
    call(store)
    means = text_means(store)["fine"]
    before = means.copy()
    call(store, share=0.5)
    assert (means == before).all()


def test_reading_too_early() -> None:
    with pytest.raises(UserError, match="has not run yet"):
        MapStore(SITES, Keep()).check_readable()
    late = begin(Keep(steps=[(3, 5)]))
    call(late)
    with pytest.raises(UserError, match="not as far as the steps to keep"):
        late.check_readable()


def test_a_call_that_broke_off() -> None:
    store = begin()
    call(store)
    store.check_readable()
    call(store, end=False)
    with pytest.raises(UserError, match="broke off inside call 2 of the denoiser"):
        store.check_readable()


def one_call(store: MapStore, *names: str) -> None:
    windows = begin_call(store, GUIDED)
    for name in names:
        store.sizes[name] = SIZES[name]
        places = SIZES[name][0] * SIZES[name][1]
        store.add(windows["conditional"], "conditional", ("text", name), ones(places))
    store.finished += 1


def ones(places: int) -> Tensor:
    return torch.ones(2, 1, places, TOKENS)


def test_a_site_whose_block_is_skipped_in_some_calls() -> None:
    """Its mean is that of the calls that came to it (as DeepCache skips some)."""
    store = begin()
    one_call(store, "fine", "coarse")
    one_call(store, "fine")
    means, counts = store.means(steps_of([store]))
    assert (means["text"]["coarse"] == 1).all()
    assert counts["text"]["coarse"].tolist() == [[1]]
    assert counts["text"]["fine"].tolist() == [[2]]


def test_a_site_that_was_never_reached() -> None:
    store = begin()
    one_call(store, "fine")
    with pytest.raises(UserError, match="expected calls at coarse, but its block was skipped"):
        store.means(steps_of([store]))


def test_a_site_that_is_left_out() -> None:
    store = begin()
    call(store)
    store.leave_out(SITES[1])
    assert [site.name for site in store.sites] == ["fine"]
    assert text_means(store).keys() == {"fine"}
    assert store.nbytes == 4 * 2 * 4 * 15


def test_nan_is_named() -> None:
    store = begin()
    call(store, share=float("nan"))
    with pytest.raises(UserError, match="numbers at fine, but the model gave NaN"):
        store.means(steps_of([store]))


def test_another_shape_within_a_run() -> None:
    store = begin()
    call(store)
    with pytest.raises(UserError, match=r"2 pictures, .* 3 × 5, 4 tokens, but came 1 pictures"):
        begin_call(store, layout(images=1))
    with pytest.raises(UserError, match=r"but came 2 pictures, latents of 4 × 4, 4 tokens"):
        begin_call(store, GUIDED, latent=(4, 4))
    with pytest.raises(UserError, match=r"but came 2 pictures, latents of 3 × 5, 8 tokens"):
        begin_call(store, GUIDED, tokens=8)


def text(prompt: str, *ids: int) -> Text:
    return Text(torch.zeros(4, 2), "conditional", 0, prompt, ids=ids)


def test_another_prompt_within_a_run() -> None:
    store = MapStore(SITES, Keep())
    store.begin_run(GUIDED, LATENT, None)
    store.begin_branch("conditional", WORDS, (text("red cat", 0, 5, 6, 1),) * 2, TOKENS)
    begin_call(store, layout(text=text("red cat", 0, 5, 6, 1)))
    begin_call(store, layout(text=None))  # not known
    with pytest.raises(UserError, match=r"one prompt for each picture .* 'blue' came after 'red"):
        begin_call(store, layout(text=text("blue", 0, 7, 1)))


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
            ({"steps": [(3, 3)]}, r"first before end, .* but came \(3, 3\)"),
            ({"steps": [(0, 1.5)]}, r"from 0.0 to 1.0, but came \(0, 1.5\)"),
            ({"steps": []}, "at least one window"),
            ({"walk": -1}, "walk=0 or more"),
            ({"walk": 1, "walk_every": 0}, "walk_every=1 or more"),
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
