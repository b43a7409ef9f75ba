"""The mean of two models of one training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import make_pipeline
from lab.training.soup import average_denoiser
from t2i_xattn.errors import UserError


def test_the_denoiser_becomes_the_mean_and_nothing_else_changes(tmp_path: Path) -> None:
    earlier, later = make_pipeline(), make_pipeline()
    earlier.save_pretrained(tmp_path)
    with torch.no_grad():
        for each in later.unet.parameters():
            each.add_(1.0)
    average_denoiser(later, tmp_path)
    first, mean = earlier.unet.state_dict(), later.unet.state_dict()
    assert all(torch.allclose(mean[name], first[name] + 0.5) for name in first)
    for part in ("vae", "text_encoder"):
        before, after = getattr(earlier, part).state_dict(), getattr(later, part).state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_models_that_are_not_of_one_training_are_refused(part: str, tmp_path: Path) -> None:
    other, trained = make_pipeline(), make_pipeline()
    if part == "unet":
        other.unet = type(other.unet).from_config({**other.unet.config, "layers_per_block": 2})
    else:
        with torch.no_grad():
            next(iter(other.text_encoder.parameters())).add_(1.0)
    other.save_pretrained(tmp_path)
    before = {name: each.clone() for name, each in trained.unet.state_dict().items()}
    with pytest.raises(UserError, match="average with one that the training began from"):
        average_denoiser(trained, tmp_path)
    assert all(torch.equal(each, before[name]) for name, each in trained.unet.state_dict().items())
