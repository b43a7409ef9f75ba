"""What the layers of a pipeline projected in a run, for computations that the package has no part
in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from right_maps import size_at
from t2i_xattn.denoisers.sites import AttentionSite, walk_sites
from t2i_xattn.kernel import reference


class Captured:
    """fp64 outputs of `to_q`, `to_k` and `to_v` of every layer, one entry a UNet call."""

    def __init__(self, pipe: Any, run: Callable[[], Any]) -> None:
        self.outputs: dict[str, list[Tensor]] = {}
        hooks = [
            getattr(attn, which).register_forward_hook(
                lambda _, __, out, key=f"{site.name}.{which}": self.outputs.setdefault(
                    key, []
                ).append(out.double())
            )
            for site, attn in walk_sites(pipe.unet)
            for which in ("to_q", "to_k", "to_v")
        ]
        self.result = run()
        for hook in hooks:
            hook.remove()
        self.calls = len(next(iter(self.outputs.values())))

    def heads(self, site: AttentionSite, name: str, which: str, call: int, rows: int) -> Tensor:
        """`(rows, heads, n, d)` of the last rows, which are the conditional ones."""
        return reference.split_heads(self.outputs[f"{name}.{which}"][call][-rows:], site.heads)

    def probs(self, site: AttentionSite, call: int = 0, rows: int = 1, of: str = "") -> Tensor:
        """fp64 `(rows, heads, queries, keys)` of a site, or of the layer `of` beside it."""
        name = site.name.replace("attn2", of) if of else site.name
        q, k = (self.heads(site, name, which, call, rows) for which in ("to_q", "to_k"))
        return reference.probs(reference.scores(q, k))

    def values(self, site: AttentionSite, call: int = 0, rows: int = 1) -> Tensor:
        """fp64 `(rows, heads, tokens, d)`."""
        return self.heads(site, site.name, "to_v", call, rows)


def matrix_of(pipe: Any, site: AttentionSite) -> Tensor:
    """fp64 `(out, in)` of a site's output projection."""
    weight: Tensor = pipe.unet.get_submodule(site.name).to_out[0].weight
    return weight.detach().to(torch.float64)


def size_of(site: AttentionSite, latent: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a UNet's site, in a latent of a height and width."""
    assert site.level is not None
    return size_at(site.level, latent)
