"""Numerical stability of attention: what each of its precautions is for.

Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.1, divide by √d since "the dot products grow
large in magnitude, pushing the softmax function into regions where it has extremely small
gradients"; the largest score is subtracted since exp overflows, at 11.09 in float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.denoisers.sites import AttentionSite, walk_sites
from t2i_xattn.kernel import reference
from t2i_xattn.kernel.attention import attention_probs

PROMPTS = (
    "a red circle left of a blue square",
    "A city skyline at sunset",
    "a dog under a tree, painted in watercolour",
)
STEPS = 25
LOOKED_AT = (0, 12, 24)
"""Steps of the sampler of which queries and keys are taken."""
EVERY = 16
"""One query in so many."""

HEAD_SIZES = (8, 16, 32, 64, 128, 256)
SPREADS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Standard deviations of random queries' scores, after 1 / √d."""

QUERIES, TOKENS = 256, 77
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def _plain(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """exp(s) / Σ exp(s), nothing taken away first."""
    exponentials = scores.to(dtype).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


def _shifted(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """The same with the largest score taken away, step by step in a type."""
    scores = scores.to(dtype)
    return _plain(scores - scores.amax(dim=-1, keepdim=True), dtype)


def _scores(query: Tensor, key: Tensor, scaled: bool = True) -> Tensor:
    """Q Kᵀ in the type of the two, as a model that computes in it has them."""
    scores = query @ key.transpose(-1, -2)
    return scores * query.shape[-1] ** -0.5 if scaled else scores


SHIPPED = "as shipped"
WAYS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    SHIPPED: lambda q, k: attention_probs(q, k, q.shape[-1] ** -0.5),
    "softmax not in fp32": lambda q, k: _shifted(_scores(q, k), q.dtype),
    "largest not subtracted": lambda q, k: _plain(_scores(q, k), q.dtype),
    "not subtracted, in fp32": lambda q, k: _plain(_scores(q, k), torch.float32),
    "without 1 / √d": lambda q, k: attention_probs(q, k, 1.0),
}
"""How probs are formed of queries and keys in a type."""


@dataclass(frozen=True)
class StabilityFigure:
    """What a way makes of queries and keys.

    Attributes:
        source: where they are from.
        way, dtype: a name of `WAYS`, and of the type that queries and keys have.
        head_size: d.
        largest: the largest score in size, after 1 / √d, in fp64.
        entropy: of a query's probs, nats, the mean over the queries that are finite.
        gradient: the norm of ∂probs/∂scores, the mean over these.
        broken: the part of the queries whose probs are not all finite.
        error: the largest difference of a prob from fp64 with all precautions; None where nothing
            is finite.
    """

    source: str
    way: str
    dtype: str
    head_size: int
    largest: float
    entropy: float
    gradient: float
    broken: float
    error: float | None

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it; what no finite query says is null."""
        nothing = self.broken == 1
        return asdict(self) | ({"entropy": None, "gradient": None} if nothing else {})


def random_figures(seed: int = 0) -> list[StabilityFigure]:
    """Of random queries and keys by head size, each way and type; their terms have variance 1."""
    found = []
    for d in HEAD_SIZES:
        query, key = _drawn(d, 1.0, seed)
        found += list(_figures("random", query, key))
    return found


def spread_figures(head_size: int = 64, seed: int = 0) -> list[StabilityFigure]:
    """Of random queries and keys whose scores spread more and more."""
    found = []
    for spread in SPREADS:
        query, key = _drawn(head_size, spread**0.5, seed)
        found += list(_figures(f"spread {spread:g}", query, key))
    return found


def model_figures(pipe: Any, prompts: Sequence[str] = PROMPTS) -> list[StabilityFigure]:
    """Of the queries and keys of runs, cross- and self-attention apart, all sites together."""
    found = []
    for kind, heads in _of_runs(pipe, prompts).items():
        query, key = (torch.cat(each) for each in zip(*heads, strict=True))
        found += list(_figures(f"{kind}-attention", query, key))
    return found


@dataclass(frozen=True)
class MaskedFigure:
    """What becomes of queries whose tokens are all hidden.

    Attributes:
        way: how the softmax is formed.
        dtype: in which type.
        broken: values that are NaN, of all.
        sums: what the shares of such a query sum to.
    """

    way: str
    dtype: str
    broken: float
    sums: float

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it; NaN is null."""
        return asdict(self) | ({"sums": None} if self.broken else {})


def masked_figures(seed: int = 0) -> list[MaskedFigure]:
    """Of random queries with every token hidden: torch's softmax, torch's kernel, and ours."""
    query, key = _drawn(64, 1.0, seed)
    hidden = torch.zeros(1, 1, 1, TOKENS, dtype=torch.bool)
    found = []
    for name, dtype in DTYPES.items():
        q, k = query.to(dtype), key.to(dtype)
        none = _scores(q, k).masked_fill(~hidden, float("-inf"))
        values = torch.ones_like(k)
        for way, shares in (
            ("softmax over −∞", none.softmax(dim=-1)),
            ("the number −65504 instead of −∞", _scores(q, k).fill_(-65504.0).softmax(dim=-1)),
            (SHIPPED, attention_probs(q, k, q.shape[-1] ** -0.5, hidden)),
            ("reference", reference.attend(q.double(), k.double(), values.double(), hidden).probs),
        ):
            broken = float(shares.isnan().float().mean())
            found.append(MaskedFigure(way, name, broken, float(shares.sum(dim=-1).mean())))
    return found


def _drawn(d: int, factor: float, seed: int) -> tuple[Tensor, Tensor]:
    """fp64 `(1, 1, queries, d)` and `(1, 1, tokens, d)`."""
    g = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(1, 1, n, d, generator=g).double() for n in (QUERIES, TOKENS))
    return query * factor, key * factor


