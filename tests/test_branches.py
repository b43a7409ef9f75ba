from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from t2i_xattn.denoisers.branches import split_branches
from t2i_xattn.errors import UserError

STOCK = SimpleNamespace()
PERTURBING = SimpleNamespace(do_perturbed_attention_guidance=True)


class StableDiffusionInstructPix2PixPipeline:
    pass


@pytest.mark.parametrize(
    ("pipe", "guided", "batch", "expected"),
    [
        (STOCK, True, 4, {"unconditional": slice(0, 2), "conditional": slice(2, 4)}),
        (STOCK, False, 3, {"conditional": slice(0, 3)}),
        (
            StableDiffusionInstructPix2PixPipeline(), True, 3,
            {"conditional": slice(0, 1), "image": slice(1, 2), "unconditional": slice(2, 3)},
        ),
        (
            PERTURBING, True, 6,
            {"unconditional": slice(0, 2), "conditional": slice(2, 4), "perturbed": slice(4, 6)},
        ),
        (PERTURBING, False, 2, {"conditional": slice(0, 1), "perturbed": slice(1, 2)}),
        (SimpleNamespace(guider=SimpleNamespace(is_conditional=False)), True, 2,
         {"unconditional": slice(0, 2)}),
    ],
)  # fmt: skip
def test_rows(pipe: Any, guided: bool, batch: int, expected: dict[str, slice]) -> None:
    images = batch // len(expected)
    assert split_branches(pipe, batch, guided, images) == expected
    assert split_branches(pipe, batch, guided) == expected


@pytest.mark.parametrize(
    ("batch", "guided", "images"),
    [(3, True, 1), (6, True, 2), (2, False, 1), (2, True, 2), (5, True, None)],
)
def test_other_stacks_are_refused(batch: int, guided: bool, images: int | None) -> None:
    with pytest.raises(UserError, match=rf"expected .* in the UNet's batch .* but came {batch};"):
        split_branches(STOCK, batch, guided, images)
