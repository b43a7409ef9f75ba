"""Models that lost something on their way: one sentence that names the part and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

from model_folders import TEXT, UNET, change, change_tensors, one_sentence, tiny_model
from t2i_xattn.errors import UserError
from t2i_xattn.models.checked_folder import check_folder
from t2i_xattn.models.default import WORLD, load_pipeline
from tiny_pipelines import controlnet_pipeline

Damage = Callable[[Path], Any]
FIRST = "conv_in.weight"
INDEX = "model_index.json"


def without(*files: str) -> Damage:
    def damage(folder: Path) -> None:
        for file in files:
            path = folder / file
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def tensors(file: str, do: Callable[[dict[str, Any]], object]) -> Damage:
    return lambda folder: change_tensors(folder, file, do)


def filled(value: float, dtype: torch.dtype = torch.float32) -> Damage:
    """One number of one tensor is another."""

    def do(found: dict[str, torch.Tensor]) -> None:
        found[FIRST] = found[FIRST].to(dtype)
        found[FIRST].view(-1)[7] = value

    return tensors(UNET, do)


def sharded(*, lost: bool) -> Damage:
    def damage(folder: Path) -> None:
        unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
        (folder / UNET).unlink()
        unet.save_pretrained(folder / "unet", max_shard_size="100KB")
        if lost:
            sorted((folder / "unet").glob("*.safetensors"))[1].unlink()

    return damage


def as_variant(*names: str, of: tuple[str, ...] = (UNET, TEXT)) -> Damage:
    def damage(folder: Path) -> None:
        for file in of:
            path = folder / file
            for name in names:
                shutil.copy(path, path.with_name(f"{path.stem}.{name}.safetensors"))
            path.unlink()

    return damage


def cut(file: str, left: int) -> Damage:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:left])


DAMAGED: dict[str, tuple[Damage, str]] = {
    "text encoder cut short": (cut(TEXT, 5000), "text_encoder/model.safetensors, but it is damag"),
    "text encoder empty": (cut(TEXT, 0), "at text_encoder/model.safetensors, but it is damaged"),
    "its config cut short": (cut("text_encoder/config.json", 50), "in text_encoder/config.json"),
    "its weights lost": (
        without(TEXT),
        "weights of text_encoder as safetensors, .* there are none",
    ),
    "its config lost": (without("text_encoder/config.json"), "expected a file text_encoder/config"),
    "a tensor lost": (tensors(UNET, lambda t: t.pop(FIRST)), f"unet, .* lack 1 \\('{FIRST}'\\)"),
    "many tensors lost": (
        tensors(UNET, lambda t: [t.pop(name) for name in list(t) if "attn2" in name]),
        r"all tensors of unet, but its files lack \d\d",
    ),
    "all tensors lost": (tensors(TEXT, lambda t: t.clear()), "all tensors of text_encoder"),
    "tensors of another model": (
        lambda folder: shutil.copy(folder / "vae" / Path(UNET).name, folder / UNET),
        "of unet",
    ),
    "a tensor of another shape": (
        tensors(UNET, lambda t: t.update({FIRST: t[FIRST][:, :-1].clone()})),
        r"'conv_in.weight' of unet to be \(16, 4, 3, 3\) .* have \(16, 3, 3, 3\)",
    ),
    "a number that is none": (filled(float("nan")), "'conv_in.weight' of unet has a NaN"),
    "infinity": (filled(float("inf")), "'conv_in.weight' of unet has a NaN or an infinity"),
    "infinity in fp16": (filled(-float("inf"), torch.float16), "'conv_in.weight' of unet"),
    "no tokenizer": (without("tokenizer"), "a folder tokenizer in tiny"),
    "no tokenizer named": (
        lambda folder: change(folder, INDEX, tokenizer=[None, None]),
        "a tokenizer in model_index.json, which a StableDiffusionPipeline needs",
    ),
    "no vocabulary": (
        without("tokenizer/tokenizer.json"),
        "expected a file tokenizer/vocab.json",
    ),
    "vocabulary cut short": (cut("tokenizer/tokenizer.json", 300), "a tokenizer that can be load"),
    "no scheduler": (without("scheduler"), "a folder scheduler in tiny"),
    "no scheduler's config": (
        without("scheduler/scheduler_config.json"),
        "expected a file scheduler/scheduler_config.json",
    ),
    "a shard lost": (sharded(lost=True), r"_model-00002-of.* which names it, but there is none"),
    "two variants and no plain one": (as_variant("fp16", "bf16"), r"or give variant="),
    "weights of other names": (
        lambda folder: (folder / UNET).rename(folder / "unet" / "unet-final.safetensors"),
        "weights of unet named diffusion_pytorch_model.safetensors",
    ),
    "an empty index": (lambda folder: (folder / INDEX).write_text("{}"), "_class_name"),
    "no index": (without(INDEX), "holds no model_index.json"),
    "sizes of another model": (
        lambda folder: change(folder, "unet/config.json", cross_attention_dim=768),
        r"of unet to be \(16, 768\) as its config.json asks, but its files have \(16, 32\)",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, sentence = DAMAGED[name]
    folder = tiny_model(tmp_path)
    damage(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence) as raised:
        load_pipeline("tiny")
    one_sentence(raised.value)


def as_years_ago(folder: Path) -> None:
    """As Stable Diffusion 1 was saved: older names, a safety checker, pickles beside."""
    projected = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(tensors: dict[str, Any], of: dict[str, str]) -> None:
        for name in list(tensors):
            new = name
            for now, then in of.items():
                new = new.replace(now, then) if "mid_block.attentions" in name else new
            tensors[new] = tensors.pop(name)

    change_tensors(folder, "vae/" + Path(UNET).name, lambda t: older(t, projected))

    def prefixed(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[f"text_model.{name.removeprefix('text_model.')}"] = tensors.pop(name)
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    change_tensors(folder, TEXT, prefixed)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    shutil.rmtree(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    change(
        folder,
        "tokenizer/tokenizer_config.json",
        tokenizer_class="CLIPTokenizer",
        special_tokens_map_file="./special_tokens_map.json",
        name_or_path="/home/someone/clip-vit-large-patch14",
    )
    small: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    small |= {"intermediate_size": 8, "projection_dim": 8}
    StableDiffusionSafetyChecker(
        transformers.CLIPConfig(
            vision_config=small | {"image_size": 224, "patch_size": 32},
            text_config=small,
            projection_dim=8,
        )
    ).save_pretrained(folder / "safety_checker")
    transformers.CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    change(
        folder,
        "feature_extractor/preprocessor_config.json",
        feature_extractor_type="CLIPFeatureExtractor",
        image_processor_type=None,
    )
    change(
        folder,
        INDEX,
        _diffusers_version="0.6.0",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        requires_safety_checker=True,
    )
    for file in (UNET, TEXT):
        (folder / file).with_suffix(".bin").write_bytes(b"a pickle")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"a pickle")


SOUND: dict[str, Damage] = {
    "as it was saved": lambda folder: None,
    "a tensor more": tensors(UNET, lambda t: t.update(extra=torch.zeros(3))),
    "in shards": sharded(lost=False),
    "fp16 files only": as_variant("fp16", of=(UNET, TEXT)),
    "fp16 files of one part": as_variant("fp16", of=(UNET,)),
    "a limit that is none": lambda folder: change(
        folder, "scheduler/scheduler_config.json", lambda_min_clipped=-float("inf")
    ),
    "as it was saved years ago": as_years_ago,
    "files of other things": lambda folder: (folder / "unet" / "LICENSE").write_text("free"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_what_is_sound_is_loaded_as_diffusers_loads_it(
    name: str, tmp_path: Path, draw: Callable[..., np.ndarray]
) -> None:
    folder = tiny_model(tmp_path)
    stock = diffusers.DiffusionPipeline.from_pretrained(folder)
    SOUND[name](folder)
    if name == "as it was saved years ago":
        stock = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    before = diffusers.logging.get_verbosity(), transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    pipe = load_pipeline(folder)
    assert (diffusers.logging.get_verbosity(), transformers.logging.get_verbosity()) == before
    assert transformers.logging.is_progress_bar_enabled() == bars
    assert {key: type(part) for key, part in pipe.components.items()} == {
        key: type(part) for key, part in stock.components.items()
    }
    for each in (pipe, stock):
        each.set_progress_bar_config(disable=True)
    assert draw(pipe).tobytes() == draw(stock).tobytes()


@pytest.mark.slow
def test_large_weights_in_fp16_are_no_infinity(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    change_tensors(folder, UNET, lambda t: t.update({FIRST: torch.full_like(t[FIRST], 60000)}))
    assert load_pipeline(folder, dtype=torch.float16).unet.dtype is torch.float16


def test_a_part_of_one_s_own_is_not_read_from_the_folder(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    unet = load_pipeline(folder).unet
    shutil.rmtree(folder / "unet")
    change(folder, INDEX, unet=["evil_module", "Evil"])
    with pytest.raises(UserError, match="'Evil'"):
        load_pipeline(folder)
    change(folder, INDEX, unet=["diffusers", "UNet2DConditionModel"])
    assert load_pipeline(folder, unet=unet).unet is unet


@pytest.mark.slow
def test_several_models_in_one_are_handed_over(tmp_path: Path) -> None:
    pipe = controlnet_pipeline()
    nets = diffusers.MultiControlNetModel([pipe.controlnet])
    pipe.save_pretrained(tmp_path)
    change(tmp_path, INDEX, controlnet=["diffusers", "MultiControlNetModel"])
    with pytest.raises(
        UserError, match=r"pass on controlnet=MultiControlNetModel\(\[…\]\)"
    ) as told:
        load_pipeline(tmp_path)
    one_sentence(told.value)
    assert load_pipeline(tmp_path, controlnet=nets).controlnet is nets


def test_the_models_of_the_package_are_sound() -> None:
    assert check_folder(WORLD).variant is None
