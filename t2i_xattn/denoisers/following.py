"""Who follows the calls of a denoiser, and what is done in one of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from torch import nn

from t2i_xattn.denoisers.seen import Change, Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite


class Acting(Protocol):
    """What a follower does in one call of the denoiser."""

    def wants(self, site: AttentionSite) -> bool:
        """Whether it has something to do at a site."""
        ...

    def changes(self, seen: Seen) -> Sequence[tuple[Rows, Change]]:
        """Its edits of a kernel call, in their order."""
        ...

    def take(self, seen: Seen) -> None:
        """Reads a kernel call."""
        ...

    def missed(self, site: AttentionSite, module: nn.Module) -> None:
        """A site that it wants ran, but no kernel call was seen there."""
        ...

    def end(self) -> None:
        """The call ran to its end."""
        ...


class Follower(Protocol):
    """Who follows the calls of a denoiser."""

    site_names: Collection[str]
    """The sites that it needs."""
    edits: bool
    """Whether it changes what the denoiser computes."""

    @property
    def pipe(self) -> Any:
        """Whose calls it follows."""
        ...

    def begin(self, given: dict[str, Any], owner: Any) -> tuple[Acting | None, dict[str, Any]]:
        """A call begins: what to do in it, or None if it is not of the followed run; and the
        arguments, as they are to be: the very ones, where none is changed."""
        ...
