from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from conftest import make_unet, state_of
from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.errors import UserError
from t2i_xattn.recording.record import record

Draw = Callable[..., np.ndarray]


class TestLeaving:
    def test_after_success(self, pipe: Any, draw: Draw) -> None:
        draw(pipe)
        before = state_of(pipe)
        sites = {site.name for site in find_sites(pipe.unet)}
        with record(pipe):
            inside = state_of(pipe)
            for untouched in ("processors", "repr", "keys", "gradients", "parts", "scheduler"):
                assert inside[untouched] == before[untouched]
            # Only the sites that are read and the whole denoiser are covered.
            modules = pipe.unet.named_modules()
            covered = {name for name, module in modules if "forward" in vars(module)}
            assert covered == {*sites, ""}
            draw(pipe)
        assert state_of(pipe) == before

    def test_after_an_exception_in_the_context(self, pipe: Any) -> None:
        before = state_of(pipe)
        with pytest.raises(RuntimeError, match="mine"), record(pipe) as trace:
            raise RuntimeError("mine")
        assert state_of(pipe) == before
        with pytest.raises(UserError, match="has not run yet"):
            _ = trace.maps

    def test_after_an_exception_in_the_unet(self, pipe: Any, draw: Draw) -> None:
        draw(pipe)
        before = state_of(pipe)

        def fail(*_: Any) -> None:
            raise RuntimeError("inside")

        handle = pipe.unet.up_blocks[-1].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="inside"), record(pipe) as trace:
            draw(pipe)
        handle.remove()
        assert state_of(pipe) == before
        with pytest.raises(
            UserError, match="broke off inside call 1 of the denoiser; record it again"
        ):
            trace.heatmap("red")

    def test_after_an_exception_between_steps(self, pipe: Any, draw: Draw) -> None:
        """What was recorded until then is whole, and kept."""
        with record(pipe, steps="each") as whole:
            draw(pipe)
        before = state_of(pipe)

        def stop(*_: Any) -> dict[str, Any]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), record(pipe) as trace:
            draw(pipe, callback_on_step_end=stop)
        assert state_of(pipe) == before
        assert trace.settings["calls"] == 1
        for name, maps in whole.select(steps=0).maps.items():
            assert (trace.maps[name] == maps).all()

    def test_a_covered_method_is_covered_again(self, pipe: Any, draw: Draw) -> None:
        method = pipe.encode_prompt
        mine = lambda *args, **kwargs: method(*args, **kwargs)  # noqa: E731
        pipe.encode_prompt = mine
        with record(pipe) as trace:
            draw(pipe)
        assert vars(pipe)["encode_prompt"] is mine
        assert trace.prompts == ("a red circle",)

    def test_a_processor_installed_meanwhile_is_recorded_and_stays(
        self, pipe: Any, draw: Draw
    ) -> None:
        other = AttnProcessor()
        attn = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
        with record(pipe) as expected:
            draw(pipe)
        with record(pipe) as trace:
            attn.set_processor(other)
            draw(pipe)
        assert attn.processor is other
        for name, maps in expected.maps.items():
            assert np.allclose(trace.maps[name], maps, atol=1e-5)

    def test_a_processor_put_back_meanwhile_is_recorded_once(self, pipe: Any, draw: Draw) -> None:
        """Who saves the processors and sets them again afterwards saves nothing of ours."""
        before = state_of(pipe)
        with record(pipe) as trace:
            saved = pipe.unet.attn_processors
            pipe.unet.set_attn_processor(AttnProcessor())
            draw(pipe, num_inference_steps=1)
        with record(pipe):
            pass
        assert trace.settings["calls"] == 1
        pipe.unet.set_attn_processor(saved)
        with record(pipe) as again:
            draw(pipe)
        assert again.settings["calls"] == 2
        pipe.unet.set_attn_processor(AttnProcessor2_0())
        assert state_of(pipe)["repr"] == before["repr"]

    def test_a_processor_replaced_inside_a_call(self, pipe: Any, draw: Draw) -> None:
        """What stands at a site does not matter, nor when it came there."""
        with record(pipe) as expected:
            draw(pipe)
        attn = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2

        def replace(*_: Any) -> None:
            attn.set_processor(AttnProcessor())

        handle = pipe.unet.conv_in.register_forward_hook(replace)
        with record(pipe) as trace:
            draw(pipe)
        handle.remove()
        assert type(attn.processor) is AttnProcessor
        for name, maps in expected.maps.items():
            assert np.allclose(trace.maps[name], maps, atol=1e-5)


