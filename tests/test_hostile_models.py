"""Folders that are made to harm: none of their code runs, nothing hangs or grows, and each is
refused in one sentence."""

from __future__ import annotations

import math
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model_folders import TEXT, UNET, change, one_sentence, tiny_model
from spoiling import (
    CODE,
    EVIL,
    INDEX,
    SCHEDULER,
    TEXT_CONFIG,
    TOKENIZER,
    UNET_CONFIG,
    Payload,
    Spoil,
    code,
    entries,
    fifo,
    first_of,
    header,
    length,
    link,
    marker_of,
    overlap,
    pickled,
    shards,
    tensors_of_nothing,
    text,
)
from t2i_xattn.errors import UserError
from t2i_xattn.models.default import load_pipeline
from tiny.all_cases import CASES


class Hanging(BaseException):
    """Not to be taken for a mistake of the model's."""


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
FOLDERS: dict[str, tuple[Spoil, str]] = {
    # Classes of others in each place.
    "unet of a module": (entries(INDEX, unet=EVIL), "unet in model_index.json, but came 'Evil'"),
    "scheduler of a module": (entries(INDEX, scheduler=EVIL), "for scheduler .* 'Evil'"),
    "tokenizer of a module": (entries(INDEX, tokenizer=EVIL), "for tokenizer .* 'Evil'"),
    "checker of a module": (entries(INDEX, safety_checker=EVIL), "for safety_checker .* 'Evil'"),
    "extra part of a module": (entries(INDEX, another=EVIL), "for another .* 'Evil'"),
    "module that climbs": (entries(INDEX, unet=["../../evil_up", "Evil"]), "'../../evil_up'"),
    "module with dots": (entries(INDEX, unet=["os.path", "join"]), "'os.path'"),
    "function": (entries(INDEX, unet=["diffusers", "logging"]), "came 'logging'"),
    "class of no kind": (entries(INDEX, unet=["diffusers", "DiffusionPipeline"]), "came 'Diff"),
    "module within diffusers": (entries(INDEX, unet=["pipeline_utils", "Path"]), "came 'Path'"),
    "ONNX": (entries(INDEX, unet=["diffusers", "OnnxRuntimeModel"]), "'OnnxRuntimeModel'"),
    "flax": (entries(INDEX, unet=["diffusers", "FlaxUNet2DConditionModel"]), "'FlaxUNet"),
    "scheduler as unet": (entries(INDEX, unet=["diffusers", "DDIMScheduler"]), "is a scheduler"),
    "several models in one": (
        entries(INDEX, unet=["diffusers", "MultiControlNetModel"]),
        "MultiControlNetModel is several",
    ),
    "part that climbs": (
        lambda folder: change(folder, INDEX, **{"../up": ["diffusers", "UNet2DModel"]}),
        "'../up'",
    ),
    "pipeline of a module": (entries(INDEX, _class_name=EVIL), r"_class_name .*\['evil_module'"),
    "pipeline of no such name": (entries(INDEX, _class_name="Evil"), "_class_name .*'Evil'"),
    "pipeline of two models": (
        entries(INDEX, _class_name="KandinskyCombinedPipeline"),
        "loads a second by name",
    ),
    "class in a config": (entries(UNET_CONFIG, _class_name="evil_module.Evil"), "_class_name"),
    # Code beside the weights.
    "unet of a module beside it": (
        code("unet/evil_module.py", entries(INDEX, unet=EVIL)),
        "unet in model_index.json, but came 'Evil'",
    ),
    "code in a part": (code("unet/evil_module.py"), "holds 'unet/evil_module.py'"),
    "code named like the library": (code("unet/diffusers.py"), "holds 'unet/diffusers.py'"),
    "code as a pipeline": (code("pipeline.py"), "holds 'pipeline.py'"),
    "code as no pipeline": (code("None.py"), "holds 'None.py'"),
    "auto_map": (
        entries(TEXT_CONFIG, auto_map={"AutoModel": "evil_module.Evil"}),
        "text_encoder/config.json has 'auto_map'",
    ),
    "auto_map of a tokenizer": (
        entries(TOKENIZER, auto_map={"AutoTokenizer": ["evil_module.Evil", None]}),
        "'auto_map'",
    ),
    "class of a tokenizer": (entries(TOKENIZER, tokenizer_class="evil_module.Evil"), "'evil_mod"),
    "trust": (entries(TEXT_CONFIG, trust_remote_code=True), "has 'trust_remote_code'"),
    "kernel of the hub": (entries(TEXT_CONFIG, _attn_implementation="evil/kernel"), "'evil/kern"),
    "quantised": (
        entries(UNET_CONFIG, quantization_config={"quant_method": "bitsandbytes"}),
        "'quantization_config'",
    ),
    "pickle": (pickled("unet/diffusion_pytorch_model.bin", UNET), "_model.bin', which is not read"),
    "checkpoint": (pickled("text_encoder/model.ckpt", TEXT), "model.ckpt', which is not read"),
    # Ways out of the folder.
    "file elsewhere": (entries(TOKENIZER, vocab_file="/etc/passwd"), "vocab_file.*'/etc/passwd'"),
    "shard elsewhere": (shards("../../up.safetensors"), "'../../up.safetensors'"),
    "shard at a root": (shards("/etc/passwd"), "'/etc/passwd'"),
    "pickle as a shard": (shards("pytorch_model.bin"), "'pytorch_model.bin'"),
    "link out": (link("vae/config.json", "/etc/passwd"), "'vae/config.json' is a link"),
    "link of a folder": (link("vae", "unet"), "'vae' is a link"),
    "links in a loop": (link("unet/config.json", "config.json"), "leads nowhere"),
    "folder in itself": (link("unet/unet", ".."), "'unet/unet' is a link"),
    # What never ends.
    "pipe": (fifo("unet/config.json"), "'unet/config.json' is a pipe"),
    "pipe of weights": (fifo(TEXT), "'text_encoder/model.safetensors' is a pipe"),
    "pipe beside": (fifo("tokenizer/merges.txt"), "merges.txt' is a pipe"),
    "endless file": (link("vae/config.json", "/dev/zero"), "'vae/config.json' is a link"),
    # Weights that lie.
    "header too long": (length(2**63), "damaged or cut short"),
    "header past the end": (length(10**7), "damaged or cut short"),
    "overlapping tensors": (header(UNET, overlap), "damaged or cut short"),
    "huge tensor": (
        header(UNET, lambda told: first_of(told).update(shape=[2**40])),
        "damaged or cut short",
    ),
    "overflowing tensor": (
        header(UNET, lambda told: first_of(told).update(shape=[2**63, 4])),
        "damaged or cut short",
    ),
    "truncated": (
        lambda folder: os.truncate(folder / UNET, (folder / UNET).stat().st_size - 100),
        "damaged or cut short",
    ),
    # Configs that lie.
    "wide": (entries(TEXT_CONFIG, hidden_size=10**9), "'hidden_size' is 1000000000"),
    "rather wide": (entries(UNET_CONFIG, cross_attention_dim=10**5), r"to be \(\d+, 100000\)"),
    "too wide": (entries(UNET_CONFIG, cross_attention_dim=10**6), "but it asks for far more"),
    "wide by far": (entries(UNET_CONFIG, block_out_channels=[2**62] * 3), "'block_out_channels'"),
    "layers": (entries(TEXT_CONFIG, num_hidden_layers=10**6), "asks for far more"),
    "blocks": (entries(UNET_CONFIG, layers_per_block=10**6), "asks for far more"),
    "labels": (entries(TEXT_CONFIG, num_labels=10**9), "'num_labels' is 1000000000"),
    "no layers": (entries(TEXT_CONFIG, num_hidden_layers=-3), "'num_hidden_layers' is -3"),
    "negative": (entries(UNET_CONFIG, block_out_channels=[-4] * 3), "is -4"),
    "words for numbers": (entries(TEXT_CONFIG, num_hidden_layers="2"), "damaged .*expected int"),
    "heads of none": (entries(TEXT_CONFIG, num_attention_heads=0), "damaged"),
    "not a number": (entries(UNET_CONFIG, norm_eps=math.nan), "it holds NaN"),
    "endless text": (
        entries(TOKENIZER, model_max_length=10**9),
        "model_max_length of at most 77 in tokenizer/",
    ),
    "tensors of nothing": (tensors_of_nothing, "at most 100,000 tensors in unet"),
    "timesteps": (entries(SCHEDULER, num_train_timesteps=10**9), "'num_train_timesteps'"),
    # JSON that is none, or too much.
    "deep": (text(UNET_CONFIG, DEEP), "nested more than 32 deep"),
    "rather deep": (text(UNET_CONFIG, '{"a":' * 40 + "1" + "}" * 40), "nested more than 32"),
    "deep vocabulary": (text("tokenizer/tokenizer.json", DEEP), "tokenizer that can be loaded"),
    "huge": (text(UNET_CONFIG, '{"a": "' + "a" * 2**24 + '"}'), "more than 8,388,608 bytes"),
    "huge number": (text(UNET_CONFIG, '{"a": 1' + "0" * 10_000 + "}"), "JSON object in UTF-8"),
    "key twice": (text(UNET_CONFIG, '{"a": 1, "a": 2}'), "the key 'a' stands in it twice"),
    "not UTF-8": (text(UNET_CONFIG, b'{"a": "\xff"}'), "byte 7 is not UTF-8"),
    "other encoding": (text(INDEX, "{}".encode("utf-16")), "is not UTF-8"),
    "list": (text(INDEX, "[]"), "it is a list"),
    "no JSON": (text(SCHEDULER, "import evil_module"), "JSON object in UTF-8 in scheduler/"),
    "long name": (entries(INDEX, _class_name="E" * 10**6), "_class_name"),
    "name of many lines": (entries(INDEX, _class_name="a\nb\x1b[2J"), "_class_name"),
}


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tiny model's folder; on leaving, nothing ran, nothing was imported and little was used."""
    folder = tiny_model(tmp_path)
    # Importable by name, like any module of the user's own, and beside the model.
    (tmp_path / "path").mkdir()
    for file in (tmp_path / "path" / "evil_module.py", tmp_path / "evil_up.py"):
        file.write_text(CODE.format(marker=str(marker_of(folder))), "utf-8")
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.chdir(tmp_path)
    path, before = list(sys.path), resident(anew=True)
    with ends_within(20):
        yield folder
    assert not marker_of(folder).exists()
    assert not [name for name in sys.modules if "evil" in name]
    assert sys.path == path
    assert resident() - before < 300 * 2**20
    assert torch.zeros(1).device.type == "cpu"  # no default is left behind


