"""`explain`: what it gives, and how it refuses."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from conftest import make_pipeline, state_of
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.edits.edit import EditContext
from t2i_xattn.explaining.evidence import Evidence, interval
from t2i_xattn.explaining.explanation import Explanation
from t2i_xattn.explaining.leakage import leakage
from t2i_xattn.explaining.placebo import Placebo
from t2i_xattn.explaining.run import Run
from t2i_xattn.explaining.trust import grade, probability
from t2i_xattn.prompts.words import Word
from t2i_xattn.traces.heat_map import HeatMap

PROMPT = "a red circle left of a blue square"
SHORT: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 5.0}


def quiet() -> Any:
    pipe = make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def found() -> Explanation:
    return tx.explain(
        quiet(),
        PROMPT,
        words=["red", "blue square", "a"],
        seeds=[0, 5],
        instead={"a": None, "red": "blue", "blue square": "red circle"},
        steps=(0, 2),
        **SHORT,
    )


class TestFound:
    def test_words_and_pictures(self, found: Explanation) -> None:
        assert [each.word for each in found.words] == ["red", "blue square", "a"]
        assert [each.seed for each in found.pictures] == [0, 5]
        assert (found.prompt, found.steps) == (PROMPT, (0, 2))
        pipe = quiet()
        for picture in found.pictures:
            generator = torch.Generator().manual_seed(picture.seed)
            image = pipe(PROMPT, generator=generator, **SHORT).images[0]
            assert image.tobytes() == picture.image.tobytes()
            assert picture.trace.heatmap("red").share > 0

    def test_each_word(self, found: Explanation) -> None:
        for word in found.words:
            assert set(word.sizes) == {"text", "attention"}
            for size in word.sizes.values():
                assert size.n == 2
                assert size.low is not None
                assert size.high is not None
                assert size.low <= size.mean <= size.high
            assert word.floor is not None
            assert 0 <= word.probability <= 1
            assert repr(word.word) in word.sentence
            assert word.sentence.endswith(".")
            assert word.sentence.count("\n") == 0
        assert found.word("RED").others == ("blue",)
        assert found.word("a").others == (None,)
        assert str(found).count("\n") == 2

    def test_effect_maps(self, found: Explanation) -> None:
        effect = found.effect("red", "text", picture=1)
        size = found.pictures[1].image.size
        assert effect.array.shape == (size[1], size[0])
        assert effect.array.min() >= 0
        assert len(effect.by_step) == 2
        mean = np.mean(np.square(effect.by_step))
        assert 0.3 * effect.size**2 < mean < 3 * effect.size**2
        assert "red" in repr(effect)
        with pytest.raises(tx.UserError, match=r"an intervention that was asked for.*'only'"):
            found.effect("red", "only")
        with pytest.raises(tx.UserError, match=r"a word that was explained.*did you mean 'red'"):
            found.effect("rad")

    def test_regions_and_leakage(self, found: Explanation) -> None:
        region = found.region("red")
        assert region.array.shape == found.effect("red").array.shape
        names, matrix = found.leakage(["red", "blue square"])
        assert names == ("red", "blue square")
        assert matrix.shape == (2, 2)
        diagonal = np.diag(matrix)
        assert np.allclose(diagonal[~np.isnan(diagonal)], 1)

    def test_json(self, found: Explanation) -> None:
        told = json.loads(json.dumps(found.as_json(), allow_nan=False))
        assert [each["word"] for each in told["words"]] == ["red", "blue square", "a"]
        assert told["words"][0]["instead"] == ["blue"]


def test_pictures_painted_without_a_word() -> None:
    pipe = quiet()
    given: dict[str, Any] = {"words": ["red"], "instead": {"red": "blue"}, "placebo": False} | SHORT
    (picture,) = tx.explain(pipe, PROMPT, paint=True, **given).pictures
    other = pipe(
        PROMPT.replace("red", "blue"), generator=torch.Generator().manual_seed(0), **SHORT
    ).images[0]
    painted = picture.painted["red"]
    assert np.abs(np.asarray(painted["text"], int) - np.asarray(other, int)).max() <= 1
    with tx.edit(pipe, tx.edits.Drop("red")):
        hidden = pipe(PROMPT, generator=torch.Generator().manual_seed(0), **SHORT).images[0]
    assert np.abs(np.asarray(painted["attention"], int) - np.asarray(hidden, int)).max() <= 1
    change = picture.change("red")
    difference = np.asarray(picture.image, float) - np.asarray(painted["text"], float)
    expected: Any = np.abs(difference) / 255
    assert np.abs(change.array - expected.mean(axis=2)).max() < 1e-6
    with pytest.raises(tx.UserError, match="paint=True"):
        tx.explain(pipe, PROMPT, **given).pictures[0].change("red")
    with pytest.raises(tx.UserError, match="at single steps alone"):
        tx.explain(pipe, PROMPT, paint=True, interventions=["embedding"], **given)


def test_carriers() -> None:
    found = tx.explain(
        quiet(), PROMPT, words=["red"], interventions=["carriers"], instead={"red": "blue"}, **SHORT
    )
    carriers = found.word("red").carriers
    assert carriers["before"] == pytest.approx(0, abs=1e-4)  # the text encoder is causal
    assert sum(carriers.values()) == pytest.approx(1, abs=0.3)  # exact were attention linear
    assert "it acts through" in found.word("red").sentence


def test_carriers_one_by_one() -> None:
    """Each group is asked beside the whole text, however few are asked at once."""
    given: dict[str, Any] = {"words": ["red"], "interventions": ["carriers"], "placebo": False}
    given |= {"instead": {"red": "blue"}} | SHORT
    together = tx.explain(quiet(), PROMPT, **given).word("red").carriers
    alone = tx.explain(quiet(), PROMPT, batch=1, **given).word("red").carriers
    assert alone == pytest.approx(together, abs=1e-3)


def test_carriers_of_a_pipeline_that_takes_one_prompt() -> None:
    pipe = quiet()
    check = pipe.check_inputs

    def one_alone(prompt: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(prompt, list):
            raise ValueError("one prompt at a time")
        check(prompt, *args, **kwargs)

    pipe.check_inputs = one_alone
    given: dict[str, Any] = {"words": ["red"], "instead": {"red": "blue"}} | SHORT
    with pytest.raises(tx.UserError, match="several prompts at once"):
        tx.explain(pipe, PROMPT, interventions=["carriers"], **given)
    found = tx.explain(pipe, PROMPT, **given).word("red")
    expected = tx.explain(quiet(), PROMPT, **given).word("red")
    assert found.sizes["text"].mean == pytest.approx(expected.sizes["text"].mean, rel=1e-3)


def test_the_bar_is_shown_as_the_pipeline_shows_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipe = quiet()
    tx.explain(pipe, PROMPT, words=["red"], **SHORT)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False)
    tx.explain(pipe, PROMPT, words=["red"], **SHORT)
    told = capsys.readouterr().err
    assert "explain, seed 0:" in told
    assert "/4 [" in told  # how often it is drawn depends on the time
    assert pipe._progress_bar_config == {"disable": False}


def test_all_words_once_and_others_of_their_kind() -> None:
    found = tx.explain(
        quiet(), "a red circle and a red square", placebo=False, steps=(0, 1), **SHORT
    )
    assert [each.word for each in found.words] == ["a", "red", "circle", "and", "square"]
    assert [each.others[0] is None for each in found.words] == [True, False, False, True, False]
    assert [each.kind for each in found.words] == [None, "colour", "shape", None, "shape"]
    assert all(len(each.others) == 2 for each in found.words if each.others[0])
    assert found.word("red").floor is None
    assert found.word("red").kind == "colour"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"prompt": ["red"]}, "prompt"),
        ({"prompt": "!"}, "words to ask about"),
        ({"words": ["star"]}, "'star' is not in the prompt"),
        ({"words": ["red", "Red"]}, "words that differ"),
        ({"words": []}, "words to ask about"),
        ({"interventions": []}, "at least one intervention"),
        ({"interventions": ["txt"]}, "did you mean 'text'"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1, 1]}, "seeds that differ"),
        ({"seeds": [-1]}, "a seed from 0"),
        ({"batch": 0}, "a batch of 1 or more"),
        ({"instead": {"star": "x"}}, "'star'"),
        ({"generator": torch.Generator()}, "give seed="),
        ({"num_images_per_prompt": 2}, "a run for each seed"),
        ({"prompt_embeds": torch.zeros(1, 77, 32)}, "prompts as text"),
        ({"strength": 0.5}, "arguments of StableDiffusionPipeline"),
        ({"output_type": "np"}, "leave output_type out"),
        ({"steps": (5, 9)}, "a window of steps"),
        ({"heads": [0]}, "with heads"),
        ({"sites": ["mid"], "interventions": ["embedding"]}, "with sites"),
        (
            {"interventions": ["only"], "instead": {"red": "an orange"}, "words": ["red"]},
            "a word of as many tokens",
        ),
        (
            {"interventions": ["carriers"], "instead": {"red": None}, "words": ["red"]},
            "none for 'red'",
        ),
        ({"interventions": ["text", "carriers"]}, "none for 'a'"),
    ],
)
def test_mistakes(given: Mapping[str, Any], sentence: str) -> None:
    pipe = quiet()
    pipe("red", num_inference_steps=1)  # it keeps settings of its last run
    before = state_of(pipe)
    options: dict[str, Any] = {"prompt": PROMPT, "placebo": False} | SHORT | dict(given)
    with pytest.raises(tx.UserError) as told:
        tx.explain(pipe, options.pop("prompt"), **options)
    assert sentence in str(told.value)
    assert state_of(pipe) == before
    assert pipe._progress_bar_config == {"disable": True}


def test_words_that_cannot_be_aligned_are_told_before_any_question() -> None:
    pipe, calls = quiet(), []
    pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(tx.UserError, match="none for 'a'"):
        tx.explain(pipe, PROMPT, interventions=["text", "carriers"], **SHORT)
    assert len(calls) == SHORT["num_inference_steps"]


def test_a_word_beyond_the_window() -> None:
    prompt = "red " + "of " * 80 + "blue"
    with pytest.raises(tx.UserError, match="goes beyond the window"):
        tx.explain(quiet(), prompt, words=["blue"], **SHORT)
    found = tx.explain(quiet(), prompt, placebo=False, steps=(0, 1), **SHORT)
    assert [each.word for each in found.words] == ["red"]


def test_one_word_and_no_guidance() -> None:
    found = tx.explain(quiet(), "red", num_inference_steps=2, guidance_scale=1.0)
    (word,) = found.words
    assert word.sizes["text"].mean > 0
    assert word.sizes["text"].low is None


def test_an_interrupt_leaves_all_as_found() -> None:
    pipe = quiet()
    pipe("red", num_inference_steps=1)
    before, calls = state_of(pipe), []
    forward = type(pipe.unet).forward

    @functools.wraps(forward)
    def stop(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipe.unet), "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            tx.explain(pipe, PROMPT, **SHORT)
    assert state_of(pipe) == before


def test_what_is_not_repeatable_is_told() -> None:
    pipe = quiet()
    draw = pipe.prepare_latents
    pipe.prepare_latents = lambda *a, **k: draw(*a, **k) + torch.randn(1)  # other each time
    with pytest.raises(tx.UserError, match="the latents of step 0 differ"):
        tx.explain(pipe, PROMPT, words=["red"], **SHORT)


def test_a_run_again_is_the_same() -> None:
    run = Run(quiet(), PROMPT, seed=3, output_type="np", negative_prompt="green", **SHORT)
    first, again = run().images, run().images
    assert np.array_equal(first, again)
    pair = run([PROMPT, "a blue circle"]).images
    assert np.allclose(pair[0], first[0], atol=1e-4)
    assert not np.allclose(pair[1], first[0], atol=1e-2)
    assert np.array_equal(run(num_inference_steps=2).images, run(num_inference_steps=2).images)


class TestPlacebo:
    def context(self, words: tuple[Word, ...], tokens: int = 12) -> EditContext:
        site = AttentionSite("a", "cross", 0, "mid", 0, 2)
        return EditContext(
            site, 2, 2, (2, 2), "conditional", 0, 4, 1.0, (words,), (None,), tokens, (0,),
            torch.device("cpu"),
        )  # fmt: skip

    def test_takes_the_word_s_budget_from_columns_of_no_word(self) -> None:
        words = (Word("red", 0, 3, (1, 2)), Word("circle", 4, 10, (3,)))
        probs = torch.rand(1, 2, 4, 12, generator=torch.Generator().manual_seed(0))
        probs[..., 0] += 5  # a start token that attracts
        probs /= probs.sum(-1, keepdim=True)
        edited = Placebo("red")(probs, self.context(words))
        assert torch.allclose(edited.sum(-1), torch.ones(1, 2, 4))
        budget = probs[..., 1:3].sum(-1)
        # What the others have now is theirs over all that is left after the budget is gone.
        assert torch.allclose(edited[..., 1:4], probs[..., 1:4] / (1 - budget)[..., None])
        assert torch.all(edited[..., 0] < probs[..., 0])

    def test_another_seed_takes_other_columns(self) -> None:
        words = (Word("red", 0, 3, (1,)),)
        probs = torch.full((1, 1, 4, 12), 1 / 12)
        context = self.context(words)
        one, same, other = (Placebo("red", seed)(probs, context) for seed in (0, 0, 1))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_without_such_columns(self) -> None:
        words = tuple(Word(str(n), n, n + 1, (n,)) for n in range(12))
        with pytest.raises(tx.UserError, match="placebo=False"):
            Placebo("1").prepare(self.context(words))


def test_leakage_of_known_maps() -> None:
    left, right = np.zeros((4, 8), np.float32), np.zeros((4, 8), np.float32)
    left[:, :4], right[:, 4:] = 1.0, 2.0
    left[:, 4:] = 0.25
    found = leakage([HeatMap("left", left), HeatMap("right", right)])
    assert np.allclose(found, np.array([[1, 0.25], [0, 1]]))
    assert leakage([]).shape == (0, 0)


def test_intervals() -> None:
    assert interval([1.0]) == (1.0, None, None, 1)
    mean, low, high, n = interval([0.0, 1.0] * 50)
    assert (mean, n) == (0.5, 100)
    assert low is not None
    assert high is not None
    assert low == pytest.approx(0.4, abs=0.03)
    assert high == pytest.approx(0.6, abs=0.03)


def evidence(**changes: Any) -> Evidence:
    usual: dict[str, Any] = {
        "found_by": "text", "size": 0.5, "above_floor": 50.0, "rank_correlation": 0.6, "iou": 0.5,
        "area": 0.1, "steadiness": 0.9, "attention_effect": 0.1,
    }  # fmt: skip
    return Evidence(**(usual | changes))


def test_grades() -> None:
    assert grade(evidence(), "colour") == "trust"
    assert grade(evidence(), "size") == "doubt"
    assert grade(evidence(area=0.9)) == "doubt"
    assert grade(evidence(found_by=None)) == "nothing"
    for better, worse in (
        (evidence(area=0.1), evidence(area=0.4)),
        (evidence(size=0.5), evidence(size=0.05)),
        (evidence(rank_correlation=0.9), evidence(rank_correlation=-0.9)),
    ):
        assert probability(better, None) > probability(worse, None)
