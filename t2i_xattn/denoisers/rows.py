"""Which rows of a denoiser's call are whose: known by the text that each row is given.

The rows of the text are held against the texts that were encoded, by value. Where that leaves
something open (the same text for two branches, a text that nobody has heard being encoded), the
order in which diffusers' pipelines stack their branches decides, as far as it agrees with what is
known. Where both fail, one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i_xattn.denoisers.branches import CONDITIONAL, ROLES, UNCONDITIONAL
from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.joining import together
from t2i_xattn.prompts.texts import same


@dataclass(frozen=True, eq=False)
class Layout:
    """Whose the rows of a call are.

    Attributes:
        rows: by branch, the rows of its pictures in their order, a picture's frames together.
        images: pictures in the call.
        frames: of a picture; 1 for stills.
        texts: by branch, the text of each picture; None where it is not known.
    """

    rows: dict[str, tuple[int, ...]]
    images: int
    frames: int
    texts: dict[str, tuple[Text | None, ...]]


def layout_of(
    call: DenoiserCall,
    texts: Sequence[Text],
    names: tuple[str, ...] | None,
    put_together: Callable[[Tensor], Text | None] = lambda row: None,
) -> Layout:
    """The layout of a call.

    Args:
        call: of the denoiser, whose rows are pictures × branches.
        texts: that were encoded for this run.
        names: the branches in the order in which the pipeline is known to stack them; None for a
            loop by hand.
        put_together: gives the text of a row that is none of these, if it is known otherwise.

    Raises:
        UserError: if it cannot be known.
    """
    each, frames = call.text, call.row_frames
    if len(each) != call.rows:
        raise UserError(
            f"expected a text for each of {call.rows} rows of the denoiser's batch, but came "
            f"{len(each)}; give the denoiser as many texts as latents"
        )
    candidates = [[known for known in texts if _is(row, known)] for row in each]
    for row, found in zip(each, candidates, strict=True):
        # Nobody knows its words, which its encoders may have been given by hand.
        if all(known.ids is None for known in found) and (made := put_together(row)) is not None:
            found.append(made)
    if names is None and not any(known.role for found in candidates for known in found):
        branches = _by_hand(call.sample, candidates, texts)
    else:
        branches = _by_role(candidates, texts, names)
    images = len(next(iter(branches.values())))
    return Layout(
        rows={
            branch: tuple(row * frames + frame for row in rows for frame in range(frames))
            for branch, rows in branches.items()
        },
        images=images,
        frames=call.frames,
        texts={
            branch: tuple(
                _whole(call, row, _of_picture(candidates[row], branch, number), texts)
                if call.connected is None
                else _connected(call, [text for text in texts if text.role], branch, number)
                for number, row in enumerate(rows)
            )
            for branch, rows in branches.items()
        },
    )


def _is(row: Tensor, known: Text) -> bool:
    """Whether a row is given this text, alone or beside another encoder's (SDXL)."""
    embedding = known.embedding
    if len(row) != len(embedding) or row.shape[-1] < embedding.shape[-1]:
        return False
    if row.shape[-1] == embedding.shape[-1]:
        return same(embedding, row)
    if known.role is not None:
        return False
    width = embedding.shape[-1]
    return same(embedding, row[:, :width]) or same(embedding, row[:, -width:])


def _of_picture(found: Sequence[Text], branch: str, number: int) -> Text | None:
    """The text of a picture among those that its row may be given."""
    told = [known for known in found if known.role == ROLES[branch]]
    heard = [known for known in found if known.role is None]
    # Embeddings that the user had made are known by what their encoder was given.
    fitting = [known for known in told if known.ids is not None] or heard or told
    return next(
        (known for known in fitting if known.picture == number), fitting[0] if fitting else None
    )


def _whole(call: DenoiserCall, row: int, main: Text | None, texts: Sequence[Text]) -> Text | None:
    """The text of a row that is given several, with the columns where they stand."""
    if main is None or call.parts is None:
        return main
    parts = []
    for part in call.parts():
        fitting = [known for known in texts if known.role == main.role]
        found = next((known for known in fitting if _is(part.states[row], known)), None)
        if found is not None:
            parts.append((found, part.columns[row]))
    return together(parts, call.tokens)


