"""What the transformers have in common, whatever the order of their keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall, Grid
from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.families.build import Build, nearest
from t2i_xattn.denoisers.sites import AttentionSite, Kind
from t2i_xattn.denoisers.streams import SELF, TEXT
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.shares import Portion


class Transformer:
    """Denoisers of transformer blocks; see the protocol `families.Family`."""

    kind: ClassVar[Kind]
    builds: ClassVar[Mapping[str, Build]]
    """By the name of the class."""

    def build_of(self, denoiser: nn.Module) -> Build | None:
        """How a denoiser is built, by the nearest of its classes that is known."""
        return nearest(self.builds, denoiser)

    def is_one(self, denoiser: nn.Module) -> bool:
        return self.build_of(denoiser) is not None

    def walk(self, denoiser: nn.Module) -> Iterator[tuple[AttentionSite, nn.Module]]:
        build = self.build_of(denoiser)
        assert build is not None
        counts = {True: 0, False: 0}
        for name, module in denoiser.named_modules():
            of_text = re.fullmatch(build.sites, name) is not None
            if not of_text and re.fullmatch(build.own, name) is None:
                continue
            kind: Kind = self.kind if of_text else "self"
            yield AttentionSite(name, kind, counts[of_text], None, None, _heads(module)), module
            counts[of_text] += 1

    def call(self, denoiser: nn.Module, given: Mapping[str, Any]) -> DenoiserCall | None:
        build = self.build_of(denoiser)
        assert build is not None
        sample, text = given.get(build.sample), given.get(build.text)
        if sample is None or text is None:
            return None
        try:
            latent, places = build.grids(denoiser, given, sample)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(
                f"expected arguments that say how the latents of {type(denoiser).__name__} lie, "
                f"but came {', '.join(sorted(given))} ({error}); call it as its pipeline does"
            ) from error
        if build.layers is not None:
            text = text.select(build.layers, -1)
        names = (build.text, *build.more)
        several = any(given.get(name) is not None for name in build.more)
        return DenoiserCall(
            given=given,
            sample=sample,
            text=text,
            tokens=build.tokens(given, names) if several else max(map(len, text)),
            timestep=given.get(build.timestep),
            latent=latent,
            places=(1, *places[1:]) if build.frames_as_rows else places,
            frames_as_rows=build.frames_as_rows,
            before=build.before,
            extra=build.extra,
            perturbed=next((name for name in build.perturbed if given.get(name)), None),
            ahead=None if build.ahead is None else build.ahead(denoiser, given),
            connected=build.connected,
            row_by_row=build.row_by_row,
            parts=partial(build.parts, given, names) if several else None,
        )

    def aside(self, denoiser: nn.Module, given: Mapping[str, Any]) -> bool:
        build = self.build_of(denoiser)
        assert build is not None
        text = given.get(build.text)
        return isinstance(text, Tensor) and text.shape[1] == 0

    def with_sample(self, given: Mapping[str, Any], sample: Tensor) -> dict[str, Any]:
        name = next(build.sample for build in self.builds.values() if build.sample in given)
        return dict(given) | {name: sample}

    def reading(
        self,
        site: AttentionSite,
        module: nn.Module,
        kernel: KernelCall,
        number: int,
        call: DenoiserCall,
    ) -> Reading:
        rows, _, queries, _ = kernel.query.shape
        grid = call.places
        assert grid is not None
        batch = call.rows * call.row_frames
        if rows != batch:
            problem = f"the kernel got {rows} rows there for a batch of {batch}"
            return Reading(None, problem=problem)
        if site.kind != "self":
            return self.of_text(site, module, kernel, number, call)
        picture = picture_of(queries, call)
        if picture is None:
            return Reading(None, SELF, problem=no_grid(queries, grid))
        if len(picture) == queries:
            return Reading(grid, SELF)
        return Reading(grid, SELF, portion=Portion(picture, range(0), picture, None))

    def streams_at(
        self, site: AttentionSite, module: nn.Module, call: DenoiserCall
    ) -> tuple[str, ...]:
        return (TEXT,) if site.reads_text else (SELF,)

    def of_text(
        self,
        site: AttentionSite,
        module: nn.Module,
        kernel: KernelCall,
        number: int,
        call: DenoiserCall,
    ) -> Reading:
        """What a kernel call is about at a site that reads the text."""
        raise NotImplementedError


def picture_of(queries: int, call: DenoiserCall) -> range | None:
    """Where the picture's places stand among queries that none of the text's are among; None if
    they do not fit."""
    assert call.places is not None
    places = count(call.places)
    if call.ahead is None:
        return range(places) if queries == places else None
    picture = range(call.ahead, call.ahead + places)
    return picture if picture.stop <= queries else None


def count(grid: Grid) -> int:
    """Places of a grid."""
    return grid[0] * grid[1] * grid[2]


def no_grid(queries: int, grid: Grid) -> str:
    """A problem: places that fit no grid."""
    return f"its {queries} places there fit no grid of {' × '.join(map(str, grid))}"


def _heads(module: nn.Module) -> int:
    return int(getattr(module, "heads", None) or getattr(module, "num_heads", None) or 0)
