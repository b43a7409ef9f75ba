"""A trace's JSON header: made from a run, and read with the type and limits of each part held.

It has `format_version`, `checksum` (how the file's is taken), `axes`, `streams`, `shape` (of each
tensor), `counts`, `sites`, `groups`, `walked_columns`, `branches`, `steps`, `prompts`, `words`,
`tokens`, `frames`, `latent_size`, `picture_size`, `crop` and `settings`; see `RecordedRun`.
`checksum`, `kinds` and `concepts`, which came later, may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.denoisers.sites import AttentionSite, Kind, Place
from t2i_xattn.denoisers.streams import Groups
from t2i_xattn.prompts.words import Word
from t2i_xattn.traces.fields import Damaged, as_it_is, field, named, one_of, several, text, whole
from t2i_xattn.traces.recorded_run import RecordedRun
from t2i_xattn.traces.shares import KINDS

FORMAT_VERSION = 4
CHECKSUM = "sha256"
WEIGHT = "site weight"
"""Before the names of the tensors that are the weights of sites."""

_MANY = 1_000_000
"""Of whatever is counted: steps, calls, columns, frames, sites, heads."""

_LONG = 1_000_000
"""Characters of a prompt, a word or a name."""

_MOST_WORDS = 10_000
"""Of one text, since each is searched for among all."""

_WIDE = 2**15
"""Pixels or places on a side."""

_LEVELS = 16
"""Halvings of a latent."""


def header_of(run: RecordedRun, tensors: Mapping[str, NDArray[Any]]) -> str:
    """The header of a run as JSON.

    Raises:
        TypeError, ValueError, RecursionError: if the settings are not what JSON has.
    """
    header = {
        "format_version": FORMAT_VERSION,
        "checksum": CHECKSUM,
        "axes": run.axes,
        "streams": list(run.maps),
        "shape": {name: list(array.shape) for name, array in tensors.items()},
        "counts": {
            f"{stream}/{name}": array.tolist()
            for stream, of_sites in run.counts.items()
            for name, array in of_sites.items()
        },
        "sites": [asdict(site) for site in run.sites],
        "groups": run.groups,
        "walked_columns": run.walked_columns,
        "branches": run.branches,
        "steps": run.steps,
        "prompts": run.prompts,
        "words": {
            branch: [[asdict(word) for word in words] for words in of_branch]
            for branch, of_branch in run.words.items()
        },
        "tokens": run.tokens,
        "kinds": run.kinds,
        "frames": run.frames,
        "latent_size": run.latent_size,
        "picture_size": run.picture_size,
        "crop": run.crop,
        "settings": run.settings,
        "concepts": run.concepts,
    }
    return json.dumps(header, default=_plain)


def run_of(header: dict[str, Any], tensors: Mapping[str, NDArray[np.float32]]) -> RecordedRun:
    """The run that a header and its tensors tell of; that they fit is for `fitting.check`.

    Raises:
        Damaged: if something is missing, of another type, or beyond its limits.
    """
    sites = several(field(header, "sites"), "sites", _site)
    streams = several(field(header, "streams"), "streams", _name)
    counts_of = field(header, "counts")
    maps: dict[str, dict[str, NDArray[np.float32]]] = {each: {} for each in streams}
    counts: dict[str, dict[str, NDArray[np.int64]]] = {each: {} for each in streams}
    weights: dict[str, NDArray[np.float32]] = {}
    order = {site.name: place for place, site in enumerate(sites)}
    for name, array in sorted(tensors.items(), key=lambda each: order.get(_site_of(each[0]), 0)):
        stream, site = name.partition("/")[0], _site_of(name)
        if stream == WEIGHT:
            weights[site] = array
        elif stream in maps:
            maps[stream][site] = array
            counts[stream][site] = _counts(field(counts_of, name), f"counts of {name}")
        else:
            raise Damaged(f"{name} is of no stream")
    groups, walked, crop = (field(header, key) for key in ("groups", "walked_columns", "crop"))
    run = RecordedRun(
        maps=maps,
        counts=counts,
        sites=sites,
        groups=None if groups is None else named(groups, "groups", _groups),
        walked_columns=None if walked is None else several(walked, "walked_columns", _number),
        branches=several(field(header, "branches"), "branches", _name),
        steps=several(field(header, "steps"), "steps", _window),
        prompts=named(field(header, "prompts"), "prompts", _prompts),
        words=named(field(header, "words"), "words", partial(several, each=_words)),
        tokens=named(field(header, "tokens"), "tokens", _of_images),
        frames=whole(field(header, "frames"), "frames", 1, _MANY),
        latent_size=_size(field(header, "latent_size"), "latent_size"),
        picture_size=_size(field(header, "picture_size"), "picture_size"),
        crop=None if crop is None else _crop(crop),
        settings=as_it_is(field(header, "settings"), "settings"),
        site_weights=weights or None,
        kinds=named(header.get("kinds", {}), "kinds", _kinds),
        concepts=several(header.get("concepts", []), "concepts", _name),
    )
    if field(header, "axes") != list(run.axes):
        raise Damaged(f"axes are not {', '.join(run.axes)}")
    return run


def _plain(value: Any) -> Any:
    """Numbers of numpy, as the user may give them in spans, as JSON has them."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"JSON has no {type(value).__name__}")