def _connected(call: DenoiserCall, texts: Sequence[Text], branch: str, number: int) -> Text | None:
    """The text of a picture that went through connectors: the one that was encoded for it."""
    assert call.connected is not None
    own = [text for text in texts if text.role == ROLES[branch]]
    found = _of_picture(own, branch, number)
    if found is None or len(found.embedding) != call.tokens:
        return None
    return together([(found, call.connected(found))], call.tokens)


def _by_role(
    candidates: Sequence[Sequence[Text]], texts: Sequence[Text], names: tuple[str, ...] | None
) -> dict[str, tuple[int, ...]]:
    """The rows of each branch, where the pipeline has said which text is for what."""
    batch = len(candidates)
    pictures = {known.picture for known in texts if known.role == CONDITIONAL}
    images = len(pictures) or None
    roles = [_roles(found) for found in candidates]
    if images is not None and all(len(found) == 1 and None not in found for found in roles):
        by_role: dict[str, list[int]] = {}
        for row, found in enumerate(roles):
            (role,) = found
            by_role.setdefault(str(role), []).append(row)
        # A guider says what the text alone cannot: the prompt, but perturbed.
        if names is not None and len(names) == 1 and list(by_role) == [ROLES[names[0]]]:
            by_role = {names[0]: by_role[ROLES[names[0]]]}
        counts = {len(rows) for rows in by_role.values()}
        # Some pipelines encode each prompt once, and repeat what came for each of its pictures; but
        # what is known to have further branches may as well have stacked these.
        all_there = names is None or len(by_role) == len(names)
        if counts == {images} or (all_there and len(counts) == 1 and counts.pop() % images == 0):
            return {branch: tuple(rows) for branch, rows in by_role.items()}
    if names is None:
        names = (UNCONDITIONAL, CONDITIONAL)
    size = batch // len(names)
    fits = batch % len(names) == 0 and images in (None, size)
    for row, found in enumerate(roles):
        wanted = ROLES[names[min(row // max(1, size), len(names) - 1)]]
        fits = fits and (not found or bool({wanted, None} & found))
    if not fits:
        came = ", ".join(_told(found) for found in roles)
        wanted = "" if images is None else f" of {images} picture{'s' * (images > 1)}"
        raise UserError(
            f"expected the rows of the denoiser's batch to be the branches {', '.join(names)}"
            f"{wanted}, but came {batch} with the texts {came}; this pipeline stacks its batch in "
            "a way that is not known: run it without its other branches, or pass prompts that its "
            "encode_prompt has encoded"
        )
    return {
        branch: tuple(range(number * size, (number + 1) * size))
        for number, branch in enumerate(names)
    }


def _by_hand(
    sample: Tensor | Sequence[Tensor], candidates: Sequence[Sequence[Text]], texts: Sequence[Text]
) -> dict[str, tuple[int, ...]]:
    """The rows of each branch in a loop by hand, whose texts were heard at the encoder alone.

    Two halves with the same latents are two branches of the same pictures; the one without words is
    the unconditional one, and where both have words, the first.
    """
    batch = len(sample)
    half, every = batch // 2, tuple(range(batch))
    empty = [bool(found) and found[0].is_empty for found in candidates]
    heard = any(not text.is_empty for text in texts)
    if batch % 2 == 0 and all(map(torch.equal, sample[:half], sample[half:])):
        first, second = every[:half], every[half:]
        if all(empty[half:]) and not any(empty[:half]):
            return {CONDITIONAL: first, UNCONDITIONAL: second}
        if not any(empty[half:]) and (all(empty[:half]) or all(candidates)):
            return {UNCONDITIONAL: first, CONDITIONAL: second}
    elif all(empty) and heard:
        return {UNCONDITIONAL: every}
    elif all(candidates) or not heard:
        return {CONDITIONAL: every}
    if all(empty):  # nobody says anything
        return {CONDITIONAL: every}
    known = sum(bool(found) for found in candidates)
    raise UserError(
        f"expected rows of texts that were encoded inside the context, to tell the branches of the "
        f"denoiser's batch by, but {known} of {batch} rows are known; encode the prompts inside "
        "the `with` block and hand them to the denoiser as they come"
    )


def _roles(found: Sequence[Text]) -> set[str | None]:
    """What a row's text is for, as far as somebody has said."""
    roles = {known.role for known in found}
    return roles - {None} or roles


def _told(roles: set[str | None]) -> str:
    return " or ".join(sorted(str(role) for role in roles)) if roles else "unknown"
