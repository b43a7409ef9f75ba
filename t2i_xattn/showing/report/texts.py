"""A branch of a run as a page holds it: the text, its words, and their maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from t2i_xattn.aggregation import mean_over_sites
from t2i_xattn.denoisers.branches import CONDITIONAL, UNCONDITIONAL
from t2i_xattn.denoisers.streams import CONCEPTS, WALKED
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.function_words import is_function_word
from t2i_xattn.prompts.words import Word, find_phrase, symbol_places
from t2i_xattn.showing.report.cells import cells_of
from t2i_xattn.showing.report.collapsed import over_steps
from t2i_xattn.showing.report.effects import Effects, method
from t2i_xattn.showing.report.quantised import resized, size_within
from t2i_xattn.traces.contributed import contribution_stream
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.recorded_run import RecordedRun
from t2i_xattn.traces.trace import Trace
from t2i_xattn.traces.word_reports import word_reports

FLAT = 1.5
"""How many times its lowest place a map's highest must be, not to be marked as nearly flat."""

KINDS = {
    "prompt": "",
    "phrase": "phrases asked for",
    "prompt_2": "the second prompt",
    "spans": "named columns",
    "picture": "the picture given as a prompt",
    "concept": "words that are not in the prompt",
}
"""What a word is besides a word of the text: the headings of their rows."""


@dataclass(frozen=True)
class Shown:
    """A word whose map is shown.

    Attributes:
        word: it, with its columns; of a concept the name alone.
        kind: one of `KINDS`.
        note: what is to be said of it; empty if nothing.
    """

    word: Word
    kind: str
    note: str = ""


def told_branch(
    trace: Trace,
    branch: str,
    image: int,
    frame: int | None,
    phrases: Sequence[str],
    effects: Effects | None,
) -> dict[str, Any] | None:
    """All that is shown of one branch; None if it has no words.

    Raises:
        UserError: if a phrase is not in the text, or a map has values that are no numbers.
    """
    run = trace.select(  # what is there alone need not be copied
        branch=branch if len(trace.run.branches) > 1 else None,
        images=image if trace.run.images > 1 else None,
    ).run
    every = run.words[branch][0]
    shown = list(_shown(run, every, phrases))
    if not shown:
        return None
    mean, size = over_steps(run), size_within(run.picture_size)
    words, maps, plain = [], [], []
    way = _way(mean, shown)
    of_text = [n for n, each in enumerate(shown) if each.kind != "concept"]
    for each in shown:  # one after the other, since maps of large pictures are large
        heat = _map(Trace(mean), each, frame)
        words.append(_told(each, heat))
        maps.append(resized(heat.array, size))
        if way != ATTENTION and each.kind != "concept":
            plain.append(resized(_map(Trace(mean), each, frame, plain=True).array, size))
    methods = [method("map", way, "share", range(len(maps)), maps)]
    if plain:
        methods.append(method("attention", ATTENTION, "share", of_text, plain))
    if effects is not None:
        # First, since it is what the words' grades are about.
        methods = effects.add(words) + methods
    cells = cells_of(run, [shown[n].word for n in of_text], frame) if of_text else None
    text = run.prompts[branch][0] or ""
    return {
        "name": branch,
        "label": {CONDITIONAL: "prompt", UNCONDITIONAL: "negative prompt"}.get(branch, branch),
        "text": text,
        "words": words,
        "beyond": [
            _unseen(each) for each in every if each.source == "prompt" and not _has_map(run, each)
        ],
        "symbols": list(dict.fromkeys(text[at] for at in symbol_places(text))),
        "methods": methods,
        "cells": None if cells is None else cells | {"of": of_text},
        "shares": _shares(trace, branch, image),
    }


ATTENTION, AGREEMENT = "attention", "attention, held against self-attention"
CONTRIBUTION = "what a word contributes"


def _shown(run: RecordedRun, every: Sequence[Word], phrases: Sequence[str]) -> Iterable[Shown]:
    for word in every:
        if _has_map(run, word):
            note = f"beyond the window of {' and '.join(word.cut)}" if word.cut else ""
            yield Shown(word, word.source if word.source in KINDS else "spans", note)
    known = [set(word.columns) for word in every]
    for phrase in phrases:
        columns = find_phrase(every, phrase)
        if set(columns) not in known:
            yield Shown(Word(phrase, 0, 0, columns), "phrase")
    if CONCEPTS in run.maps:
        for concept in run.concepts:
            yield Shown(Word(concept, 0, 0, ()), "concept")


def _has_map(run: RecordedRun, word: Word) -> bool:
    """Whether a word has columns, and the run kept them."""
    if run.groups is None:
        return bool(word.columns)
    own = set(word.columns)
    inside = [set(group) for group in run.groups[run.branches[0]][0] if set(group) <= own]
    return bool(own) and set().union(*inside) == own


def _unseen(word: Word) -> dict[str, Any]:
    why = "not recorded" if word.columns else "beyond the window of the text encoder"
    return {"text": word.text, "start": word.start, "stop": word.stop, "why": why}


def _map(trace: Trace, shown: Shown, frame: int | None, plain: bool = False) -> HeatMap:
    if shown.kind == "concept":
        return trace.heatmap(shown.word.text, stream=CONCEPTS, frame=frame)
    return trace.heatmap(
        columns=shown.word.columns, frame=frame, aggregate=mean_over_sites if plain else None
    )


def _told(shown: Shown, heat: HeatMap) -> dict[str, Any]:
    low, high = float(heat.array.min()), float(heat.array.max())
    (report,), word = word_reports([heat]), shown.word
    return {
        "text": word.text,
        "kind": shown.kind,
        "start": word.start,
        "stop": word.stop,
        "quiet": is_function_word(word.text),
        "flat": bool(high < FLAT * low) or high == low,
        "note": shown.note,
        "share": report.share,
        "lowest": low,
        "highest": high,
        "box": None if report.box is None else list(report.box),
        "peak": list(report.peak),
        "peakedness": report.peakedness,
    }


def _way(run: RecordedRun, shown: Sequence[Shown]) -> str:
    """What the default map of the run's words is."""
    columns = next((each.word.columns for each in shown if each.word.columns), ())
    if contribution_stream(run, columns, 0, False) is not None:
        return CONTRIBUTION
    return AGREEMENT if WALKED in run.maps else ATTENTION


def _shares(trace: Trace, branch: str, image: int) -> dict[str, float] | None:
    """Where the attention goes; None where only some columns were kept, or are not known."""
    try:
        return asdict(trace.select(branch=branch).shares(image=image))
    except UserError:
        return None