class TestNesting:
    def test_both_get_full_maps(self, pipe: Any, draw: Draw) -> None:
        plain = draw(pipe)
        before = state_of(pipe)
        with record(pipe) as outer, record(pipe) as inner:
            assert draw(pipe).tobytes() == plain.tobytes()
        assert state_of(pipe) == before
        assert inner.prompts == outer.prompts == ("a red circle",)
        for name, maps in outer.maps.items():
            assert (maps == inner.maps[name]).all()
            assert np.allclose(maps.sum(-1), 1, atol=1e-5)

    def test_left_in_any_order(self, pipe: Any, draw: Draw) -> None:
        with record(pipe) as expected:
            plain = draw(pipe)
        before = state_of(pipe)
        first, second = record(pipe), record(pipe)
        one = first.__enter__()
        two = second.__enter__()
        first.__exit__(None, None, None)
        assert draw(pipe).tobytes() == plain.tobytes()
        second.__exit__(None, None, None)
        assert state_of(pipe) == before
        for name, maps in expected.maps.items():
            assert (two.maps[name] == maps).all()
        with pytest.raises(UserError, match="has not run yet"):
            _ = one.words


class Steps:
    """A callback that counts the steps."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(
        self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        self.count += 1
        return tensors


class TestOneRun:
    def test_a_second_run_is_refused_before_its_first_step(self, pipe: Any, draw: Draw) -> None:
        first, second = (Steps() for _ in range(2))
        with record(pipe) as trace:
            draw(pipe, callback_on_step_end=first)
            with pytest.raises(UserError, match=r"one run inside .* but a second one begins; open"):
                draw(pipe, "blue", callback_on_step_end=second)
        assert (first.count, second.count) == (2, 0)
        assert trace.prompts == ("a red circle",)
        assert trace.settings["calls"] == 2

    def test_reading_before_between_and_after(self, pipe: Any, draw: Draw) -> None:
        with record(pipe) as trace:
            for read in (lambda: trace.maps, lambda: trace.words, lambda: trace.heatmap("red")):
                with pytest.raises(UserError, match="has not run yet"):
                    read()
            draw(pipe)
            inside = trace.heatmap("red").array
        assert (trace.heatmap("red").array == inside).all()

    def test_another_size_within_one_run(self, pipe: Any) -> None:
        text = torch.randn(1, 77, 32)
        with record(pipe), torch.no_grad():
            pipe.unet(torch.randn(1, 4, 8, 8), 1, text)
            with pytest.raises(UserError, match="record each run on its own"):
                pipe.unet(torch.randn(1, 4, 8, 16), 1, text)


class TestRefusals:
    def test_no_denoiser(self) -> None:
        match = r"with a denoiser \(unet, .*transformer.*\), but came object; take"
        with pytest.raises(UserError, match=match), record(object()):
            pass

    def test_no_cross_attention(self, pipe: Any) -> None:
        pipe.unet = make_unet(
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            mid_block_type=None,
        )
        before = state_of(pipe)
        with pytest.raises(UserError, match="but UNet2DConditionModel has no site"), record(pipe):
            pass
        assert state_of(pipe) == before

    def test_a_third_branch(self, pipe: Any) -> None:
        """A batch that is not one or two rows an image is not halved."""
        with record(pipe), torch.no_grad():
            text, empty = pipe.encode_prompt("red", "cpu", 1, True)
            with pytest.raises(UserError, match=r"unconditional, conditional of 1 picture, .* 3 "):
                pipe.unet(torch.randn(3, 4, 8, 8), 1, torch.cat([empty, text, text]))
