"""Follows the calls of one denoiser: wraps its attention sites, takes in each call's probs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from t2i_xattn.errors import UserError
from t2i_xattn.keep import TEXT, Keep
from t2i_xattn.processors import RecordingProcessor, unrecordable
from t2i_xattn.sites import AttentionSite, walk_sites
from t2i_xattn.store import MapStore
from t2i_xattn.sums import CallShape

Caller = Callable[["DenoiserCalls", CallShape], dict[str, slice] | None]
"""Told of a call and its shape (with all rows as images): the rows of each branch, or None where
the call is not of the recorded run."""


class DenoiserCalls:
    """One denoiser (a UNet, or a ControlNet) while its calls are recorded.

    Attributes:
        denoiser: the module.
        modules: the sites that can be recorded, with their attention layers.
        store: what is kept; set before the first call by `keep_sites`.
    """

    def __init__(self, denoiser: nn.Module, prefix: str = "", skip_unrecordable: bool = False):
        """
        Args:
            denoiser: a UNet or ControlNet of diffusers.
            prefix: set before the names of its sites.
            skip_unrecordable: leave out what cannot be recorded, instead of raising.

        Raises:
            UserError: if it has no cross-attention, or some that cannot be recorded.
        """
        self.denoiser, self.prefix = denoiser, prefix
        self.modules = [
            (dataclasses.replace(site, name=prefix + site.name), attn)
            for site, attn in walk_sites(denoiser)
            if site.kind == "cross"
        ]
        if not self.modules:
            raise UserError(
                f"expected a UNet with cross-attention, but {type(denoiser).__name__} has none; "
                "record a pipeline whose pictures are conditioned on text"
            )
        if skip_unrecordable:
            self.modules = [each for each in self.modules if unrecordable(each[1]) is None]
        for site, attn in self.modules:
            self._check(site.name, attn)
        if not self.modules:
            raise UserError(
                f"expected a site that can be recorded, but {type(denoiser).__name__} has none; "
                'without unrecordable="skip" the reason is told'
            )
        self.layers: list[tuple[str, nn.Module]] = []
        self.store = MapStore((), Keep())
        self._wrappers: dict[str, list[RecordingProcessor]] = {}
        self._hooks = ExitStack()
        self._pictures: tuple[int, ...] | None = None

    @property
    def sites(self) -> list[AttentionSite]:
        """All the sites that can be recorded, in forward order."""
        return [site for site, _ in self.modules]

    def keep_sites(self, sites: list[AttentionSite], keep: Keep) -> None:
        """Decides what is kept: these of its sites."""
        names = {site.name for site in sites}
        self.modules = [(site, attn) for site, attn in self.modules if site.name in names]
        self.layers = [(site.name, attn) for site, attn in self.modules]
        partners: dict[str, str] = {}
        if keep.needs_self_attention:
            # In a transformer block of diffusers, attn1 looks at the picture, attn2 at the text.
            own = {
                site.name: attn for site, attn in walk_sites(self.denoiser) if site.kind == "self"
            }
            for site, _ in self.modules:
                partner = site.name.removesuffix("attn2") + "attn1"
                inside = partner.removeprefix(self.prefix)
                if inside not in own:
                    raise UserError(
                        f"expected self-attention beside {site.name} to read, but its block has "
                        "none; leave that site out with sites=…"
                    )
                self._check(partner, own[inside])
                partners[site.name] = partner
                self.layers.append((partner, own[inside]))
        self.store = MapStore(self.sites, keep, partners)

    @contextmanager
    def followed(self, caller: Caller) -> Iterator[None]:
        """Wraps the sites and listens to the denoiser; on leaving all is as it was found."""
        try:
            self._wrap()
            self.listen_to(self.denoiser, caller)
            yield
        finally:
            self._hooks.close()
            self._unwrap()

    def listen_to(self, module: nn.Module, caller: Caller) -> None:
        """Listens to the calls of a module from now on: the denoiser, or what it was compiled to.

        Hooks that were there when it was compiled would be compiled too.
        """
        begun = False

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal begun
            begun = self._begin_call(caller, args, kwargs)

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if begun:
                self.store.end_call()

        self._hooks.close()
        self._hooks.enter_context(_around_calls(module, before, after))

    def _begin_call(self, caller: Caller, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False))
        given.update(kwargs)
        sample, text = given["sample"], given["encoder_hidden_states"]
        tokens = {TEXT: int(text.shape[1])}
        for number, count in enumerate(self._picture_tokens(given), 1):
            tokens[f"picture {number}"] = count
        latent_size = (int(sample.shape[-2]), int(sample.shape[-1]))
        branches = caller(self, CallShape(int(sample.shape[0]), latent_size, tokens))
        if branches is None:
            self._aim({})
            return False
        # An adapter that was loaded since has put its own processors at the sites.
        self._wrap()
        rows = next(iter(branches.values()))
        shape = CallShape(rows.stop - rows.start, latent_size, tokens)
        self._aim(self.store.begin_call(shape, branches, given["timestep"], sample.device))
        return True

    def _picture_tokens(self, given: dict[str, Any]) -> tuple[int, ...]:
        """The number of keys that each IP-Adapter's pictures give."""
        embeds = (given.get("added_cond_kwargs") or {}).get("image_embeds")
        project = getattr(self.denoiser, "encoder_hid_proj", None)
        if embeds is None or project is None or not hasattr(project, "image_projection_layers"):
            return ()
        if self._pictures is None:
            # (rows, pictures, tokens, width); only the layers know how many tokens they make.
            with torch.no_grad():
                self._pictures = tuple(each.shape[1] * each.shape[2] for each in project(embeds))
        return self._pictures

    def _aim(self, targets: dict[str, Any]) -> None:
        for name, wrappers in self._wrappers.items():
            for wrapper in wrappers:
                wrapper.targets = ()
            # The last is the one in use; see `_wrap`.
            wrappers[-1].targets = targets.get(name, ())

    def _wrap(self) -> None:
        """Stands a recording processor around the one at each site, where there is none of ours."""
        for name, attn in self.layers:
            layer: Any = attn
            wrappers = self._wrappers.setdefault(name, [])
            current = [each for each in wrappers if each.is_around(layer.processor)]
            if not current:
                self._check(name, attn)
                current = [RecordingProcessor.around(layer.processor)]
                layer.processor = current[0]
            elif wrappers[-1] is current[0]:
                continue
            self._wrappers[name] = [w for w in wrappers if w is not current[0]] + current[:1]

    def _unwrap(self) -> None:
        self._aim({})
        for name, attn in self.layers:
            layer: Any = attn
            for wrapper in self._wrappers.pop(name, ()):
                if layer.processor is wrapper:
                    layer.processor = wrapper.inner
                else:
                    # Another recording that stays longer, or a processor that was installed
                    # meanwhile and is not ours to remove.
                    wrapper.take_out_of(layer.processor)

    @staticmethod
    def _check(name: str, attn: nn.Module) -> None:
        reason = unrecordable(attn)
        if reason is not None:
            raise UserError(
                f"expected sites whose queries and keys can be read, but {name} {reason}; "
                'leave such sites out with record(pipe, unrecordable="skip")'
            )


@contextmanager
def _around_calls(
    module: nn.Module, before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    """Hooks before and after the module's forward, outside of what was compiled.

    `module.compile()` compiles the hooks as well, or ignores those that come later; then the
    compiled call itself is covered, on this instance.
    """
    compiled = getattr(module, "_compiled_call_impl", None)
    if compiled is None:
        handles = [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        return

    def call(*args: Any, **kwargs: Any) -> Any:
        before(module, args, kwargs)
        output = compiled(*args, **kwargs)
        after(module, args, output)
        return output

    own = vars(module)
    own["_compiled_call_impl"] = call
    try:
        yield
    finally:
        # Nested recordings leave in any order; only the outermost cover is taken off here.
        if own.get("_compiled_call_impl") is call:
            own["_compiled_call_impl"] = compiled
