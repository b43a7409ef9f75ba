"""Maps of concepts by hand: ConceptAttention with the submodules of FLUX's and SD3's blocks, and in
others by the blocks themselves; without the package that is tested."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Given = Mapping[str, Any]
"""The arguments of a block's call, by name."""


class Calls:
    """The arguments of every call of some modules in a plain run, by the module's name."""

    def __init__(self, denoiser: nn.Module, names: Sequence[str]) -> None:
        self.given: dict[str, list[Given]] = {name: [] for name in names}
        self._handles: list[Any] = []
        for name in names:
            module = denoiser.get_submodule(name)
            hook: Any = module.register_forward_pre_hook
            self._handles.append(hook(self._noting(name), with_kwargs=True))

    def _noting(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            self.given[name].append(dict(bound.arguments))

        return note

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def one_map(picture: Tensor, concepts: Tensor, counts: Sequence[int]) -> Tensor:
    """fp64 `(rows, places, concepts)` of outputs `(rows, places or tokens, heads · d)`."""
    means = torch.stack([part.mean(1) for part in concepts.double().split(list(counts), 1)], 1)
    return (picture.double() @ means.transpose(1, 2)).softmax(-1)


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`(rows, places, heads · d)` of `(rows, heads, places, d)`."""
    probs = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    return (probs @ value).transpose(1, 2).flatten(2)


def turned(states: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Pairs of channels turned by angles, given as cosines and sines `(places, d)`."""
    if rotary is None:
        return states
    cosine, sine = rotary
    even, odd = states[..., 0::2], states[..., 1::2]
    across = torch.stack([-odd, even], dim=-1).flatten(-2)
    return states * cosine + across * sine


def by_submodules(block: Any, given: Given, states: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a block of FLUX or SD3 gives to the picture and to the concepts, before the projections,
    and the concepts' states behind it. FLUX does not turn its text."""
    attn, temb, rotary = block.attn, given["temb"], given.get("image_rotary_emb")
    text = given["encoder_hidden_states"]
    if rotary is not None:
        rotary = tuple(each[text.shape[1] :] for each in rotary)

    def heads(layer: Any, norm: Any, given: Tensor) -> Tensor:
        split = layer(given).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        return split if norm is None else norm(split)

    def of_text(normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            heads(attn.add_q_proj, attn.norm_added_q, normed),
            heads(attn.add_k_proj, attn.norm_added_k, normed),
            heads(attn.add_v_proj, None, normed),
        )

    normed = block.norm1(given["hidden_states"], emb=temb)[0]
    query = turned(heads(attn.to_q, attn.norm_q, normed), rotary)
    key = turned(heads(attn.to_k, attn.norm_k, normed), rotary)
    value = heads(attn.to_v, None, normed)
    last = getattr(block, "context_pre_only", False)
    if last:
        own, real, rest = block.norm1_context(states, temb), block.norm1_context(text, temb), None
    else:
        own, *rest = block.norm1_context(states, emb=temb)
        real = block.norm1_context(text, emb=temb)[0]
    _, text_key, text_value = of_text(real)
    picture = attended(query, torch.cat([text_key, key], 2), torch.cat([text_value, value], 2))
    own_query, own_key, own_value = of_text(own)
    concepts = attended(own_query, torch.cat([key, own_key], 2), torch.cat([value, own_value], 2))
    if rest is None:
        return picture, concepts, None
    gate, shift, scale, gate_mlp = (each[:, None] for each in rest)
    states = states + gate * attn.to_add_out(concepts)
    normed = block.norm2_context(states) * (1 + scale) + shift
    return picture, concepts, states + gate_mlp * block.ff_context(normed)


class Kernel(TorchFunctionMode):
    """Keeps what the fused kernel gives, `(rows, places, heads · d)`."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is nn.functional.scaled_dot_product_attention:
            self.outputs.append(output.transpose(1, 2).flatten(2))
        return output


def by_block(block: Any, given: Given, changed: Given) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same by a block itself, whose kernel has the text in front; `changed` are its arguments
    with concepts in the text's place."""
    with Kernel() as real:
        block(**given)
    with Kernel() as own:
        states, _ = block(**(dict(given) | dict(changed)))
    tokens, concepts = (each["encoder_hidden_states"].shape[1] for each in (given, changed))
    return real.outputs[0][:, tokens:], own.outputs[0][:, :concepts], states
