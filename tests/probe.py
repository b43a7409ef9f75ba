"""An oracle of plain attention: what every cross-attention layer of a model attends to, read off a
run by hooks on the layers' own projections. It knows nothing of the package that it judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Rule = Callable[[int, int], "Sequence[int] | None"]
"""From the number of a call of the denoiser, and the rows of its batch, to the rows that count, one
a picture in their order; None where the call does not count."""


def second_half(call: int, rows: int) -> range:
    """Unconditional, conditional: how Stable Diffusion and SDXL stack a guided batch."""
    return range(rows // 2, rows)


def first_half(call: int, rows: int) -> range:
    """Of unconditional, conditional the former; of conditional, perturbed the former."""
    return range(rows // 2)


def all_rows(call: int, rows: int) -> range:
    """Conditional alone."""
    return range(rows)


def first_third(call: int, rows: int) -> range:
    """Conditional, picture, unconditional: how InstructPix2Pix stacks its batch."""
    return range(rows // 3)


def middle_third(call: int, rows: int) -> range:
    """Unconditional, conditional, perturbed: how perturbed-attention guidance stacks its batch."""
    return range(rows // 3, 2 * rows // 3)


def last_third(call: int, rows: int) -> range:
    """What comes last of three branches."""
    return range(2 * rows // 3, rows)


def rows_where(take: Rule, counts: Callable[[int], bool]) -> Rule:
    """A rule for some of the calls only."""
    return lambda call, rows: take(call, rows) if counts(call) else None


def cross_attention_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers whose keys come from something else than their queries, with their names."""
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if hasattr(layer, "to_q")
        and hasattr(layer, "to_k")
        and getattr(layer, "is_cross_attention", False)
    ]


class Probe:
    """What the cross-attention layers of a model attend to while it runs inside this context.

    Of each call of a layer it takes what `to_q` gave and what `to_k` gave first (an IP-Adapter's
    pictures have projections of their own), or the first half of a fused `to_kv`, and forms
    probs = softmax(q kᵀ · scale + mask) in fp64, of the whole batch.

    Attributes:
        probs: by layer, one entry a call: `(batch, heads, queries, tokens)`. The layers stand in
            the order of their first calls.
        pictures: by layer, one entry a call: for each IP-Adapter the same of its pictures' tokens;
            those of several masked pictures stand behind each other, with a softmax each.
        texts: one entry a call of the layer that is called first: the text's states of each row.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.probs: dict[str, list[Tensor]] = {}
        self.pictures: dict[str, list[list[Tensor]]] = {}
        self.texts: list[Tensor] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for name, layer in cross_attention_layers(self.model):
            self._handles += _LayerProbe(self, name, layer).handles
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def layers(self) -> list[str]:
        """The names of the layers that were called, in the order of the forward pass."""
        return list(self.probs)

    def mean(self, layer: str, rule: Rule) -> NDArray[np.float64]:
        """`(pictures, queries, tokens)`: the mean over the counted calls and the heads."""
        return _mean(self.probs[layer], rule)

    def pictures_mean(self, layer: str, rule: Rule, adapter: int = 0) -> NDArray[np.float64]:
        """The same of the tokens of an IP-Adapter's pictures."""
        return _mean([each[adapter] for each in self.pictures[layer]], rule)

    def distances(self, rule: Rule) -> dict[tuple[int, int], float]:
        """How far each picture's row is from every other row of its call, by picture and row: the
        largest difference of head means in any layer and counted call."""
        away: dict[tuple[int, int], float] = {}
        for calls in self.probs.values():
            for call, probs in enumerate(calls):
                for picture, own in enumerate(rule(call, len(probs)) or ()):
                    differences = (probs.mean(1) - probs[own].mean(0)).abs().amax((1, 2))
                    for row, difference in enumerate(differences.tolist()):
                        if row != own:
                            key = picture, row
                            away[key] = max(away.get(key, 0), difference)
        return away


def _mean(calls: Sequence[Tensor], rule: Rule) -> NDArray[np.float64]:
    counted = [
        probs[list(rows)].mean(1)
        for call, probs in enumerate(calls)
        if (rows := rule(call, len(probs))) is not None
    ]
    mean: NDArray[np.float64] = torch.stack(counted).mean(0).numpy()
    return mean


