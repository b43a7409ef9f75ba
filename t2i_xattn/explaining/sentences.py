"""What was found about a word, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from t2i_xattn.errors import shown
from t2i_xattn.explaining.evidence import Evidence, Grade, Interval

_TRUSTED = {
    "trust": "trust where it is shown",
    "doubt": "do not rely on where it is shown",
    "nothing": "whatever its attention map shows is not what it does",
}

AGREE, IN_PART = 0.4, 0.2
"""IoU from which an attention map is said to agree with an effect map, and to agree in part."""

MOST = 0.25
"""Share of an effect from which the columns that carry it are named."""

_COLUMNS = {
    "own": "its own columns",
    "noun phrase": "the other words of its noun phrase",
    "before": "the words before it",
    "behind": "the words behind it",
    "start": "the start token",
    "end": "the end token",
    "padding": "the padding",
    "pooled": "the pooled embedding",
}


def sentence(
    word: str,
    others: Sequence[str | None],
    share: float,
    sizes: Mapping[str, Interval],
    evidence: Evidence,
    carriers: Mapping[str, float],
    grade: Grade,
) -> str:
    """One or two sentences on a word.

    Args:
        word: the word.
        others: what stood in its place, one after the other; None: it was left out.
        share: of attention, 0 to 1.
        sizes: by intervention.
        evidence, carriers, grade: see `ExplainedWord`.
    """
    name = shown(word, 60)
    if evidence.found_by is None:
        floor = ""
        if evidence.above_floor:
            floor = f", the placebo's {_size(evidence.size / evidence.above_floor)}"
        return (
            f"{name} gets {share:.1%} of the attention and does next to nothing: without it the "
            f"picture's making changes by {_size(evidence.size)}{floor}; {_TRUSTED[grade]}."
        )
    named = [shown(each, 60) for each in others if each]
    way = {
        "text": f"with {' or '.join(named)} in its place" if named else "left out",
        "attention": "with its keys hidden",
        "embedding": "with its columns emptied",
    }.get(evidence.found_by, evidence.found_by)
    told = f"{name}, {way}, changes the picture's making by {_of(sizes[evidence.found_by])}"
    parts = []
    if evidence.attention_effect is not None and evidence.found_by != "attention":
        parts.append(f"hiding its own keys does {evidence.attention_effect:.0%} of that")
    through = [
        f"{_COLUMNS.get(group, group)} ({part:.0%})"
        for group, part in sorted(carriers.items(), key=lambda each: -each[1])
        if part >= MOST
    ]
    if through:
        parts.append(f"it acts through {' and '.join(through)}")
    agrees = "agrees" if evidence.iou >= AGREE else "agrees in part"
    if evidence.iou < IN_PART:
        agrees = "lies elsewhere"
    parts.append(f"its attention map {agrees} (IoU {evidence.iou:.2f})")
    return f"{told}; {', '.join(parts)}: {_TRUSTED[grade]}."


def _of(size: Interval) -> str:
    if size.low is None or size.high is None:
        return _size(size.mean)
    return f"{_size(size.mean)} ({_size(size.low)} to {_size(size.high)}, {size.n} seeds)"


def _size(size: float) -> str:
    return f"{size:.1%}" if size < 0.1 else f"{size:.0%}"
