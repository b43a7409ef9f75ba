"""What was learned of a smaller world goes on in a larger one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from lab.judge.pixel_maps import names_of_maps
from lab.judge.segmenter import Segmenter, load_segmenter, save_segmenter
from lab.training.grown import go_on_judging, go_on_reading, rows_by_name
from lab.training.recipe import load_recipe
from lab.training.run import train_pipeline
from lab.training.text import new_text_encoder, tokenize
from lab.training.tokenizer import build_tokenizer
from t2i_xattn.errors import UserError

RECIPE = Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "shapes.toml"
FEW = ["a", "red", "circle", "square"]


def test_rows_are_taken_over_by_name() -> None:
    known = torch.tensor([[1.0], [2.0], [3.0]])
    fresh = torch.tensor([[-1.0], [-2.0], [-3.0], [-4.0]])
    grown = rows_by_name(known, ["a", "b", "c"], fresh, ["c", "new", "a", "newer"])
    assert grown.flatten().tolist() == [3, -2, 1, -4]
    assert fresh.flatten().tolist() == [-1, -2, -3, -4]


@pytest.fixture
def smaller() -> CLIPTokenizer:
    return build_tokenizer(FEW)


def test_known_words_are_read_as_before(smaller: CLIPTokenizer) -> None:
    recipe = load_recipe(RECIPE)
    larger = build_tokenizer([*FEW, "squid", "aquamarine"])
    torch.manual_seed(0)
    begun, fresh = new_text_encoder(recipe, smaller), new_text_encoder(recipe, larger)
    grown = go_on_reading(fresh, larger, begun, smaller).eval()
    prompt = ["a red square"]
    before, after = tokenize(smaller, prompt), tokenize(larger, prompt)
    assert before.tolist() != after.tolist()
    with torch.no_grad():
        expected = begun.eval()(before).last_hidden_state
        assert torch.equal(grown(after).last_hidden_state, expected)
        assert grown(tokenize(larger, ["a squid"])).last_hidden_state.isfinite().all()


def test_new_words_have_to_be_read(smaller: CLIPTokenizer, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    none = {
        name: dataclasses.replace(getattr(recipe, name), steps=0)
        for name in ("autoencoder", "text", "denoiser", "decoder")
    }
    recipe = dataclasses.replace(recipe, mixed_precision="no", **none)
    pipe = train_pipeline(recipe, tmp_path / "first")
    assert pipe is not None
    torch.manual_seed(0)
    pipe.register_modules(tokenizer=smaller, text_encoder=new_text_encoder(recipe, smaller))
    pipe.save_pretrained(tmp_path / "smaller")
    with pytest.raises(UserError, match=r"knows the words of 'shapes'.*--read-on"):
        train_pipeline(recipe, tmp_path / "run", init=tmp_path / "smaller")
    grown = train_pipeline(recipe, tmp_path / "run", init=tmp_path / "smaller", read_on=True)
    assert grown is not None
    with torch.no_grad():
        known, found = (
            each.text_encoder.eval()(tokenize(each.tokenizer, ["a red circle"])).last_hidden_state
            for each in (pipe, grown)
        )
    assert torch.equal(known, found)


def test_a_judge_goes_on_by_the_names_of_what_it_tells(tmp_path: Path) -> None:
    names = names_of_maps()
    fewer = names | {"classes": [each for each in names["classes"] if each != "village"]}
    torch.manual_seed(0)
    begun = Segmenter([8, 8], names=fewer).half().float()
    save_segmenter(begun, tmp_path)
    with pytest.raises(UserError, match="expected a judge of"):
        load_segmenter(tmp_path)
    grown = go_on_judging(Segmenter([8, 8]), load_segmenter(tmp_path, any_world=True))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected, found = begun(images), grown(images)
    kept = [names["classes"].index(each) for each in fewer["classes"]]
    assert torch.equal(found["classes"][:, kept], expected["classes"])
    assert all(torch.equal(found[name], expected[name]) for name in ("colours", "lights"))
