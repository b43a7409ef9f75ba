"""A kernel call at an attention site, with all that is known of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.kernel.attention import attend, mixed_values
from t2i_xattn.kernel.call import KernelCall, taken, value_change

Attend = Callable[[Tensor], Tensor]
"""What the places of the picture take from another text `(tokens, text channels)` at a site, fp32
`(rows, heads, queries, d)`."""


class Change(Protocol):
    """An edit that acts on some rows of a kernel call."""

    @property
    def mixes(self) -> bool:
        """Whether it mixes in what other texts give."""
        ...

    def changed(self, probs: Tensor) -> Tensor:
        """fp32 `(rows, heads, queries, tokens)` after it."""
        ...

    def mixed(self, taken: Tensor, attend: Attend) -> Tensor:
        """What the places have taken, fp32 `(rows, heads, queries, d)`, after it."""
        ...


Rows = tuple[int, ...]


class Seen:
    """A kernel call at a site.

    Attributes:
        site: the site.
        module: its attention module.
        kernel: the call.
        stream: whose keys: `"text"`, `"picture n"`, or `"self"`.
        part, parts: which of the stream's kernel calls, and how many it has.
        size: height and width of the site's places; None where they fit no grid.
        frames: rows of one picture.
        problem: why its probs cannot be read as maps of the pictures; None if they can.
    """

    def __init__(
        self,
        site: AttentionSite,
        module: Any,
        kernel: KernelCall,
        stream: tuple[str, int, int],
        size: tuple[int, int] | None,
        frames: int,
        problem: str | None,
    ) -> None:
        self.site, self.module, self.kernel = site, module, kernel
        self.stream, self.part, self.parts = stream
        self.size, self.frames, self.problem = size, frames, problem
        self._changes: dict[Rows, list[Change]] = {}
        self._probs: dict[Rows, Tensor] = {}
        self._edited: dict[Rows, Tensor] = {}

    def problem_of(self, rows: Rows) -> str | None:
        """Why the probs of some rows of the denoiser's batch cannot be read; None if they can."""
        there = self.kernel.query.shape[0]
        if self.problem is None and max(rows) >= there:
            return f"the kernel got the first {there} rows of the batch only"
        return self.problem

    def probs(self, rows: Rows) -> Tensor:
        """fp32 `(rows, heads, queries, tokens)` before edits; formed once."""
        if rows not in self._probs:
            self._probs[rows] = self.kernel.probs(rows)
        return self._probs[rows]

    def edited(self, rows: Rows) -> Tensor:
        """The probs after the edits that act on the rows; formed once."""
        if rows not in self._edited:
            probs = self.probs(rows)
            for change in self._changes.get(rows, ()):
                probs = change.changed(probs)
            self._edited[rows] = probs
        return self._edited[rows]

    def output(self, changes: Sequence[tuple[Rows, Change]]) -> Tensor:
        """What is to stand for the kernel's output under these edits, in their order.

        O′ = O + (P′ − P) V for the rows that they act on. An edit that looks at other texts gives
        M′ from P′ V, and then the change is M′ − P V.
        """
        for rows, change in changes:
            self._changes.setdefault(rows, []).append(change)
        kernel = self.kernel
        for rows, acting in self._changes.items():
            probs, edited = self.probs(rows), self.edited(rows)
            mixing = [change for change in acting if change.mixes]
            if mixing:
                value = taken(kernel.value, rows)
                query = taken(kernel.query, rows)
                mixed = mixed_values(edited, value)
                for change in mixing:
                    mixed = change.mixed(mixed, partial(attend, self.module, query, kernel.scale))
                difference = mixed - mixed_values(probs, value)
            elif edited is probs:
                continue
            else:
                difference = value_change(kernel, rows, edited - probs)
            output = kernel.changed(rows, difference)
            kernel = KernelCall(
                kernel.query, kernel.key, kernel.value, output, kernel.mask, kernel.scale
            )
        return kernel.output
