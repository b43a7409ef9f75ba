"""Every transformer that is known: real runs of tiny pipelines of the real classes, held against
what an oracle saw in a plain run, and against rules written by hand that say where picture and
text stand (`tests/tiny`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import t2i_xattn as tx
from tiny.all_cases import CASES
from tiny.case import NEGATIVE, PROMPT, Case, Column, Picture, Seen
from tiny.oracle import Oracle, shares

COND, UNCOND = "conditional", "unconditional"
PREFIX = "transformer_2."

MIXED = {
    "Krea2": "its layers' states are fused by blocks over all tokens",
    "HunyuanVideo": "the text is refined by blocks of its own",
    "HunyuanImage": "the text is refined by blocks of its own",
    "Lumina2": "the text is refined by blocks of its own",
    "ZImage": "the text is refined by blocks of its own",
    "Kandinsky": "the text goes through blocks of its own",
    "LTX2": "the text goes through connectors over all tokens",
    "Mochi": "the text's mean modulates its tokens",
}
"""Whose texts are mixed before the picture looks at them, so that a word is in every key."""

IN_PARTS = ("HunyuanDiT", "HiDream")
"""Whose texts are encoded into several tensors."""

SPELLED = {
    "LongCatImagePipeline with the prompt rewritten": ["cir"],
    "GlmImagePipeline, guided, with words in quotes": ["of", "me"],
    "GlmImagePipeline, guided, with a reference": ["of", "me"],
}
"""The words of what was encoded, where that is not the prompt."""

covered: dict[str, str] = {}
"""By case, the class of its denoiser; filled as they run."""


@dataclass(repr=False)
class Ran:
    """A pipeline after a run that the oracle saw and one that was recorded."""

    case: Case
    pipe: Any
    oracle: Oracle
    plain: NDArray[Any]
    recorded: NDArray[Any]
    trace: tx.Trace
    before: Any
    after: Any

    @cached_property
    def columns(self) -> Sequence[Column]:
        """What stands in the columns of the first picture's text."""
        return self.case.columns(self.oracle.heard)

    def site_names(self) -> list[str]:
        names = [site.name for site in self.trace.sites]
        second = self.case.denoiser == "transformer_2"
        return [n.removeprefix(PREFIX) for n in names if n.startswith(PREFIX) == second]

    def recorded_maps(self, site: str, branch: str) -> NDArray[np.float32]:
        """`(pictures, *grid, columns)`."""
        name = PREFIX + site if self.case.denoiser == "transformer_2" else site
        number = self.trace.run.branches.index(branch)
        return self.trace.run.maps["text"][name][:, number, 0, 0]

    def told(self, branch: str, image: int) -> int:
        """Columns up to the text's end, as the trace has it."""
        return len(self.trace.run.tokens[branch][image])


def as_array(output: Any) -> NDArray[Any]:
    first = output[0] if isinstance(output, list) else output
    return np.asarray(first)


def state_of(pipe: Any) -> dict[str, Any]:
    """What recording might leave behind, of the pipeline and all its modules."""
    found: dict[str, Any] = {"pipe": set(vars(pipe))}
    for part, model in pipe.components.items():
        if not isinstance(model, nn.Module):
            continue
        for name, module in model.named_modules():
            own = vars(module)
            hooks = {key: len(each) for key, each in own.items() if key.endswith("_hooks")}
            found[f"{part}.{name}"] = (set(own), hooks, id(own.get("processor")))
    return found


def branches_of(case: Case, oracle: Oracle) -> tuple[str, ...]:
    return (COND, UNCOND) if any(map(of_negatives(case, oracle), oracle.seen)) else (COND,)


def of_negatives(case: Case, oracle: Oracle) -> Callable[[Seen], Sequence[Picture] | None]:
    """The rule of the unconditional branch: in the rows of the batch that are not the prompt's, or
    in the call behind the prompt's, at the same places."""
    if case.negatives is not None:
        return case.negatives
    stacked = any(spare(case, seen) for seen in oracle.seen)
    known = {seen.call for seen in oracle.seen if case.pictures(seen)}

    def pictures(seen: Seen) -> Sequence[Picture] | None:
        if stacked:
            half = seen.rows // 2
            found = case.pictures(seen) if spare(case, seen) else None
            return found and [replace(each, row=(each.row + half) % seen.rows) for each in found]
        behind = seen.call not in known and seen.call - 1 in known
        return case.pictures(replace(seen, call=seen.call - 1)) if behind else None

    return pictures


