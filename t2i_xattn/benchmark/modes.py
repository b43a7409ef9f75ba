"""The ways to run a loop that are compared: plain, recorded, and unfused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from t2i_xattn.benchmark.denoisers import Loop
from t2i_xattn.recording import record

MODES = ("plain", "record", "walk", "plain compiled", "record compiled", "unfused")
"""`unfused` has diffusers' step-by-step processor at every site, which is what an edit by
prompt-to-prompt's own code costs at least; `walk` records eight columns, carried along
self-attention as well."""


@contextmanager
def mode(name: str, loop: Loop) -> Iterator[None]:
    """Sets a loop up for one of `MODES`, and back again on leaving."""
    unet = loop.pipe.unet
    if name.endswith("compiled"):
        loop.pipe.unet = _compiled(unet)
    elif name == "unfused":
        unet.set_attn_processor(AttnProcessor())
    try:
        if name.startswith("record"):
            with record(loop.pipe):
                yield
        elif name == "walk":
            with record(loop.pipe, columns=range(1, 9), walk=1):
                yield
        else:
            yield
    finally:
        loop.pipe.unet = unet
        if name == "unfused":
            unet.set_attn_processor(AttnProcessor2_0())


def _compiled(unet: torch.nn.Module) -> torch.nn.Module:
    """The compiled form, made once a module so that what was compiled is found again."""
    if "_benchmark_compiled" not in vars(unet):
        vars(unet)["_benchmark_compiled"] = torch.compile(unet, fullgraph=True)
    form: torch.nn.Module = vars(unet)["_benchmark_compiled"]
    return form
