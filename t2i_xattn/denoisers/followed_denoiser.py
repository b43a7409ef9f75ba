"""Follows the calls of one denoiser: wraps its attention sites, tells each call to whoever is to
act on it, and leaves everything as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.wrapping import WrappingProcessor, unrecordable
from t2i_xattn.errors import UserError
from t2i_xattn.recording.keep import TEXT
from t2i_xattn.recording.sums import CallShape

Caller = Callable[[CallShape], dict[str, slice] | None]
"""Told of a call and its shape (with all rows as images): the rows of each branch, or None where
the call is not of the followed run."""


class Consumer(Protocol):
    """Who says what is to be done at the sites in each call.

    Attributes:
        shape: what the first call of a run fixed; None before it.
        calls: calls of this run so far.
    """

    @property
    def shape(self) -> CallShape | None: ...

    @property
    def calls(self) -> int: ...

    def begin_call(
        self,
        shape: CallShape,
        branches: Mapping[str, slice],
        timestep: Tensor | float,
        device: torch.device,
    ) -> Mapping[str, tuple[Any, ...]]:
        """By site name, the targets of its wrapper in this call."""
        ...

    def end_call(self) -> None:
        """The call ran through all its sites."""
        ...


class FollowedDenoiser:
    """One denoiser (a UNet, or a ControlNet) while its calls are followed.

    Attributes:
        denoiser: the module.
        layers: names and attention layers of the sites to wrap.
        consumer: says what is done there; set before the first call.
    """

    wrapper: type[WrappingProcessor]
    """What stands around the processors at the sites."""

    way_out: str
    """What a user can do about a site that cannot be read."""

    def __init__(self, denoiser: nn.Module, prefix: str = "") -> None:
        """
        Args:
            denoiser: a UNet or ControlNet of diffusers.
            prefix: set before the names of its sites.
        """
        self.denoiser, self.prefix = denoiser, prefix
        self.layers: list[tuple[str, nn.Module]] = []
        self.consumer: Consumer
        self._wrappers: dict[str, list[WrappingProcessor]] = {}
        self._hooks = ExitStack()
        self._pictures: tuple[int, ...] | None = None

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

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal begun
            begun = self._begin_call(caller, args, kwargs)
            return self.changed(_named(args, kwargs)) if begun else None

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if begun:
                self.consumer.end_call()

        self._hooks.close()
        self._hooks.enter_context(_around_calls(module, before, after))

    def changed(self, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Other arguments for the call that has begun; None: what it was given.

        Args:
            given: the arguments by name.
        """
        return None

    def _begin_call(self, caller: Caller, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        given = _named(args, kwargs)
        sample, text = given["sample"], given["encoder_hidden_states"]
        tokens = {TEXT: int(text.shape[1])}
        for number, count in enumerate(self._picture_tokens(given), 1):
            tokens[f"picture {number}"] = count
        latent_size = (int(sample.shape[-2]), int(sample.shape[-1]))
        branches = caller(CallShape(int(sample.shape[0]), latent_size, tokens))
        if branches is None:
            self._aim({})
            return False
        # An adapter that was loaded since has put its own processors at the sites.
        self._wrap()
        rows = next(iter(branches.values()))
        shape = CallShape(rows.stop - rows.start, latent_size, tokens)
        self._aim(self.consumer.begin_call(shape, branches, given["timestep"], sample.device))
        return True

    def _picture_tokens(self, given: dict[str, Any]) -> tuple[int, ...]:
        """The number of keys that each IP-Adapter's pictures give."""
        embeds = (given.get("added_cond_kwargs") or {}).get("image_embeds")
        project = getattr(self.denoiser, "encoder_hid_proj", None)
        if embeds is None or project is None or not hasattr(project, "image_projection_layers"):
            return ()
        if self._pictures is None:
            # (rows, pictures, tokens, width); only the layers know how many tokens they make. Model
            # offloading has not moved them yet; where their hooks do, they move these as well.
            there = next(project.parameters()).device
            if there.type != "meta":
                embeds = [each.to(there) for each in embeds]
            with torch.no_grad():
                self._pictures = tuple(each.shape[1] * each.shape[2] for each in project(embeds))
        return self._pictures

    def _aim(self, targets: Mapping[str, tuple[Any, ...]]) -> None:
        for name, wrappers in self._wrappers.items():
            for wrapper in wrappers:
                wrapper.targets = ()
            # The last is the one in use; see `_wrap`.
            wrappers[-1].targets = targets.get(name, ())

    def _wrap(self) -> None:
        """Stands a wrapper around the one at each site, where there is none of ours."""
        for name, attn in self.layers:
            layer: Any = attn
            wrappers = self._wrappers.setdefault(name, [])
            current = [each for each in wrappers if each.is_around(layer.processor)]
            if not current:
                self._check(name, attn)
                current = [self.wrapper.around(layer.processor)]
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
                    # Another context that stays longer, or a processor that was installed
                    # meanwhile and is not ours to remove.
                    wrapper.take_out_of(layer.processor)

    def _check(self, name: str, attn: nn.Module) -> None:
        reason = unrecordable(attn)
        if reason is not None:
            raise UserError(
                f"expected sites whose queries and keys can be read, but {name} {reason}; "
                f"leave such sites out with {self.way_out}"
            )


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a denoiser's call, by name."""
    return dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)) | kwargs


@contextmanager
def _around_calls(
    module: nn.Module, before: Callable[..., Any], after: Callable[..., None]
) -> Iterator[None]:
    """Hooks before and after the module's forward, outside of what was compiled.

    `before` may give back other arguments, as a forward pre-hook of torch may.

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
        args, kwargs = before(module, args, kwargs) or (args, kwargs)
        output = compiled(*args, **kwargs)
        after(module, args, output)
        return output

    own = vars(module)
    own["_compiled_call_impl"] = call
    try:
        yield
    finally:
        # Nested contexts leave in any order; only the outermost cover is taken off here.
        if own.get("_compiled_call_impl") is call:
            own["_compiled_call_impl"] = compiled
