"""TokenCompose's loss: what it reads, and that it pulls maps into masks."""

from __future__ import annotations

import pytest
import torch

from lab.scenes import Description, describe, object_masks, sample_scene
from lab.scenes.language import language
from lab.training.mask_loss import PIXEL_WEIGHT, mask_loss, noun_targets
from lab.training.sources import ShapeScenes
from lab.training.tokenizer import build_tokenizer
from t2i_xattn.denoisers.sites import AttentionSite

SITE = AttentionSite("here", "cross", 0, "down", 0, 2)


def test_targets_are_the_noun_columns_with_the_masks_of_their_objects() -> None:
    tokenizer = build_tokenizer(language().vocabulary())
    scenes = [sample_scene(seed, objects=2) for seed in range(3)]
    said = [describe(scene, 1) for scene in scenes]
    said[1] = Description("", ())  # a dropped prompt has no nouns
    targets = noun_targets(tokenizer, ShapeScenes(), scenes, said, 16)
    nouns = [(row, word) for row in (0, 2) for word in said[row].words if word.kind == "shape"]
    assert len(targets) == len(nouns) == 4
    for (row, column, mask), (expected_row, word) in zip(targets, nouns, strict=True):
        assert row == expected_row
        ids = tokenizer(said[row].prompt).input_ids
        assert tokenizer.decode([ids[column]]) == word.text
        expected = object_masks(scenes[row], 16)[word.objects[0]]
        assert torch.equal(mask.bool(), torch.from_numpy(expected))


def test_loss_equals_the_paper_s_formula() -> None:
    heat = torch.tensor([0.5, 0.1, 0.2, 0.2])
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    probs = torch.zeros(1, 4, 3)
    probs[0, :, 1] = heat
    inside = 0.5 / 1.0
    pixel = -(torch.log(heat[0]) + torch.log(1 - heat[1:]).sum()) / 4
    expected = (1 - inside) ** 2 + PIXEL_WEIGHT * float(pixel)
    found = mask_loss([(SITE, probs)], [(0, 1, mask)], (2, 2))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_no_noun_means_no_loss() -> None:
    assert float(mask_loss([(SITE, torch.rand(1, 4, 3))], [], (2, 2))) == 0.0
