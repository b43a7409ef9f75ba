"""What a variant is: what it takes over of attention, where, and how far it is exact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from t2i_xattn.arguments import check_fields
from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.computing import Kernel
from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.seen import Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import Asked
from t2i_xattn.kernel.cover import Cover
from t2i_xattn.kernel.fewer_keys import FewerKeys

Found = Sequence[tuple[AttentionSite, nn.Module]]
"""Sites with their modules, in the order of the forward pass."""


@dataclass(frozen=True, eq=False)
class NowCall:
    """The call of the denoiser that goes on.

    Attributes:
        layout: whose its rows are.
        call: what it is given.
        step, steps: which step of the run it is, and of how many; None if nobody says.
        number: how many calls of these branches came before at the same noise level, which are no
            steps (the views of a panorama).
    """

    layout: Layout
    call: DenoiserCall
    step: int
    steps: int | None
    number: int = 0

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches in it, in the order of their rows, and by what they are perturbed: passes
        that are spoilt in different ways are not the same."""
        spoilt = "" if self.call.perturbed is None else f" by {self.call.perturbed}"
        return tuple(f"{branch}{spoilt}" for branch in self.layout.rows)

    def text(self, branch: str, picture: int) -> Hashable:
        """What the text of a picture in a branch is known by; None where it is not known."""
        text = self.layout.texts[branch][picture]
        return None if text is None else (text.prompt, text.reading)


class RunningVariant:
    """A variant in one run of one denoiser; what a variant does not do is as ever."""

    def begin(self, now: NowCall) -> None:
        """A call of the denoiser begins."""
        self.now = now

    def around(
        self,
        site: AttentionSite,
        module: nn.Module,
        forward: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """See `denoisers.computing.Computing`."""
        return forward(*args, **kwargs)

    def fewer(
        self, site: AttentionSite, call: Asked, reading: Callable[[], Reading]
    ) -> FewerKeys | None:
        """See `denoisers.computing.Computing`."""
        return None

    def kernel(self, site: AttentionSite) -> Kernel | None:
        """See `denoisers.computing.Computing`."""
        return None

    def take(self, seen: Seen) -> None:
        """Reads a kernel call."""

    def end(self) -> None:
        """The call ran to its end."""


@dataclass(frozen=True, eq=False)
class Variant(ABC):
    """A cheaper way to compute some of a denoiser's attention.

    Attributes of the class:
        takes: what it takes over; two that take over the same exclude each other.
        exact: whether the pictures keep their bytes in fp32.
        error: how far off it is, in a sentence.
        attends: whether it answers kernel calls itself.
    """

    takes: ClassVar[str]
    exact: ClassVar[bool] = False
    error: ClassVar[str]
    attends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """As messages call it."""
        return type(self).__name__

    @abstractmethod
    def sites(self, found: Found) -> Found:
        """Those of a denoiser's sites where it acts; none where it does not fit."""

    @property
    @abstractmethod
    def fits(self) -> str:
        """What kind of denoiser it fits, in words."""

    @abstractmethod
    def running(self, found: Found) -> RunningVariant:
        """What it does in a run, at the sites where it acts."""

    def covers(self, found: Found) -> list[Cover]:
        """What it covers while the context is open, beside the sites."""
        return []


def cross(found: Found) -> Found:
    """The sites of cross-attention."""
    return [each for each in found if each[0].kind == "cross"]


def reading_text(found: Found) -> Found:
    """The sites where the picture looks at the text."""
    return [each for each in found if each[0].reads_text]


def check_number(
    name: str, value: float, least: float, most: float, open_ends: bool = False
) -> None:
    """Raises `UserError` unless a number lies between two others."""
    inside = least < value < most if open_ends else least <= value <= most
    if not inside:
        between = "between" if open_ends else "from"
        to = "and" if open_ends else "to"
        raise UserError(f"expected {name} {between} {least:g} {to} {most:g}, but came {value:g}")
