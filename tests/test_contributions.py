"""What words contribute, against the layers of diffusers themselves, with and without the words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor
from torch.nn.functional import interpolate

import t2i_xattn as tx
from conftest import make_pipeline
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel import contribution
from t2i_xattn.prompts.without_words import without
from t2i_xattn.prompts.words import Word
from t2i_xattn.recording.contributions import finest
from t2i_xattn.traces.contributed import spread
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.trace import Trace
from test_picture_prompts import photo, tokens_of_pictures

PROMPT = "a red circle left of a blue square"


def _words(prompt: str) -> list[Word]:
    found, start = [], 0
    for text in prompt.replace(",", " ").split():
        start = prompt.index(text, start)
        found.append(Word(text, start, start + len(text), (1,)))
        start += len(text)
    return found


@pytest.mark.parametrize(
    ("prompt", "taken", "expected"),
    [
        ("a red circle", [1], "a circle"),
        ("a red circle", [0], "red circle"),
        ("a red circle", [2], "a red"),
        ("a red circle", [0, 1, 2], ""),
        ("red, a  circle", [0], ", a  circle"),
        ("red red circle", [1], "red circle"),
    ],
)
def test_a_prompt_without_words(prompt: str, taken: list[int], expected: str) -> None:
    words = _words(prompt)
    assert without(prompt, [words[each] for each in taken]) == expected


class TestOneLayer:
    """`kernel.contribution` against diffusers' layer, which is called for each text."""

    def _layer(self) -> Attention:
        torch.manual_seed(0)
        layer = Attention(query_dim=12, cross_attention_dim=10, heads=3, dim_head=4)
        return layer.eval()

    @torch.no_grad()
    def _found(self, layer: Attention, picture: Tensor, text: Tensor, others: Tensor) -> Tensor:
        def heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (3, -1)).transpose(1, 2)

        query, key, value = heads(layer.to_q(picture)), heads(layer.to_k(text)), layer.to_v(text)
        taken = ((query @ key.transpose(-1, -2)) * layer.scale).softmax(-1) @ heads(value)
        return contribution.contributions(layer, query, taken, layer.scale, others)

    @torch.no_grad()
    def test_is_the_change_of_what_the_layer_gives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer = self._layer()
        picture, text, others = torch.randn(2, 6, 12), torch.randn(2, 5, 10), torch.randn(4, 5, 10)
        bias = layer.to_out[0].bias
        given = AttnProcessor()(layer, picture, text)
        length = (given - bias).norm(dim=-1).mean(dim=-1, keepdim=True)
        expected = torch.stack(
            [
                (given - AttnProcessor()(layer, picture, one.expand(2, -1, -1))).norm(dim=-1)
                / length
                for one in others
            ],
            dim=-1,
        )
        found = self._found(layer, picture, text, others)
        assert found.shape == (2, 6, 4)
        assert torch.allclose(found, expected, atol=1e-5)
        monkeypatch.setattr(contribution, "_AT_ONCE", 1)  # one text after the other
        assert torch.allclose(self._found(layer, picture, text, others), expected, atol=1e-5)

    def test_a_word_that_changes_nothing_contributes_nothing(self) -> None:
        picture, text = torch.randn(1, 6, 12), torch.randn(1, 5, 10)
        found = self._found(self._layer(), picture, text, text.expand(2, -1, -1))
        assert found.abs().max() < 1e-5


def _layers(pipe: Any, wanted: str) -> dict[str, tuple[Any, Tensor]]:
    """What each attention layer of a kind is given in one call of the UNet, by hooks."""
    found: dict[str, tuple[Any, Tensor]] = {}
    handles = []
    for name, module in pipe.unet.named_modules():
        if name.endswith(wanted):

            def hook(attn: Any, args: Any, kwargs: Any, name: str = name) -> None:
                found[name] = attn, (args[0] if args else kwargs["hidden_states"]).clone()

            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    pipe(PROMPT, num_inference_steps=1, guidance_scale=1.0, generator=_noise())
    for handle in handles:
        handle.remove()
    return found


def _noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@torch.no_grad()
def _by_hand(pipe: Any, shorter: str) -> dict[str, Tensor]:
    """By layer, the change `(height · width,)` when the text is a shorter one."""
    texts = [pipe.encode_prompt(each, "cpu", 1, False)[0] for each in (PROMPT, shorter)]
    maps = {}
    for name, (attn, picture) in _layers(pipe, "attn2").items():
        whole, less = (AttnProcessor()(attn, picture, text) for text in texts)
        length = (whole - attn.to_out[0].bias).norm(dim=-1).mean()
        maps[name] = (whole - less)[0].norm(dim=-1) / length
    return maps


