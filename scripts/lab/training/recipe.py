"""A training recipe, read from a TOML file and checked."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from t2i_xattn.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What every stage has: how long, how much at a time, how fast.

    The learning rate rises over ``warmup`` steps, stays, and falls to zero over the last
    ``decay`` steps. ``ema`` is the decay of the weights' moving average, which is what ships.
    ``matrix_learning_rate`` is Muon's, for hidden matrices and convolutions; at 0 AdamW trains
    them too.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    decay: int
    ema: float
    matrix_learning_rate: float = 0.0

    def rate(self, step: int) -> float:
        """Learning rate at a step, as a fraction of ``learning_rate``."""
        rise = (step + 1) / self.warmup if self.warmup else 1.0
        fall = (self.steps - step) / self.decay if self.decay else 1.0
        return max(0.0, min(1.0, rise, fall))


@dataclass(frozen=True, kw_only=True)
class DrawnSchedule(Schedule):
    """Of a stage that sees each drawn scene ``passes`` times, changed in another way each time."""

    passes: int


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe(DrawnSchedule):
    crop: int
    latent_channels: int
    channels: int
    encoder_blocks: list[int]
    decoder_blocks: list[int]
    latent_noise: float
    scale_equivariance: float


@dataclass(frozen=True, kw_only=True)
class DecoderRecipe(DrawnSchedule):
    latent_noise: float


@dataclass(frozen=True, kw_only=True)
class TextRecipe(Schedule):
    width: int
    layers: int
    heads: int
    even_styles: int = 0


@dataclass(frozen=True, kw_only=True)
class DenoiserRecipe(DrawnSchedule):
    text_learning_rate: float
    channels: list[int]
    heads: list[int]
    norm_groups: int
    drop_prompt: float
    timestep_power: float
    mask_loss: float
    layers: int = 1
    segmentation_loss: float = 0.0
    hide_words: float = 0.0
    reading_dropout: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """All stages; the field names are those of the TOML file.

    ``remarks`` go into the card; ``scenes`` names what is drawn, ``"shapes"`` or ``"world"``.
    """

    seed: int
    remarks: str
    mixed_precision: str
    stray_words: float
    autoencoder: AutoencoderRecipe
    decoder: DecoderRecipe
    text: TextRecipe
    denoiser: DenoiserRecipe
    scenes: str = "shapes"


RECIPE_COPY = "recipe.toml"
"""Name of the recipe's copy in the folder of a run."""

STAGES = {
    "autoencoder": AutoencoderRecipe,
    "text": TextRecipe,
    "denoiser": DenoiserRecipe,
    "decoder": DecoderRecipe,
}


def build(kind: type, values: dict[str, Any], place: str, example: str = "shapes.toml") -> Any:
    """A recipe's part from its settings; ``example`` is the recipe that has them all.

    Raises:
        UserError: settings are missing or unknown.
    """
    known = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    missing, unknown = sorted(needed - set(values)), sorted(set(values) - known)
    if missing or unknown:
        raise UserError(
            f"The recipe's {place} has missing settings {missing} and unknown settings {unknown}; "
            f"compare it with scripts/lab/training/recipes/{example}."
        )
    return kind(**values)


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a recipe's file.

    Raises:
        UserError: the file is not there, or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UserError(f"Expected a recipe file at {path}, got: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"Expected a TOML recipe in {path}, got: {error}.") from error


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        UserError: the file is not there, is not TOML, or has missing or unknown settings.
    """
    raw = read_toml(path)
    stages = {name: build(kind, raw.pop(name, {}), f"[{name}]") for name, kind in STAGES.items()}
    return build(Recipe, raw | stages, "top level")
