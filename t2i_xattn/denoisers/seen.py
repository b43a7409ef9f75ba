"""A kernel call at an attention site, with all that is known of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.kernel.attention import mixed_values
from t2i_xattn.kernel.call import KernelCall, plus_at, taken
from t2i_xattn.kernel.shares import (
    at_places,
    by_heads,
    mean_of_heads,
    of_row,
    output_of_others,
    shares_of,
)

Attend = Callable[[str], Tensor]
"""What the places of the picture take at a site if another text, given by what it says, stands in
the place of the prompt: fp32 `(images, heads, queries, d)`."""


class Change(Protocol):
    """An edit that acts on some rows of a kernel call."""

    @property
    def mixes(self) -> bool:
        """Whether it mixes in what other texts give."""
        ...

    @property
    def per_head(self) -> bool:
        """Whether it does the same to each head by itself."""
        ...

    @property
    def scales_the_rest(self) -> bool:
        """Whether the keys that are not the text's make room for what it gives, and get what it
        takes."""
        ...

    def changed(self, probs: Tensor) -> Tensor:
        """fp32 `(rows, heads, queries, tokens)` after it."""
        ...

    def mixed(self, taken: Tensor) -> Tensor:
        """What the places have taken, fp32 `(rows, heads, queries, d)`, after it."""
        ...


Rows = tuple[int, ...]


class Seen:
    """A kernel call at a site.

    Attributes:
        site: the site.
        module: its attention module.
        kernel: the call.
        reading: what it is about.
        result: what stands for the kernel's output, after the edits.
    """

    def __init__(
        self, site: AttentionSite, module: Any, kernel: KernelCall, reading: Reading
    ) -> None:
        self.site, self.module, self.kernel, self.reading = site, module, kernel, reading
        self.result = kernel.output
        self._changes: dict[Rows, list[Change]] = {}
        self._probs: dict[Rows, Tensor] = {}
        self._edited: dict[Rows, list[Tensor]] = {}

    @property
    def stream(self) -> str:
        """Whose keys: `"text"`, `"picture n"`, or `"self"`."""
        return self.reading.stream

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the site's places; None where they fit no grid."""
        return None if self.reading.grid is None else self.reading.grid[1:]

    @property
    def frames(self) -> int:
        """Frames of a picture whose places stand in one row, one frame after the other."""
        return 1 if self.reading.grid is None else self.reading.grid[0]

    def problem_of(self, rows: Rows) -> str | None:
        """Why the probs of some rows of the denoiser's batch cannot be read; None if they can."""
        there = self.kernel.query.shape[0]
        if self.reading.problem is None and max(rows) >= there:
            return f"the kernel got the first {there} rows of the batch only"
        return self.reading.problem

    def probs(self, rows: Rows) -> Tensor:
        """fp32 `(rows, heads, height · width, tokens)` before edits; formed once. Frames that stand
        in one row have a row each here."""
        if rows not in self._probs:
            self._probs[rows] = self.by_frame(self._formed(self.kernel, rows))
        return self._probs[rows]

    def mean_probs(self, rows: Rows) -> Tensor:
        """The mean of `probs` over the heads, fp32 `(rows, 1, height · width, tokens)`."""
        if rows in self._probs or self.site.level is not None:
            return self.probs(rows).mean(dim=1, keepdim=True)
        return self.by_frame(mean_of_heads(self.kernel, partial(self._formed, rows=rows)))

    def _formed(self, kernel: KernelCall, rows: Rows) -> Tensor:
        """The probs of all or some of the heads, as the places stand in the kernel call."""
        portion = self.reading.portion
        if portion is None:
            return kernel.probs(rows)
        return shares_of(kernel, rows, portion.queries, portion.keys)

    def edited(self, rows: Rows) -> Tensor:
        """The probs after the edits that act on the rows; formed once."""
        return self._after_each(rows)[-1]

    def _after_each(self, rows: Rows) -> list[Tensor]:
        """The probs before the edits that act on the rows, and after each of them."""
        if rows not in self._edited:
            stages = [self.probs(rows)]
            for change in self._changes.get(rows, ()):
                stages.append(change.changed(stages[-1]))
            self._edited[rows] = stages
        return self._edited[rows]

    def by_frame(self, maps: Tensor) -> Tensor:
        """`(rows, heads, frames · places, …)` to `(rows · frames, heads, places, …)`."""
        if self.frames == 1:
            return maps
        return maps.unflatten(2, (self.frames, -1)).transpose(1, 2).flatten(0, 1)

    def by_picture(self, maps: Tensor) -> Tensor:
        """`(rows · frames, heads, places, …)` to `(rows, heads, frames · places, …)`."""
        if self.frames == 1:
            return maps
        return maps.unflatten(0, (-1, self.frames)).transpose(1, 2).flatten(2, 3)

    def own_queries_and_keys(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The picture's own queries and keys, `(rows, heads, places, d)`, each."""
        kernel, portion = self.kernel, self.reading.portion
        if portion is None:
            return taken(kernel.query, rows), taken(kernel.key, rows)
        return (
            at_places(kernel.query, rows, portion.queries),
            at_places(kernel.key, rows, portion.own_keys),
        )

    def values(self, rows: Rows) -> Tensor:
        """The values `(rows, heads, tokens, d)` of the keys that the probs are about."""
        portion = self.reading.portion
        if portion is None:
            return taken(self.kernel.value, rows)
        return at_places(self.kernel.value, rows, portion.keys)

    def tokens(self, rows: Rows) -> int:
        """Columns of the probs of some rows."""
        portion = self.reading.portion
        if portion is None:
            return int(self.kernel.key.shape[2])
        return max(len(of_row(portion.keys, row)) for row in rows)

    def output(self, changes: Sequence[tuple[Rows, Change]], alone: bool = False) -> Tensor:
        """What is to stand for the kernel's output under these edits, in their order.

        O′ = O + (P′ − P) V for the rows that they act on, P being the shares of the text. Where
        the other keys get more or less than their share R, it is O′ = O + (P′ − P) V + (R′ − R) Oᵣ,
        Oᵣ being what is taken from them alone. An edit that looks at other texts is given that, and
        says what is taken after it.

        Args:
            changes: the rows that each acts on, and what it does.
            alone: whether nobody else looks at the probs, so that they need not be there all at
                once.
        """
        for rows, change in changes:
            self._changes.setdefault(rows, []).append(change)
        output, portion = self.kernel.output, self.reading.portion
        for rows, acting in self._changes.items():
            difference = self._difference_by_heads(rows, acting, alone)
            if difference is not None:
                queries = None if portion is None else portion.queries
                output = plus_at(output, rows, difference, queries)
        self.result = output
        return output

    def _difference_by_heads(
        self, rows: Rows, acting: Sequence[Change], alone: bool
    ) -> Tensor | None:
        """`_difference`, taken a few heads at a time where that is the same."""
        apart = alone and rows not in self._probs and all(each.per_head for each in acting)
        if not apart or self.site.level is not None or any(each.mixes for each in acting):
            return self._difference(rows, acting)
        parts = []
        for kernel in by_heads(self.kernel):
            part = Seen(self.site, self.module, kernel, self.reading)
            part._changes[rows] = list(acting)
            parts.append(part._difference(rows, acting))
        found = [each for each in parts if each is not None]
        return torch.cat(found, dim=1) if len(found) == len(parts) else None

    def _difference(self, rows: Rows, acting: Sequence[Change]) -> Tensor | None:
        """What the places take in addition, fp32 `(rows, heads, queries, d)`; None: nothing."""
        probs, edited = self.probs(rows), self.edited(rows)
        mixing = [change for change in acting if change.mixes]
        if edited is probs and not mixing:
            return None
        difference = mixed_values(self.by_picture(edited - probs), self.values(rows))
        rest, portion = self._rest(rows, acting), self.reading.portion
        if rest is not None and portion is not None:
            others = output_of_others(self.kernel, rows, portion.queries, portion.keys)
            difference = difference + self.by_picture(rest) * others
        if not mixing:
            return difference
        before = self.by_frame(self.taken_by_places(rows))
        mixed = before + self.by_frame(difference)
        for change in mixing:
            mixed = change.mixed(mixed)
        return self.by_picture(mixed - before)

    def taken_by_places(self, rows: Rows) -> Tensor:
        """What the kernel gave to the picture's places, fp32 `(rows, heads, places, d)`."""
        portion = self.reading.portion
        if portion is None:
            return taken(self.kernel.output, rows).float()
        return at_places(self.kernel.output, rows, portion.queries).float()

    def _rest(self, rows: Rows, acting: Sequence[Change]) -> Tensor | None:
        """What the keys that are not the text's get in addition, fp32 `(rows, heads, places, 1)`;
        None where they keep what they have."""
        scaling = [change.scales_the_rest for change in acting]
        if self.reading.portion is None or not any(scaling):
            return None
        rest = [1 - probs.sum(dim=-1, keepdim=True) for probs in self._after_each(rows)]
        share = rest[0]
        for scales, before, after in zip(scaling, rest, rest[1:], strict=False):
            if scales:
                after = after.clamp_min(0)
                # Scaled by after / before, whatever earlier edits have made of it.
                scaled = share * after / before.clamp_min(torch.finfo(before.dtype).tiny)
                share = torch.where(share == before, after, scaled)
        return share - rest[0]
