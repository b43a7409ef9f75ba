"""Where the attention of the picture goes: to words, to other tokens, to the picture itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t2i_xattn.denoisers.sites import Sites, choose_sites
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.errors import UserError
from t2i_xattn.traces.recorded_run import RecordedRun, of_steps


@dataclass(frozen=True)
class Shares:
    """The parts of the attention of an average place, 0 to 1, summing to 1; of the difference of
    two traces, by how much they differ, summing to 0.

    Attributes:
        words: to the tokens of the prompt's words.
        other: to other tokens: punctuation, what is left of a template.
        special: to start and end tokens and their like.
        padding: to what fills the text's sequence up.
        picture: to what is no text: the picture's own places and what else stands among the keys
            of joint attention; 0 in cross-attention.
        prompt_picture: to the tokens of a picture that was given as a prompt and stands in the
            text's sequence. An IP-Adapter's, which have a softmax of their own, are none of these
            parts: see `Trace.modalities`.
    """

    words: float
    other: float
    special: float
    padding: float
    picture: float
    prompt_picture: float = 0.0

    @property
    def text(self) -> float:
        """To the whole text, without the tokens of a picture in it."""
        return self.words + self.other + self.special + self.padding


def shares_of(run: RecordedRun, image: int, sites: Sites | None) -> Shares:
    """The shares of one picture, the mean over sites, steps, heads and places.

    Raises:
        UserError: if only some columns were recorded, or what stands in them is not known.
    """
    branch = run.branches[0]
    kinds = run.kinds.get(branch, ())
    if run.groups is not None:
        raise UserError(
            "expected a trace with every column of the text, but this one has some only; record "
            "without words=… and columns=…"
        )
    if image >= len(kinds) or not kinds[image]:
        raise UserError(
            "expected a text whose tokens are known, but it was given as embeddings; hand the "
            "prompt to the pipeline as text"
        )
    means = []
    for site in choose_sites(run.sites, sites):
        maps = of_steps(run, TEXT, site.name)[image]
        means.append(maps.reshape(-1, maps.shape[-1]).mean(axis=0, dtype=np.float64))
    mean = np.mean(means, axis=0)
    whole = float(mean.sum())
    own = np.array(kinds[image][: len(mean)])
    parts = {kind: float(mean[: len(own)][own == kind].sum()) for kind in KINDS}
    return Shares(
        words=parts["word"],
        other=parts["other"],
        special=parts["special"],
        padding=parts["padding"],
        picture=0.0 - whole if "minus" in run.settings else max(0.0, 1.0 - whole),
        prompt_picture=parts["picture"],
    )


KINDS = ("word", "other", "special", "padding", "picture")
"""What stands in a column of a text; `prompts.encoded` says what each is."""
