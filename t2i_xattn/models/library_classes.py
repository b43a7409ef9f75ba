"""The classes that a model's folder may name: diffusers' and transformers' own, and no other.

A name is looked up in the two installed libraries and nowhere else: no module that a folder names
is imported, whatever a version of diffusers would do with it.
"""

from __future__ import annotations

import importlib.util
from enum import Enum
from typing import Any

from t2i_xattn.errors import UserError, shown


class Kind(Enum):
    """What a part of a pipeline is to it."""

    MODEL = "a model"
    SCHEDULER = "a scheduler"
    GUIDER = "a guider"
    WORDS = "a tokenizer or processor"


def class_of_pipeline(name: object) -> Any:
    """The class of diffusers' that the folder is for.

    Raises:
        UserError: it is not the name of a pipeline of diffusers, or of one that loads others.
    """
    import diffusers

    found = _named(diffusers, name)
    _check_installed("pipeline", found, name)
    if (
        not _within(found, "diffusers")
        or not issubclass(found, diffusers.DiffusionPipeline)
        or found is diffusers.DiffusionPipeline
    ):
        raise UserError(
            "expected the name of a pipeline of diffusers as _class_name in model_index.json, but "
            f"came {shown(name)}, and no other code is run; update diffusers if it is a new one, "
            "or load the model yourself"
        )
    # Other models, whose names stand in README.md, would be loaded unseen.
    if found._load_connected_pipes:
        raise UserError(
            f"expected one pipeline in a folder, but {found.__name__} loads a second by name; load "
            "each of the two by itself"
        )
    return found


def class_of_part(part: str, library: object, name: object, kinds: set[Kind]) -> Any:
    """The class of one part, if it is diffusers' or transformers' own and of one of the kinds.

    Args:
        part: its place in the pipeline, such as `unet`.
        library: `diffusers`, `transformers`, or a module of `diffusers.pipelines`.
        name: of the class.
        kinds: those that the place is for.

    Raises:
        UserError: there is no such class, or it is of another kind.
    """
    found = _looked_up(library, name)
    _check_installed(part, found, name)
    kind = kind_of(found)
    if kind is None:
        raise UserError(
            f"expected a class of diffusers or transformers for {part} in model_index.json, but "
            f"came {shown(name)} of {shown(library)}, and no other code is run; load the model "
            "with diffusers yourself if you trust it"
        )
    # Several ControlNets in one: it looks into folders that model_index.json does not name.
    if kind is Kind.MODEL and found.__name__.startswith("Multi"):
        raise UserError(
            f"expected one model as {part} in model_index.json, but {found.__name__} is several; "
            f"load each by itself, and pass on {part}={found.__name__}([…])"
        )
    if kind not in kinds:
        expected = " or ".join(each.value for each in Kind if each in kinds)
        raise UserError(
            f"expected {expected} as {part} in model_index.json, but {shown(name)} is "
            f"{kind.value}; copy the file anew from where the model came from"
        )
    return found


def kind_of(found: object) -> Kind | None:
    """What a class is to a pipeline; none for what is not of the two libraries."""
    import diffusers
    import transformers
    from diffusers.guiders.guider_utils import BaseGuidance

    bases: dict[Kind, tuple[type, ...]] = {
        Kind.MODEL: (diffusers.ModelMixin, transformers.PreTrainedModel),
        Kind.SCHEDULER: (diffusers.SchedulerMixin,),
        Kind.GUIDER: (BaseGuidance,),
        Kind.WORDS: (
            transformers.PreTrainedTokenizerBase,
            transformers.FeatureExtractionMixin,
            transformers.ImageProcessingMixin,
            transformers.ProcessorMixin,
        ),
    }
    if not _within(found, "diffusers") and not _within(found, "transformers"):
        return None
    assert isinstance(found, type)
    return next((kind for kind, of_kind in bases.items() if issubclass(found, of_kind)), None)


def in_diffusers(name: object) -> bool:
    """Whether it is a name of diffusers' own."""
    import diffusers

    return _within(_named(diffusers, name), "diffusers")


def _check_installed(part: str, found: Any, name: object) -> None:
    """Raises `UserError` for what stands in for a class whose libraries are missing."""
    if getattr(found, "__module__", "").startswith(("diffusers.utils.", "transformers.utils.")):
        needed = ", ".join(getattr(found, "_backends", [])) or "another library"
        raise UserError(
            f"expected a {part} that can be loaded here, but {shown(name)} needs libraries of "
            f"which one is missing; install them ({needed})"
        )


def _looked_up(library: object, name: object) -> Any:
    import diffusers
    import transformers
    from diffusers.utils import _maybe_remap_transformers_class

    if library == "diffusers":
        return _named(diffusers, name)
    if library == "transformers":
        remapped = _maybe_remap_transformers_class(name) if isinstance(name, str) else None
        return _named(transformers, remapped or name)
    # A safety checker is saved under the name of its pipeline's module.
    if not isinstance(library, str) or not library.isidentifier() or library.startswith("_"):
        return None
    if importlib.util.find_spec(f"diffusers.pipelines.{library}") is None:
        return None
    return _named(getattr(diffusers.pipelines, library, None), name)


def _named(library: Any, name: object) -> Any:
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        return None
    try:
        return getattr(library, name, None)
    # Of a class whose own libraries are missing or broken.
    except (ImportError, RuntimeError):
        return None


def _within(found: object, library: str) -> bool:
    return isinstance(found, type) and found.__module__.split(".")[0] == library
