"""A model of the hub by its name: its files, fetched or from the cache, and none of its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2i_xattn.errors import UserError, shown
from t2i_xattn.models.quiet import quiet
from t2i_xattn.models.telling import reason


def snapshot(name: str, variant: str | None, **options: Any) -> Path:
    """The folder that holds a model's files, to be checked like any other.

    Args:
        name: the model's on the hub.
        variant: which weights to fetch, such as `fp16`.
        options: of `DiffusionPipeline.download`, such as `revision` or `local_files_only`.

    Raises:
        UserError: it is no name of the hub's, or the hub does not give it.
    """
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"expected world, a model's folder, or a name of the hub such as owner/name, but came "
            f"{shown(name)}, which is no folder here; check how it is spelt"
        ) from error
    try:
        with quiet():
            return Path(
                DiffusionPipeline.download(
                    name, use_safetensors=True, trust_remote_code=False, variant=variant, **options
                )
            )
    # What is raised depends on where the way to the hub ends; all of it means this.
    except Exception as error:
        raise UserError(
            f"expected a model's folder or a model of the hub by the name {shown(name)}, but "
            f"there is no such folder and the hub gave none ({reason(error)}); check the name and "
            "the network"
        ) from error
