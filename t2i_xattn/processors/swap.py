"""`swap`: other attention processors for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from t2i_xattn.arguments import checked
from t2i_xattn.denoisers.of_pipeline import OfPipeline, denoisers_of
from t2i_xattn.denoisers.sites import AttentionSite, Sites, choose_sites, walk_sites
from t2i_xattn.errors import UserError
from t2i_xattn.processors.intercepting import InterceptingProcessor
from t2i_xattn.processors.making import checked_processor, maker
from t2i_xattn.processors.placing import Placement
from t2i_xattn.processors.recording import RecordingProcessor


@checked
@contextmanager
def swap(
    pipe: Any,
    processor: Any | Callable[[], Any] | Mapping[str, Any],
    *,
    sites: Sites | None = None,
) -> Iterator[dict[str, Any]]:
    """Puts attention processors at sites of a denoiser, and what was there back on leaving.

    On leaving, by success or by exception, the processors are as they were found. Contexts may
    overlap and end in any order; a processor that somebody else installs meanwhile (an IP-Adapter
    that is loaded, `set_attn_processor`) stays. So it is with what diffusers makes anew, of the
    same class: loading or unloading an IP-Adapter does that to all processors that are not its own.

    >>> with swap(pipe, RecordingProcessor) as recorders:  # a class: one instance a site
    ...     image = pipe("a red circle").images[0]
    >>> for name, recorder in recorders.items():
    ...     print(name, tuple(recorder.probs.shape))  # doctest: +ELLIPSIS
    down_blocks.0.attentions.0.transformer_blocks.0.attn2 (2, 64, 77)
    ...
    >>> quiet = InterceptingProcessor(lambda probs: probs / 2)  # an instance: it is at every site
    >>> with swap(pipe, quiet, sites=lambda site: site.place == "up"):
    ...     image = pipe("a red circle").images[0]

    A processor that is a module with weights is no part of the UNet while another is in its place:
    `pipe.to(…)` inside the context does not move it.

    Args:
        pipe: a pipeline, or the denoiser itself; one wrapped by `torch.compile` is
            looked through.
        processor: what to put there. A processor is put at every site; of a class, or of a function
            without arguments, each site gets one that it makes; a mapping of sites' names has one
            for each, and says which sites.
        sites: names, or a function of the `AttentionSite` that says yes or no; cross- and
            self-attention. None: all where the picture looks at the text.

    Yields:
        The processors that were put there, by site's name, in the order of the forward pass.

    Raises:
        UserError: before anything is changed, if there is no denoiser or no such site, `processor`
            is none of these, one `RecordingProcessor` is to be at several sites, or a site has an
            IP-Adapter, which would not be looked at meanwhile.
    """
    placements = _placements(pipe, processor, sites)
    # Twice, so that an interrupt in the one is made good by the other.
    try:
        try:
            for placement in placements.values():
                placement.open()
            yield {name: placement.processor for name, placement in placements.items()}
        finally:
            _close(placements)
    finally:
        _close(placements)


def _close(placements: Mapping[str, Placement]) -> None:
    for placement in placements.values():
        placement.close()


def _placements(pipe: Any, processor: Any, sites: Sites | None) -> dict[str, Placement]:
    """What to put where, by site's name."""
    walked = [
        (replace(site, name=each.prefix + site.name), layer)
        for each in _denoisers(pipe)
        for site, layer in walk_sites(each.module)
    ]
    layers = {site.name: layer for site, layer in walked}
    known = {site.name: site for site, _ in walked}
    processors = _processors(list(known.values()), processor, sites)
    _check_joint({known[name]: each for name, each in processors.items()})
    placements = {name: Placement(layers[name], wanted) for name, wanted in processors.items()}
    _check_adapters(placements)
    _check_recorders(placements)
    return placements


def _denoisers(pipe: Any) -> list[OfPipeline]:
    return [OfPipeline(pipe)] if isinstance(pipe, nn.Module) else denoisers_of(pipe)


def _check_joint(processors: Mapping[AttentionSite, Any]) -> None:
    """Ours are whole layers of cross- or self-attention."""
    for site, each in processors.items():
        if site.kind == "joint" and isinstance(each, InterceptingProcessor | RecordingProcessor):
            raise UserError(
                f"expected a processor for joint attention at {site.name}, but came "
                f"{type(each).__name__}, which is one for cross- and self-attention; put one of "
                "the model's own there, or use record and edit, which need none"
            )


def _processors(
    known: Sequence[AttentionSite], processor: Any, sites: Sites | None
) -> dict[str, Any]:
    """The processor for each chosen site, by its name."""
    if isinstance(processor, Mapping):
        if sites is not None:
            raise UserError(
                "expected sites=None with a mapping, whose names say which sites, but came "
                f"{sites!r}; leave one of the two out"
            )
        names = [site.name for site in choose_sites(known, processor)]
        return {
            name: checked_processor(processor[name], f"the mapping for {name}") for name in names
        }
    make = maker(processor)
    crossing = [site for site in known if site.reads_text]
    if sites is None and not crossing:
        raise UserError(
            "expected a denoiser whose picture looks at a text, but it does at none of "
            f"{len(known)} attention sites; choose others with sites=…"
        )
    chosen = crossing if sites is None else choose_sites(known, sites)
    return {site.name: make() for site in chosen}


def _check_adapters(placements: Mapping[str, Placement]) -> None:
    lost = [
        name
        for name, each in placements.items()
        if hasattr(each.layer.processor, "to_k_ip") and not hasattr(each.processor, "to_k_ip")
    ]
    if lost:
        raise UserError(
            "expected sites without an IP-Adapter, whose pictures would not be looked at, but "
            f"came {len(lost)} with one, {lost[0]} the first; leave such sites out, as "
            'sites=lambda site: site.kind == "self" does, or call pipe.unload_ip_adapter() first'
        )


def _check_recorders(placements: Mapping[str, Placement]) -> None:
    seen: dict[int, str] = {}
    for name, each in placements.items():
        if isinstance(each.processor, RecordingProcessor):
            if id(each.processor) in seen:
                raise UserError(
                    "expected one RecordingProcessor for each site, but the same is to be at "
                    f"{seen[id(each.processor)]} and {name}; give the class RecordingProcessor, "
                    "or a function without arguments that makes one"
                )
            seen[id(each.processor)] = name
