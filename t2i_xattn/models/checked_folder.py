"""A model's folder, held against what may be in it before anything of it is built.

Files first, then the classes that `model_index.json` names, then what each part's configs ask for,
then weights against configs. Nothing is imported that is not diffusers' or transformers' own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2i_xattn.errors import UserError, shown
from t2i_xattn.models.fitting import check_fit
from t2i_xattn.models.folder_files import check_files
from t2i_xattn.models.json_file import read_json
from t2i_xattn.models.library_classes import Kind, class_of_part, class_of_pipeline, kind_of
from t2i_xattn.models.part_configs import check_configs
from t2i_xattn.models.quiet import quiet
from t2i_xattn.models.telling import reason
from t2i_xattn.models.weight_files import read_headers, variants

INDEX = "model_index.json"


@dataclass(frozen=True)
class CheckedFolder:
    """What is known of a folder that was found sound."""

    ready: dict[str, Any]
    """Parts that are small, loaded: schedulers, guiders, tokenizers and processors."""
    variant: str | None
    """Which weights are to be loaded, such as `fp16`; none for the plain ones."""


def check_folder(
    folder: Path, passed: Collection[str] = (), variant: str | None = None
) -> CheckedFolder:
    """Raises `UserError` for the first thing in a folder that may not be or cannot be loaded.

    Args:
        folder: as `save_pretrained` wrote it.
        passed: parts that the user hands over, which are not read.
        variant: the weights that the user asked for.
    """
    check_files(folder, ())
    index = read_json(folder / INDEX, INDEX)
    pipeline = class_of_pipeline(index.get("_class_name"))
    parts = _parts(pipeline, index, passed)
    check_files(folder, parts)
    for part, kind in parts.items():
        if not (folder / part).is_dir():
            raise UserError(
                f"expected a folder {part} in {folder.name}, as its {INDEX} says, but there is "
                "none; copy it from where the model came from"
            )
        check_configs(folder, part, kind)
    models = {part: kind for part, kind in parts.items() if kind_of(kind) is Kind.MODEL}
    held = {part: read_headers(folder, part) for part in models}
    chosen = variant or _only_variant(folder, models)
    for part, kind in models.items():
        _need(folder, part, "config.json")
        there = variants(folder / part, _stem(kind))
        check_fit(kind, folder, part, held[part], chosen if chosen in there else None)
    for part in parts:
        _check_length(folder, part, models)
    ready = {part: _load(folder, part, kind) for part, kind in parts.items() if part not in models}
    return CheckedFolder(ready, chosen)


def _parts(pipeline: Any, index: dict[str, Any], passed: Collection[str]) -> dict[str, Any]:
    """The class of each part that is to be loaded."""
    places, _ = pipeline._get_signature_keys(pipeline)
    types = pipeline._get_signature_types()
    parts: dict[str, Any] = {}
    for part in sorted(set(places) | {key for key, value in index.items() if _is_pair(value)}):
        named = index.get(part, [None, None])
        if part in passed:
            continue
        if named == [None, None]:
            if part not in pipeline._optional_components:
                raise UserError(
                    f"expected a {part} in {INDEX}, which a {pipeline.__name__} needs, but it "
                    "names none; copy the file and the part from where the model came from"
                )
            continue
        if not _is_pair(named) or not part.isidentifier():
            raise UserError(
                f"expected a library and a class for {shown(part)} in {INDEX}, but came "
                f"{shown(named)}; copy the file anew from where the model came from"
            )
        kinds = {kind for each in types.get(part, ()) if (kind := kind_of(each))}
        kinds = {Kind.SCHEDULER} if "scheduler" in part else kinds or set(Kind)
        library, name = named
        parts[part] = class_of_part(part, library, name, kinds)
    return parts


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(each is None or isinstance(each, str) for each in value)
        and value != [None, None]
    )


def _stem(kind: Any) -> str:
    import diffusers

    return "diffusion_pytorch_model" if issubclass(kind, diffusers.ModelMixin) else "model"


def _only_variant(folder: Path, models: dict[str, Any]) -> str | None:
    """The one kind of weights that a folder without plain ones has."""
    found = {part: variants(folder / part, _stem(kind)) for part, kind in models.items()}
    needed = {name: part for part, names in found.items() if None not in names for name in names}
    shared = [name for name in needed if all({name, None} & names for names in found.values())]
    for part, names in found.items():
        if not names or (None not in names and len(shared) != 1):
            raise UserError(
                f"expected weights of {part} named {_stem(models[part])}.safetensors, but its "
                f"files are others ({shown(sorted(map(str, names)))}); name them so, or give "
                "variant= if they are a variant"
            )
    return shared[0] if needed and shared else None


def _check_length(folder: Path, part: str, models: dict[str, Any]) -> None:
    """That a tokenizer of CLIP's ends where its encoder does: pipelines fill texts up to it."""
    encoder = part.replace("tokenizer", "text_encoder")
    path = folder / part / "tokenizer_config.json"
    if encoder == part or encoder not in models or not path.is_file():
        return
    told = read_json(folder / encoder / "config.json", f"{encoder}/config.json")
    length = read_json(path, f"{part}/{path.name}").get("model_max_length", 0)
    places = told.get("max_position_embeddings")
    if told.get("model_type") != "clip_text_model" or not isinstance(places, int):
        return
    if not isinstance(length, int) or length > places:
        raise UserError(
            f"expected a model_max_length of at most {places} in {part}/{path.name}, as {encoder} "
            f"has so many positions, but came {shown(length)}; write {places}"
        )


def _load(folder: Path, part: str, kind: Any) -> Any:
    """A part that is no model."""
    if kind_of(kind) is Kind.SCHEDULER:
        _need(folder, part, "scheduler_config.json")
    files = [name for key, name in getattr(kind, "vocab_files_names", {}).items()]
    if files and not (folder / part / "tokenizer.json").is_file():
        for name in files:
            _need(folder, part, name)
    try:
        with quiet():
            return kind.from_pretrained(folder / part, local_files_only=True)
    # What is raised is up to the class; the tokenizers' own library raises Exception itself.
    except Exception as error:
        raise UserError(
            f"expected a {part} that can be loaded, but its files are damaged ({reason(error)}); "
            "copy the part anew from where the model came from"
        ) from error


def _need(folder: Path, part: str, name: str) -> None:
    if not (folder / part / name).is_file():
        raise UserError(
            f"expected a file {part}/{name} in {folder.name}, but there is none; copy it from "
            "where the model came from"
        )
