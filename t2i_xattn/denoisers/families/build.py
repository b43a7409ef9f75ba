"""How the transformers of one class are built, in a few words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from t2i_xattn.denoisers.call import Extra, TextPart
from t2i_xattn.denoisers.families.grids import ReadGrids, patched
from t2i_xattn.denoisers.families.several_texts import behind_each_other, length_of_all
from t2i_xattn.prompts.encoded import Text

Told = TypeVar("Told")


def nearest(table: Mapping[str, Told], denoiser: Any) -> Told | None:
    """What a table by the names of classes says of a denoiser: of the nearest of its classes."""
    names = [kind.__name__ for kind in type(denoiser).__mro__]
    return next((table[name] for name in names if name in table), None)


@dataclass(frozen=True)
class Build:
    """How the transformers of one class are built.

    Attributes:
        sites: a regular expression for the names of the modules where the picture looks at the
            text.
        own: the same for those where it looks at itself alone.
        grids: how its latents lie.
        sample, text, timestep: the names of these arguments.
        more: the names of further texts' arguments.
        parts: from the arguments to all the texts with their columns.
        tokens: from the arguments to the columns of all texts, where it is not their sum.
        before: keys in front of the text's that are no columns of it.
        extra: where there may be keys of others.
        frames_as_rows: whether each frame of a video is a row of its own at the sites.
        perturbed: arguments that say that something is spoilt or skipped in a further call.
        layers: the axis of the states of several layers, where the text is given with them.
        ahead: from a denoiser and its arguments to the queries in front of the picture's, where
            others ask too.
        connected: the column of each token of a text that is given through connectors, which
            change its values and may change its order.
        row_by_row: whether the kernel is called for each row by itself.
    """

    sites: str
    own: str = r"(?!)"
    grids: ReadGrids = patched
    sample: str = "hidden_states"
    text: str = "encoder_hidden_states"
    timestep: str = "timestep"
    more: tuple[str, ...] = ()
    parts: Callable[[Mapping[str, Any], Sequence[str]], Sequence[TextPart]] = behind_each_other
    tokens: Callable[[Mapping[str, Any], Sequence[str]], int] = length_of_all
    before: int = 0
    extra: Extra = "none"
    frames_as_rows: bool = False
    perturbed: tuple[str, ...] = ()
    layers: int | None = None
    ahead: Callable[[Any, Mapping[str, Any]], int] | None = None
    connected: Callable[[Text], Sequence[int]] | None = None
    row_by_row: bool = False
