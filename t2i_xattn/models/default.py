"""Getting a pipeline: the model in the box, a folder, or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_xattn.errors import UserError
from t2i_xattn.models.checked_folder import INDEX, check_folder
from t2i_xattn.models.fitting import check_finite
from t2i_xattn.models.hub import snapshot
from t2i_xattn.models.picture_prompts import Pictures, load_separate
from t2i_xattn.models.telling import reason

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

WORLD = Path(__file__).parent / "world"
"""The model in the box: an ordinary Stable Diffusion folder."""

_OF_THE_HUB = ("cache_dir", "force_download", "proxies", "local_files_only", "revision", "token")


def load_default(*, pictures: Pictures | None = None, **kwargs: Any) -> StableDiffusionPipeline:
    """The model in the box, as a stock pipeline on the CPU, in fp32 unless ``dtype`` is given.

    It paints illustrated scenes of 128 × 128 pixels, with places, lights, styles and things, and
    plain shapes too; a model card lies beside its weights. No network is used.

    Args:
        pictures: ``"separate"``: with the IP-Adapter that was trained for it loaded, so that it
            takes ``ip_adapter_image=…`` too; see docs/picture-prompts.md.
        kwargs: passed on to ``StableDiffusionPipeline.from_pretrained``, such as ``dtype``.

    Raises:
        UserError: for other ``pictures``.

    Example:
        >>> pipe = load_default().to("cuda")
    """
    from diffusers import StableDiffusionPipeline

    pipe: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
        WORLD, local_files_only=True, **kwargs
    )
    if pictures is not None:
        load_separate(pipe, pictures)
    return pipe


def load_pipeline(model: str | Path | None = None, **kwargs: Any) -> DiffusionPipeline:
    """A pipeline by folder or by hub name; by no name, or ``world``, the model in the box.

    A folder ``world`` goes before the model in the box.

    Only safetensors and JSON are read and no code of the model is run: a folder, and what came
    from the hub, is checked whole before anything of it is built.

    Args:
        model: a folder, a name of the hub, or ``world``.
        kwargs: passed on to ``DiffusionPipeline.from_pretrained``, such as ``dtype``, ``variant``
            or a part of your own.

    Raises:
        UserError: the folder is not a model or not a sound one, or the name is neither a folder
            here nor a model that the hub gives.
    """
    if model is None:
        return load_default(**kwargs)
    folder = Path(model)
    there = _is_there(folder)
    if str(model) == WORLD.name and not there:
        return load_default(**kwargs)
    _check_name(str(model), folder, there)
    for unsafe in ("custom_pipeline", "trust_remote_code", "use_safetensors", "use_onnx"):
        if unsafe in kwargs:
            raise UserError(
                f"expected a model of safetensors and without code, but came {unsafe}=; load the "
                "model with diffusers yourself if you trust it, and hand the pipeline over"
            )
    variant = kwargs.pop("variant", None)
    fetched = {key: kwargs.pop(key) for key in _OF_THE_HUB if key in kwargs}
    if not there:
        folder = snapshot(str(model), variant, **fetched)
    checked = check_folder(folder, kwargs.keys(), variant)

    from diffusers import DiffusionPipeline

    try:
        pipe: DiffusionPipeline = DiffusionPipeline.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            variant=checked.variant,
            **(checked.ready | kwargs),
        )
    # What from_pretrained raises depends on which file fails and how; all of them mean this.
    except Exception as error:
        raise UserError(
            f"expected a diffusers model in the folder {folder.name}, but it cannot be loaded "
            f"({reason(error)}); check what is passed on, and copy the model anew from where it "
            "came from"
        ) from error
    check_finite(pipe)
    if not there:
        # The name that traces tell, and not a place in the cache.
        pipe.register_to_config(_name_or_path=str(model))
    return pipe


def _is_there(folder: Path) -> bool:
    try:
        return folder.exists()
    # A name longer than names can be.
    except OSError:
        return False


def _check_name(model: str, folder: Path, there: bool) -> None:
    """Raises `UserError` for what can be neither a model's folder nor a name of the hub's."""
    if there:
        if not (folder / INDEX).is_file():
            raise UserError(
                f"expected a diffusers model at {folder}, but it holds no {INDEX}; "
                "name the folder that save_pretrained wrote"
            )
    elif model.lower() == WORLD.name:
        raise UserError(
            f"expected {WORLD.name} for the model in the box, but came {model!r}, which is no "
            f"folder here; write {WORLD.name}"
        )
    # A path is never a question for the hub.
    elif folder.is_absolute() or model.startswith((".", "~")):
        raise UserError(f"expected a model folder at {model}, but there is none; check the path")
