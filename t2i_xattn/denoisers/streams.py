"""Streams: whose keys a map is about."""

from __future__ import annotations

TEXT = "text"
"""The prompt's tokens. The n-th IP-Adapter's picture tokens are `picture n`, from 1; their
attention is a softmax of its own."""


def picture_stream(number: int) -> str:
    """The stream of the n-th IP-Adapter's picture tokens, from 1."""
    return f"picture {number}"


SELF = "self"
"""Self-attention: where the chosen places of the picture look."""

WALKED = "walked"
"""The text's maps carried along the self-attention of their block."""

CONTRIBUTION = "contribution"
"""What each word contributes to what a site gives to each place; see `kernel.contribution`."""

CARRIED = "carried contribution"
"""The mean of these over the sites, carried along the self-attention of the finest."""

EDITED = "edited"
"""The text's maps after the edits that act on the pipeline; `text` is before them."""

LOOKS = "looks"
"""In joint attention, where the text's tokens look in the picture: the shares of a token sum over
the places to what it gives to the picture."""

BETWEEN = "between"
"""In joint attention, what the text's tokens give to each other: one place a token that looks, in a
row; the token axis is that of those looked at."""

GIVEN_BY = "given by "
"""Before a stream: how long the vectors are that the places take from it, through the output
projection; one map, of one place on the token axis. Text and pictures can be compared by it."""

CONCEPTS = "concepts"
"""Words that are not in the prompt, one a place of the token axis."""

OTHERS = "others"
"""Kernel calls that are not about the picture; nobody reads them."""

OF_WORDS = (WALKED, CONTRIBUTION, CARRIED)
"""The streams whose token axis has the columns of words alone, where the text's has all."""

OF_TEXT = (TEXT, EDITED, *OF_WORDS)
"""The streams whose token axis is the text's, or a part of it."""

Groups = tuple[tuple[int, ...], ...]
"""The columns that each place of a token axis stands for."""
