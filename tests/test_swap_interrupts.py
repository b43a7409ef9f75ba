"""An interrupt at any line of opening or closing leaves all as it was found."""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import pytest
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from swapping import Scaling, halving, make_small_unet, standing
from t2i_xattn.denoisers.sites import find_sites, walk_sites
from t2i_xattn.processors import making, placing
from t2i_xattn.processors import swap as module
from t2i_xattn.processors.placing import _LOCK, _PUTS
from t2i_xattn.processors.swap import swap

FILES = {each.__file__ for each in (making, placing, module)}


class Interrupts:
    """Counts the lines that run in `FILES` and raises at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.lines = 0
        self.left_block = False
        self._seen: set[tuple[FrameType, int]] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            self.lines += 1
            line = frame, frame.f_lineno
            source = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            if self.lines == self.at:
                self.left_block = source.startswith("with") and line in self._seen
                raise KeyboardInterrupt
            self._seen.add(line)
        return self

    @contextmanager
    def running(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)
            if self.left_block:
                # The tracer comes between a block and the release of its lock, at a line that is
                # the block's first again; there CPython never looks for signals.
                _LOCK.release()


def lines_of(act: Callable[[], Any]) -> int:
    counting = Interrupts(None)
    with counting.running():
        act()
    return counting.lines


def interrupted(act: Callable[[], Any], at: int) -> None:
    interrupts = Interrupts(at)
    with pytest.raises(KeyboardInterrupt), interrupts.running():
        act()
    free: list[bool] = []

    def take() -> None:
        free.append(_LOCK.acquire(blocking=False))
        _LOCK.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    assert free == [True]


def state_of(unet: Any) -> Any:
    parts = [(list(layer._modules), "processor" in vars(layer)) for _, layer in walk_sites(unet)]
    return list(map(id, standing(unet).values())), parts, len(_PUTS)


def make(found: Any) -> Any:
    """A UNet with such processors, and in each layer a part behind it."""
    made = make_small_unet()
    made.set_attn_processor(found())
    for _, layer in walk_sites(made):
        layer.last = nn.Identity()
    return made


@pytest.mark.parametrize("found", [AttnProcessor, Scaling])
@pytest.mark.parametrize("put", [halving, Scaling])
def test_opening_and_closing(found: Any, put: Any) -> None:
    unet = make(found)
    names = [site.name for site in find_sites(unet)][:2]

    def run() -> None:
        with swap(unet, put, sites=names):
            pass

    before = state_of(unet)
    lines = lines_of(run)
    assert lines > 60
    for at in range(1, lines + 1):
        interrupted(run, at)
        assert state_of(unet) == before


@pytest.mark.parametrize("second", [halving, Scaling])
def test_over_another_and_from_under_it(second: Any) -> None:
    """`halving` stands for the very processor that the first has put."""
    unet = make(Scaling)
    names = [site.name for site in find_sites(unet)][:2]
    before = state_of(unet)
    shared = halving()

    def contexts() -> tuple[Any, Any]:
        over = shared if second is halving else second
        return swap(unet, shared, sites=names), swap(unet, over, sites=names[1:])

    first, other = contexts()
    first.__enter__()
    in_first = state_of(unet)
    opening = lines_of(other.__enter__)
    closing = lines_of(partial(first.__exit__, None, None, None))
    other.__exit__(None, None, None)
    assert state_of(unet) == before

    for at in range(1, opening + 1):
        first, other = contexts()
        first.__enter__()
        interrupted(other.__enter__, at)
        assert state_of(unet) == in_first
        first.__exit__(None, None, None)
        assert state_of(unet) == before
    for at in range(1, closing + 1):
        first, other = contexts()
        first.__enter__()
        (over,) = other.__enter__().values()
        interrupted(partial(first.__exit__, None, None, None), at)
        at_start, left = dict(zip(standing(unet), before[0], strict=True)), standing(unet)
        assert left.pop(names[1]) is over
        assert all(id(each) == at_start[name] for name, each in left.items())
        other.__exit__(None, None, None)
        assert state_of(unet) == before
