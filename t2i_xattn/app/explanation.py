"""An explanation as a table of the page: effect, grade, sentence and maps of each word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t2i_xattn.app.lit import lit_maps, picture_uri, rendered
from t2i_xattn.asking.explained import NOTHING
from t2i_xattn.models.vocabulary import UnknownWord, never_taught

if TYPE_CHECKING:
    from t2i_xattn.explaining.explanation import Explanation


def explanation_table(found: Explanation, unknown: Sequence[UnknownWord] | None = None) -> str:
    """The table of an explanation's first picture, over which the words stand that the model was
    never taught."""
    picture = found.pictures[0]
    # Effects begin near 0, where attention does not.
    effects = lit_maps([found.effect(each.word) for each in found.words], curve=1)
    attention = lit_maps([picture.attention(each.word) for each in found.words])
    rows: list[dict[str, Any]] = [
        {
            "word": each.word,
            "instead": ", ".join(other or NOTHING for other in each.others),
            "attention": f"{each.share:.1%}",
            "sizes": [f"{size.mean:.1%}" for size in each.sizes.values()],
            "placebo": "" if each.floor is None else f"{each.floor.mean:.1%}",
            "grade": each.grade,
            "maps": [("attention map", looked.mask), ("effect map", acted.mask)],
            "sentence": each.sentence,
        }
        for each, looked, acted in zip(found.words, attention, effects, strict=True)
    ]
    return rendered(
        "explanation.html",
        picture=picture_uri(picture.image),
        size=picture.image.size,
        ways=list(found.words[0].sizes) if found.words else [],
        rows=rows,
        never=never_taught(unknown) if unknown else "",
    )
