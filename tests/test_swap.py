from __future__ import annotations

import doctest
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from conftest import make_unet, state_of
from swapping import halving, standing
from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.errors import UserError
from t2i_xattn.processors import EditingProcessor, InterceptingProcessor, RecordingProcessor
from t2i_xattn.processors import swap as module
from t2i_xattn.processors.swap import swap
from tiny_pipelines import of_class

Draw = Callable[..., np.ndarray]


class TestWhatIsPutWhere:
    def test_an_instance_is_at_every_cross_site(self, pipe: Any, draw: Draw) -> None:
        plain, before = draw(pipe), state_of(pipe)
        processor = halving()
        with swap(pipe, processor) as put:
            assert list(put) == [site.name for site in find_sites(pipe.unet)]
            at = standing(pipe.unet)
            assert {name for name, each in at.items() if each is processor} == set(put)
            assert all(each is processor for each in put.values())
            assert not np.allclose(draw(pipe), plain, atol=1e-4)
        assert state_of(pipe) == before
        assert draw(pipe).tobytes() == plain.tobytes()

    @pytest.mark.parametrize(
        "make",
        [
            RecordingProcessor,
            lambda: RecordingProcessor(heads="each"),
            partial(RecordingProcessor, heads="each"),
            partial(EditingProcessor, lambda probs, attn: probs),
            partial(EditingProcessor, lambda probs, attn: probs, rows=slice(1, None)),
        ],
    )
    def test_what_makes_one_makes_one_a_site(self, pipe: Any, draw: Draw, make: Any) -> None:
        plain = draw(pipe)
        with swap(pipe, make) as put:
            assert draw(pipe).tobytes() == plain.tobytes()
            assert standing(pipe.unet) | put == standing(pipe.unet)
        assert len(set(map(id, put.values()))) == len(put)

    def test_a_mapping_says_which_sites(self, pipe: Any) -> None:
        names = [site.name for site in find_sites(pipe.unet, "self")][:2]
        processors = {name: RecordingProcessor() for name in reversed(names)}
        before = standing(pipe.unet)
        with swap(pipe, processors) as put:
            assert standing(pipe.unet) == before | processors
        assert put == processors
        assert list(put) == names

    @pytest.mark.parametrize("kind", ["cross", "self"])
    def test_sites_by_name_and_by_function(self, pipe: Any, kind: Any) -> None:
        names = [site.name for site in find_sites(pipe.unet, kind) if site.place == "up"]
        for sites in (names, lambda site: site.kind == kind and site.place == "up"):
            with swap(pipe, halving(), sites=sites) as put:
                assert list(put) == names

    def test_a_denoiser_itself_compiled_or_not(self) -> None:
        unet = make_unet()
        for denoiser in (unet, torch.compile(unet)):
            with swap(denoiser, halving()) as put:
                assert list(put) == [site.name for site in find_sites(unet)]
                assert sum(each in put.values() for each in unet.attn_processors.values()) == 7

    def test_functions_and_objects_of_all_kinds_are_processors(self, pipe: Any, draw: Draw) -> None:
        plain = draw(pipe)
        stock = AttnProcessor2_0()

        def function(attn: Any, hidden_states: Any, **others: Any) -> Any:
            return stock(attn, hidden_states, **others)

        def other_names(
            layer: Any, states: Any, encoder_hidden_states: Any, attention_mask: Any, more: int = 1
        ) -> Any:
            return stock(layer, states, encoder_hidden_states, attention_mask)

        class HandsOn:
            def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
                return stock(*args, **kwargs)

        class Forward(nn.Module):
            def forward(self, attn: Any, hidden_states: Any, **others: Any) -> Any:
                return stock(attn, hidden_states, **others)

        for each in (stock, function, other_names, partial(other_names, more=2), stock.__call__):
            with swap(pipe, each) as put:
                assert set(map(id, put.values())) == {id(each)}
                assert draw(pipe).tobytes() == plain.tobytes()
        for each in (HandsOn(), Forward()):
            with swap(pipe, each):
                assert draw(pipe).tobytes() == plain.tobytes()

    def test_the_example(self, pipe: Any) -> None:
        names = {"pipe": partial(pipe, num_inference_steps=1), **vars(module)}
        names |= {"InterceptingProcessor": InterceptingProcessor}
        names["pipe"].unet = pipe.unet
        finder = doctest.DocTestFinder(recurse=False)
        (example,) = finder.find(swap, "example", globs=names)
        flags = doctest.ELLIPSIS
        assert doctest.DocTestRunner(optionflags=flags).run(example).failed == 0


def needs_one(scale: float) -> None: ...


class TestMistakes:
    @pytest.mark.parametrize(
        ("processor", "message"),
        [
            (None, r"came NoneType \(None\); give for instance"),
            ("AttnProcessor", r"came str \('AttnProcessor'\)"),
            (nn.Linear(2, 2), r"an object of the class Linear\(input: .*name its first parameter"),
            (needs_one, r"came the function needs_one\(.*name its first parameter attn"),
            (lambda *args, **kwargs: None, r"came the function <lambda>\(\*args, \*\*kwargs\);"),
            (nn.Linear, r"the class Linear\(in_features.*; give `lambda: Linear\(…\)`"),
            (dict, r"expected an attention processor from the class dict.*came dict \({}\)"),
            (lambda: AttnProcessor, "the function <lambda>.*came the class AttnProcessor"),
            ({}, "expected at least one site"),
            ({"mid_block": AttnProcessor()}, "expected the name of a site, but came 'mid_block'"),
        ],
    )
    def test_what_is_no_processor(self, pipe: Any, processor: Any, message: str) -> None:
        before = state_of(pipe)
        with pytest.raises(UserError, match=message):
            swap(pipe, processor).__enter__()
        assert state_of(pipe) == before

    def test_mappings(self, pipe: Any) -> None:
        name = find_sites(pipe.unet)[0].name
        with pytest.raises(UserError, match=rf"from the mapping for {name}.* came the class"):
            swap(pipe, {name: AttnProcessor}).__enter__()
        with pytest.raises(UserError, match="expected sites=None with a mapping"):
            swap(pipe, {name: AttnProcessor()}, sites=[name]).__enter__()
        with pytest.raises(UserError, match=rf"did you mean '{name}'"):
            swap(pipe, {f"{name}.processor": AttnProcessor()}).__enter__()

    def test_one_recorder_for_several_sites(self, pipe: Any, draw: Draw) -> None:
        names = [site.name for site in find_sites(pipe.unet)]
        recorder = RecordingProcessor()
        for processor in (recorder, dict.fromkeys(names, recorder), lambda: recorder):
            with pytest.raises(UserError, match="give the class RecordingProcessor"):
                swap(pipe, processor).__enter__()
        with swap(pipe, recorder, sites=names[:1]):
            draw(pipe)
        assert recorder.calls == 2

    def test_what_has_no_sites(self) -> None:
        for other in (object(), "a pipeline", of_class("StableDiffusionPipeline").vae):
            with pytest.raises(UserError, match=r"expected a (diffusers pipeline|denoiser)"):
                swap(other, AttnProcessor()).__enter__()
        plain = make_unet(
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            mid_block_type=None,
        )
        with pytest.raises(UserError, match="none of 0 attention sites"):
            swap(plain, AttnProcessor()).__enter__()