class _LayerProbe:
    """The hooks of one layer."""

    def __init__(self, probe: Probe, name: str, layer: Any) -> None:
        self.probe, self.name, self.heads, self.scale = probe, name, layer.heads, layer.scale
        for unknown in ("norm_q", "norm_k", "add_k_proj"):
            assert getattr(layer, unknown, None) is None, (name, unknown)
        self.seen: dict[str, Any] = {}
        self.handles = [
            layer.register_forward_pre_hook(self._begin, with_kwargs=True),
            layer.to_q.register_forward_hook(self._queries),
            layer.to_k.register_forward_hook(self._keys),
            layer.register_forward_hook(self._end),
        ]
        if hasattr(layer, "to_kv"):
            self.handles.append(layer.to_kv.register_forward_hook(self._fused_keys))
        for adapter, each in enumerate(getattr(layer.processor, "to_k_ip", ())):
            self.handles.append(
                each.register_forward_hook(
                    lambda _, __, out, adapter=adapter: (
                        self.seen["pictures"].setdefault(adapter, []).append(out.detach())
                    )
                )
            )

    def _begin(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask", args[2] if len(args) > 2 else None)
        self.seen = {"mask": mask, "pictures": {}}

    def _queries(self, layer: Any, args: tuple[Any, ...], output: Tensor) -> None:
        self.seen.setdefault("queries", output.detach())

    def _keys(self, layer: Any, args: tuple[Any, ...], output: Tensor) -> None:
        self.seen.setdefault("text", args[0].detach())
        self.seen.setdefault("keys", output.detach())

    def _fused_keys(self, layer: Any, args: tuple[Any, ...], output: Tensor) -> None:
        self._keys(layer, args, output.chunk(2, dim=-1)[0])

    def _end(self, layer: Any, args: tuple[Any, ...], output: Any) -> None:
        probs = self.probe.probs.setdefault(self.name, [])
        probs.append(self._softmax(self.seen["keys"], self.seen["mask"]))
        self.probe.pictures.setdefault(self.name, []).append(
            [
                # Without masks the pictures of an adapter are projected, and attended to, as one.
                torch.cat([self._softmax(each) for each in keys], dim=-1)
                for _, keys in sorted(self.seen["pictures"].items())
            ]
        )
        if self.name == self.probe.layers[0]:
            self.probe.texts.append(self.seen["text"])

    def _softmax(self, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key = (
            each.double().flatten(1, -2).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.seen["queries"], keys)
        )
        scores = query @ key.transpose(-1, -2) * self.scale
        if mask is not None:
            # Added to the scores, one for all heads: (batch, 1 or queries, tokens).
            assert mask.ndim == 3, mask.shape
            assert mask.is_floating_point(), mask.dtype
            scores = scores + mask.double()[:, None]
        return scores.softmax(-1)


Change = Callable[[Tensor], Tensor]
"""From probs `(rows, heads, queries, tokens)` to other ones."""


def without(*columns: int) -> Change:
    """Columns of the text taken away, and the rest brought back to a sum of 1."""

    def change(probs: Tensor) -> Tensor:
        probs = probs.index_fill(-1, torch.tensor(columns), 0.0)
        return probs / probs.sum(-1, keepdim=True)

    return change


class Changing:
    """A processor of cross-attention, unfused: the rule's rows are mixed by changed probs.

    To be set at every layer of a model of its own, in which a `Probe` then sees the probs before
    the change, of a run in which it acts.
    """

    def __init__(self, change: Change, rule: Rule) -> None:
        self.change, self.rule, self.calls = change, rule, 0

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        assert attention_mask is None
        query, key, value = (
            each.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for each in (attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        )
        probs = (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)
        rows = self.rule(self.calls, len(probs))
        self.calls += 1
        if rows is not None:
            probs = probs.clone()
            probs[list(rows)] = self.change(probs[list(rows)])
        mixed = (probs @ value).transpose(1, 2).flatten(2)
        output: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        return output


def change_attention(model: nn.Module, change: Change, rule: Rule) -> None:
    """Sets a `Changing` at every cross-attention layer of a model, for good."""
    for _, layer in cross_attention_layers(model):
        attn: Any = layer
        attn.set_processor(Changing(change, rule))
