"""Recorded runs of any size, drawn instead of painted: for pages, which know no model."""

from __future__ import annotations

import numpy as np
from PIL import Image

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.prompts.words import Word, word_spans
from t2i_xattn.traces.recorded_run import RecordedRun
from t2i_xattn.traces.trace import Trace

WORD = "lighthouse"


def drawn_trace(
    prompt: str,
    tokens: int,
    pixels: int,
    steps: int = 1,
    sides: tuple[int, ...] = (64, 32, 16),
    seed: int = 0,
) -> Trace:
    """A trace with one token a word: each word has a spot of its own over a noisy ground.

    Args:
        prompt: whose words are recorded, as far as there are tokens.
        tokens: of the text, a start token and padding among them.
        pixels: side of the picture.
        steps: each recorded by itself.
        sides: of the sites' maps.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    spans = word_spans(prompt)
    words = tuple(
        Word(prompt[a:b], a, b, (n + 1,) if n + 2 < tokens else ())
        for n, (a, b) in enumerate(spans)
    )
    middles = rng.uniform(0.1, 0.9, (tokens, 2))
    maps = {}
    for site, side in enumerate(sides):
        places = (np.arange(side, dtype=np.float32) + 0.5) / side
        down = np.square(places[:, None] - middles[:, 0]) / 0.02
        across = np.square(places[:, None] - middles[:, 1]) / 0.02
        spots = np.exp(-down[:, None] - across[None]).astype(np.float32)
        # One step after the other, since all at once are large.
        array = np.empty((1, 1, steps, 1, side, side, tokens), dtype=np.float32)
        for step in range(steps):
            drawn = spots + 0.3 * rng.random(spots.shape, dtype=np.float32)
            array[0, 0, step, 0] = drawn / drawn.sum(axis=-1, keepdims=True)
        maps[f"site.{site}"] = array
    sites = tuple(
        AttentionSite(name, "joint", depth, None, None, 1) for depth, name in enumerate(maps)
    )
    texts = tuple(f"{n}" for n in range(tokens))
    inside = sum(bool(each.columns) for each in words)
    kinds = ("special", *["word"] * inside, *["padding"] * (tokens - 1 - inside))
    run = RecordedRun(
        maps={TEXT: maps},
        counts={TEXT: {name: np.ones((1, steps), dtype=np.int64) for name in maps}},
        sites=sites,
        groups=None,
        walked_columns=None,
        branches=("conditional",),
        steps=tuple((n, n + 1) for n in range(steps)),
        prompts={"conditional": (prompt,)},
        words={"conditional": (words,)},
        tokens={"conditional": (texts,)},
        frames=1,
        latent_size=(pixels // 8, pixels // 8),
        picture_size=(pixels, pixels),
        crop=None,
        settings={"calls": steps},
        kinds={"conditional": (kinds,)},
    )
    return Trace(run)


def drawn_picture(pixels: int, seed: int = 0) -> Image.Image:
    """A picture as hard to compress as photographs are: colours that change slowly, and grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((pixels, pixels), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = rng.integers(-6, 7, smooth.shape, dtype=np.int16)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
