from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from t2i_xattn.denoisers.branches import BRANCHES, ROLES, stacked

STOCK = SimpleNamespace()
PERTURBING = SimpleNamespace(do_perturbed_attention_guidance=True)


class StableDiffusionInstructPix2PixPipeline:
    pass


def guiding(*names: str, prepared: int, conditional: bool, conditions: int | None = None) -> Any:
    """A pipeline with a guider that prepares a branch after the other, these by its own names."""
    guider = SimpleNamespace(
        is_conditional=conditional,
        _input_predictions=names,
        _count_prepared=prepared,
        num_conditions=len(names) if conditions is None else conditions,
    )
    return SimpleNamespace(guider=guider)


THREE = ("pred_cond", "pred_uncond", "pred_cond_skip")


@pytest.mark.parametrize(
    ("pipe", "guided", "expected"),
    [
        (None, True, ("unconditional", "conditional")),
        (None, False, ("conditional",)),
        (STOCK, True, ("unconditional", "conditional")),
        (STOCK, False, ("conditional",)),
        (
            StableDiffusionInstructPix2PixPipeline(),
            True,
            ("conditional", "image", "unconditional"),
        ),
        (StableDiffusionInstructPix2PixPipeline(), False, ("conditional",)),
        (PERTURBING, True, ("unconditional", "conditional", "perturbed")),
        (PERTURBING, False, ("conditional", "perturbed")),
        # A guider is asked, whatever the guidance.
        (SimpleNamespace(guider=SimpleNamespace(is_conditional=False)), True, ("unconditional",)),
        (SimpleNamespace(guider=SimpleNamespace(is_conditional=True)), True, ("conditional",)),
        (guiding(*THREE, prepared=1, conditional=True), True, ("conditional",)),
        (guiding(*THREE, prepared=2, conditional=False), True, ("unconditional",)),
        (guiding(*THREE, prepared=3, conditional=True), True, ("perturbed",)),
        # One that leaves some of its branches out, so that their numbers say nothing.
        (guiding(*THREE, prepared=2, conditional=True, conditions=2), True, ("conditional",)),
        (guiding(*THREE, prepared=0, conditional=False), True, ("unconditional",)),
        # A guider of a plain pipeline that has another use for the name.
        (SimpleNamespace(guider=None), True, ("unconditional", "conditional")),
    ],
)
def test_how_pipelines_stack_them(pipe: Any, guided: bool, expected: tuple[str, ...]) -> None:
    assert stacked(pipe, guided) == expected


def test_every_branch_is_given_a_text() -> None:
    assert tuple(ROLES) == BRANCHES
    assert set(ROLES.values()) == {"conditional", "unconditional"}
    assert ROLES["image"] == "unconditional"  # the picture without the prompt
    assert ROLES["perturbed"] == "conditional"
