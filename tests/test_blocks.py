"""Scenes in blocks: each is seen as often as the recipe says, and then the next are drawn."""

from __future__ import annotations

from collections import Counter

import pytest

from lab.training import blocks
from lab.training.recipe import DrawnSchedule


def test_every_scene_is_seen_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 12)
    schedule = DrawnSchedule(
        steps=20, batch=4, passes=2, learning_rate=0.1, warmup=0, decay=0, ema=0.9
    )
    seen: Counter[tuple[int, int, int]] = Counter()
    orders = set()
    for step in range(12):
        number, turn, rows = blocks.block_and_rows(3, "judge", schedule, step)
        assert list(rows) == list(blocks.block_and_rows(3, "judge", schedule, step)[2])
        seen.update((number, turn, row) for row in rows)
        orders.add(tuple(rows))
    assert set(seen) == {(a, b, row) for a in range(2) for b in range(2) for row in range(12)}
    assert set(seen.values()) == {1}
    assert len(orders) == 12
    assert blocks.blocks(schedule) == 4
