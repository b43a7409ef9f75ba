"""What the JSON files of a model's part may ask for: no code, no other library, no file elsewhere,
and sizes that a model can have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from t2i_xattn.errors import UserError, shown
from t2i_xattn.models.folder_files import plain_name
from t2i_xattn.models.json_file import leaves, read_json
from t2i_xattn.models.library_classes import Kind, in_diffusers, kind_of

VOCABULARIES = {"tokenizer.json", "vocab.json"}
"""Read by the tokenizer's own library alone."""

_CODE = {"auto_map", "custom_pipelines", "custom_pipeline", "trust_remote_code", "code_revision"}
_LIBRARY = {"quantization_config", "compression_config", "use_kernels", "kernel_config"}
_CLASS = {"tokenizer_class", "processor_class", "image_processor_type", "feature_extractor_type"}

_LARGEST = {Kind.MODEL: 2_000_000, Kind.SCHEDULER: 100_000}
# Lengths of rotary tables are no sizes of tensors.
_FREE = re.compile(r"theta|position|_id$|_ids$|_token")
_SIZE = re.compile(r"^num_|size|dim|channels|layers|heads|^depth|position_embeddings")


def check_configs(folder: Path, part: str, of_part: Any) -> None:
    """Holds every JSON file of one part against what it may say.

    Args:
        folder: of the whole model.
        part: its name in there.
        of_part: its class.

    Raises:
        UserError: a file is no sound JSON, or asks for code, a library, a file elsewhere, or a
            size that no model has.
    """
    kind = kind_of(of_part)
    for path in sorted((folder / part).rglob("*.json")):
        if path.name in VOCABULARIES:
            continue
        where = path.relative_to(folder).as_posix()
        config = read_json(path, where)
        for keys, value in leaves(config):
            _check_asked(where, keys, value, of_part)
            # Sizes of what is built; the others' limits are those of a text or a picture.
            if kind in _LARGEST and path.name in {"config.json", "scheduler_config.json"}:
                _check_number(where, keys, value, _LARGEST[kind])
        _check_shards(where, path.parent, config)


def _check_asked(where: str, keys: tuple[str, ...], value: Any, of_part: Any) -> None:
    asked = _CODE.intersection(keys)
    if asked and value not in (None, False):
        raise UserError(
            f"expected a model without code, but {where} has {asked.pop()!r}, and no code of a "
            "model is run; take that entry out, or load the model with diffusers yourself"
        )
    asked = _LIBRARY.intersection(keys)
    if asked and value not in (None, False):
        raise UserError(
            f"expected plain weights, but {where} has {asked.pop()!r}, which would import other "
            "libraries; load the model with diffusers yourself, and hand the pipeline over"
        )
    last = next((key for key in reversed(keys) if not key.isdigit()), "")
    known = True
    if last in _CLASS and value is not None:
        # Older files name classes that are gone. A plain name is looked up in transformers alone.
        known = isinstance(value, str) and value.isidentifier()
    elif last == "_class_name":
        known = value == of_part.__name__ or in_diffusers(value)
    elif last.endswith("attn_implementation") or last.endswith("experts_implementation"):
        # With a slash it is a kernel to be fetched from the hub and run.
        known = value is None or (isinstance(value, str) and value.isidentifier())
    elif last.endswith("_file") and last != "special_tokens_map_file":
        known = value is None or plain_name(value)
    if not known:
        raise UserError(
            f"expected a name of the libraries' own or of a file beside it as {shown(last)} in "
            f"{where}, but came {shown(value)}; take that entry out if the model needs it not"
        )


def _check_number(where: str, keys: tuple[str, ...], value: Any, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    name = next((key for key in reversed(keys) if not key.isdigit()), "")
    most = 10**9 if _FREE.search(name) and not _SIZE.search(name) else largest
    # Infinity is a limit that is none, in schedulers.
    too_large = isinstance(value, int) and abs(value) > most
    if too_large or (value < 0 and _SIZE.search(name)):
        raise UserError(
            f"expected sizes from 0 to {most:,} in {where}, but {shown(name)} is "
            f"{shown(value)}; copy the file anew from where the model came from"
        )


def _check_shards(where: str, folder: Path, config: dict[str, Any]) -> None:
    """That an index names files beside it, and that they are there."""
    if not re.search(r"\.index(\.\w+)?\.json$", where):
        return
    shards = config.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(
            f"expected a weight_map from tensors to files in {where}, but came "
            f"{shown(shards)}; copy the file anew from where the model came from"
        )
    for shard in set(map(str, shards.values())):
        if not plain_name(shard) or not shard.endswith(".safetensors"):
            # Of pickles nothing is read, so that their index does not matter.
            if ".safetensors." not in where:
                return
            raise UserError(
                f"expected names of safetensors files beside {where} in its weight_map, but came "
                f"{shown(shard)}; copy the model anew from where it came from"
            )
        if not (folder / shard).is_file():
            raise UserError(
                f"expected the file {shown(shard)} beside {where}, which names it, but there is "
                "none; copy it from where the model came from"
            )
