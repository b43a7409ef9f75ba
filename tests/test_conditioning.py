"""`condition`: the embeddings are those of the pipeline, of compel and of lpw, and what is known of
them goes with them."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from compel import CompelForFlux, CompelForSD, CompelForSDXL
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import T5Config, T5EncoderModel

import t2i_xattn as tx
from conftest import make_pipeline, make_tokenizer, state_of
from t2i_xattn import edits
from t2i_xattn.conditioning.within import is_reading, prompts_read
from t2i_xattn.errors import UserError
from t2i_xattn.explaining.targets import targets
from t2i_xattn.losses import AttendAndExcite, GuidanceLoss
from t2i_xattn.prompts import known
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.listening import Ears
from t2i_xattn.prompts.without_words import encoded_without
from tiny.picture_first import make_sd3
from tiny.text_first import make_flux
from tiny.tokenizers import make_t5
from tiny_pipelines import generator, make_sdxl

PLAIN = "a red circle left of blue"
LONG = ", ".join(["a red circle left of the blue"] * 12) + ". end of red"
SHORT: dict[str, Any] = {"max_sequence_length": 16}
PIPELINES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "Stable Diffusion": (make_pipeline, {}),
    "SDXL": (make_sdxl, {}),
    "SD3": (make_sd3, SHORT),
    "FLUX": (lambda: make_flux(diffusers.FluxPipeline), SHORT),
}

# FLUX's tiny pipeline takes seconds a run.
NAMES = [
    pytest.param(each, marks=[pytest.mark.slow] if each == "FLUX" else []) for each in PIPELINES
]
SHARED = [
    "a red++ circle, blue--",
    "a (red circle)1.4 left of (blue)0.6",
    "(a (red)1.2 circle)++",
    '("a red circle", "blue of++ left").blend(0.3, 0.7)',
    '("a red circle", "blue of left").blend(1, -0.4, no_normalize)',
    '("a red circle", "blue of++ left").and(1, 0.6)',
    LONG,
    LONG.replace("circle", "circle++").replace("blue", "blue--"),
    f"(left of)0.5 red {LONG} (red)0.7",
    f"({LONG})0.8 and",
]
"""What both read alike; and long prompts, which compel parts at sentences and phrases."""


def known_texts(given: dict[str, Any]) -> list[Text]:
    found = [known.recall(row) for row in given["prompt_embeds"]]
    assert None not in found
    return [each for each in found if each is not None]


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, **arguments: Any) -> np.ndarray:
    options = {"num_inference_steps": 2, "output_type": "np", "generator": generator()}
    return pipe(**(options | arguments)).images


def words(trace: tx.Trace) -> list[tuple[str, tuple[int, ...]]]:
    return [(word.text, word.columns) for word in trace.words]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("negative", [None, "blue of"])
@pytest.mark.parametrize("prompt", [PLAIN, PLAIN.replace("red", "(red:1.0)")])
def test_weight_one_leaves_the_same_bytes(name: str, negative: str | None, prompt: str) -> None:
    make, options = PIPELINES[name]
    pipe = quiet(make())
    more: dict[str, Any] = {}
    if name == "FLUX" and negative:
        more["true_cfg_scale"] = 2.0
    given = {} if negative is None else {"negative_prompt": negative}
    before = dict(vars(pipe))
    conditioned = tx.condition(pipe, prompt, negative, **options)
    assert vars(pipe) == before
    plain = drawn(pipe, prompt=PLAIN, **given, **options, **more)
    assert np.array_equal(plain, drawn(pipe, **conditioned, **more))
    louder = tx.condition(pipe, PLAIN.replace("red", "(red:1.5)"), negative, **options)
    assert not np.array_equal(plain, drawn(pipe, **louder, **more))


class TestCompel:
    @pytest.mark.parametrize("prompt", SHARED)
    def test_stable_diffusion(self, pipe: Any, prompt: str) -> None:
        theirs = CompelForSD(pipe)(prompt, "blue left")
        ours = tx.condition(pipe, prompt, "blue left")
        torch.testing.assert_close(ours["prompt_embeds"], theirs.embeds, atol=1e-5, rtol=0)
        negative = ours["negative_prompt_embeds"]
        torch.testing.assert_close(negative, theirs.negative_embeds, atol=1e-5, rtol=0)

    # compel fails for weights of a conjunction there.
    @pytest.mark.parametrize("prompt", [each for each in SHARED if ".and(1" not in each])
    def test_sdxl(self, prompt: str) -> None:
        pipe = make_sdxl()
        theirs = CompelForSDXL(pipe)(prompt, negative_prompt="blue")
        ours = tx.condition(pipe, prompt, "blue")
        torch.testing.assert_close(ours["prompt_embeds"], theirs.embeds, atol=1e-5, rtol=0)

    def test_the_pooled_text_has_no_syntax_in_it(self) -> None:
        """compel's has (`++` as letters); ours is that of the words."""
        pipe = make_sdxl()
        plain, weighted = (
            tx.condition(pipe, each)["pooled_prompt_embeds"] for each in (PLAIN, "a red++ circle")
        )
        own = pipe.encode_prompt("a red circle", device="cpu", do_classifier_free_guidance=False)[2]
        assert torch.equal(weighted, own)
        assert not torch.equal(weighted, plain)

    @pytest.mark.parametrize("prompt", SHARED[:3])
    def test_flux(self, prompt: str) -> None:
        pipe = make_flux(diffusers.FluxPipeline)
        window = pipe.tokenizer_2.model_max_length
        theirs = CompelForFlux(pipe)(prompt)
        ours = tx.condition(pipe, prompt, max_sequence_length=window)
        torch.testing.assert_close(ours["prompt_embeds"], theirs.embeds, atol=1e-5, rtol=0)

    @pytest.mark.parametrize(
        ("make", "prompt"),
        [
            *((make_pipeline, each) for each in SHARED[:8]),
            *((make_sdxl, each) for each in SHARED[:4]),
        ],
    )
    def test_its_embeddings_show_words(self, make: Any, prompt: str) -> None:
        """Known by what the encoders were given: also blends, and words with less weight, after
        which no column is what an encoder gave."""
        pipe = quiet(make())
        kind = CompelForSDXL if make is make_sdxl else CompelForSD
        compel = kind(pipe)
        compel("left of (red)0.5", negative_prompt="")  # the empty text is encoded but once
        with tx.record(pipe) as trace:
            found = compel(prompt, negative_prompt="left of")
            pooled = {}
            if make is make_sdxl:
                pooled = {
                    "pooled_prompt_embeds": found.pooled_embeds,
                    "negative_pooled_prompt_embeds": found.negative_pooled_embeds,
                }
            pipe(
                prompt_embeds=found.embeds,
                negative_prompt_embeds=found.negative_embeds,
                num_inference_steps=1,
                output_type="latent",
                **pooled,
            )
        expected = [(w.text, w.columns) for w in tx.condition(pipe, prompt).readings[0].words]
        assert sorted(words(trace)) == sorted(expected)