def _figures(source: str, query: Tensor, key: Tensor) -> Iterator[StabilityFigure]:
    """Of every way and type; fp64 `(rows, heads, queries, d)` and `(rows, heads, tokens, d)`."""
    for name, dtype in DTYPES.items():
        q, k = query.to(dtype), key.to(dtype)
        # Against the same numbers: what the type has rounded away before is no fault of a way.
        exact = reference.scores(q.double(), k.double())
        right = reference.softmax(exact)
        for way, form in WAYS.items():
            probs = form(q, k).double()
            sound = probs.isfinite().all(dim=-1)
            kept = probs[sound]
            wrong = (kept - right[sound]).abs()
            yield StabilityFigure(
                source=source,
                way=way,
                dtype=name,
                head_size=q.shape[-1],
                largest=float(exact.abs().max()),
                entropy=float(torch.special.entr(kept).sum(dim=-1).mean()),
                gradient=float(_gradient(kept).mean()),
                broken=1 - float(sound.double().mean()),
                error=float(wrong.max()) if len(kept) else None,
            )


def _gradient(probs: Tensor) -> Tensor:
    """The Frobenius norm of ∂p/∂s = diag(p) − p pᵀ, `(queries,)`."""
    squares, cubes = (probs**2).sum(dim=-1), (probs**3).sum(dim=-1)
    return (squares - 2 * cubes + squares**2).clamp_min(0).sqrt()


@torch.no_grad()
def _of_runs(pipe: Any, prompts: Sequence[str]) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """By kind of attention the queries and keys `(1, heads, n, d)` of the conditional row, where
    there are as many places as at the finest sites."""
    outputs: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Callable[[Any, Any, Tensor], None]:
        return lambda _, __, out: outputs.setdefault(name, []).append(out[-1:])

    sites: list[tuple[AttentionSite, Any]] = list(walk_sites(pipe.unet))
    hooks = [
        getattr(attn, which).register_forward_hook(hook(f"{site.name}.{which}"))
        for site, attn in sites
        for which in ("to_q", "to_k")
    ]
    try:
        for number, prompt in enumerate(prompts):
            noise = torch.Generator().manual_seed(number)
            pipe(prompt, num_inference_steps=STEPS, generator=noise, output_type="latent")
    finally:
        for each in hooks:
            each.remove()
    calls = [run * STEPS + step for run in range(len(prompts)) for step in LOOKED_AT]
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"cross": [], "self": []}
    places = max(each[0].shape[1] for each in outputs.values())
    for site, _ in sites:
        for call in calls:
            q, k = (
                reference.split_heads(outputs[f"{site.name}.{which}"][call].double(), site.heads)
                for which in ("to_q", "to_k")
            )
            if q.shape[2] == places:
                found[site.kind].append((q[:, :, ::EVERY], k))
    return found