def _recorded(pipe: Any, **options: Any) -> Trace:
    with tx.record(pipe, contributions=True, **options) as trace:
        pipe(PROMPT, num_inference_steps=1, guidance_scale=1.0, generator=_noise())
    return trace


@pytest.mark.parametrize(
    ("word", "shorter"),
    [("red", "a circle left of a blue square"), ("square", "a red circle left of a blue")],
)
def test_each_site_against_its_layer(pipe: Any, word: str, shorter: str) -> None:
    trace, expected = _recorded(pipe), _by_hand(pipe, shorter)
    assert {site.name for site in trace.sites} == set(expected)
    for name, array in expected.items():
        found = trace.heatmap(
            word, stream="contribution", sites=[name], aggregate=lambda given: _at_its_size(given)
        )
        assert found.array.ravel() == pytest.approx(array.numpy(), abs=1e-4)


def _at_its_size(given: Any) -> Any:
    (array,) = given.wanted
    return array.mean(axis=0).sum(axis=-1)


@torch.no_grad()
def test_they_are_carried_along_the_finest_self_attention(pipe: Any) -> None:
    trace = _recorded(pipe, walk=1)
    expected = _by_hand(pipe, "a circle left of a blue square")
    mean = torch.stack(
        [
            interpolate(
                each.unflatten(0, (int(len(each) ** 0.5), -1))[None, None],
                (8, 8),
                mode="bilinear",
                align_corners=False,
            ).flatten()
            for each in expected.values()
        ]
    ).mean(dim=0)
    carried = []
    for name, (attn, picture) in _layers(pipe, "attn1").items():
        if name.startswith("up_blocks.2"):
            query, key = attn.to_q(picture), attn.to_k(picture)
            query, key = (
                each.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for each in (query, key)
            )
            looks = (query @ key.transpose(-1, -2) * attn.scale).softmax(dim=-1).mean(dim=1)[0]
            carried.append(looks @ mean)
    streams = trace.run.maps["carried contribution"]
    assert list(streams) == [name for name in expected if name.startswith("up_blocks.2")]
    columns = trace.words[1].columns
    places = [trace.run.walked_columns.index(column) for column in columns]  # type: ignore[union-attr]
    for array, by_hand in zip(streams.values(), carried, strict=True):
        found = array[0, 0, 0, 0][..., places].sum(axis=-1)
        assert found.ravel() == pytest.approx(by_hand.numpy(), abs=1e-4)


def test_the_picture_and_the_shares_stay_as_they_are(pipe: Any) -> None:
    def painted(**options: Any) -> tuple[bytes, Trace]:
        with tx.record(pipe, **options) as trace:
            done = pipe(PROMPT, num_inference_steps=3, output_type="np", generator=_noise())
        return done.images.tobytes(), trace

    plain = pipe(PROMPT, num_inference_steps=3, output_type="np", generator=_noise()).images
    (first, without_them), (second, trace) = painted(), painted(contributions=True, walk=1)
    assert plain.tobytes() == first == second
    for name, array in without_them.maps.items():
        assert np.array_equal(array, trace.maps[name])
    for word in ("red", "blue square"):
        heat, share = trace.heatmap(word), without_them.heatmap(word).share
        assert heat.share == pytest.approx(share, rel=1e-5)
        carried = trace.heatmap(word, stream="carried contribution").array
        assert heat.array == pytest.approx(carried * share / carried.mean(), rel=1e-4)


def test_memory_does_not_grow_with_the_steps(pipe: Any) -> None:
    def kept(steps: int) -> list[tuple[int, ...]]:
        with tx.record(pipe, contributions=True, walk=1) as trace:
            pipe(PROMPT, num_inference_steps=steps)
        maps = trace.run.maps
        return [a.shape for stream in maps.values() for a in stream.values()]

    assert kept(1) == kept(6)


def test_pictures_of_a_batch_have_their_own(pipe: Any) -> None:
    prompts = ["a red circle", "blue square, left"]

    def trace_of(prompt: Any, seeds: list[int]) -> Trace:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with tx.record(pipe, contributions=True, walk=1) as trace:
            pipe(prompt, num_inference_steps=2, generator=generators)
        return trace

    together = trace_of(prompts, [0, 1])
    for image, prompt in enumerate(prompts):
        alone = trace_of([prompt], [image])
        for word in alone.words:
            found = together.heatmap(word.text, image=image).array
            assert found == pytest.approx(alone.heatmap(word.text).array, abs=1e-5)


