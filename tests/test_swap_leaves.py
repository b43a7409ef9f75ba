from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn

from conftest import state_of
from swapping import Scaling, halving, standing
from t2i_xattn.denoisers.sites import find_sites, walk_sites
from t2i_xattn.errors import UserError
from t2i_xattn.processors import InterceptingProcessor, RecordingProcessor
from t2i_xattn.processors.placing import _PUTS
from t2i_xattn.processors.swap import swap
from tiny_pipelines import of_class

Draw = Callable[..., np.ndarray]


@pytest.fixture(autouse=True)
def _nothing_stays_in_the_books() -> Any:
    yield
    assert not _PUTS


class TestLeaving:
    @pytest.mark.parametrize("found", [AttnProcessor, Scaling])
    @pytest.mark.parametrize("put", [AttnProcessor, Scaling])
    def test_the_parts_of_a_layer_have_their_order(self, pipe: Any, found: Any, put: Any) -> None:
        """With a part behind the processor, too."""
        pipe.unet.set_attn_processor(found())
        for _, layer in walk_sites(pipe.unet):
            layer.later = nn.Identity()
        before = state_of(pipe)
        with swap(pipe, put):
            assert sum(isinstance(each, put) for each in standing(pipe.unet).values()) >= 7
        assert state_of(pipe) == before
        with pytest.raises(RuntimeError, match="mine"), swap(pipe, put), swap(pipe, Scaling):
            raise RuntimeError("mine")
        assert state_of(pipe) == before

    def test_the_weights_of_a_module_are_the_unets_meanwhile(self, pipe: Any) -> None:
        with swap(pipe, Scaling) as put:
            assert sum(name.endswith("processor.strength") for name in pipe.unet.state_dict()) == 7
            pipe.to(torch.bfloat16)
        assert {each.strength.dtype for each in put.values()} == {torch.bfloat16}

    @pytest.mark.parametrize("found", [AttnProcessor, Scaling])
    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_in_any_order(self, pipe: Any, found: Any, order: tuple[int, ...]) -> None:
        """Two with the same processor, one with modules, at sites that overlap."""
        pipe.unet.set_attn_processor(found())
        before, shared = state_of(pipe), halving()
        at_start = standing(pipe.unet)
        up, all_cross = [s.name for s in find_sites(pipe.unet) if s.place == "up"], None
        made = [(shared, all_cross), (Scaling, up), (shared, up)]
        contexts = [swap(pipe, processor, sites=sites) for processor, sites in made]
        put = [context.__enter__() for context in contexts]
        open_ = [0, 1, 2]
        for n in order:
            contexts[n].__exit__(None, None, None)
            open_.remove(n)
            expected = dict(at_start)
            for each in open_:
                expected |= put[each]
            assert standing(pipe.unet) == expected
        assert state_of(pipe) == before

    def test_after_an_exception_in_the_unet(self, pipe: Any, draw: Draw) -> None:
        draw(pipe)
        before = state_of(pipe)
        broken = InterceptingProcessor(lambda probs: probs.mean(1))
        with pytest.raises(UserError, match="to return probs"), swap(pipe, broken):
            draw(pipe)
        assert state_of(pipe) == before

    def test_what_others_set_inside_stays(self, pipe: Any) -> None:
        mine, name = AttnProcessor(), find_sites(pipe.unet)[0].name
        before = standing(pipe.unet)
        with swap(pipe, Scaling):
            pipe.unet.get_submodule(name).set_processor(mine)
            with swap(pipe, halving()):
                pass
            assert standing(pipe.unet)[name] is mine
        assert standing(pipe.unet) == before | {name: mine}
        first, second = swap(pipe, halving()), swap(pipe, Scaling)
        first.__enter__()
        second.__enter__()
        pipe.unet.set_attn_processor(mine)
        for context in (first, second):
            context.__exit__(None, None, None)
            assert set(standing(pipe.unet).values()) == {mine}

    def test_what_others_set_and_put_back_inside(self, pipe: Any) -> None:
        """As PAG does; the processors that it puts back are taken back, even in another order."""
        before = state_of(pipe)
        first, second = swap(pipe, halving()), swap(pipe, Scaling)
        first.__enter__()
        saved = pipe.unet.attn_processors
        second.__enter__()
        pipe.unet.set_attn_processor(saved)
        first.__exit__(None, None, None)
        assert state_of(pipe) == before
        second.__exit__(None, None, None)
        assert state_of(pipe) == before

    def test_a_copy_made_inside_is_on_its_own(self, pipe: Any, draw: Draw) -> None:
        before, plain = state_of(pipe), draw(pipe)
        with swap(pipe, halving()):
            inside = draw(pipe)
            copied = copy.deepcopy(pipe.unet)
        pipe.unet, original = copied, pipe.unet
        assert draw(pipe).tobytes() == inside.tobytes()
        with swap(pipe, AttnProcessor2_0()):
            assert draw(pipe).tobytes() == plain.tobytes()
        assert draw(pipe).tobytes() == inside.tobytes()
        pipe.unet = original
        assert state_of(pipe)["processors"] == before["processors"]
        assert draw(pipe).tobytes() == plain.tobytes()

    def test_it_decorates_a_function(self, pipe: Any, draw: Draw) -> None:
        before, plain = state_of(pipe), draw(pipe)
        run = swap(pipe, RecordingProcessor)(lambda: draw(pipe))
        assert run().tobytes() == run().tobytes() == plain.tobytes()
        assert state_of(pipe)["processors"] == before["processors"]

    def test_with_a_pipeline_on_the_same_unet(self, pipe: Any, draw: Draw) -> None:
        other = of_class("StableDiffusionImg2ImgPipeline", pipe)
        before = state_of(pipe)
        with swap(pipe, Scaling), swap(other, halving()):
            pass
        assert state_of(pipe)["processors"] == before["processors"]

    def test_from_many_threads(self, pipe: Any) -> None:
        """Each finds what another has put; in the end all are gone."""
        before = state_of(pipe)

        def open_and_close(put: Any) -> None:
            for _ in range(20):
                with swap(pipe, put):
                    pass

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(open_and_close, [halving, Scaling] * 2))
        assert state_of(pipe) == before