def _site_of(tensor: str) -> str:
    return tensor.partition("/")[2]


def _number(given: Any, name: str) -> int:
    return whole(given, name, 0, _MANY)


def _name(given: Any, name: str) -> str:
    return text(given, name, _LONG)


def _site(given: Any, name: str) -> AttentionSite:
    level = field(given, "level")
    return AttentionSite(
        name=_name(field(given, "name"), "the name of a site"),
        kind=one_of(field(given, "kind"), "the kind of a site", get_args(Kind)),
        depth=_number(field(given, "depth"), "the depth of a site"),
        place=one_of(field(given, "place"), "the place of a site", (None, *get_args(Place))),
        level=None if level is None else whole(level, "the level of a site", 0, _LEVELS),
        heads=whole(field(given, "heads"), "the heads of a site", 1, _MANY),
    )


def _counts(given: Any, name: str) -> NDArray[np.int64]:
    rows = several(given, name, partial(several, each=_number))
    if len({len(row) for row in rows}) != 1:
        raise Damaged(f"{name} are no table")
    return np.array(rows, dtype=np.int64)


def _columns(given: Any, name: str) -> tuple[int, ...]:
    return several(given, name, _number)


def _groups(given: Any, name: str) -> tuple[Groups, ...]:
    return several(given, name, partial(several, each=_columns))


def _window(given: Any, name: str) -> tuple[int, int]:
    first, end = several(given, name, _number, count=2)
    if first >= end:
        raise Damaged(f"a window of steps is from {first} to {end}")
    return first, end


def _prompts(given: Any, name: str) -> tuple[str | None, ...]:
    return several(given, name, lambda one, name: None if one is None else _name(one, name))


def _of_images(given: Any, name: str) -> tuple[tuple[str, ...], ...]:
    return several(given, name, partial(several, each=_name))


def _kinds(given: Any, name: str) -> tuple[tuple[str, ...], ...]:
    return several(given, name, partial(several, each=partial(one_of, known=KINDS)))


def _words(given: Any, name: str) -> tuple[Word, ...]:
    if isinstance(given, list) and len(given) > _MOST_WORDS:
        raise Damaged(f"{name} has {len(given)} words, more than {_MOST_WORDS}")
    return several(given, name, _word)


def _word(given: Any, name: str) -> Word:
    known = {"text", "start", "stop", "columns", "source", "encoders", "cut"}
    if isinstance(given, dict) and (other := given.keys() - known):
        raise Damaged(f"a word has {', '.join(sorted(other))}")
    return Word(
        text=_name(field(given, "text"), "the text of a word"),
        start=_number(field(given, "start"), "the start of a word"),
        stop=_number(field(given, "stop"), "the stop of a word"),
        columns=_columns(field(given, "columns"), "the columns of a word"),
        source=_name(given.get("source", "prompt"), "the source of a word"),
        encoders=several(given.get("encoders", []), "the encoders of a word", _name),
        cut=several(given.get("cut", []), "what cut a word", _name),
    )


def _size(given: Any, name: str) -> tuple[int, int]:
    height, width = several(given, name, partial(whole, least=1, most=_WIDE), count=2)
    return height, width


def _crop(given: Any) -> tuple[int, ...]:
    left, top, right, bottom = several(given, "crop", partial(whole, least=0, most=_WIDE), count=4)
    if left >= right or top >= bottom:
        raise Damaged(f"crop is {given}, no left, top, right and bottom")
    return left, top, right, bottom