def resident(anew: bool = False) -> int:
    """Bytes of memory that the process used at most, by the kernel's own count."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if anew:
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
    (line,) = (each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


class ends_within:
    """Ends what hangs, such as opening a pipe that nobody writes to."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        def ring(*_: Any) -> None:
            raise Hanging

        assert threading.current_thread() is threading.main_thread()
        self.before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_folder_is_refused_in_one_sentence(name: str, watched: Path) -> None:
    spoil, sentence = FOLDERS[name]
    spoil(watched)
    with pytest.raises(UserError, match=sentence) as raised:
        load_pipeline(watched)
    assert "allocate" not in one_sentence(raised.value)


@pytest.mark.parametrize("size", [20_000, 2_000_000])
def test_a_table_that_no_file_holds_is_refused_before_it_is_made(
    size: int, watched: Path, tmp_path: Path
) -> None:
    """CogView3's positions are made anew, and lie in no file that they could be held against."""
    (case,) = (case for case in CASES if case.name == "CogView3PlusPipeline")
    pipe = case.make()
    pipe.save_pretrained(tmp_path / "table")
    load_pipeline(tmp_path / "table")
    change(tmp_path / "table", "transformer/config.json", pos_embed_max_size=size)
    with pytest.raises(UserError, match=r"transformer.* but it asks for far more") as raised:
        load_pipeline(tmp_path / "table")
    one_sentence(raised.value)


def test_pickles_and_code_elsewhere_in_a_sound_folder_are_left_alone(watched: Path) -> None:
    for file in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin", "all.ckpt"):
        (watched / file).write_bytes(pickle.dumps(Payload(marker_of(watched))))
    (watched / "training").mkdir()
    code("training/evil_module.py")(watched)
    assert load_pipeline(watched).unet.dtype is torch.float32


@pytest.mark.parametrize("option", ["custom_pipeline", "trust_remote_code", "use_safetensors"])
def test_what_would_run_code_is_not_passed_on(option: str, watched: Path) -> None:
    with pytest.raises(UserError, match=f"but came {option}=") as raised:
        load_pipeline(watched, **{option: "evil_module"})
    one_sentence(raised.value)
