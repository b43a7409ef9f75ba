"""What a recording processor does with a call of its layer: add up probs, or pass them on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2i_xattn.kernel.attention import (
    attention_probs,
    carried,
    head_weights,
    normed_inputs,
    queries_and_keys,
    split_heads,
)


class LayerCall(NamedTuple):
    """One call of an attention layer, with the whole batch.

    Attributes:
        attn: the diffusers `Attention`.
        processor: the one that computes the output, under all wrappers.
        hidden_states: the picture's.
        text: the text's states; None in self-attention.
        pictures: for each IP-Adapter, its pictures' tokens `(batch, pictures, tokens, channels)`.
        attention_mask, temb: as the processor gets them.
        masked: for each IP-Adapter, whether its pictures have masks, and so a softmax each.
        wrappers: all that stand around the processor, the outermost first.
    """

    attn: Any
    processor: Any
    hidden_states: Tensor
    text: Tensor | None
    pictures: tuple[Tensor, ...]
    attention_mask: Tensor | None
    temb: Tensor | None
    masked: tuple[bool, ...]
    wrappers: tuple[Any, ...] = ()

    def queries_and_keys(self, rows: slice) -> tuple[Tensor, Tensor]:
        """`(rows, heads, n, d)` each."""
        return queries_and_keys(
            self.attn,
            self.hidden_states[rows],
            None if self.text is None else self.text[rows],
            None if self.temb is None else self.temb[rows],
        )

    def values(self, rows: slice) -> Tensor:
        """`(rows, heads, tokens, d)`, of the text or, in self-attention, of the picture."""
        _, keys_from = normed_inputs(
            self.attn,
            self.hidden_states[rows],
            None if self.text is None else self.text[rows],
            None if self.temb is None else self.temb[rows],
        )
        return split_heads(self.attn.to_v(keys_from), self.attn.heads)

    def mask(self, rows: slice) -> Tensor | None:
        """As `attention_probs` takes it."""
        if self.attention_mask is None:
            return None
        batch = self.hidden_states.shape[0]
        tokens = self.hidden_states.shape[1] if self.text is None else self.text.shape[1]
        mask = self.attn.prepare_attention_mask(self.attention_mask, tokens, batch)
        return mask.view(batch, self.attn.heads, -1, mask.shape[-1])[rows]


class Carry:
    """Queries and keys of a layer, on their way to where they are used."""

    def __init__(self) -> None:
        self.query: Tensor | None = None
        self.key: Tensor | None = None
        self.scale = 1.0

    def taken(self) -> tuple[Tensor, Tensor]:
        """Queries and keys, which are let go of."""
        query, key = self.query, self.key
        assert query is not None
        assert key is not None
        self.query = self.key = None
        return query, key


class Tap(NamedTuple):
    """Keeps the queries and keys of a layer until they have been used."""

    rows: slice
    carry: Carry

    def take(self, call: LayerCall) -> None:
        """Called by the processor before the layer is computed."""
        self.carry.query, self.carry.key = call.queries_and_keys(self.rows)
        self.carry.scale = call.attn.scale


class Looks(NamedTuple):
    """Where the self-attention of chosen places is to be added.

    Attributes:
        rows: the rows of the batch.
        total: fp32 `(rows, heads, keys, places)`; with one head in it, the heads' mean is added.
        calls: fp32 `(1,)`, counts what was added.
        places: int64 `(places,)`, the queries to keep; None: all.
    """

    rows: slice
    total: Tensor
    calls: Tensor
    places: Tensor | None

    def take(self, call: LayerCall) -> None:
        """Called by the processor before the layer is computed."""
        query, key = call.queries_and_keys(self.rows)
        mask = call.mask(self.rows)
        if self.places is not None:
            query = query[:, :, self.places]
            if mask is not None and mask.shape[2] > 1:
                mask = mask[:, :, self.places]
        heads = query.shape[1]
        # One head at a time, since all of a large matrix would not fit.
        for head in range(heads):
            one = slice(head, head + 1)
            of_head = None if mask is None else mask[:, one]
            probs = attention_probs(query[:, one], key[:, one], call.attn.scale, of_head)
            looks = probs.transpose(-1, -2)
            if self.total.shape[1] == 1:
                self.total.add_(looks, alpha=1 / heads)
            else:
                self.total[:, one].add_(looks)
        self.calls.add_(1)


class Walk(NamedTuple):
    """Where the maps go after they were carried along the self-attention of their block.

    Attributes:
        carry: filled by the `Tap` at the self-attention.
        steps: of the walk.
        total: fp32 `(rows, 1, queries, kept)`.
        calls: fp32 `(1,)`.
    """

    carry: Carry
    steps: int
    total: Tensor
    calls: Tensor

    def add(self, probs: Tensor) -> None:
        """Adds the carried head mean of `(rows, heads, queries, kept)`."""
        query, key = self.carry.taken()
        mean = probs.mean(dim=1, keepdim=True)
        self.total.add_(carried(query, key, self.carry.scale, mean, self.steps))
        self.calls.add_(1)


class Target(NamedTuple):
    """Where the probs of one block of rows are to be added.

    Attributes:
        stream: whose keys: 0 the text's, n the pictures' of the n-th IP-Adapter.
        rows: the rows of the batch.
        total: fp32 `(rows, heads, queries, kept)`; with one head in it, the heads' mean is added.
        calls: fp32 `(1,)`, counts what was added.
        selection: `(rows, tokens, kept)` of 0 and 1, the tokens that are summed into each place;
            None: every token by itself.
        walk: where the maps carried along self-attention go, if they are wanted.
        weighed: whether the heads are weighed by what they add to the layer's output, instead of
            their plain mean.
        edited: like `total` and `calls`, for the probs after the edits at the site, if there are
            any; all else is from before them.
    """

    stream: int
    rows: slice
    total: Tensor
    calls: Tensor
    selection: Tensor | None = None
    walk: Walk | None = None
    weighed: bool = False
    edited: tuple[Tensor, Tensor] | None = None

    def take(self, call: LayerCall) -> None:
        """Called by the processor before the layer is computed."""
        query, key = call.queries_and_keys(self.rows)
        if self.stream == 0:
            probs = attention_probs(query, key, call.attn.scale, call.mask(self.rows))
        else:
            probs = self._of_pictures(call, query)
        if self.edited is not None:
            after = probs
            for wrapper in reversed(call.wrappers):  # the inmost first, as the edits compose
                after = wrapper.edited(after, self.rows)
            total, calls = self.edited
            total.add_(self._kept(after, call))
            calls.add_(1)
        probs = self._kept(probs, call)
        seen, expected = tuple(probs.shape), tuple(self.total.shape)
        assert seen == expected, (seen, expected)
        self.total.add_(probs)
        self.calls.add_(1)
        if self.walk is not None:
            self.walk.add(probs)

    def _kept(self, probs: Tensor, call: LayerCall) -> Tensor:
        """The heads and tokens of `(rows, heads, queries, tokens)` that are kept."""
        if self.weighed:
            weights = head_weights(probs, call.values(self.rows), call.attn.to_out[0])
            probs = (probs * weights[..., None]).sum(dim=1, keepdim=True)
        elif self.total.shape[1] == 1:
            probs = probs.mean(dim=1, keepdim=True)
        return probs if self.selection is None else torch.matmul(probs, self.selection[:, None])

    def _of_pictures(self, call: LayerCall, query: Tensor) -> Tensor:
        adapter = self.stream - 1
        keys = call.processor.to_k_ip[adapter](call.pictures[adapter][self.rows])
        # (rows, pictures, tokens, heads · d); under masks each picture has its own softmax.
        keys = keys if call.masked[adapter] else keys.flatten(1, 2)[:, None]
        heads = call.attn.heads
        return torch.cat(
            [
                attention_probs(query, split_heads(one, heads), call.attn.scale)
                for one in keys.unbind(1)
            ],
            dim=-1,
        )


Action = Target | Tap | Looks
"""What can be done with a call of a layer."""
