"""`cheaper`: attention that costs less while a pipeline runs, and all left as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from t2i_xattn.arguments import checked
from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.computing import Kernel
from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.of_pipeline import OfPipeline, denoisers_of
from t2i_xattn.denoisers.registry import Acting
from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.run import FollowedDenoiser, FollowedRun, Repeated
from t2i_xattn.denoisers.seen import Change, Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError, shown
from t2i_xattn.kernel.call import Asked
from t2i_xattn.kernel.fewer_keys import FewerKeys
from t2i_xattn.variants.variant import NowCall, RunningVariant, Variant


@checked
@contextmanager
def cheaper(pipe: Any, *variants: Variant, repeated: Repeated = "raise") -> Iterator[None]:
    """Computes a diffusers pipeline's attention in cheaper ways while the context is open.

    Each of `t2i_xattn.variants` says whether it is `exact` (the picture keeps its bytes in fp32) or
    what its `error` is. They compose with each other, in one context or in several, and with
    `record` and `edit`, in any order: what is recorded, and what an edit changes, is the attention
    that was really computed. Other pipelines on the same denoiser are left alone. On leaving, by
    success or by exception, all is as it was found.

    A loop by hand begins where a text is encoded, or where the sampler's first noise level comes
    again; one that makes its noise levels itself has its texts encoded anew for each picture.

    Args:
        pipe: any loaded pipeline whose denoiser looks at a text; not compiled.
        variants: such as `KeptKeys()`.
        repeated: what to do about further calls at the same noise level, see `record`.

    Raises:
        UserError: before anything is changed, if a variant does not fit the denoiser or two exclude
            each other; in a run, if it shows that one does not fit (a compiled graph, a text that
            changes from step to step, prompts given as embeddings where padding has to be known).

    Example:
        >>> with cheaper(pipe, variants.KeptKeys(), variants.SkipLate(after=0.6)):
        ...     image = pipe("a red circle left of a blue square").images[0]
    """
    if not variants:
        raise UserError("expected at least one variant, but came none; such as KeptKeys()")
    for each in variants:
        if not isinstance(each, Variant):
            called = f"the class {each.__name__}; call it" if isinstance(each, type) else None
            came = called or f"{shown(each)}; t2i_xattn.variants lists them"
            raise UserError(f"expected variants such as KeptKeys(), but came {came}")
    run = _CheaperRun(pipe, repeated=repeated)
    run.denoisers = [_CheaperDenoiser(run, each, variants) for each in denoisers_of(pipe)]
    with run.followed():
        yield


class _CheaperRun(FollowedRun):
    """Runs of a pipeline under variants, one after the other."""

    denoisers: list[_CheaperDenoiser]  # type: ignore[assignment]

    def _open(self) -> None:
        super()._open()
        for each in self.denoisers:
            each.put()

    def _close(self) -> None:
        for each in self.denoisers:
            each.take_off()
        super()._close()


class _CheaperDenoiser(FollowedDenoiser):
    """A denoiser whose attention is computed in cheaper ways."""

    def __init__(self, run: FollowedRun, denoiser: OfPipeline, variants: Sequence[Variant]) -> None:
        super().__init__(run, denoiser)
        self._check(variants)
        modules = list(self.registry.modules.values())
        self._placed = [(each, each.sites(modules)) for each in variants]
        kind = type(self.registry.denoiser).__name__
        for variant, found in self._placed:
            if not found:
                kinds = sorted({site.kind for site, _ in modules})
                raise UserError(
                    f"expected a denoiser with {variant.fits} for {variant.name}, but {kind} has "
                    f"{' and '.join(kinds)}-attention that it does not fit; leave {variant.name} "
                    "out"
                )
        self.site_names = {site.name for _, found in self._placed for site, _ in found}
        # What a backward pass computes again would be without them.
        self.edits = not all(each.exact for each in variants)
        self._covers = [c for variant, found in self._placed for c in variant.covers(found)]

    def _check(self, variants: Sequence[Variant]) -> None:
        """Raises `UserError` for two that exclude each other, and for a compiled denoiser."""
        open_here = [e for e in self.registry.followers_of(self.pipe) if isinstance(e, type(self))]
        there = [variant for each in open_here for variant, _ in each._placed]
        for each in variants:
            other = next((e for e in there if e.takes == each.takes), None)
            if other is not None:
                raise UserError(
                    f"expected one variant that takes over {each.takes}, but came {other.name} and "
                    f"{each.name}, which exclude each other; leave one out"
                )
            there.append(each)
        compiled = self.module is not self.registry.denoiser or any(
            getattr(each, "_compiled_call_impl", None) is not None for each in self.module.modules()
        )
        if compiled:
            raise UserError(
                "expected a denoiser that is not compiled under `cheaper`, since a compiled graph "
                "computes as it did when it was made; use the pipeline as it was before "
                "torch.compile"
            )

    def forget(self) -> None:
        super().forget()
        self._running: list[tuple[RunningVariant, frozenset[str], Variant]] | None = None

    def put(self) -> None:
        """Covers what the variants need beside the sites."""
        for each in self._covers:
            each.put()

    def take_off(self) -> None:
        """Gives it back; may be called again."""
        for each in reversed(self._covers):
            each.take_off()

    def acting(self, layout: Layout, call: DenoiserCall) -> Acting | None:
        if self._running is None:
            self._running = [
                (variant.running(found), frozenset(site.name for site, _ in found), variant)
                for variant, found in self._placed
            ]
        levels = self.levels_of(layout, call)
        number = max(each.number for each in levels.values())
        step = max(each.step + self.steps_elsewhere(branch) for branch, each in levels.items())
        now = NowCall(layout, call, step, self.run.steps, number)
        for running, _, _ in self._running:
            running.begin(now)
        return _CheaperCall(self._running)


class _CheaperCall:
    """One call of such a denoiser; see `denoisers.computing.Computing`."""

    def __init__(self, running: Sequence[tuple[RunningVariant, frozenset[str], Variant]]) -> None:
        self._all = running

    def _at(self, site: AttentionSite) -> list[RunningVariant]:
        return [running for running, names, _ in self._all if site.name in names]

    def wants(self, site: AttentionSite) -> bool:
        return any(site.name in names for _, names, _ in self._all)

    def attends(self, site: AttentionSite) -> bool:
        return any(site.name in names and variant.attends for _, names, variant in self._all)

    def around(
        self,
        site: AttentionSite,
        module: nn.Module,
        forward: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        for each in self._at(site):
            forward = _around(each, site, module, forward)
        return forward(*args, **kwargs)

    def fewer(
        self, site: AttentionSite, call: Asked, reading: Callable[[], Reading]
    ) -> FewerKeys | None:
        found = (each.fewer(site, call, reading) for each in self._at(site))
        return next((each for each in found if each is not None), None)

    def kernel(self, site: AttentionSite) -> Kernel | None:
        found = (each.kernel(site) for each in self._at(site))
        return next((each for each in found if each is not None), None)

    def changes(self, seen: Seen) -> Sequence[tuple[Rows, Change]]:
        return ()

    def take(self, seen: Seen) -> None:
        for each in self._at(seen.site):
            each.take(seen)

    def missed(self, site: AttentionSite, module: nn.Module) -> None:
        if self.attends(site):
            kind = type(getattr(module, "processor", module)).__name__
            raise UserError(
                f"expected a kernel call at {site.name} to make cheaper, but {kind} does not call "
                "a kernel that can be seen; put AttnProcessor2_0 there, or leave the variant out"
            )

    def end(self) -> None:
        for running, _, _ in self._all:
            running.end()


def _around(
    running: RunningVariant, site: AttentionSite, module: nn.Module, forward: Callable[..., Any]
) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return running.around(site, module, forward, *args, **kwargs)

    return run