def spare(case: Case, seen: Seen) -> bool:
    """Whether a kernel call has as many rows again as the prompts have."""
    return seen.rows == 2 * len(case.pictures(seen) or [None] * seen.rows)


def expected_maps(
    oracle: Oracle, rule: Callable[[Seen], Sequence[Picture] | None], grid: tuple[int, ...]
) -> dict[str, list[NDArray[np.float64]]]:
    """By site, for each picture `(*grid, columns)`: the mean over heads and calls."""
    found: dict[str, list[list[Tensor]]] = {}
    for seen in oracle.seen:
        pictures = rule(seen)
        if pictures:
            each = [shares(seen, picture).mean(0) for picture in pictures]
            found.setdefault(seen.site, []).append(each)
    return {
        site: [
            torch.stack(maps).mean(0).unflatten(0, grid).numpy()
            for maps in zip(*calls, strict=True)
        ]
        for site, calls in found.items()
    }


@pytest.fixture(scope="module", params=CASES, ids=str)
def ran(request: pytest.FixtureRequest) -> Ran:
    case: Case = request.param
    pipe = case.make()
    covered[case.name] = type(getattr(pipe, case.denoiser)).__name__
    with Oracle(pipe, case.denoiser) as oracle:
        plain = as_array(case.run(pipe))
    before = state_of(pipe)
    with tx.record(pipe, branches=branches_of(case, oracle)) as trace:
        recorded = as_array(case.run(pipe))
    return Ran(case, pipe, oracle, plain, recorded, trace, before, state_of(pipe))


def test_picture_is_the_same_to_the_byte(ran: Ran) -> None:
    assert ran.recorded.tobytes() == ran.plain.tobytes()


def test_sites_and_maps_are_the_oracles(ran: Ran) -> None:
    expected = expected_maps(ran.oracle, ran.case.pictures, ran.case.grid)
    assert ran.site_names() == list(expected)
    for site, of_pictures in expected.items():
        maps = ran.recorded_maps(site, COND)
        maps = maps.reshape(len(of_pictures), *of_pictures[0].shape[:-1], maps.shape[-1])
        assert not any(ran.columns[maps.shape[-1] :]), "no token may be left out"
        for image, (one, right) in enumerate(zip(maps, of_pictures, strict=True)):
            tokens = [n for n, each in enumerate(ran.columns[: maps.shape[-1]]) if each]
            if image and len(maps) == len(ran.trace.prompts):  # not a frame of the first
                tokens = list(range(ran.told(COND, image)))
            np.testing.assert_allclose(one[..., tokens], right[..., tokens], atol=1e-5, rtol=0)


