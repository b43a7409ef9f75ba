"""Lays one layer of attention open while a pipeline runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from t2i_xattn.arguments import checked
from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.of_pipeline import OfPipeline, denoisers_of
from t2i_xattn.denoisers.registry import Acting
from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.run import FollowedDenoiser, FollowedRun
from t2i_xattn.denoisers.seen import Change, Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.errors import UserError, nearest, shown
from t2i_xattn.explaining.laid_open import LaidOpen
from t2i_xattn.kernel.modes import without_gradients
from t2i_xattn.kernel.reference import attend
from t2i_xattn.kernel.shares import of_row
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.roles import CONDITIONAL
from t2i_xattn.prompts.words import find_phrase

Place = tuple[float, float]
"""Down and right, 0 to 1 of the picture."""


class Opened:
    """What `lay_open` yields.

    Attributes:
        every: what was laid open, one a step that was asked for.
    """

    def __init__(self) -> None:
        self.every: list[LaidOpen] = []

    @property
    def one(self) -> LaidOpen:
        """The first of them.

        Raises:
            UserError: if the run did not come to the step.
        """
        if not self.every:
            raise UserError(
                "expected a run that comes to the step that was asked for, but it ended before "
                "that, or has not begun; run the pipeline inside the context, or take an earlier "
                "step"
            )
        return self.every[0]


@checked
@contextmanager
def lay_open(
    pipe: Any,
    word: str,
    site: str | int | None = None,
    place: Place = (0.5, 0.5),
    step: int | Sequence[int] = 0,
) -> Iterator[Opened]:
    """Lays a layer open while the pipeline runs: what each step of the attention did for a word at
    a place, in the first picture's conditional branch. The picture stays the same to the byte.

    Args:
        pipe: the pipeline; its denoiser not compiled.
        word: a word or phrase of the prompt.
        site: name or number (0 the first) of a site that reads the text; None: the last.
        place: of the picture, down and right, 0 to 1.
        step: of the sampler, 0 the first; or several.

    Raises:
        UserError: for a site that there is none of, a place outside, a step below 0; in the run,
            for a word that the prompt does not have, or a site that cannot be read.
    """
    if not all(math.isfinite(each) and 0 <= each <= 1 for each in place):
        raise UserError(f"expected a place inside, (down, right) from 0 to 1, but came {place}")
    wanted = frozenset([step] if isinstance(step, int) else step)
    if not wanted or min(wanted) < 0:
        raise UserError(f"expected steps from 0 on, but came {shown(step)}; 0 is the first")
    run = FollowedRun(pipe)
    opened = Opened()
    denoisers = [_Opener(run, each, opened, word, place, wanted) for each in denoisers_of(pipe)]
    chosen = chosen_site([each for opener in denoisers for each in opener.found], site)
    for each in denoisers:
        each.chosen = chosen
        if chosen in each.found:
            each.site_names = {chosen.name.removeprefix(each.prefix)}
    run.denoisers = list(denoisers)
    try:
        with run.followed():
            yield opened
    finally:
        for each in denoisers:
            each.unhook()


def chosen_site(found: Sequence[AttentionSite], site: str | int | None) -> AttentionSite:
    """The site of a name or number; None: the last.

    Raises:
        UserError: there is none.
    """
    if not found:
        raise UserError(
            "expected a denoiser whose picture looks at a text, but it has no site where it does; "
            "take a text-to-image pipeline"
        )
    by_name = {each.name: each for each in found}
    if site is None:
        return found[-1]
    if isinstance(site, str) and site in by_name:
        return by_name[site]
    if isinstance(site, str):
        number = int(site) if re.fullmatch(r"[0-9]{1,9}", site) else -1
    else:
        number = site
    if 0 <= number < len(found):
        return found[number]
    near = nearest(site, by_name) if isinstance(site, str) else ""
    raise UserError(
        f"expected the name or number of a site that reads the text, but came {shown(site)}{near}; "
        f"they are 0 to {len(found) - 1}, from {found[0].name} to {found[-1].name}"
    )


class _Opener(FollowedDenoiser):
    """Follows one denoiser until the step comes."""

    def __init__(
        self,
        run: FollowedRun,
        denoiser: OfPipeline,
        opened: Opened,
        word: str,
        place: Place,
        wanted: frozenset[int],
    ) -> None:
        super().__init__(run, denoiser)
        self.opened, self.word, self.place, self.wanted = opened, word, place, wanted
        self.chosen: AttentionSite | None = None
        self._hooks: list[RemovableHandle] = []
        self.found = [
            replace(site, name=self.prefix + site.name)
            for site, _ in self.registry.modules.values()
            if site.reads_text
        ]

    def acting(self, layout: Layout, call: DenoiserCall) -> Acting | None:
        step = self._called[CONDITIONAL] - 1 + self.steps_elsewhere(CONDITIONAL)
        if CONDITIONAL not in layout.rows or step not in self.wanted or not self.site_names:
            return None
        (name,) = self.site_names
        opening = _Opening(self, layout, call, step)
        module = self.registry.modules[name][1]
        self._hooks.append(module.register_forward_hook(opening.ran, with_kwargs=True))
        return opening

    def unhook(self) -> None:
        """Leaves the site's module as it was; a call that failed has not."""
        while self._hooks:
            self._hooks.pop().remove()


