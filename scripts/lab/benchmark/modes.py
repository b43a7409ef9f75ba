"""The ways to run a loop that are compared: plain, recorded, and unfused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from lab.benchmark.denoisers import Loop
from lab.benchmark.transformers import TransformerLoop
from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.editing.edit import edit
from t2i_xattn.edits.edit import EditContext
from t2i_xattn.edits.function import EditFunction
from t2i_xattn.edits.weights import Reweight
from t2i_xattn.guidance.guide import guide
from t2i_xattn.losses import AttendAndExcite, GuidanceLoss, Layout
from t2i_xattn.recording.record import record

MODES = ("plain", "record", "walk", "auto", "plain compiled", "record compiled", "unfused")
"""`walk` records eight columns, carried along self-attention as well; `auto` weighs heads and
sites. `unfused` has diffusers' step-by-step processor at every site, which is what an edit by
prompt-to-prompt's own code costs at least."""

PEER = "attention-map-diffusers"
PEER_MODES = (f"{PEER} fast", f"{PEER} exact")
"""The package attention-map-diffusers 1.0.0 in its two modes, every step kept, the maps computed at
the end as ours are. Installed by `pip install --no-deps attention-map-diffusers==1.0.0`."""


STEERING_MODES = ("plain", "edit", "edit of self-attention", "guide", "boxes", "excite")
"""`edit` reweights a word at every cross-attention site; `edit of self-attention` sharpens that at
the sites of at most a quarter of the latent's side, where prompt-to-prompt acts; `guide` moves the
latents once a step in the first half of the run, as Attend-and-Excite does between thresholds.
`boxes` (`Layout`'s own settings) and `excite` (Attend-and-Excite at checks only, as
`evaluate.py edits` has it) at their worst: no update is enough, so all that may be made are."""

_SPANS = {"word": [3]}

_BOX = {"word": (0.1, 0.1, 0.6, 0.6)}
_NEVER, _HARDLY = -1.0, 1e-3  # a loss that none falls to; a scale that leaves random weights finite
_AT_WORST: dict[str, GuidanceLoss] = {
    "guide": Layout(_BOX, until=0.5, iterations=1, enough=_NEVER, scale=_HARDLY),
    "boxes": Layout(_BOX, enough=_NEVER, scale=_HARDLY),
    "excite": AttendAndExcite(
        ["word"],
        softmax=False,
        iterations=0,
        checks=[(after, _NEVER) for after in (0.16, 0.24, 0.32)],
        scale=_HARDLY,
    ),
}


def all_modes() -> tuple[str, ...]:
    """`MODES`, and `PEER_MODES` where that package is installed."""
    return MODES + (PEER_MODES if find_spec("attention_map_diffusers") else ())


@contextmanager
def mode(name: str, loop: Loop | TransformerLoop) -> Iterator[None]:
    """Sets a loop up for one of `MODES`, and back again on leaving."""
    denoiser = loop.denoiser
    if name.endswith("compiled"):
        loop.denoiser = _compiled(denoiser)
    elif name == "unfused":
        denoiser.set_attn_processor(AttnProcessor())
    try:
        if name.startswith("record"):
            with record(loop):
                yield
        elif name == "walk":
            with record(loop, columns=range(1, 9), walk=1):
                yield
        elif name == "auto":
            with record(loop, heads="auto"):
                yield
        elif name == "edit":
            with edit(loop, Reweight("word", 1.5), spans=_SPANS):
                yield
        elif name == "edit of self-attention":
            levels = {site.name: site.level or 0 for site in find_sites(denoiser, "self")}
            coarse = min(2, max(levels.values()))
            sites = [name for name, level in levels.items() if level >= coarse]
            sharper = EditFunction(_sharper, attention="self", sites=sites)
            with edit(loop, sharper):
                yield
        elif name in _AT_WORST:
            with guide(loop, _AT_WORST[name], spans=_SPANS):
                yield
        elif name in PEER_MODES:
            from attention_map_diffusers import AttentionCapture

            with AttentionCapture(loop, timesteps="all", mode=name.split()[-1]) as capture:
                yield
            capture.compute()
        else:
            yield
    finally:
        loop.denoiser = denoiser
        if name == "unfused":
            denoiser.set_attn_processor(AttnProcessor2_0())


def _sharper(probs: Tensor, context: EditContext) -> Tensor:
    squared = probs.square()
    return squared / squared.sum(dim=-1, keepdim=True)


def _compiled(denoiser: torch.nn.Module) -> torch.nn.Module:
    """The compiled form, made once a module so that what was compiled is found again."""
    if "_benchmark_compiled" not in vars(denoiser):
        vars(denoiser)["_benchmark_compiled"] = torch.compile(denoiser, fullgraph=True)
    form: torch.nn.Module = vars(denoiser)["_benchmark_compiled"]
    return form
