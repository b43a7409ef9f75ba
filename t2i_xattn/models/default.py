"""Getting a pipeline: the model in the box, a folder, or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_xattn.errors import UserError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

WORLD = Path(__file__).parent / "world"
"""The model in the box: an ordinary Stable Diffusion folder."""


def load_default(**kwargs: Any) -> StableDiffusionPipeline:
    """The model in the box, as a stock pipeline on the CPU, in fp32 unless ``dtype`` is given.

    It paints illustrated scenes of 128 × 128 pixels, with places, lights, styles and things, and
    plain shapes too; a model card lies beside its weights. No network is used.

    Args:
        kwargs: passed on to ``StableDiffusionPipeline.from_pretrained``, such as ``dtype``.

    Example:
        >>> pipe = load_default().to("cuda")
    """
    from diffusers import StableDiffusionPipeline

    pipe: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
        WORLD, local_files_only=True, **kwargs
    )
    return pipe


def load_pipeline(model: str | Path | None = None, **kwargs: Any) -> DiffusionPipeline:
    """A pipeline by folder or by hub name; by no name, or ``world``, the model in the box.

    A folder ``world`` goes before the model in the box.

    Only safetensors are read and no code of the model is run.

    Raises:
        UserError: the folder is not a model, or the name is neither a folder here nor a model
            that the hub gives.
    """
    if model is None:
        return load_default(**kwargs)
    folder = Path(model)
    if str(model) == WORLD.name and not folder.exists():
        return load_default(**kwargs)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise UserError(
            f"expected a diffusers model at {model}, but it holds no model_index.json; "
            "name the folder that save_pretrained wrote"
        )
    # A path is never a question for the hub.
    if not folder.exists() and (folder.is_absolute() or str(model).startswith((".", "~"))):
        raise UserError(f"expected a model folder at {model}, but there is none; check the path")

    from diffusers import DiffusionPipeline

    try:
        pipe: DiffusionPipeline = DiffusionPipeline.from_pretrained(
            model, use_safetensors=True, **kwargs
        )
    # What from_pretrained raises depends on which file fails and how; all of them mean this.
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        kind = "the folder" if folder.exists() else "a model of the hub by the name"
        raise UserError(
            f"expected a diffusers model from {kind} {model}, but it cannot be loaded "
            f"({reason}); check the name, the folder's files and the network"
        ) from error
    return pipe
