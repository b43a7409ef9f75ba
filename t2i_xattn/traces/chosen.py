"""What of a recorded run goes into one heat map: columns, sites, a picture, a frame."""

from __future__ import annotations

from t2i_xattn.aggregation import SiteMaps
from t2i_xattn.denoisers.sites import Sites, choose_sites
from t2i_xattn.denoisers.streams import OF_TEXT, OF_WORDS, SELF, Groups
from t2i_xattn.errors import UserError, nearest, shown
from t2i_xattn.prompts.words import find_phrase
from t2i_xattn.traces.asked import check_which, checked_phrase
from t2i_xattn.traces.recorded_run import RecordedRun, of_steps, weight_of_steps


def columns_of(
    run: RecordedRun, phrase: str, image: int, occurrence: int | None, encoder: str | None = None
) -> tuple[int, ...]:
    """The columns of a phrase in the text of a picture, in the first branch.

    Raises:
        UserError: if it is not there.
    """
    phrase = checked_phrase(phrase)
    check_which(occurrence, encoder)
    branch = run.branches[0]
    if run.prompts[branch][image] is None and not run.words[branch][image]:
        raise UserError(
            f"expected a prompt with text to find {phrase!r} in, but it was given as "
            "embeddings; ask by columns=…, or say record(pipe, spans={word: columns})"
        )
    return find_phrase(run.words[branch][image], phrase, occurrence, encoder)


def concept_column(run: RecordedRun, phrase: str) -> tuple[int, ...]:
    """Where a concept stands on the token axis of the stream `concepts`; capitals do not matter.

    Raises:
        UserError: if it was not recorded.
    """
    phrase = checked_phrase(phrase)
    names = [concept.casefold() for concept in run.concepts]
    if phrase.casefold() not in names:
        raise UserError(
            f"expected a concept of {', '.join(map(repr, run.concepts))}, but came {phrase!r}"
            f"{nearest(phrase, run.concepts)}; record with concepts=[…, {phrase!r}]"
        )
    return (names.index(phrase.casefold()),)


def maps_of(
    run: RecordedRun,
    stream: str,
    columns: tuple[int, ...],
    image: int,
    frame: int | None,
    sites: Sites | None,
) -> SiteMaps:
    """What a way to aggregate is given for some columns of a stream.

    Raises:
        UserError: if there is no such site, or the columns were not kept.
    """
    of_stream = run.maps[stream]
    names = [site.name for site in choose_sites(run.sites, sites) if site.name in of_stream]
    if not names:
        raise UserError(
            f"expected a site with the stream {stream!r}, but the choice leaves none of "
            f"{len(of_stream)}; trace.sites lists their places and levels"
        )
    groups: Groups | None = None
    if stream in OF_TEXT and run.groups is not None:
        groups = run.groups[run.branches[0]][image]
    elif stream in OF_WORDS and run.walked_columns is not None:
        groups = tuple((column,) for column in run.walked_columns)
    places = _places(columns, groups, min(of_stream[name].shape[-1] for name in names))
    maps = [of_steps(run, stream, name)[image] for name in names]
    if run.frames > 1:
        maps = [each.mean(axis=1) if frame is None else each[:, frame] for each in maps]
    if stream == SELF and len({array.shape[1:3] for array in maps}) > 1:
        raise UserError(
            "expected sites of one resolution, since the shares of a place sum to 1 over each "
            "site's map; choose them with sites=lambda site: site.level == …"
        )
    weights = None
    if run.site_weights is not None:
        weights = [weight_of_steps(run, name, image) for name in names]
    return SiteMaps(maps, places, run.latent_size, run.picture_size, weights)


def columns_within(columns: tuple[int, ...], tokens: int) -> list[int]:
    """Columns of a token axis.

    Raises:
        UserError: if there are none, or the axis is shorter.
    """
    if not columns or not all(0 <= column < tokens for column in columns):
        raise UserError(
            f"expected columns from 0 to {tokens - 1}, but came {shown(list(columns))}; the text "
            f"sequence of this run has {tokens} columns"
        )
    return list(columns)


def _places(columns: tuple[int, ...], groups: Groups | None, tokens: int) -> list[int]:
    """Where columns of the text sequence stand on the token axis."""
    if groups is None:
        return columns_within(columns, tokens)
    for place, group in enumerate(groups):
        if set(group) == set(columns):
            return [place]
    places = [place for place, group in enumerate(groups) if set(group) <= set(columns)]
    found = [column for place in places for column in groups[place]]
    if sorted(found) != sorted(columns) or not columns:
        raise UserError(
            f"expected columns that were kept, {shown([list(group) for group in groups])}, but "
            f"came {shown(list(columns))}; record with these words=… or columns=…, or with neither"
        )
    return places
