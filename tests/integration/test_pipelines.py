"""The pipelines that steer by words, boxes and regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from community import load, load_from, make_stock, options

BOX = (0.0, 0.0, 0.5, 0.5)
_MORE: dict[str, dict[str, Any]] = {
    "attend_and_excite": {"words": ["red", "circle"], "refinements": 2},
    "layout": {"boxes": {"circle": BOX}},
    "regional": {"regions": {"blue": BOX}},
}
STEERED = {f"{family}{name}": more for family in ("", "xl_") for name, more in _MORE.items()}


@pytest.mark.parametrize("name", STEERED)
class TestSteered:
    def test_without_anything_to_steer_by_it_is_the_stock_pipeline(self, name: str) -> None:
        stock = make_stock(name)(["a red circle", "blue"], **options()).images
        assert np.array_equal(load(name)(["a red circle", "blue"], **options()).images, stock)

    @pytest.mark.slow
    def test_steers_batches_and_leaves_nothing_behind(self, name: str) -> None:
        pipe = load(name)
        processors = dict(pipe.unet.attn_processors)
        prompts = ["a red circle", "red circle"]
        stock = make_stock(name)(prompts, num_images_per_prompt=2, **options()).images
        found = pipe(prompts, num_images_per_prompt=2, **STEERED[name], **options()).images
        assert found.shape == stock.shape
        assert all(
            not np.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(found, stock, strict=True)
        )
        assert dict(pipe.unet.attn_processors) == processors
        again = pipe(prompts, num_images_per_prompt=2, **options()).images
        assert np.array_equal(again, stock)

    @pytest.mark.slow
    def test_each_of_a_batch_is_steered_as_it_is_alone(self, name: str) -> None:
        pipe, prompts = load(name), ["a red circle", "red circle"]

        def seeds() -> list[torch.Generator]:
            return [torch.Generator().manual_seed(seed) for seed in (1, 2)]

        batch = pipe(prompts, **STEERED[name], **options(generator=seeds())).images
        for found, prompt, seed in zip(batch, prompts, seeds(), strict=True):
            single = pipe(prompt, **STEERED[name], **options(generator=seed)).images
            assert np.allclose(found, single[0], rtol=0, atol=1e-3)

    @pytest.mark.slow
    def test_outputs_callbacks_and_saving(self, name: str, tmp_path: Path) -> None:
        pipe, seen = load(name), []

        def callback(pipe: Any, step: int, timestep: int, tensors: Any) -> dict[str, Any]:
            seen.append(step)
            return tensors

        more = STEERED[name]
        output = pipe("a red circle", callback_on_step_end=callback, **more, **options())
        assert seen == list(range(5))
        images, *unsafe = pipe("a red circle", return_dict=False, **more, **options())
        assert np.array_equal(images, output.images)
        assert unsafe == ([] if name.startswith("xl_") else [output.nsfw_content_detected])
        (pil,) = pipe("a red circle", **more, **options(output_type="pil")).images
        assert pil.size == (64, 64)
        pipe.save_pretrained(tmp_path)
        again = load_from(tmp_path, name)
        assert np.array_equal(again("a red circle", **more, **options()).images, output.images)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, name: str, dtype: torch.dtype) -> None:
        pipe = load(name, dtype=dtype)
        assert np.isfinite(pipe("a red circle", **STEERED[name], **options()).images).all()


def test_boxes_by_another_method() -> None:
    pipe = load("layout")
    boxes = {"boxes": {"circle": BOX}}
    layout = pipe("a red circle", **boxes, **options()).images
    boxdiff = pipe("a red circle", box_method="boxdiff", **boxes, **options()).images
    assert not np.allclose(layout, boxdiff, atol=1e-3)
    with pytest.raises(tx.UserError, match="box_method of layout, boxdiff, but came 'x'"):
        pipe("a red circle", box_method="x", **boxes, **options())


@pytest.mark.parametrize("name", ["regional", "xl_regional"])
def test_regions_equal_the_edit(name: str) -> None:
    regions = {"blue": BOX, "a blue circle": np.eye(8, dtype=bool)}
    found = load(name)("a red circle", regions=regions, base_weight=0.5, **options()).images
    pipe = make_stock(name)
    with tx.edit(pipe, tx.edits.RegionalPrompts(regions, base_weight=0.5)):
        expected = pipe("a red circle", **options()).images
    assert np.allclose(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(tx.UserError, match="base_weight from 0 to 1"):
        load(name)("a red circle", regions=regions, base_weight=2.0, **options())
