"""Which edit acts at which site, in which call of a denoiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.seen import Change, Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import SELF, TEXT
from t2i_xattn.editing.acting import ActingEdit
from t2i_xattn.editing.block_texts import BlockTextsCall
from t2i_xattn.edits.edit import Edit, EditContext
from t2i_xattn.errors import UserError, WordNotFoundError
from t2i_xattn.kernel.attention import attend
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.words import Word

Placed = tuple[Edit, frozenset[str]]
"""An edit and the names of its sites."""


class EditedRun:
    """What stays the same over one run of an edited denoiser.

    Attributes:
        placed: the edits in their order, with their sites.
        layout: of the first call.
        latent_size: height and width of the latent.
        words, prompts: by branch, the words of each image's text, and that text, as they are now.
        steps: of the run, if they are known.
        copies: pictures a prompt.
        texts: the edits' own texts, by what they say, as they were encoded.
        streams: by site, see `EditContext.streams`.
    """

    def __init__(
        self,
        placed: Sequence[Placed],
        layout: Layout,
        latent_size: tuple[int, int],
        steps: int | None,
        copies: int,
        texts: Mapping[str, Text],
        streams: Mapping[str, tuple[str, ...]],
    ) -> None:
        """
        Raises:
            UserError: if a window holds none of the steps, or an edit names images that are not
                there.
        """
        self.placed, self.layout, self.latent_size = placed, layout, latent_size
        self.words: dict[str, tuple[tuple[Word, ...], ...]] = {}
        self.prompts: dict[str, tuple[Text | None, ...]] = {}
        self.steps, self.copies, self.texts, self.streams = steps, copies, texts, streams
        self.windows = [each.window(steps) for each, _ in placed]
        self.images = [each.images_of(layout.images, self._copies()) for each, _ in placed]
        self._step: dict[str, int] = {}
        self._prepared: dict[tuple[str, str, int, str], ActingEdit | None] = {}
        self._checked: dict[str, set[int]] = {}
        self._changed: dict[str, int | None] = {}

    def take_up(
        self,
        branch: str,
        words: tuple[tuple[Word, ...], ...],
        prompts: tuple[Text | None, ...],
    ) -> None:
        """Notes the texts of a branch's images, and their words. Where they are others than in the
        call before, as in a schedule, all edits of the branch are made ready anew."""
        before = self.prompts.get(branch)
        if before is not None:
            if _read_alike(before, prompts) and words == self.words[branch]:
                return
            self._changed[branch] = None  # `check` knows the step
            for key in [key for key in self._prepared if key[0] == branch]:
                del self._prepared[key]
        self.words[branch], self.prompts[branch] = words, prompts
        self._checked[branch] = set()

    def begin_call(
        self,
        layout: Layout,
        latent_size: tuple[int, int],
        timestep: Any,
        prefix: str,
        gone: Mapping[str, int],
    ) -> EditingCall:
        """What is edited in a call; `gone` are the steps that other denoisers have taken.

        Raises:
            UserError: if this call has another shape than the first.
        """
        first, came = (
            (each.images, each.frames, size)
            for each, size in ((self.layout, self.latent_size), (layout, latent_size))
        )
        if first != came:
            raise UserError(
                "expected every call of a run to be like the first, (pictures, frames, latent) "
                f"{first}, but came {came}; edit each run on its own"
            )
        acting: dict[str, list[int]] = {}
        steps = {}
        for branch in layout.rows:
            own = self._step.get(branch, 0)
            self._step[branch] = own + 1
            steps[branch] = step = own + gone[branch]
            acting[branch] = [
                number
                for number, (each, _) in enumerate(self.placed)
                if branch in each.of_branches
                and self.windows[number][0] <= step < self.windows[number][1]
            ]
        return EditingCall(self, layout, acting, steps, timestep, prefix)

    def prepared(
        self, branch: str, rows: Rows, number: int, seen: Seen, name: str
    ) -> ActingEdit | None:
        """An edit of a branch's rows at a site, made ready at the first call that comes there with
        these texts; None if it does not act at a site of this size.

        Raises:
            UserError: if it does not fit the run.
        """
        key = (branch, name, number, seen.stream)
        if key not in self._prepared:
            tokens = seen.tokens(rows)
            self._prepared[key] = self._prepare(branch, tokens, number, seen, name)
        return self._prepared[key]

    def _copies(self) -> int:
        return self.copies if self.layout.images % self.copies == 0 else 1

    def check(
        self,
        branch: str,
        step: int,
        acting: Collection[int],
        sites: Sequence[AttentionSite],
        tokens: int,
        device: torch.device,
    ) -> None:
        """Looks, before anything is computed, whether the edits can act on a branch's texts.

        Their sites' sizes are not seen yet, so each is prepared for that of the latent. Those of
        later steps are looked at too, once; but not where the texts change on the way, which need
        not have the words yet.

        Args:
            branch: of the guidance.
            step: of the run.
            acting: the numbers of the edits that act in it.
            sites: of the denoiser.
            tokens: columns of the text.
            device: where the probs are.

        Raises:
            UserError: if one cannot.
        """
        changing = any(text is not None and text.phases for text in self.prompts[branch])
        checked = self._checked[branch]
        if branch in self._changed and self._changed[branch] is None:
            self._changed[branch] = step
        for number, (edit, names) in enumerate(self.placed):
            later = number not in acting
            if number in checked or (later and (changing or branch in self._changed)):
                continue
            own = [site for site in sites if site.name in names]
            if own and branch in edit.of_branches:
                height, width = self.latent_size
                cross = edit.kind == "cross"
                keys, stream = (tokens, TEXT) if cross else (height * width, SELF)
                size = self.latent_size
                context = self._context(branch, number, own[0], size, keys, stream, device)
                try:
                    edit.prepare(context)
                    _only(edit, context)
                except WordNotFoundError as error:
                    if branch not in self._changed:
                        raise
                    since = self._changed[branch]
                    if None in self.prompts[branch]:
                        raise UserError(
                            f"expected embeddings whose words are known for {edit.name}, but "
                            f"came others from step {since} on; make them with condition(pipe, "
                            "prompt), or name their columns by spans={name: columns}"
                        ) from error
                    raise WordNotFoundError(
                        f"{error} (from step {since} on, where the text of this run changes; "
                        f"{edit.name} of a word before it ends there by steps=(first, {since}))"
                    ) from error
            checked.add(number)

    def _context(
        self,
        branch: str,
        number: int,
        site: AttentionSite,
        size: tuple[int, int],
        tokens: int,
        stream: str,
        device: torch.device,
    ) -> EditContext:
        frames = self.layout.frames
        ids = [None if text is None else text.ids for text in self.prompts[branch]]
        return EditContext(
            site=site,
            height=size[0],
            width=size[1],
            latent_size=self.latent_size,
            branch=branch,
            step=0,
            steps=self.steps,
            timestep=0,
            # Each frame counts as an image.
            words=tuple(words for words in self.words[branch] for _ in range(frames)),
            token_ids=tuple(each for each in ids for _ in range(frames)),
            tokens=tokens,
            images=tuple(
                image * frames + frame for image in self.images[number] for frame in range(frames)
            ),
            device=device,
            copies=self._copies() * frames,
            stream=stream,
            streams=self.streams.get(site.name, (stream,)),
            padding=tuple(
                None
                if text is None or text.padding is None
                else tuple(column for column in text.padding if column < tokens)
                for text in self.prompts[branch]
                for _ in range(frames)
            ),
        )

    def _prepare(
        self, branch: str, tokens: int, number: int, seen: Seen, name: str
    ) -> ActingEdit | None:
        edit = self.placed[number][0]
        assert seen.size is not None
        site = dataclasses.replace(seen.site, name=name)
        device = seen.kernel.query.device
        context = self._context(branch, number, site, seen.size, tokens, seen.stream, device)
        if not edit.acts_at(context):
            return None
        return ActingEdit(
            edit=edit,
            prepared=edit.prepare(context),
            context=context,
            only=_only(edit, context),
            finite=torch.ones((), dtype=torch.bool, device=context.device),
        )


class EditingCall:
    """One call of an edited denoiser; see `denoisers.registry.Acting`.

    Attributes:
        sites_of_texts: by each text that an edit looks at in this call, the names of the sites
            where it does, without the prefix.
        block_texts: what gives these texts where attention is joint; None where it is not.
    """

    block_texts: BlockTextsCall | None = None

    def __init__(
        self,
        run: EditedRun,
        layout: Layout,
        acting: Mapping[str, Sequence[int]],
        steps: Mapping[str, int],
        timestep: Any,
        prefix: str,
    ) -> None:
        self.run, self.layout, self.acting = run, layout, acting
        self.steps, self.timestep, self.prefix = steps, timestep, prefix
        numbers = {number for each in acting.values() for number in each}
        self._names = {name for number in numbers for name in run.placed[number][1]}
        self._acted: list[ActingEdit] = []
        self.sites_of_texts: dict[str, set[str]] = {}
        for edit, names in (run.placed[number] for number in numbers):
            own = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
            for text in edit.texts if own else ():
                self.sites_of_texts.setdefault(text, set()).update(own)

    def wants(self, site: AttentionSite) -> bool:
        return self.prefix + site.name in self._names

    def changes(self, seen: Seen) -> Sequence[tuple[Rows, Change]]:
        name = self.prefix + seen.site.name
        if name not in self._names:
            return ()
        found: list[tuple[Rows, Change]] = []
        for branch, numbers in self.acting.items():
            for number in numbers:
                edit, names = self.run.placed[number]
                if name not in names or seen.stream not in edit.streams:
                    continue
                rows = self.layout.rows[branch]
                problem = seen.problem_of(rows)
                if problem is not None:
                    self._cannot(seen.site, problem)
                ready = self.run.prepared(branch, rows, number, seen, name)
                if ready is not None:
                    context = dataclasses.replace(
                        ready.context, step=self.steps[branch], timestep=self.timestep
                    )
                    attend = partial(self._attend, seen, rows) if ready.mixes else None
                    acting = ready._replace(context=context, attend=attend)
                    self._acted.append(acting)
                    found.append((rows, acting))
        return found

    def _attend(self, seen: Seen, rows: Rows, text: str) -> Tensor:
        """See `denoisers.seen.Attend`."""
        if self.block_texts is not None:
            return self.block_texts.taken(seen, rows, text)
        query, _ = seen.own_queries_and_keys(rows)
        states = self.run.texts[text].embedding.to(query.device)
        return seen.by_frame(attend(seen.module, query, seen.kernel.scale, states))

    def take(self, seen: Seen) -> None:
        """Nothing is read."""

    def missed(self, site: AttentionSite, module: nn.Module) -> None:
        kind = type(getattr(module, "processor", module)).__name__
        self._cannot(site, f"{kind} does not call a kernel that can be seen")

    def end(self) -> None:
        """Looks whether the edits made finite probs.

        Raises:
            UserError: if one did not, naming the first.
        """
        if self._acted and not torch.stack([each.finite for each in self._acted]).all():
            wrong = next(each for each in self._acted if not each.finite)
            raise UserError(
                f"expected {wrong.edit.name} to return finite probs at {wrong.context.site.name}, "
                "but came NaN or infinity; is there a division by 0 (all shares of a query taken "
                "away), or a logarithm of 0?"
            )

    def _cannot(self, site: AttentionSite, problem: str) -> None:
        name = self.prefix + site.name
        edit = next(each for each, names in self.run.placed if name in names)
        raise UserError(
            f"expected attention of {self.layout.images} pictures at {name} for {edit.name}, but "
            f"{problem}; leave such sites out with sites=… of the edit"
        )


def _read_alike(before: Sequence[Text | None], now: Sequence[Text | None]) -> bool:
    """Whether the images' texts say the same."""
    return len(before) == len(now) and all(
        one is other or (one is not None and one.reads_like(other))
        for one, other in zip(before, now, strict=True)
    )


def _only(edit: Edit, context: EditContext) -> Tensor | None:
    """What an edit may change, see `ActingEdit.only`."""
    only = None
    if len(context.images) < len(context.words):
        only = torch.zeros(len(context.words), 1, 1, 1, dtype=torch.bool, device=context.device)
        only[list(context.images)] = True
    if edit.words is not None:
        # Without a span in the images that it leaves alone, so these are left out as well.
        only = torch.stack([context.span(word) for word in edit.words]).sum(0) > 0
    return only