def lpw_embeddings(pipe: Any, chunks: list[list[tuple[str, float]]]) -> Tensor:
    """lpw's formula by itself: states times weights, and the mean of all brought back."""
    states, weights = [], []
    for chunk in chunks:
        ids, own = [pipe.tokenizer.bos_token_id], [1.0]
        for text, weight in chunk:
            tokens = pipe.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids, own = ids + tokens, own + [weight] * len(tokens)
        count = 77 - len(ids)
        ids, own = ids + [pipe.tokenizer.eos_token_id] * count, own + [1.0] * count
        states.append(pipe.text_encoder(torch.tensor([ids]))[0])
        weights.append(torch.tensor([own]))
    whole, all_weights = torch.cat(states, 1), torch.cat(weights, 1)[..., None]
    weighted = whole * all_weights
    return weighted * (whole.mean() / weighted.mean())


@torch.no_grad()
def test_lpw(pipe: Any) -> None:
    """That of diffusers' community pipeline was run beside it: docs/conditioning.md."""
    found = tx.condition(pipe, "a ((red)) [circle] (left:0.3)", way="lpw")["prompt_embeds"]
    pieces = [("a", 1.0), ("red", 1.21), ("circle", 1 / 1.1), ("left", 0.3)]
    torch.testing.assert_close(found, lpw_embeddings(pipe, [pieces]), atol=1e-5, rtol=0)
    # One token a word; windows end where they are full.
    many = tx.condition(pipe, "red " * 80 + "(blue:1.5)", way="lpw")["prompt_embeds"]
    windows = [[("red " * 75, 1.0)], [("red " * 5, 1.0), ("blue", 1.5)]]
    torch.testing.assert_close(many, lpw_embeddings(pipe, windows), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("skipped", [0, 1])
def test_clip_skip(pipe: Any, skipped: int) -> None:
    """The stock pipeline's own fails with transformers 5, which has no `text_model`."""
    encoder = pipe.text_encoder
    ids = pipe.tokenizer(PLAIN, padding="max_length", return_tensors="pt").input_ids
    layers = encoder(ids, output_hidden_states=True).hidden_states
    expected = encoder.final_layer_norm(layers[-1 - skipped])
    found = tx.condition(pipe, PLAIN, clip_skip=skipped)
    assert torch.equal(found["prompt_embeds"], expected)
    assert torch.equal(
        found["negative_prompt_embeds"], tx.condition(pipe, PLAIN)["negative_prompt_embeds"]
    )
    with pytest.raises(UserError, match="clip_skip below"):
        tx.condition(pipe, PLAIN, clip_skip=5)


def test_clip_skip_of_sdxl_is_the_pipelines() -> None:
    pipe = make_sdxl()
    own = pipe.encode_prompt(PLAIN, device="cpu", do_classifier_free_guidance=False, clip_skip=1)
    assert torch.equal(tx.condition(pipe, PLAIN, clip_skip=1)["prompt_embeds"], own[0])


class TestProvenance:
    PROMPT = "a (red:1.4) circle BREAK un(left:0.5)of, blue"

    @pytest.mark.parametrize("name", NAMES)
    def test_a_recording_shows_words_as_typed(self, name: str) -> None:
        make, options = PIPELINES[name]
        pipe = quiet(make())
        conditioned = tx.condition(pipe, self.PROMPT, "left", **options)
        plain = drawn(pipe, **conditioned)
        with tx.record(pipe) as trace:
            assert np.array_equal(drawn(pipe, **conditioned), plain)
        assert trace.prompts == (self.PROMPT,)
        assert [word.text for word in trace.words] == ["a", "red", "circle", "unleftof", "blue"]
        read = {w.text: w for r in conditioned.readings for w in r.words if r.branch[0] == "c"}
        assert set(read["red"].weights) == {1.4}
        assert 0.5 in read["unleftof"].weights
        for word in trace.words:
            assert trace.heatmap(word.text).share > 0
            for column, encoder in zip(word.columns, word.encoders, strict=True):
                (reading,) = (
                    r for r in conditioned.readings if r.encoder == encoder and r.branch[0] == "c"
                )
                (token,) = (t for t in reading.tokens if t.column == column)
                assert token.start < word.stop
                assert token.stop > word.start
                assert trace.tokens[column] == token.text

    def test_several_prompts_and_pictures(self, pipe: Any) -> None:
        prompts = ["a (red:1.4) circle", LONG]
        found = tx.condition(pipe, prompts, ["blue", "left " * 160])
        assert found["prompt_embeds"].shape == found["negative_prompt_embeds"].shape
        assert found["prompt_embeds"].shape[1] == 3 * 77
        both = ["conditional", "unconditional"]
        with tx.record(pipe, branches=both) as trace:
            pipe(**found, num_images_per_prompt=2, num_inference_steps=1, output_type="latent")
        assert trace.prompts == (prompts[0], prompts[0], prompts[1], prompts[1])
        negative = trace.select(branch="unconditional")
        assert negative.heatmap("blue", image=1).share > 0
        assert negative.heatmap("left", image=2).share > 0

    def test_a_cast_copy_is_known(self, pipe: Any) -> None:
        found = tx.condition(pipe, self.PROMPT)
        copy = {name: each.to(torch.float64).clone() for name, each in found.items()}
        pipe = pipe.to(torch.float64)
        with tx.record(pipe) as trace:
            pipe(**copy, num_inference_steps=1, output_type="latent")
        assert [word.text for word in trace.words][:3] == ["a", "red", "circle"]

    def test_it_goes_with_the_tensors(self, pipe: Any) -> None:
        gc.collect()  # what earlier tests have left
        before = len(known._texts)
        found = tx.condition(pipe, self.PROMPT)
        assert len(known._texts) == before + 2
        del found
        gc.collect()
        assert len(known._texts) == before

    def test_edits_find_weighted_words(self, pipe: Any) -> None:
        found = tx.condition(pipe, self.PROMPT)
        plain = drawn(pipe, **found)
        with tx.edit(pipe, tx.edits.Reweight("red circle", 1.0)):
            assert np.array_equal(drawn(pipe, **found), plain)
        with tx.edit(pipe, tx.edits.Drop("unleftof")):
            assert not np.array_equal(drawn(pipe, **found), plain)

    def test_contributions_leave_words_out_of_what_was_typed(self, pipe: Any) -> None:
        found = tx.condition(pipe, self.PROMPT, "left " * 160)  # longer than the prompt
        with tx.record(pipe, walk=1, contributions=True) as trace:
            pipe(**found, num_inference_steps=1, output_type="latent")
        assert trace.heatmap("red").share > 0

    def test_textual_inversions_of_several_vectors(self, pipe: Any) -> None:
        pipe.tokenizer.add_tokens(["<toy>", "<toy>_1", "<toy>_2"])
        pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
        found = tx.condition(pipe, "a <toy> red")
        own = pipe.encode_prompt("a <toy> red", "cpu", 1, False)[0]
        assert torch.equal(found["prompt_embeds"], own)
        toy, red = found.readings[0].words[1:]
        assert (toy.columns, red.columns) == ((2, 3, 4), (5,))
        weighted = tx.condition(pipe, "a (<toy>:1.5) red").readings[0].words[1]
        assert weighted.weights == (1.5, 1.5, 1.5)

    def test_textual_inversions_of_other_vectors_in_each_encoder(self) -> None:
        """As SDXL's pipeline reads them: what is behind stands in other columns in each."""
        pipe = quiet(make_sdxl())
        pipe.tokenizer, pipe.tokenizer_2 = make_tokenizer(), make_tokenizer()
        pipe.tokenizer.add_tokens(["<toy>", "<toy>_1", "<toy>_2"])
        pipe.tokenizer_2.add_tokens(["<toy>", "<toy>_1"])
        for end in ("", "_2"):
            encoder, tokenizer = (getattr(pipe, f"{e}{end}") for e in ("text_encoder", "tokenizer"))
            encoder.resize_token_embeddings(len(tokenizer))
        found = tx.condition(pipe, "a <toy> red")
        own = pipe.encode_prompt("a <toy> red", device="cpu", num_images_per_prompt=1)
        assert torch.equal(found["prompt_embeds"], own[0])
        by_encoder = [
            [each.columns for each in reading.words]
            for reading in found.readings
            if reading.branch == "conditional"
        ]
        assert by_encoder == [[(1,), (2, 3, 4), (5,)], [(1,), (2, 3), (4,)]]
        with tx.record(pipe) as trace:
            pipe(**found, num_inference_steps=1, output_type="latent")
        toy, red = trace.words[1:]
        assert (toy.columns, red.columns) == ((2, 3, 4), (5, 4))
        assert trace.heatmap("red").share > 0


class TestSchedule:
    PROMPT = "a [red:blue of:0.4] circle"

    @pytest.mark.parametrize("name", NAMES)
    def test_each_phase_has_its_text(self, name: str) -> None:
        """Held against a run whose embeddings are changed by hand at that step."""
        make, options = PIPELINES[name]
        pipe = quiet(make())
        scheduled = drawn(pipe, **tx.condition(pipe, self.PROMPT, **options), num_inference_steps=5)
        first, second = (
            tx.condition(pipe, f"a {each} circle", **options) for each in ("red", "blue of")
        )

        def change(_: Any, step: int, __: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if step == 1:  # two of five steps are over
                pairs = {"prompt_embeds": "prompt_embeds"}
                pairs["add_text_embeds"] = pairs["pooled_prompt_embeds"] = "pooled_prompt_embeds"
                for theirs, ours in pairs.items():
                    if theirs in given:
                        given[theirs] = given[theirs].clone()
                        given[theirs][-1] = second[ours][0]
            return given

        names = {"SDXL": ["add_text_embeds"], "SD3": ["pooled_prompt_embeds"]}
        by_hand = drawn(
            pipe,
            **first,
            num_inference_steps=5,
            callback_on_step_end=change,
            callback_on_step_end_tensor_inputs=["prompt_embeds", *names.get(name, [])],
        )
        assert np.array_equal(scheduled, by_hand)
        assert not np.array_equal(scheduled, drawn(pipe, **first, num_inference_steps=5))

    @pytest.mark.parametrize("name", [each for each in PIPELINES if each != "FLUX"])
    def test_negative_prompts_have_theirs(self, name: str) -> None:
        """Of two prompts, whose first phases are the same, in two pictures each, where the pipeline
        makes several of embeddings."""
        make, options = PIPELINES[name]
        pipe = quiet(make())
        copies = 1 if name == "SD3" else 2
        own = {"num_inference_steps": 4, "num_images_per_prompt": copies, "guidance_scale": 5.0}
        prompts, negative = ["[red:blue:0.5] of", "[red:left:0.5] of"], "a [circle:red:0.5]"
        scheduled = drawn(pipe, **tx.condition(pipe, prompts, negative, **options), **own)
        phases = [
            tx.condition(pipe, [f"{each} of" for each in words], f"a {against}", **options)
            for words, against in ((["red", "red"], "circle"), (["blue", "left"], "red"))
        ]
        own_names = {"SDXL": "add_text_embeds", "SD3": "pooled_prompt_embeds"}
        names = {"prompt_embeds": "prompt_embeds", own_names.get(name, ""): "pooled_prompt_embeds"}

        def change(_: Any, step: int, __: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if step == 1:
                for theirs, ours in names.items():
                    if theirs in given:
                        both = (phases[1][f"negative_{ours}"], phases[1][ours])
                        given[theirs] = torch.cat([e.repeat_interleave(copies, 0) for e in both])
            return given

        by_hand = drawn(
            pipe,
            **phases[0],
            **own,
            callback_on_step_end=change,
            callback_on_step_end_tensor_inputs=[each for each in names if each],
        )
        assert np.array_equal(scheduled, by_hand)
        still = drawn(pipe, **tx.condition(pipe, prompts, "a circle", **options), **own)
        assert not np.array_equal(scheduled, still)

    def test_a_prompt_that_is_the_negative_one_changes_alone(self, pipe: Any) -> None:
        found = drawn(pipe, **tx.condition(pipe, "a [red:blue:0.4]", "a red"))
        own = tx.condition(pipe, "a [red:blue:0.4]") | {"negative_prompt_embeds": None}
        own |= {"negative_prompt": "a red"}
        assert np.array_equal(found, drawn(pipe, **own))

    def test_two_images_without_guidance(self, pipe: Any) -> None:
        options = {"guidance_scale": 1.0, "num_inference_steps": 4}
        one = drawn(pipe, **tx.condition(pipe, ["a [red:blue:0.5]"] * 2), **options)
        two = drawn(
            pipe, **tx.condition(pipe, "a [red:blue:0.5]"), **options, num_images_per_prompt=2
        )
        assert np.array_equal(one, two)
        assert not np.array_equal(one, drawn(pipe, prompt=["a red"] * 2, **options))

    @pytest.mark.parametrize("kind", ["Drop", "Restrict", "MaskPadding"])
    def test_edits_act_on_the_words_of_each_phase(self, pipe: Any, kind: str) -> None:
        """Held against edits of columns that are counted by hand: 5 tokens, then 18."""
        given = tx.condition(pipe, "a [red:big yellow round:0.5] circle")

        def made(word: str, length: int | None = None, **steps: Any) -> Any:
            def masked(probs: Tensor, context: Any) -> Tensor:
                shares = probs[..., :length] / probs[..., :length].sum(-1, keepdim=True)
                return torch.nn.functional.pad(shares, (0, probs.shape[-1] - shares.shape[-1]))

            if kind == "Drop":
                return edits.Drop(word, **steps)
            if kind == "Restrict":
                return edits.Restrict(word, (0, 0, 0.5, 0.5), **steps)
            return edits.MaskPadding() if length is None else edits.EditFunction(masked, **steps)

        with tx.edit(pipe, made("circle")):
            found = drawn(pipe, **given, num_inference_steps=4)
        own = made("first", 5, steps=(0, 0.5)), made("second", 18, steps=(0.5, 1.0))
        with tx.edit(pipe, *own, spans={"first": (3,), "second": (16,)}):
            by_hand = drawn(pipe, **given, num_inference_steps=4)
        apart = np.abs(found - drawn(pipe, **given, num_inference_steps=4)).max()
        assert np.abs(found - by_hand).max() < 1e-5 < 1e-4 < apart

    def test_a_word_of_a_later_phase_is_edited_there(self, pipe: Any) -> None:
        given = tx.condition(pipe, "a [red:blue of:0.5] circle")
        tx.condition(pipe, "a red circle")  # the same in the first phase
        for word, columns, steps in (("of", (3,), (0.5, 1.0)), ("red", (2,), (0, 2))):
            with tx.edit(pipe, edits.Reweight(word, 2, steps=steps)):
                found = drawn(pipe, **given, num_inference_steps=4)
            with tx.edit(pipe, edits.Reweight("it", 2, steps=steps), spans={"it": columns}):
                assert np.array_equal(found, drawn(pipe, **given, num_inference_steps=4))
        # It lasts longer than its word; the advice in the sentence is what has just been done.
        advice = r"'red' is not .* 'of', 'circle'; .*first, 2\)"
        for word, window, message in (("red", None, advice), ("left", (3, 4), "from step 2 on")):
            with (
                pytest.raises(UserError, match=message),
                tx.edit(pipe, edits.Reweight(word, 2, steps=window)),
            ):
                drawn(pipe, **given, num_inference_steps=4)

    def test_losses_look_at_the_words_of_each_phase(self, pipe: Any) -> None:
        """Held against the columns that the circle has in each."""
        seen = []

        class Looking(GuidanceLoss):
            def phrases(self) -> list[str]:
                return ["circle"]

            def __call__(self, maps: Any) -> Tensor:
                seen.append(maps.columns("circle", 0))
                assert torch.equal(maps.of("circle"), maps.shares[..., list(seen[-1])].sum(-1))
                return 0 * maps.of("circle").sum(dim=(1, 2))

        with tx.guide(pipe, Looking(until=1.0)):
            drawn(pipe, **tx.condition(pipe, "a [red:blue of:0.5] circle"), num_inference_steps=4)
        assert seen == [(3,), (3,), (4,), (4,)]
        loss = AttendAndExcite(["red"], until=1.0)
        given = tx.condition(pipe, "a [red:blue:0.5] circle")
        with (
            pytest.raises(UserError, match=r"'red' is not in .* ends there by until=0\.5"),
            tx.guide(pipe, loss),
        ):
            drawn(pipe, **given, num_inference_steps=4)
        with tx.guide(pipe, AttendAndExcite(["red"], until=0.5)):
            drawn(pipe, **given, num_inference_steps=4)

    @pytest.mark.parametrize("later", ["blue", "green"])  # green has more columns than red
    @pytest.mark.parametrize("options", [{}, {"words": True}, {"walk": 1}])
    def test_contributions_are_those_of_the_phase_that_is_kept(
        self, pipe: Any, later: str, options: dict[str, Any]
    ) -> None:
        """Held against a run whose two prompts know nothing of each other."""
        if "words" in options:
            options = {"words": [later, "circle"]}

        def change(_: Any, step: int, __: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if step == 1:
                given["prompt_embeds"] = torch.cat(
                    [given["prompt_embeds"][:1], second["prompt_embeds"]]
                )
            return given

        settings: dict[str, Any] = {"contributions": True, "steps": [(0.5, 1.0)], **options}
        scheduled = tx.condition(pipe, f"a [red:{later}:0.5] circle")
        with tx.record(pipe, **settings) as found:
            picture = drawn(pipe, **scheduled, num_inference_steps=4)
        # Made last, since an embedding is known by who made it last.
        first, second = (tx.condition(pipe, f"a {each} circle") for each in ("red", later))
        if "words" in options:  # of the first prompt, before the run, these are not there
            settings["words"] = ["circle"]
        with tx.record(pipe, **settings) as by_hand:
            again = drawn(
                pipe,
                **first,
                num_inference_steps=4,
                callback_on_step_end=change,
                callback_on_step_end_tensor_inputs=["prompt_embeds"],
            )
        assert np.array_equal(picture, again)
        assert by_hand.prompts == (f"a {later} circle",)
        assert [word.text for word in found.words] == ["a", later, "circle"]
        for word in ["circle"] if "words" in options else ["a", later, "circle"]:
            one, other = (trace.heatmap(word).array for trace in (found, by_hand))
            assert np.array_equal(one, other)
            assert one.max() > 0.01

    def test_words_of_a_later_phase_are_recorded_alone(self, pipe: Any) -> None:
        given = tx.condition(pipe, "a [red:blue:0.5] circle")
        late: dict[str, Any] = {"steps": [(0.5, 1.0)]}
        with tx.record(pipe, words=["blue"], **late) as one, tx.record(pipe, **late) as every:
            drawn(pipe, **given, num_inference_steps=4)
        assert one.heatmap("blue").share == pytest.approx(every.heatmap("blue").share, rel=1e-5)
        calls: list[Any] = []
        hook = pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
        try:
            with (
                pytest.raises(UserError, match="'yellow' is not in the prompt"),
                tx.record(pipe, words=["yellow"], **late),
            ):
                drawn(pipe, **given, num_inference_steps=4)
        finally:
            hook.remove()
        assert not calls

    def test_embeddings_of_unknown_words_on_the_way(self, pipe: Any) -> None:
        """Their columns may be named, as the sentence says."""

        def change(_: Any, step: int, __: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if step == 1:
                given["prompt_embeds"] = given["prompt_embeds"] * 0.9
            return given

        own: dict[str, Any] = {"prompt": "a red circle", "num_inference_steps": 3}
        own |= {"callback_on_step_end": change}
        own |= {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
        loss = AttendAndExcite(["red"], until=1.0)
        for context in (partial(tx.edit, pipe, edits.Drop("red")), partial(tx.guide, pipe, loss)):
            with (
                pytest.raises(UserError, match=r"words are known for .* from step 2 on"),
                context(),
            ):
                drawn(pipe, **own)
            with context(spans={"red": (2,)}):
                drawn(pipe, **own)

    def test_advice_on_losses_is_below_the_step(self, pipe: Any) -> None:
        given = tx.condition(pipe, "a [red:blue:0.67] circle")
        message = r"until=0\.6666\)"
        with (
            pytest.raises(UserError, match=message),
            tx.guide(pipe, AttendAndExcite(["red"], until=1.0)),
        ):
            drawn(pipe, **given, num_inference_steps=3)
        with tx.guide(pipe, AttendAndExcite(["red"], until=0.6666)):
            drawn(pipe, **given, num_inference_steps=3)

    def test_a_negative_prompt_that_no_callback_reaches(self) -> None:
        pipe = make_flux(diffusers.FluxPipeline)
        with pytest.raises(UserError, match="a negative prompt without a schedule for FluxP"):
            tx.condition(pipe, "a circle", "a [red:blue:0.5]", **SHORT)

    def test_whole_steps(self, pipe: Any) -> None:
        found = (
            drawn(pipe, **tx.condition(pipe, f"a [red:blue:{start}]"), num_inference_steps=5)
            for start in ("2", "0.4")
        )
        one, other = found
        assert np.array_equal(one, other)

    def test_the_words_are_those_of_the_steps_that_are_kept(self, pipe: Any) -> None:
        found = tx.condition(pipe, self.PROMPT)
        options = {"num_inference_steps": 5, "output_type": "latent"}
        early, late = tx.record(pipe, steps=[(0, 0.4)]), tx.record(pipe, steps=[(0.4, 1.0)])
        with early as before, late as after:
            pipe(**found, **options)
        assert [word.text for word in before.words] == ["a", "red", "circle"]
        assert [word.text for word in after.words] == ["a", "blue", "of", "circle"]
        assert before.heatmap("red").share > 0
        assert after.heatmap("blue of").share > 0
        expected = re.escape("steps=[(first, end)]")
        with pytest.raises(UserError, match=expected), tx.record(pipe):
            pipe(**found, **options)


class TestPromptsRead:
    def test_a_pipeline_reads_the_syntax_and_is_given_back(self, pipe: Any) -> None:
        plain = drawn(pipe, prompt=PLAIN)
        before = state_of(pipe)
        prompt = "a (red:1.4) circle " * 30
        expected = drawn(pipe, **tx.condition(pipe, prompt, "blue"))
        with prompts_read(pipe):
            assert np.array_equal(drawn(pipe, prompt=PLAIN), plain)
            with tx.record(pipe, walk=1, contributions=True) as trace:
                found = drawn(pipe, prompt=prompt, negative_prompt="blue")
            assert np.array_equal(found, expected)
        assert state_of(pipe) == before
        assert [word.text for word in trace.words] == ["a", "red", "circle"] * 30
        assert trace.words[-1].columns[0] > 77

    def test_explain_asks_with_other_words_in_their_weights(self) -> None:
        pipe = quiet(tx.load_default())
        with prompts_read(pipe):
            found = tx.explain(
                pipe, "a (red:1.3) circle", words=["red"], num_inference_steps=4, alternatives=1
            )
        assert found.effect("red").size > 0.1

    @pytest.mark.parametrize(
        ("prompt", "word", "other", "asked"),
        [
            ("a red++ circle AND left:0.5", "left", None, "a red++ circle AND ():0.5"),
            ("5 of (red:1.5) circle", "5", "7", "7 of (red:1.5) circle"),
            ("a (red:1.5) circle", "red circle", None, "a (():1.5) ()"),
        ],
    )
    def test_explain_asks_for_words_as_they_are_read(
        self, pipe: Any, prompt: str, word: str, other: str | None, asked: str
    ) -> None:
        with prompts_read(pipe):
            with tx.record(pipe) as trace:
                pipe(prompt, num_inference_steps=1, output_type="latent")
            (target,) = targets(pipe, trace, [word], {word: other})
            assert target.texts == (asked,)
            with pytest.raises(UserError, match=r"syntax between .* each word by itself"):
                targets(pipe, trace, ["circle", "red circle"], {"red circle": "of"})
        assert not is_reading(pipe)

    @pytest.mark.parametrize(
        ("prompt", "word", "rest"),
        [
            ("a red++ circle", "red", "a circle"),
            ("a (red of)++ circle", "red", "a (of)++ circle"),
            ("(red:1.3) circle--", "circle", "(red:1.3)"),
            ("left, red-- circle", "left", ", red-- circle"),
        ],
    )
    def test_contributions_are_those_without_the_word_and_its_weight(
        self, pipe: Any, prompt: str, word: str, rest: str
    ) -> None:
        (text,) = known_texts(tx.condition(pipe, prompt))
        ears = Ears.of(pipe)
        taken = [each for each in text.words if each.text == word]
        (found,) = encoded_without(ears, text, [taken])
        assert torch.equal(found, tx.condition(pipe, rest)["prompt_embeds"][0])

    @pytest.mark.parametrize("prompt", ["circle AND left:0.5", '("red", "left").and(1, 0.5)'])
    def test_the_only_word_of_a_text_has_a_contribution(self, pipe: Any, prompt: str) -> None:
        with prompts_read(pipe), tx.record(pipe, contributions=True) as trace:
            pipe(prompt, num_inference_steps=1, output_type="latent")
        assert trace.heatmap("left").array.max() > 0

    def test_two_rows_of_prompt_to_prompt(self, pipe: Any) -> None:
        with prompts_read(pipe), tx.edit(pipe, tx.edits.Replace()), tx.record(pipe) as trace:
            pipe(
                ["a (red:1.4) circle", "a (blue:1.4) circle"],
                num_inference_steps=1,
                output_type="latent",
            )
        assert trace.heatmap("blue", image=1).share > 0

    @pytest.mark.parametrize("name", NAMES)
    def test_every_pipeline(self, name: str) -> None:
        make, options = PIPELINES[name]
        pipe = quiet(make())
        expected = drawn(pipe, **tx.condition(pipe, "a (red:1.4) circle", **options))
        with prompts_read(pipe):
            assert np.array_equal(drawn(pipe, prompt="a (red:1.4) circle", **options), expected)

    def test_a_schedule_needs_the_call(self, pipe: Any) -> None:
        with prompts_read(pipe), pytest.raises(UserError, match="without a schedule"):
            drawn(pipe, prompt="a [red:blue:0.5]")


class TestMistakes:
    def test_an_unknown_embedding(self, pipe: Any) -> None:
        with pytest.raises(UserError, match=r"'<toy>', at character 3 of the prompt"):
            tx.condition(pipe, "a <toy>")
        assert tx.condition(pipe, r"a \<toy>").readings[0].words[1].text == "toy"

    def test_as_many_negative_prompts(self, pipe: Any) -> None:
        with pytest.raises(UserError, match="as many negative prompts"):
            tx.condition(pipe, ["a", "b"], ["c", "d", "e"])
        assert len(tx.condition(pipe, ["a", "b"], "c")["negative_prompt_embeds"]) == 2

    def test_what_t5_cuts(self) -> None:
        pipe = make_flux(diffusers.FluxPipeline)
        with pytest.raises(UserError, match=r"window of text_encoder_2.*max_sequence_length"):
            tx.condition(pipe, "red circle " * 40, **SHORT)

    def test_another_pipeline(self) -> None:
        with pytest.raises(UserError, match="of Stable Diffusion, SDXL, SD3 or FLUX"):
            tx.condition(StableDiffusionPipeline, "a")

    @pytest.mark.parametrize("number", ["", "_2"])
    def test_another_text_encoder_beside_the_same_denoiser(self, number: str) -> None:
        pipe = make_sdxl() if number else make_pipeline()
        pipe.tokenizer = make_t5(77)
        config = T5Config(vocab_size=len(pipe.tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=1)
        encoder = T5EncoderModel(config).eval()
        setattr(pipe, f"text_encoder{number}", encoder)
        with pytest.raises(UserError, match=f"CLIP as text_encoder{number} .*T5EncoderModel in"):
            tx.condition(pipe, "a red circle")
        # DeepFloyd IF, whose own code masks what fills the window up.
        parts = {"tokenizer": pipe.tokenizer, "text_encoder": encoder, "unet": pipe.unet}
        others = ("safety_checker", "feature_extractor", "watermarker")
        floyd = diffusers.IFPipeline(
            **parts,
            **dict.fromkeys(others),
            scheduler=diffusers.DDPMScheduler(),
            requires_safety_checker=False,
        )
        with pytest.raises(UserError, match=r"T5EncoderModel in IFPipeline; .* without weights"):
            tx.condition(floyd, "a red circle")
        own, _ = floyd.encode_prompt("a red circle", do_classifier_free_guidance=False)
        with prompts_read(floyd):
            read, _ = floyd.encode_prompt("a red circle", do_classifier_free_guidance=False)
        assert torch.equal(read, own)
