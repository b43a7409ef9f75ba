"""What an edit is: a pure function `(probs, context) -> probs`, and where and when it acts."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from t2i_xattn.arguments import check_fields
from t2i_xattn.denoisers.branches import BRANCHES, CONDITIONAL
from t2i_xattn.denoisers.seen import Attend
from t2i_xattn.denoisers.sites import AttentionSite, Kind, Sites
from t2i_xattn.denoisers.steps import Window, checked_window, whole_steps
from t2i_xattn.denoisers.streams import SELF, TEXT
from t2i_xattn.errors import UserError, WordNotFoundError, nearest, shown
from t2i_xattn.prompts.words import Word, find_phrase


@dataclass(frozen=True, eq=False)
class EditContext:
    """Where and when an edit acts.

    Attributes:
        site: the attention site.
        height, width: of the picture's states at the site; queries are in reading order.
        latent_size: height and width of the latent.
        branch: of the guidance, see `t2i_xattn.denoisers.branches`.
        step: index in the run; a step is a call of the denoiser.
        steps: how many the run has; None if the pipeline does not say.
        timestep: the noise level, as handed to the denoiser.
        words: for each image of the batch, the words of its text in the branch (in the
            unconditional one, of the negative prompt) with their columns. Each frame of a video
            counts as an image here.
        token_ids: for each image, the tokens of that text from the start token to the end token,
            without padding; None where it was given as embeddings.
        padding: for each image, the columns of that text that fill its sequence up.
        tokens: length of the text sequence; in self-attention, height · width.
        images: the images of the batch that the edit may change.
        device: where the probs are.
        copies: images that stand for one prompt: pictures a prompt, times frames.
        stream: whose keys the probs are about: `"text"`, `"self"`, or `"picture n"` for the tokens
            of the n-th IP-Adapter's pictures, which no word names.
        streams: whose keys kernel calls of the run may be about, those of other sites too for a
            ControlNet, whatever the scales of IP-Adapters.
    """

    site: AttentionSite
    height: int
    width: int
    latent_size: tuple[int, int]
    branch: str
    step: int
    steps: int | None
    timestep: Tensor | float
    words: tuple[tuple[Word, ...], ...]
    token_ids: tuple[tuple[int, ...] | None, ...]
    tokens: int
    images: tuple[int, ...]
    device: torch.device
    copies: int = 1
    padding: tuple[tuple[int, ...] | None, ...] = ()
    stream: str = TEXT
    streams: tuple[str, ...] = (TEXT,)

    def columns(self, phrase: str, image: int) -> tuple[int, ...]:
        """The columns of a word or phrase in the prompt of an image.

        Raises:
            UserError: if it is not there.
        """
        try:
            return find_phrase(self.words[image], phrase)
        except WordNotFoundError as error:
            if len(self.words) == 1:
                raise
            raise WordNotFoundError(
                f"{error} (in image {image} of the batch; images=[…] restricts an edit to some)"
            ) from error

    def span(self, phrase: str) -> Tensor:
        """fp32 `(images, 1, 1, tokens)`: 1 at the columns of a word or phrase, 0 elsewhere.

        All 0 for the images that the edit does not change.

        Raises:
            UserError: if one of the others does not have it.
        """
        span = torch.zeros(len(self.words), 1, 1, self.tokens)
        for image in self.images:
            span[image, ..., list(self.columns(phrase, image))] = 1
        return span.to(self.device)

    def of_prompt(self, prompt: int) -> list[int]:
        """For each image, the one of another prompt that was made like it: the same picture number
        and frame."""
        return [prompt * self.copies + each % self.copies for each in range(len(self.words))]


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit:
    """An edit of the probs at some sites, in some steps, of some branches and images.

    To write one, subclass it and give `apply`, or hand a function to `EditFunction`. It acts in
    fp32, and must not change its tensors in place. What it makes of a query's shares is used as it
    is: nothing makes them sum to 1 again.

    Attributes:
        sites: which sites, of the edit's kind: names, or a function of the `AttentionSite` that
            says yes or no. By default all.
        steps: the window of steps, first and end: an `int` is a number of steps, a `float` a
            fraction of the run; see `t2i_xattn.denoisers.steps`. By default all.
        branches: of the guidance; `"conditional"` by default, or several.
        images: the images of the batch that are changed; by default all. All are seen.
        words: the words whose columns are changed; by default all. Nothing is renormalised after.
        rest: in joint attention, what becomes of the keys that are not the text's (the picture's
            own, mostly): `"shared"`: they make room for what the text gets and get what it loses,
            as in one softmax over all keys; `"kept"`: they keep their shares. By default `"shared"`
            for edits that renormalise (as if scores were masked), and `"kept"` for others.
    """

    per_head: ClassVar[bool] = False
    """Whether it does the same to each head by itself, so that it may be given a few at a time."""

    any_branch: ClassVar[bool] = False
    """Whether a run that lacks some of `branches` is edited in the others."""

    sites: Sites | None = None
    steps: Window | None = None
    branches: str | Sequence[str] = CONDITIONAL
    images: Sequence[int] | None = None
    words: Sequence[str] | None = None
    rest: Literal["shared", "kept"] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.of_branches:
            raise UserError(
                f"expected branches=[…] with at least one entry, but came {shown(self.branches)}; "
                f"name some of {', '.join(BRANCHES)}, or leave it out"
            )
        for branch in self.of_branches:
            if branch not in BRANCHES:
                raise UserError(
                    f"expected a branch of {', '.join(BRANCHES)}, but came {shown(branch)}"
                    f"{nearest(branch, BRANCHES)}"
                )
        if self.steps is not None:
            checked_window(self.steps, self.name)
        for name, chosen in (("images", self.images), ("words", self.words)):
            listed = isinstance(chosen, Collection) and not isinstance(chosen, str)
            if chosen is not None and not (listed and len(chosen)):
                raise UserError(
                    f"expected {name}=[…] with at least one entry, but came {shown(chosen)}"
                )
        if self.words is not None and self.kind == "self":
            raise UserError(
                "expected no words=… for an edit of self-attention, which looks at no text, but "
                f"came {list(self.words)!r}"
            )

    @property
    def kind(self) -> Kind:
        """The sites it is for: `"cross"`: where the picture looks at the text, in joint attention
        too; or `"self"`."""
        return "cross"

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams whose probs it is given, see `EditContext.stream`."""
        return SELF, TEXT

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    @property
    def renormalises(self) -> bool:
        """Whether what it takes from some tokens goes to the others."""
        return False

    @property
    def scales_the_rest(self) -> bool:
        """See `rest`."""
        return self.renormalises if self.rest is None else self.rest == "shared"

    def renormalised(self, changed: Tensor, probs: Tensor, context: EditContext) -> Tensor:
        """Changed shares, brought to a sum of 1 over all keys again; a query that has none left
        keeps zeros.

        In joint attention the keys that are not the text's count too, or, where they are kept, the
        text's shares are brought to the sum that they had.
        """
        if context.site.kind != "joint":
            return renormalised(changed)
        before, total = probs.sum(dim=-1, keepdim=True), changed.sum(dim=-1, keepdim=True)
        if self.scales_the_rest:
            return changed / (total + (1 - before).clamp_min(0)).clamp_min(TINY)
        return torch.where(total > 0, changed * (before / total.clamp_min(TINY)), changed)

    @property
    def of_branches(self) -> tuple[str, ...]:
        """`branches`, as a tuple."""
        return (self.branches,) if isinstance(self.branches, str) else tuple(self.branches)

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts beside the prompt that it looks at. Each run encodes them as its prompts."""
        return ()

    def __call__(self, probs: Tensor, context: EditContext) -> Tensor:
        """fp32 `(images, heads, queries, tokens)` to the same, of one branch."""
        return self.apply(probs, self.prepare(context), context)

    def prepare(self, context: EditContext) -> Any:
        """What stays the same over a run at a site and branch, made before the first step, and
        anew where the prompt changes on the way.

        Raises:
            UserError: if the edit does not fit the run.
        """
        return None

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        """The edit itself, with what `prepare` gave.

        It is never compiled, so it may read what it likes off the context.
        """
        raise NotImplementedError

    def mix(self, taken: Tensor, attend: Attend, prepared: Any, context: EditContext) -> Tensor:
        """Mixes in what other texts give; asked only of an edit with `texts`, after all `apply`.

        Args:
            taken: what the places take with the prompt and its edited probs, fp32 `(images, heads,
                queries, d)`: P′ V, and in joint attention what they take from the picture too.
            attend: gives the same for one of its `texts` in the prompt's place.
            prepared: what `prepare` gave.

        Returns:
            The shape of `taken`.
        """
        return taken

    def acts_at(self, context: EditContext) -> bool:
        """Whether it acts at a site of this size."""
        return True

    def images_of(self, count: int, copies: int = 1) -> tuple[int, ...]:
        """The images of a batch of so many that are changed.

        Args:
            count: pictures in the batch.
            copies: pictures of each prompt.

        Raises:
            UserError: if one of them is not in the batch.
        """
        if self.images is None:
            return tuple(range(count))
        for image in self.images:
            if not isinstance(image, Integral) or not 0 <= image < count:
                raise UserError(
                    f"expected images from 0 to {count - 1} for {self.name}, but came {image!r}; "
                    f"this run has {count} in its batch"
                )
        return tuple(self.images)

    def window(self, steps: int | None) -> tuple[int, float]:
        """First step and end in a run of so many; without an end, infinity.

        Raises:
            UserError: if the window holds none of them, or the steps are not known and a fraction
                was asked for.
        """
        if self.steps is None:
            return 0, math.inf
        return whole_steps(self.steps, steps, self.name)


TINY = torch.finfo(torch.float32).tiny
"""The least share that is divided by."""


def renormalised(probs: Tensor) -> Tensor:
    """Shares that sum to 1 over the tokens again; a query that has none left keeps zeros."""
    total = probs.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, probs / torch.where(total > 0, total, 1), probs)


def checked_number(edit: Edit, name: str, value: float) -> None:
    """Raises `UserError` unless the value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"expected a finite number as {name} of {edit.name}, but came {value!r}")