def test_one_prompt_beside_two_pictures_has_two_texts(pipe: Any) -> None:
    """Of the same letters, but with other tokens of pictures behind them: each as it is alone."""
    prompt, makes = "a red circle", tokens_of_pictures()

    def recorded(numbers: Sequence[int]) -> Trace:
        given = tx.condition(
            pipe,
            [prompt] * len(numbers),
            picture=[photo(number) for number in numbers],
            picture_tokens=makes,
        )
        noise = [torch.Generator().manual_seed(0) for _ in numbers]
        with tx.record(pipe, contributions=True) as trace:
            pipe(**given, num_inference_steps=1, generator=noise, output_type="latent")
        return trace

    both = recorded([1, 2])
    for image, number in enumerate([1, 2]):
        alone = recorded([number])
        for word in ("red", "circle"):
            found, expected = (
                trace.heatmap(word, image=at).array for trace, at in ((both, image), (alone, 0))
            )
            assert np.abs(found - expected).max() < 1e-3 * expected.max()


def test_phrases_of_their_own_are_taken_out_together(pipe: Any) -> None:
    trace = _recorded(pipe, words=["red circle", "blue"])
    expected = _by_hand(pipe, "a left of a blue square")
    for name, array in expected.items():
        found = trace.run.maps["contribution"][name][0, 0, 0, 0, ..., 0]
        assert found.ravel() == pytest.approx(array.numpy(), abs=1e-4)


def test_the_map_is_by_attention_where_there_are_none(pipe: Any, tmp_path: Any) -> None:
    with tx.record(
        pipe, contributions=True, walk=1, branches=["conditional", "unconditional"]
    ) as trace:
        pipe("red circle", negative_prompt="blue", num_inference_steps=2, generator=_noise())
    other = trace.select(branch="unconditional")
    assert np.isfinite(other.heatmap("blue").array).all()
    # Of some sites they are those sites' own, not of all together.
    level = trace.heatmap("red", sites=lambda site: site.level == 1)
    own = trace.heatmap("red", stream="contribution", sites=lambda site: site.level == 1).array
    assert level.array / level.share == pytest.approx(own / own.mean(), rel=1e-4)
    # A difference may be 0 or less everywhere, which no share can be spread by.
    assert np.array_equal(
        (trace - trace).heatmap("red").array, np.zeros(trace.picture_size, np.float32)
    )
    trace.save(tmp_path / "run.safetensors")
    again = Trace.load(tmp_path / "run.safetensors")
    assert np.array_equal(again.heatmap("red").array, trace.heatmap("red").array)


def test_a_share_is_spread() -> None:
    share, by = np.full((2, 2), 0.2, np.float32), np.array([[0, 1], [2, 1]], np.float32)
    found = spread(share, by)
    assert found == pytest.approx(np.array([[0, 0.2], [0.4, 0.2]]))
    assert np.array_equal(spread(share, np.zeros((2, 2), np.float32)), share)


def test_the_finest_sites_are_those_behind_the_middle() -> None:
    def site(name: str, place: Any) -> AttentionSite:
        return AttentionSite(name, "cross", 0, place, 0, 1)

    sites = [site("a", "down"), site("b", "mid"), site("c", "up"), site("d", "up")]
    nothing = torch.zeros(())

    def chosen(**sizes: int) -> list[str]:
        there = [each for each in sites if each.name in sizes]
        carries = {name: (nothing, nothing, 1.0, (side, side)) for name, side in sizes.items()}
        return finest(there, carries)

    assert chosen(a=8, b=2, c=4, d=8) == ["d"]
    assert chosen(a=8, b=2, c=8, d=8) == ["c", "d"]
    assert chosen(a=8, b=2, c=4) == ["a"]


class TestMistakes:
    def test_embeddings(self, pipe: Any) -> None:
        embeds, negative = pipe.encode_prompt("a red circle", "cpu", 1, True)
        with (
            pytest.raises(UserError, match=r"the denoiser is given another|given as embeddings"),
            tx.record(pipe, contributions=True),
        ):
            pipe(prompt_embeds=1.5 * embeds, negative_prompt_embeds=negative, num_inference_steps=1)

    def test_columns(self, pipe: Any) -> None:
        with (
            pytest.raises(UserError, match=r"but came columns=…; name the words"),
            tx.record(pipe, contributions=True, columns=[1]),
        ):
            pass

    def test_branches(self, pipe: Any) -> None:
        with (
            pytest.raises(UserError, match=r"the branch 'conditional' among branches=…"),
            tx.record(pipe, contributions=True, branches="unconditional"),
        ):
            pass

    def test_a_pipeline_without_text_encoder(self) -> None:
        pipe = make_pipeline()
        pipe.text_encoder = None
        with (
            pytest.raises(UserError, match="a pipeline with text encoders whose UNet"),
            tx.record(pipe, contributions=True),
        ):
            pass


def test_an_empty_prompt_has_no_words_to_contribute(pipe: Any) -> None:
    with tx.record(pipe, contributions=True, walk=1) as trace:
        pipe("", num_inference_steps=1)
    assert set(trace.run.maps) >= {"text"}
    assert isinstance(trace.heatmap(columns=[0]), HeatMap)
