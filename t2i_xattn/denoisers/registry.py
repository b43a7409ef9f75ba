"""One registry a denoiser: who follows its calls, and the covers that let them.

Followers come and go in any order; the covers are those that somebody needs. A call that is going
on is known to the thread that makes it, so that threads may share a denoiser.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.computing import Computing, attended, check_computed, run_around
from t2i_xattn.denoisers.families import family_of
from t2i_xattn.denoisers.following import Acting as Acting
from t2i_xattn.denoisers.following import Follower
from t2i_xattn.denoisers.seen import Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import Asked, KernelCall
from t2i_xattn.kernel.module_calls import ModuleCalls, by_name, uncompiled
from t2i_xattn.kernel.owner import owner_of_call
from t2i_xattn.kernel.rows_together import rows_together
from t2i_xattn.kernel.tap import SiteTap

_registries: WeakKeyDictionary[nn.Module, Registry] = WeakKeyDictionary()
_lock = threading.RLock()


class _Call:
    """A call that is going on in one thread."""

    def __init__(self, acting: Sequence[Acting], call: DenoiserCall) -> None:
        self.acting, self.call = acting, call
        self.ran: set[str] = set()
        self.kernel_calls: dict[str, int] = {}
        self.rows: dict[str, list[KernelCall]] = {}
        self.computing = [each for each in acting if isinstance(each, Computing)]
        self.entered: set[str] = set()
        self.attended: set[str] = set()

    def wants(self, site: AttentionSite) -> bool:
        return any(each.wants(site) for each in self.acting)

    def computing_at(self, site: AttentionSite) -> list[Computing]:
        return [each for each in self.computing if each.wants(site)]


class Registry:
    """The followers of one denoiser.

    Attributes:
        denoiser: the module itself, not what it was compiled to.
        family: what its calls look like.
        modules: its attention sites by name, with their modules.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        family = family_of(denoiser)
        if family is None:
            raise UserError(
                "expected a denoiser of a family that is known, but came "
                f"{type(uncompiled(denoiser)).__name__}; t2i_xattn.denoisers.families lists them: "
                "take a pipeline with one of these, or add its layout there"
            )
        self.denoiser, self.family = uncompiled(denoiser), family
        self.modules: dict[str, tuple[AttentionSite, Any]] = {
            site.name: (site, module) for site, module in family.walk(self.denoiser)
        }
        self._followers: list[Follower] = []
        self._taps: dict[str, SiteTap] = {}
        self._calls: ModuleCalls | None = None
        self._local = threading.local()

    @classmethod
    def of(cls, denoiser: nn.Module) -> Registry:
        """The denoiser's registry; made where nobody follows it yet."""
        return _registries.get(uncompiled(denoiser)) or cls(denoiser)

    def join(self, follower: Follower, denoiser: nn.Module) -> None:
        """Tells a follower of every call from now on.

        Args:
            follower: who follows.
            denoiser: as the pipeline has it, compiled or not.
        """
        with _lock:
            _registries[self.denoiser] = self
            self._followers.append(follower)
            self._sync()
            if self._calls is None:
                self._calls = ModuleCalls(self.denoiser, self._called)
            self._calls.link(denoiser)

    def read(self, given: Mapping[str, Any]) -> DenoiserCall | None:
        """A call of the denoiser by what its arguments mean; None where it is given no text.

        The followers of one call ask one after the other; it is read once, as lengths of texts may
        have to be fetched from a GPU.
        """
        known: list[tuple[Any, DenoiserCall | None]] = getattr(self._local, "read", [])
        for arguments, call in known:
            if arguments is given:
                return call
        known.append((given, self.family.call(self.denoiser, given)))
        return known[-1][1]

    def link(self, denoiser: nn.Module) -> None:
        """Covers what the denoiser was compiled to since."""
        with _lock:
            if self._calls is not None and uncompiled(denoiser) is self.denoiser:
                self._calls.link(denoiser)

    def followers_of(self, pipe: Any) -> list[Follower]:
        """Those who follow the runs of a pipeline here, in the order in which they came."""
        return [each for each in self._followers if each.pipe is pipe]

    def leave(self, follower: Follower) -> None:
        """Stops telling a follower; may be called again."""
        with _lock:
            self._followers = [each for each in self._followers if each is not follower]
            self._sync()
            if not self._followers:
                if self._calls is not None:
                    self._calls.unlink()
                    self._calls = None  # it knows the registry, which holds the denoiser
                if _registries.get(self.denoiser) is self:
                    del _registries[self.denoiser]

    @contextmanager
    def watched(self, acting: Acting, given: Mapping[str, Any]) -> Iterator[None]:
        """A pass of the denoiser that nobody else is to see.

        Args:
            acting: what is done in it.
            given: its arguments.
        """
        call = self.read(given)
        assert call is not None, "a pass without a text"
        with self.apart(acting, call):
            yield

    @contextmanager
    def apart(self, acting: Acting, call: DenoiserCall) -> Iterator[None]:
        """The same, for a pass of some parts of the denoiser: `call` says what they are given."""
        before = getattr(self._local, "call", None)
        self._local.call = _Call([acting], call)
        try:
            yield
        finally:
            self._local.call = before

    def is_followed_by(self, acting: Acting) -> bool:
        """Whether the call that goes on in this thread is one that somebody acts in."""
        call: _Call | None = getattr(self._local, "call", None)
        return call is not None and any(each is acting for each in call.acting)

    def _sync(self) -> None:
        """Covers the sites that somebody needs, and no others."""
        needed = {name for each in self._followers for name in each.site_names}
        for name in [name for name in self._taps if name not in needed]:
            for cover in self._taps[name].covers:
                cover.take_off()
            del self._taps[name]
        for name in self.modules:
            if name in needed and name not in self._taps:
                site, module = self.modules[name]
                ran, receive = partial(self._ran, site), partial(self._receive, site, module)
                joint = site.kind == "joint"
                around = partial(self._around, site, module)
                attend = partial(self._attend, site, module)
                tap = SiteTap(module, ran, receive, joint, around, attend)
                self._taps[name] = tap
                for cover in tap.covers:
                    cover.put()

    def _called(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In the place of the denoiser's own call."""
        given = by_name(self.denoiser, args, kwargs)
        if self.family.aside(self.denoiser, given):
            return method(*args, **kwargs)
        followers = list(self._followers)
        owner = owner_of_call([each.pipe for each in followers])
        acting: list[Acting] = []
        changed, read = given, None
        self._local.read = []
        try:
            for follower in followers:
                one, changed = follower.begin(changed, owner)
                if one is not None:
                    acting.append(one)
            if acting:
                read = self.read(changed)
        finally:
            del self._local.read  # nothing is held beyond
        if changed is not given:
            args, kwargs = (), changed
        if not acting:
            return method(*args, **kwargs)
        assert read is not None, "followers act where there is a text only"
        self._local.call = call = _Call(acting, read)
        try:
            output = method(*args, **kwargs)
        finally:
            self._local.call = None
        for name in self.modules:
            if name in call.ran and name not in call.kernel_calls and not self._may_skip(name):
                for each in acting:
                    if each.wants(self.modules[name][0]):
                        each.missed(*self.modules[name])
        for each in acting:
            each.end()
        return output

    def _may_skip(self, name: str) -> bool:
        """Whether a site may give what it has kept from another call (step caches), by a hook of
        diffusers. Maps are the mean over the calls that were seen; a site without any is told."""
        hooks = getattr(self.modules[name][1], "_diffusers_hook", None)
        return bool(getattr(hooks, "hooks", None))

    def _ran(self, site: AttentionSite) -> bool:
        """A site's module runs; whether its kernel calls are wanted."""
        call: _Call | None = getattr(self._local, "call", None)
        if call is None:
            self._check_recomputation()
            return False
        if not call.wants(site):
            return False
        call.ran.add(site.name)
        return True

    def _check_recomputation(self) -> None:
        """Raises `UserError` where a part is computed again, in a backward pass, without edits."""
        if any(each.edits for each in self._followers) and torch._C._current_graph_task_id() != -1:
            raise UserError(
                "expected a denoiser without gradient checkpointing under `edit` and `cheaper`, as "
                "what is computed again in the backward pass would be without them; call "
                "disable_gradient_checkpointing() on it"
            )

    def _around(
        self, site: AttentionSite, module: Any, forward: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """In the place of the forward of a site whose kernel calls are wanted."""
        call: _Call = self._local.call
        computing = call.computing_at(site) if call.computing else []
        if not computing:
            return forward(*args, **kwargs)
        call.entered.add(site.name)
        output, ran = run_around(computing, site, module, forward, args, kwargs)
        if not ran:
            call.ran.discard(site.name)  # it gave what it had kept, and there are no probs
        return output

    def _attend(self, site: AttentionSite, module: Any, asked: Asked) -> KernelCall | None:
        """A kernel call answered in the kernel's place; None where nobody wants to."""
        call: _Call | None = getattr(self._local, "call", None)
        if call is None or not call.computing:
            return None
        computing = [each for each in call.computing_at(site) if each.attends(site)]
        if not computing:
            return None
        call.attended.add(site.name)
        number, about = call.kernel_calls.get(site.name, 0), asked.answered(asked.query)
        reading = partial(self.family.reading, site, module, about, number, call.call)
        return attended(computing, site, asked, reading)

    def _receive(self, site: AttentionSite, module: Any, kernel: KernelCall) -> Tensor:
        """What is to stand for the output of a kernel call at a site."""
        call: _Call | None = getattr(self._local, "call", None)
        if call is None or not call.wants(site):
            return kernel.output
        for one in call.computing_at(site):
            entered, answered = site.name in call.entered, site.name in call.attended
            check_computed(site, module, entered, answered or not one.attends(site))
        number = call.kernel_calls.get(site.name, 0)
        call.kernel_calls[site.name] = number + 1
        output = kernel.output
        if call.call.row_by_row:  # with the last row all are read as one
            rows = call.rows.setdefault(site.name, [])
            rows.append(kernel)
            if len(rows) < call.call.rows:
                return output
            kernel, number = rows_together(call.rows.pop(site.name)), 0
        reading = self.family.reading(site, module, kernel, number, call.call)
        seen = Seen(site, module, kernel, reading)
        changes = [change for each in call.acting for change in each.changes(seen)]
        if changes and call.call.row_by_row:
            raise UserError(
                f"expected a denoiser that attends to all rows of the batch at once, to edit it, "
                f"but {type(self.denoiser).__name__} attends to each by itself; record it, or edit "
                "a pipeline with another denoiser"
            )
        if changes:
            output = seen.output(changes, alone=len(call.acting) == 1)
        for each in call.acting:
            each.take(seen)
        return output
