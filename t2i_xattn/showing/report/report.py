"""`report`: one run as one page to hover over."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from t2i_xattn.errors import UserError, shown
from t2i_xattn.explaining.explanation import Explanation
from t2i_xattn.showing.report.checks import checked_picture, checked_trace
from t2i_xattn.showing.report.effects import Effects
from t2i_xattn.showing.report.never_taught import mark_unknown
from t2i_xattn.showing.report.pairs import paired
from t2i_xattn.showing.report.provenance import command_of, made_of_trace, settings_of
from t2i_xattn.showing.report.texts import told_branch
from t2i_xattn.traces.asked import checked_frame, checked_phrases

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.provenance.made import Made
    from t2i_xattn.traces.trace import Trace

SCHEMA = "t2i-xattn report"
VERSION = 1
"""Of the JSON in a page, which docs/report.md describes; another number says that what was there
has another meaning now."""


class Report:
    """A page of one run, or of two beside each other. Comes from `report`.

    Attributes:
        data: all that the page shows, as JSON has it; docs/report.md says what each name means.
        pictures: one a run.
        made: how a command made the run, or both at once; None where none did.
    """

    def __init__(
        self, runs: Sequence[dict[str, Any]], pictures: Sequence[Image.Image], made: Made | None
    ) -> None:
        self.pictures = tuple(pictures)
        self.made = made
        self.data: dict[str, Any] = {
            "schema": SCHEMA,
            "version": VERSION,
            "runs": list(runs),
            "pairs": _pairs(runs),
        }

    @property
    def html(self) -> str:
        """The page: one file that loads nothing."""
        from t2i_xattn.showing.report.page import page

        return page(self.data, self.pictures, self.made)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the page as one HTML file, whole or not at all.

        Raises:
            UserError: if the path cannot be written to, or is something else than a file.
        """
        from t2i_xattn.traces.disk import path_of, write_whole

        write_whole(path_of(path), self.html.encode("utf-8", "replace"))

    def _repr_html_(self) -> str:
        """For notebooks: the page in a frame of its own, so that neither touches the other."""
        from markupsafe import escape

        return (
            f'<iframe srcdoc="{escape(self.html)}" style="width:100%;height:820px;border:0" '
            'sandbox="allow-scripts allow-downloads" title="t2i-xattn report"></iframe>'
        )

    def __repr__(self) -> str:
        prompts = " and ".join(shown(run["branches"][0]["text"]) for run in self.data["runs"])
        return f"<Report of {prompts}; .save('run.html') writes the page>"


def report(
    trace: Trace | Explanation,
    picture: Image.Image | None = None,
    *,
    image: int = 0,
    frame: int | None = None,
    words: Sequence[str] = (),
    against: Report | None = None,
    name: str = "",
) -> Report:
    """A page on which to see what every word of a prompt did: its region lights up under the
    mouse, and a place of the picture ranks the words.

    Its maps are those of `trace.heatmap`, in 256 steps from lowest to highest and at most 64 places
    a side; a word that stands several times has a map for each place. Steps and layers can be
    chosen in the page where the trace keeps them (`record(pipe, steps="each")`), the negative
    prompt is there where its branch is (`branches=["conditional", "unconditional"]`).

    Args:
        trace: a recorded run, or what `explain` found, whose effects and grades are shown too.
        picture: of the run, as the pipeline gave it, or in that proportion; none with what
            `explain` found, which has its own.
        image: which picture of the batch, 0 the first.
        frame: which frame of a video, whose picture is given; by default the mean of all.
        words: phrases to show beside the words of the prompt.
        against: the report of another run, laid beside this one with one scale for both.
        name: what the run is called where two stand beside each other, such as `"before"`.

    Raises:
        UserError: if there is no such picture, it is of another size, the run was cut off, or has
            no words.

    Example:
        >>> with tx.record(pipe, walk=1, contributions=True) as trace:
        ...     image = pipe("a red circle left of a blue square").images[0]
        >>> tx.report(trace, image).save("run.html")
        >>> other = tx.report(other_trace, other_image)
        >>> tx.report(trace, image, against=other).save("both.html")
    """
    effects = None
    if isinstance(trace, Explanation):
        if picture is not None:
            raise UserError(
                "expected what explain found alone, which has its pictures, but came a picture "
                "beside it; leave it out, or choose one with image=…"
            )
        numbers = range(len(trace.pictures))
        if image not in numbers:
            raise UserError(
                f"expected an image from 0 to {len(numbers) - 1}, but came {shown(image)}; that "
                "many pictures were explained"
            )
        effects, chosen = Effects(trace, image), trace.pictures[image]
        trace, picture, image = chosen.trace, chosen.image, 0
    run = checked_trace(trace, image)
    picture = checked_picture(run, picture)
    frame = checked_frame(run, frame)
    if against is not None and not isinstance(against, Report):
        raise UserError(
            f"expected against= as another report, but came {shown(against)}; give "
            "against=tx.report(other_trace, other_picture)"
        )
    if not isinstance(name, str):
        raise UserError(f'expected name= as text, but came {shown(name)}; give name="before"')
    phrases = checked_phrases("words", words)
    branches = [
        told_branch(trace, name, image, frame, phrases, effects)
        if name == run.branches[0]  # phrases and effects are of the prompt
        else told_branch(trace, name, image, frame, (), None)
        for name in run.branches
    ]
    if branches[0] is None:
        raise UserError(
            "expected a trace of words, but this one has none, since its prompt came as "
            "embeddings; record with spans={name: columns}"
        )
    made = made_of_trace(trace, picture)
    shown_branches = [each for each in branches if each is not None]
    told = {
        "name": name,
        "picture": {"width": picture.width, "height": picture.height},
        "branches": shown_branches,
        "unknown_words": mark_unknown(shown_branches, run.settings.get("model")),
        "settings": settings_of(trace, image),
        "command": None if made is None else command_of(made),
        "made": None if made is None else made.as_dict(),
        "frames": run.frames if frame is None else 1,
    }
    if against is None:
        return Report([told], [picture], made)
    runs = [told, against.data["runs"][0]]
    # A page of two runs that one command made each is made by neither.
    return Report(runs, [picture, against.pictures[0]], made if made == against.made else None)


def _pairs(runs: Sequence[dict[str, Any]]) -> dict[str, list[list[int | None]]]:
    """By the name of a branch, the numbers of words in each run that are one for the page."""
    by_run = [{each["name"]: each["words"] for each in run["branches"]} for run in runs]
    if len(runs) == 1:
        return {name: [[n] for n in range(len(words))] for name, words in by_run[0].items()}
    found = {}
    for name in dict.fromkeys([*by_run[0], *by_run[1]]):
        one, other = ([each["text"] for each in of.get(name, [])] for of in by_run)
        found[name] = [list(each) for each in paired(one, other)]
    return found