class _Opening:
    """One call of the denoiser; see `denoisers.registry.Acting`."""

    def __init__(self, opener: _Opener, layout: Layout, call: DenoiserCall, step: int) -> None:
        self.opener, self.layout, self.call, self.step = opener, layout, call, step
        self._seen: Seen | None = None
        self._given: tuple[Any, Any] = (None, None)
        self._out: Any = None
        self._times = 0

    def ran(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """What the layer was called with, and gave."""
        self._times += 1
        if self._times > 1 or self.call.row_by_row:  # of which row is not known
            self._given, self._out = (None, None), None
            return
        every = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)) | kwargs
        self._given = every.get("hidden_states"), every.get("encoder_hidden_states")
        self._out = out[0] if isinstance(out, tuple) else out

    def wants(self, site: AttentionSite) -> bool:
        return site.name in self.opener.site_names

    def changes(self, seen: Seen) -> Sequence[tuple[Rows, Change]]:
        return ()

    def missed(self, site: AttentionSite, module: nn.Module) -> None:
        kind = type(getattr(module, "processor", module)).__name__
        raise UserError(
            f"expected a site whose kernel can be read, but {kind} at {site.name} calls none that "
            "is seen; choose another site, or put a processor there that does"
        )

    def take(self, seen: Seen) -> None:
        if seen.stream == TEXT and self._seen is None:
            self._seen = seen

    def end(self) -> None:
        self.opener.unhook()
        seen, layout = self._seen, self.layout
        row = layout.rows[CONDITIONAL][0]
        problem = "it has no text of its own" if seen is None else seen.problem_of((row,))
        if seen is None or problem is not None or seen.size is None:
            name = next(iter(self.opener.site_names))
            raise UserError(
                f"expected a site that can be read, but {name}: {problem}; take another"
            )
        with without_gradients():
            self.opener.opened.every.append(self._laid_open(seen, row, seen.size))

    def _laid_open(self, seen: Seen, row: int, size: tuple[int, int]) -> LaidOpen:
        opener, kernel, portion = self.opener, seen.kernel, seen.reading.portion
        assert opener.chosen is not None
        text = self.layout.texts[CONDITIONAL][0]
        columns = find_phrase(opener.run.words_of(self.layout, CONDITIONAL)[0], opener.word)
        down, right = (
            min(int(part * length), length - 1)
            for part, length in zip(opener.place, size, strict=True)
        )
        at = down * size[1] + right  # of a film, in its first frame
        queries = range(kernel.query.shape[2]) if portion is None else of_row(portion.queries, row)
        keys = range(kernel.key.shape[2]) if portion is None else of_row(portion.keys, row)
        place = queries[at]
        # On the CPU, since some accelerators have no fp64.
        q, k, v, own = (
            each[row : row + 1].detach().cpu().double()
            for each in (kernel.query, kernel.key, kernel.value, kernel.output)
        )
        q, own = q[:, :, place : place + 1], own[:, :, place : place + 1]
        mask = kernel.mask_of([row])
        if mask is not None:
            mask = mask[..., place : place + 1, :] if mask.shape[-2] > 1 else mask
            mask = mask.cpu()
        steps = attend(q, k, v, mask, kernel.scale)
        largest = float(own.abs().max().clamp_min(1e-30))
        shares = seen.probs((row,))[0, :, :, list(columns)].sum(dim=-1).mean(dim=0)
        picture, words = self._given
        return LaidOpen(
            word=opener.word,
            columns=columns,
            tokens=() if text is None else tuple(_named(text, each) for each in range(len(keys))),
            site=opener.chosen,
            step=self.step,
            timestep=float(torch.as_tensor(self.call.timestep).flatten()[0]),
            place=(down, right),
            size=size,
            scale=kernel.scale,
            steps=steps,
            keys=keys,
            picture=_at(picture, row, place, at, kernel.query.shape[2]),
            text=_row_of(words, row, len(keys)),
            out=_at(self._out, row, place, at, kernel.query.shape[2]),
            map=shares.reshape(size).float().cpu().numpy(),
            difference=float((steps.taken - own).abs().max()) / largest,
        )


def _named(text: Text, column: int) -> str:
    """What stands in a column of a text."""
    if column < len(text.tokens):
        return text.tokens[column]
    return "padding" if column in (text.padding or ()) else f"column {column}"


def _at(states: Any, row: int, query: int, place: int, queries: int) -> Tensor | None:
    """A place's channels, in states of all queries of the kernel or of the picture alone."""
    if not isinstance(states, Tensor) or row >= len(states):
        return None
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    if states.ndim != 3:
        return None
    index = query if states.shape[1] == queries else place
    return states[row, index].detach().clone() if index < states.shape[1] else None


def _row_of(states: Any, row: int, tokens: int) -> Tensor | None:
    """A row's text, if it has as many tokens as the keys."""
    sound = isinstance(states, Tensor) and states.ndim == 3 and states.shape[1] == tokens
    return states[row].detach().clone() if sound and row < len(states) else None
