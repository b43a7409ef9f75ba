"""Drawn scenes: what the prompt says is what the pixels show."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lab.scenes import draw_scene, language, object_masks, render_scene, sample_scene
from lab.scenes.layout import SIDE, Split, relation_between

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None, derandomize=True)


@few
@given(seeds, st.sampled_from([96, 128]))
def test_masks_match_the_drawn_pixels(seed: int, size: int) -> None:
    scene = sample_scene(seed, split="any")
    pixels = np.asarray(draw_scene(scene, size))
    masks = object_masks(scene, size)
    assert masks.shape == (len(scene.objects), size, size)
    # Two pixels from the edge: the cleft of a heart and pointed tips are narrower than a pixel.
    square = np.ones((5, 5), dtype=bool)
    for each, mask in zip(scene.objects, masks, strict=True):
        inside = ndimage.binary_erosion(mask, square)
        assert inside.any()
        assert (pixels[inside] == each.rgb).all()
        # Not only is all of the mask the object: all of the object is in the mask.
        own = (pixels == each.rgb).all(axis=-1)
        if sum(other.rgb == each.rgb for other in scene.objects) == 1:
            assert not (own & ~ndimage.binary_dilation(mask, square)).any()
    outside = ~ndimage.binary_dilation(masks.any(axis=0), square)
    assert (pixels[outside] == scene.ground_rgb).all()
    assert (masks.sum(axis=0) <= 1).all()


@few
@given(seeds)
def test_masks_stand_where_the_layout_says(seed: int) -> None:
    scene = sample_scene(seed, split="any")
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    for each, mask in zip(scene.objects, object_masks(scene), strict=True):
        reach = np.hypot(columns - each.x, rows - each.y)[mask]
        # The corners of a triangle stand out the furthest, by 10 %.
        assert 0.85 * each.radius <= reach.max() <= 1.11 * each.radius + 1


def test_same_seed_same_bytes() -> None:
    first, again, other = (render_scene(seed) for seed in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.description == again.description
    assert (first.masks == again.masks).all()
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(("split", "expected"), [("train", False), ("held_out", True)])
def test_held_out_combinations_stay_out_of_training(split: Split, expected: bool) -> None:
    words = language()
    # Written out here, not asked of `is_held_out`, which the sampler itself uses.
    objects = {tuple(each) for each in words.held_out_objects}
    pairs = {tuple(sorted(each)) for each in words.held_out_pairs}
    assert len(objects) == 6
    assert len(pairs) == 3
    for seed in range(3000):
        kinds = sample_scene(seed, split=split).kinds()
        shapes = sorted(shape for _, shape in kinds)
        met = {(a, b) for i, a in enumerate(shapes) for b in shapes[i + 1 :]}
        assert (bool(objects & set(kinds)) or bool(pairs & met)) == expected


@few
@given(seeds, st.sampled_from([1, 2, 3]))
def test_every_word_is_found_at_its_place(seed: int, objects: int) -> None:
    scene = render_scene(seed, objects=objects, split="any")
    words = scene.description.words
    assert len(scene.scene.objects) == objects
    assert scene.masks.shape == (len(words), SIDE, SIDE)
    assert [scene.prompt[word.start : word.stop] for word in words] == [w.text for w in words]
    assert [word.start for word in words] == sorted({word.start for word in words})
    # Nothing but punctuation and spaces lies between the words.
    rest = "".join(scene.prompt[a.stop : b.start] for a, b in pairwise(words))
    assert set(rest) <= set(" ,.")


@few
@given(seeds)
def test_words_name_the_pixels_of_their_object(seed: int) -> None:
    scene = render_scene(seed, split="any")
    truth = object_masks(scene.scene)
    named: dict[str, set[int]] = {"colour": set(), "shape": set()}
    for word, mask in zip(scene.description.words, scene.masks, strict=True):
        if word.kind in ("colour", "shape"):
            (index,) = word.objects
            each = scene.scene.objects[index]
            known = (each.colour, *language().shapes[each.shape])
            assert word.text in (known[:1] if word.kind == "colour" else known[1:])
            assert (mask == truth[index]).all()
            named[word.kind].add(index)
        elif word.kind == "ground":
            assert (mask == ~truth.any(axis=0)).all()
        elif word.kind == "other":
            assert not mask.any()
    everything = set(range(len(scene.scene.objects)))
    assert named == {"colour": everything, "shape": everything}


@few
@given(seeds)
def test_the_relation_that_is_stated_is_true(seed: int) -> None:
    scene = render_scene(seed, objects=2, relation=True)
    if scene.description.relation is None:
        one, other = scene.scene.objects
        assert relation_between((one.x, one.y), (other.x, other.y)) is None
        return
    first, name, second = scene.description.relation
    masks = object_masks(scene.scene)
    centres = [np.argwhere(masks[index]).mean(axis=0) for index in (first, second)]
    down, right = centres[0] - centres[1]
    sides = {"left of": -right, "right of": right, "above": -down, "below": down}
    assert max(sides, key=lambda side: sides[side]) == name


def test_relations_by_hand() -> None:
    assert relation_between((10, 50), (90, 60)) == "left of"
    assert relation_between((90, 60), (10, 50)) == "right of"
    assert relation_between((50, 10), (60, 90)) == "above"
    assert relation_between((60, 90), (50, 10)) == "below"
    assert relation_between((0, 0), (50, 50)) is None


def test_a_number_of_objects_that_is_not_drawn() -> None:
    with pytest.raises(ValueError, match="1, 2 or 3 objects, got 4"):
        sample_scene(0, objects=4)
