"""The sources of scenes: the shapes as they ever were, and the world."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from lab.judge.pixel_maps import STYLES
from lab.scenes import Description, Scene, language, sample_scene
from lab.scenes.layout import Split
from lab.scenes.world import (
    WorldScene,
    describe_world,
    sample_world,
    word_masks,
    world_language,
)
from lab.training.loop import seed_for
from lab.training.mask_loss import noun_targets
from lab.training.sources import (
    ShapeScenes,
    WorldScenes,
    descriptions,
    drawn_scenes,
    pictures,
    source_named,
)
from lab.training.sources.quiz import PLACES, SIDES, UNSAID
from lab.training.sources.world_quiz import OWN, world_quiz
from lab.training.text import tokenize
from lab.training.tokenizer import build_tokenizer
from t2i_xattn.errors import UserError


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def test_the_shapes_are_what_they_were_before_there_were_sources() -> None:
    # Taken from the functions that trained the model in the box.
    source = ShapeScenes()
    tokenizer = build_tokenizer(source.vocabulary())
    scenes, rng = drawn_scenes(source, [7, 5, 3], 6)
    said = descriptions(source, scenes, rng, 0.3)
    prompts = [each.prompt for each in said]
    assert prompts[0] == "a rrccx tiny yellow square above a green circle"
    assert _digest("\n".join(prompts).encode()) == "c06c71262ae4f144"
    assert _digest(tokenize(tokenizer, prompts).numpy().tobytes()) == "082a8b2695c30cd3"
    assert _digest(repr(scenes).encode()) == "8a248b414f03f93f"
    assert _digest(pictures(source, scenes).numpy().tobytes()) == "022bab898a9288d5"
    targets = noun_targets(tokenizer, source, scenes, said, 16)
    masks = b"".join(bytes([row, column]) + mask.numpy().tobytes() for row, column, mask in targets)
    assert _digest(masks) == "20a00df67630352b"
    assert int(rng.integers(2**31)) == 1068601276
    _, told = source.telling(np.random.default_rng(seed_for(7, "text", 2)), 8, 0.06)
    assert _digest("\n".join(each.prompt for each in told).encode()) == "88e4e86d782a75a5"


def test_a_source_that_there_is_not() -> None:
    with pytest.raises(UserError, match="one of shapes, world, got 'moon'"):
        source_named("moon")


@pytest.mark.parametrize("name", ["shapes", "world"])
def test_every_word_of_a_source_is_one_token(name: str) -> None:
    source = source_named(name)
    known = source.vocabulary()
    tokenizer = build_tokenizer(known)
    assert [word for word in known if len(tokenizer.tokenize(word)) != 1] == []
    scenes, rng = drawn_scenes(source, [2], 200)
    said = {word.text for each in descriptions(source, scenes, rng, 0.0) for word in each.words}
    assert said <= set(known)


@pytest.mark.parametrize("name", ["shapes", "world"])
def test_labels_fit_the_quiz(name: str) -> None:
    source = source_named(name)
    quiz = source.quiz()
    scenes, said = source.telling(np.random.default_rng(0), 60, 0.1)
    labels = source.labels(scenes, said)
    assert list(labels) == list(quiz.answers)
    for answer, asked in quiz.answers.items():
        assert labels[answer].shape == (60, quiz.groups[asked.group])
        given = labels[answer][labels[answer] != UNSAID]
        assert len(given) > 5
        assert given.min() >= 0
        assert given.max() < max(2, asked.options)
    related = sum(each.relation is not None for each in said)
    assert related > 30


def test_the_world_holds_a_share_of_plain_shapes_and_nothing_held_out() -> None:
    scenes, _ = drawn_scenes(WorldScenes(), [1], 3000)
    plain = [each for each in scenes if isinstance(each, Scene)]
    assert 0.184 < len(plain) / len(scenes) < 0.216  # a fifth, within two standard deviations
    for each in scenes:
        if isinstance(each, Scene):
            assert not language().is_held_out(each.kinds())
        else:
            assert not world_language().is_held_out(each.combinations())


def test_no_picture_teaches_against_a_style_that_is_held_out_of_a_place() -> None:
    def against(split: Split) -> list[WorldScene]:
        drawn, _ = drawn_scenes(WorldScenes(), [3], 1500, split)
        held_out = world_language().held_out
        return [
            each
            for each in drawn
            if isinstance(each, WorldScene)
            and any((one.style, each.place) in held_out for one in each.things)
        ]

    assert against("any")
    assert not against("train")


def test_anything_is_read_of_in_any_style_but_what_is_held_out() -> None:
    scenes, said = WorldScenes().telling(np.random.default_rng(4), 600, 0.0)
    worlds = [each for each in scenes if not isinstance(each, Scene)]
    assert not any(world_language().is_held_out(each.combinations()) for each in worlds)
    assert any(each.style == "futuristic" and each.place == "meadow" for each in worlds)
    assert any(
        thing.style == "old" and thing.kind == "cat" for each in worlds for thing in each.things
    )
    # What is painted has no style but those that are drawn.
    drawn, _ = drawn_scenes(WorldScenes(), [2], 200)
    kinds = world_language().things
    for each in drawn:
        if not isinstance(each, Scene):
            assert each.style is None or each.style in world_language().places[each.place].styles
            assert all(
                one.style is None or one.style in kinds[one.kind].styles for one in each.things
            )
    assert len(said) == 600


def test_the_world_s_answers_are_those_of_its_scenes() -> None:
    source, words = WorldScenes(), world_language()
    kinds = list(dict.fromkeys([*words.things, *language().shapes]))
    colours = [OWN, *words.colours]
    scenes = [sample_world(seed) for seed in range(60)]
    said = [describe_world(scene, seed) for seed, scene in enumerate(scenes)]
    labels = source.labels(scenes, said)
    asked = 0
    for index, (scene, description) in enumerate(zip(scenes, said, strict=True)):
        row = {name: label[index] for name, label in labels.items()}
        assert list(words.places)[row["place"][0]] == scene.place
        assert list(words.lights)[row["light"][0]] == scene.light
        # The village is kept from a style: asked for its style, it would be learned to have none.
        told = UNSAID if scene.place == "village" else STYLES.index(scene.style)
        assert row["place style"][0] == told
        there = {kinds[i] for i in row["present"][: len(kinds)].nonzero().flatten().tolist()}
        assert there == {each.kind for each in scene.things}
        for group in scene.groups():
            first = scene.things[group[0]]
            question = kinds.index(first.kind)
            if sum(scene.things[other[0]].kind == first.kind for other in scene.groups()) > 1:
                assert row["partner"][question] == UNSAID
                continue
            asked += 1
            assert colours[row["partner"][question]] == (first.colour or OWN)
            assert row["count"][question] == len(group) - 1
            assert list(words.sizes)[row["size"][question]] == first.size
            assert STYLES[row["style"][question]] == first.style
            middle = np.mean([scene.things[each].x for each in group])
            assert row["column"][question] == int(middle / 128 * PLACES)
        if description.relation is None:
            assert (row["outermost kind"] == UNSAID).all()
            continue
        one, side, other = description.relation
        inverse = language().relations[side].inverse
        for name, chosen in ((side, one), (inverse, other)):
            thing, at = scene.things[chosen], SIDES.index(name)
            assert kinds[row["outermost kind"][at]] == thing.kind
            assert colours[row["outermost colour"][at]] == (thing.colour or OWN)
    assert asked > 40


def test_a_plain_shape_has_a_ground_and_no_light() -> None:
    scene = sample_scene(3, objects=1)
    labels = WorldScenes().labels([scene], [Description("", ())])
    assert labels["light"].item() == labels["place style"].item() == UNSAID
    assert labels["place"].item() >= len(world_language().places)
    assert labels["present"].sum() == 2
    assert set(labels) == set(world_quiz().answers)


def test_nouns_of_the_world_are_things_and_places() -> None:
    source = WorldScenes()
    scene = sample_world(4)
    said = describe_world(scene, 4)
    every = dict(zip(said.words, word_masks(scene, said, 16), strict=True))
    nouns = source.nouns(scene, said, 16)
    assert {word.kind for word, _ in nouns} <= {"thing", "place"}
    assert len(nouns) == sum(word.kind in ("thing", "place") for word in said.words) > 0
    assert all((mask == every[word]).all() for word, mask in nouns)
    assert source.nouns(scene, Description("", ()), 16) == []
