"""What the transformers have in common, whatever the order of their keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall, Extra, Grid, TextPart
from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.families.grids import ReadGrids, patched
from t2i_xattn.denoisers.families.several_texts import behind_each_other, length_of_all
from t2i_xattn.denoisers.sites import AttentionSite, Kind
from t2i_xattn.denoisers.streams import SELF
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import KernelCall


@dataclass(frozen=True)
class Build:
    """How the transformers of one class are built.

    Attributes:
        sites: a regular expression for the names of the modules where the picture looks at the
            text.
        own: the same for those where it looks at itself alone.
        grids: how its latents lie.
        sample, text, timestep: the names of these arguments.
        more: the names of further texts' arguments.
        parts: from the arguments to all the texts with their columns.
        tokens: from the arguments to the columns of all texts, where it is not their sum.
        before: keys in front of the text's that are no columns of it.
        extra: where there may be keys of others.
        frames_as_rows: whether each frame of a video is a row of its own at the sites.
        perturbed: an argument that says that layers are skipped in a further call.
    """

    sites: str
    own: str = r"(?!)"
    grids: ReadGrids = patched
    sample: str = "hidden_states"
    text: str = "encoder_hidden_states"
    timestep: str = "timestep"
    more: tuple[str, ...] = ()
    parts: Callable[[Mapping[str, Any], Sequence[str]], Sequence[TextPart]] = behind_each_other
    tokens: Callable[[Mapping[str, Any], Sequence[str]], int] = length_of_all
    before: int = 0
    extra: Extra = "none"
    frames_as_rows: bool = False
    perturbed: str | None = None


class Transformer:
    """Denoisers of transformer blocks; see the protocol `families.Family`."""

    kind: ClassVar[Kind]
    builds: ClassVar[Mapping[str, Build]]
    """By the name of the class."""

    def build_of(self, denoiser: nn.Module) -> Build | None:
        """How a denoiser is built, by the nearest of its classes that is known."""
        names = [kind.__name__ for kind in type(denoiser).__mro__]
        return next((self.builds[name] for name in names if name in self.builds), None)

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
        names = (build.text, *build.more)
        several = any(given.get(name) is not None for name in build.more)
        return DenoiserCall(
            given=given,
            sample=sample,
            text=text,
            tokens=build.tokens(given, names),
            timestep=given.get(build.timestep),
            latent=latent,
            places=(1, *places[1:]) if build.frames_as_rows else places,
            frames_as_rows=build.frames_as_rows,
            before=build.before,
            extra=build.extra,
            perturbed=bool(build.perturbed and given.get(build.perturbed)),
            parts=partial(build.parts, given, names) if several else None,
        )

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
        if queries != count(grid):
            return Reading(None, SELF, problem=no_grid(queries, grid))
        return Reading(grid, SELF)

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


def count(grid: Grid) -> int:
    """Places of a grid."""
    return grid[0] * grid[1] * grid[2]


def no_grid(queries: int, grid: Grid) -> str:
    """A problem: places that fit no grid."""
    return f"its {queries} places there fit no grid of {' × '.join(map(str, grid))}"


def _heads(module: nn.Module) -> int:
    return int(getattr(module, "heads", None) or getattr(module, "num_heads", None) or 0)