def test_maps_of_the_negative_prompt_are_the_oracles(ran: Ran) -> None:
    """In each way of guidance: two calls, or one batch."""
    if UNCOND not in ran.trace.run.branches:
        assert not ran.case.negative
        pytest.skip("without guidance")
    expected = expected_maps(ran.oracle, of_negatives(ran.case, ran.oracle), ran.case.grid)
    assert ran.site_names() == list(expected)
    for site, of_pictures in expected.items():
        maps = ran.recorded_maps(site, UNCOND)
        maps = maps.reshape(len(of_pictures), *of_pictures[0].shape[:-1], maps.shape[-1])
        for image, (one, right) in enumerate(zip(maps, of_pictures, strict=True)):
            frames = len(maps) // len(ran.trace.prompts)
            columns = ran.told(UNCOND, image // frames) or min(one.shape[-1], right.shape[-1])
            one, right = one[..., :columns], right[..., :columns]
            np.testing.assert_allclose(one, right, atol=1e-5, rtol=0)


def test_columns_of_every_word_are_its_tokens(ran: Ran) -> None:
    prompts = ran.case.options.get("prompt", PROMPT)
    prompts = [prompts] if isinstance(prompts, str) else prompts
    for image, prompt in enumerate(prompts):
        spelled = [word.text for word in ran.trace.words_of(image)]
        wanted = SPELLED.get(ran.case.name, re.findall(r"\w+", prompt))
        assert spelled[: len(wanted)] == wanted
    for word in ran.trace.words:
        standing: dict[str, list[int]] = {}
        for column in word.columns:
            found = ran.columns[column]
            assert found is not None, f"no token in column {column} of {word.text!r}"
            standing.setdefault(found[0], []).append(found[1])
        assert standing, f"{word.text!r} has no columns"
        for tokenizer, ids in standing.items():
            text = getattr(ran.pipe, tokenizer).decode(ids).strip().lower()
            assert re.fullmatch(rf"({re.escape(word.text.lower())} ?)+", text)


def test_words_of_the_negative_prompt_are_its_own(ran: Ran) -> None:
    given = NEGATIVE if ran.case.negative else ran.case.options.get("negative_prompt")
    if UNCOND not in ran.trace.run.branches or given is None:
        pytest.skip("without a negative prompt")
    chosen = ran.trace.select(branch=UNCOND)
    for image, prompt in enumerate([given] if isinstance(given, str) else given):
        spelled = [word.text for word in chosen.words_of(image)]
        assert spelled == re.findall(r"\w+", prompt)


def test_all_is_as_it_was_found(ran: Ran) -> None:
    assert ran.after == ran.before
    for part in ran.pipe.components.values():
        for module in part.modules() if isinstance(part, nn.Module) else ():
            assert not {"forward", "_t2i_xattn_covers"} & set(vars(module))
    assert not {"encode_prompt", "_t2i_xattn_covers"} & set(vars(ran.pipe))


def test_another_embedding_of_a_word_changes_the_keys_of_its_columns_alone(ran: Ran) -> None:
    case = ran.case
    reason = next((MIXED[name] for name in MIXED if case.name.startswith(name)), None)
    if reason is not None or case.name.startswith(IN_PARTS):
        pytest.skip(reason or "its texts are encoded into several tensors")
    word = max(ran.trace.words, key=lambda word: len(word.columns))
    first = next(seen for seen in ran.oracle.seen if case.pictures(seen))
    (picture, *_) = case.pictures(first) or ()
    lengths = {len(picture.keys), ran.told(COND, 0)}
    encode = ran.pipe.encode_prompt
    ran.pipe.encode_prompt = lambda *args, **given: other(
        encode(*args, **given), word.columns, lengths
    )
    try:
        with pytest.raises(Stopped), UpToTheFirst(ran.pipe, case) as oracle:
            case.run(ran.pipe)
    finally:
        del ran.pipe.encode_prompt
    keys = [each.key[picture.row] for each in (first, oracle.seen[-1])]
    changed = (keys[0] != keys[1]).any(dim=-1).any(dim=0).nonzero()[:, 0].tolist()
    assert changed == [picture.keys[column] for column in sorted(word.columns)]


def test_rows_that_are_attended_to_one_by_one_cannot_be_edited() -> None:
    case = next(case for case in CASES if case.name.startswith("Mochi"))
    pipe = case.make()
    with (
        pytest.raises(tx.UserError, match="MochiTransformer3DModel attends to each by itself"),
        tx.edit(pipe, tx.edits.Reweight("red", 2.0)),
    ):
        case.run(pipe)


class Stopped(Exception):
    """The first site that reads the prompt has been reached."""


class UpToTheFirst(Oracle):
    """Sees a run up to the first kernel call that is of the prompt's pictures."""

    def __init__(self, pipe: Any, case: Case) -> None:
        super().__init__(pipe, case.denoiser)
        self.case = case

    def _note(self, *args: Any, **given: Any) -> None:
        super()._note(*args, **given)
        if self.case.pictures(self.seen[-1]):
            raise Stopped


def other(encoded: Any, columns: Sequence[int], lengths: set[int]) -> Any:
    """What a pipeline encoded, with other values in some columns of its texts."""
    if isinstance(encoded, tuple | list):
        return type(encoded)(other(each, columns, lengths) for each in encoded)
    is_text = isinstance(encoded, Tensor) and encoded.is_floating_point() and encoded.ndim > 1
    if not is_text or encoded.shape[-2] not in lengths:
        return encoded
    changed = encoded.clone()
    changed[..., list(columns), :] += torch.linspace(-1, 1, encoded.shape[-1]).to(encoded)
    return changed


def test_at_least_thirty_classes_are_covered() -> None:
    if len(covered) < len(CASES):
        pytest.skip("not all cases were run")
    assert len(set(covered.values())) >= 30
    print(len(set(covered.values())), "classes:", *sorted(set(covered.values())))
