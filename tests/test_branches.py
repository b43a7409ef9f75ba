from __future__ import annotations

import pytest

from t2i_xattn.branches import conditional_rows
from t2i_xattn.errors import UserError


def test_the_conditional_half_comes_second() -> None:
    assert conditional_rows(4, guided=True, images=2) == slice(2, 4)
    assert conditional_rows(4, guided=True) == slice(2, 4)


def test_without_guidance_all_rows() -> None:
    assert conditional_rows(4, guided=False, images=4) == slice(0, 4)
    assert conditional_rows(3, guided=False) == slice(0, 3)


@pytest.mark.parametrize(
    ("batch", "guided", "images"),
    [(3, True, 1), (6, True, 2), (2, False, 1), (2, True, 2), (5, True, None)],
)
def test_other_stacks_are_refused(batch: int, guided: bool, images: int | None) -> None:
    with pytest.raises(UserError, match=rf"expected .* in the UNet's batch .* but came {batch};"):
        conditional_rows(batch, guided, images)
