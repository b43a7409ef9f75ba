"""`explain`: what every word of a prompt does, by attention and by intervention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from t2i_xattn.arguments import checked
from t2i_xattn.denoisers.sites import Sites
from t2i_xattn.denoisers.steps import Window
from t2i_xattn.errors import UserError, shown
from t2i_xattn.explaining.effect_map import EffectMap, effect_map
from t2i_xattn.explaining.effects import EffectSums, ask
from t2i_xattn.explaining.effects import paint as paint_all
from t2i_xattn.explaining.evidence import evidence, interval
from t2i_xattn.explaining.explanation import ExplainedPicture, ExplainedWord, Explanation
from t2i_xattn.explaining.holding import watched
from t2i_xattn.explaining.interventions import (
    ALL,
    Question,
    check_interventions,
    questions,
)
from t2i_xattn.explaining.other_words import kind_of
from t2i_xattn.explaining.run import Run
from t2i_xattn.explaining.sentences import sentence
from t2i_xattn.explaining.targets import Target, check_alike, targets
from t2i_xattn.explaining.trajectory import Trajectory
from t2i_xattn.explaining.trust import grade, probability
from t2i_xattn.progress import bar_options, quiet
from t2i_xattn.recording.record import record
from t2i_xattn.traces.trace import Trace


@checked
def explain(
    pipe: Any,
    prompt: str,
    *,
    words: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    interventions: Sequence[str] = ("text", "attention"),
    instead: Mapping[str, str | None] | None = None,
    alternatives: int = 2,
    placebo: bool = True,
    paint: bool = False,
    steps: Window | None = None,
    sites: Sites | None = None,
    heads: Sequence[int] | None = None,
    walk: int = 1,
    batch: int = 8,
    **arguments: Any,
) -> Explanation:
    """What every word of a prompt does to its pictures: what attention shows, and what changes.

    Attention says where the picture looked, not what it would be without a word. So each word is
    also taken away, and the denoiser is asked again at the very latents of the picture's own run:
    the change of its answer for the prompt, place by place, is the word's effect map. Nothing is
    sampled anew, so nothing runs away. The first quarter of the steps says what all of them say
    (see docs/explanations.md), so the whole costs less than a second picture for a short prompt.

    Args:
        pipe: any loaded pipeline that `record` knows.
        prompt: one prompt, as text.
        words: words or phrases to ask about; by default every word of the prompt, once.
        seeds: of the pictures, one each; with several, sizes have intervals.
        interventions: how a word is taken away, of `text`, `attention`, `embedding`, `only`,
            `carriers`; see `explaining.interventions`.
        instead: for words or phrases, what is put in their place under `text`; None: nothing. By
            default another word of its kind, where that is known (`explaining.other_words`), and
            otherwise nothing.
        alternatives: how many others of its kind are put in a word's place, one after the other;
            the effect is the mean of theirs.
        placebo: whether the attention that a word has is also taken from columns that say nothing,
            so that an effect is one above that.
        paint: whether pictures are also painted to the end with each word taken away by `text` and
            by `attention`, see `ExplainedPicture.painted`.
        steps: the window of steps that is asked about, see `t2i_xattn.denoisers.steps`; by default
            the first quarter.
        sites: the attention sites where alone a word is taken away (activation patching), by
            `text`, in cross-attention and in double-stream blocks, or by `attention`.
        heads: the heads of each site where alone its keys are hidden.
        walk: as of `record`.
        batch: pictures at once, at most.
        arguments: of the pipeline's call, such as `num_inference_steps` and `guidance_scale`.

    Returns:
        An `Explanation`.

    Raises:
        UserError: before anything runs, for an argument that cannot be; once the prompt has been
            encoded, for a word that it does not have or that the text encoder has cut off; in the
            run, where the pipeline does not go the same way again.

    Example:
        >>> found = explain(pipe, "a red circle left of a blue square", num_inference_steps=25)
        >>> print(found)
        >>> found.effect("red").overlay(found.pictures[0].image).save("red.png")
    """
    interventions, seeds = list(interventions), list(seeds)
    check_interventions(interventions)
    if not seeds or min(batch, alternatives) < 1:
        raise UserError(
            "expected at least one seed, and alternatives and a batch of 1 or more, but came "
            f"{shown(seeds)}, {alternatives} and {batch}"
        )
    if paint and {"text", "attention"}.isdisjoint(interventions):
        raise UserError(
            'expected the intervention "text" or "attention" with paint=True, but came '
            f"{shown(interventions)}, which are asked at single steps alone; leave paint out"
        )
    if len(set(seeds)) < len(seeds):
        raise UserError(f"expected seeds that differ, but came {shown(seeds)}")
    runs = [Run(pipe, prompt, seed=seed, **arguments) for seed in seeds]
    asked: list[Target] = []
    pictures, window = [], (0, 0)
    # The bar is shown as the pipeline shows its own, which is hidden within.
    with tqdm(**bar_options(pipe, "explain"), unit="question", total=0) as bar, quiet(pipe):
        for run in runs:
            needs_text = not {"embedding", "only", "carriers"}.isdisjoint(interventions)
            with record(pipe, walk=walk) as trace, watched(pipe, steps, needs_text) as way:
                image = _first_picture(run())
            assert way.window is not None, "a run that called its denoiser"
            window = way.window
            if not asked:
                asked = targets(pipe, trace, words, instead or {}, alternatives)
                if not {"only", "carriers"}.isdisjoint(interventions):
                    check_alike(pipe, asked)
            bar.set_description(f"explain, seed {run.seed}")
            every = [*interventions, *(["placebo"] if placebo else [])]
            pictures.append(
                _explained(run, trace, way, image, asked, every, sites, heads, batch, paint, bar)
            )
    return Explanation(
        prompt, tuple(pictures), tuple(_word(each, pictures) for each in asked), window
    )


def _explained(
    run: Run,
    trace: Trace,
    way: Trajectory,
    image: Image.Image,
    asked: Sequence[Target],
    interventions: Sequence[str],
    sites: Sites | None,
    heads: Sequence[int] | None,
    batch: int,
    paint: bool,
    bar: Any,
) -> ExplainedPicture:
    """One picture, and its effect maps."""
    several: list[tuple[Target, str, Question]] = []
    for name in interventions:
        for target in asked:
            made: Any = name
            several += [
                (target, name, each)
                for each in questions(
                    target, made, run.prompt, way.text, sites, heads, seed=run.seed
                )
            ]
    bar.total += len(several)
    bar.refresh()  # the number is seen however soon the answers come
    sums = ask(run, way, [each for _, _, each in several], batch, bar.update)
    carriers: dict[str, dict[str, float]] = {each.phrase: {} for each in asked}
    found: dict[tuple[str, str], list[EffectSums]] = {}
    for (target, name, question), one in zip(several, sums, strict=True):
        if name in ("only", "carriers"):
            _check_aligned(target, way, one)
        if name == "carriers" and question.part != ALL:
            carriers[target.phrase][question.part] = one.share
        else:
            found.setdefault((target.phrase, name), []).append(one)
    size = image.height, image.width
    effects: dict[str, dict[str, EffectMap]] = {each.phrase: {} for each in asked}
    for target in asked:
        for name in interventions:
            others = target.others if name == "text" else (target.other,)
            sums_of = found[target.phrase, name]
            effect = effect_map(target.phrase, name, others, sums_of, size)
            if not np.isfinite(effect.size):
                raise UserError(
                    "expected a denoiser that answers with numbers, but its answers are not finite "
                    "(NaN); take a smaller guidance, another dtype, or check the model's files"
                )
            effects[target.phrase][name] = effect
    painted: dict[str, dict[str, Image.Image]] = {each.phrase: {} for each in asked}
    if paint:
        ends = {(t.phrase, n): q for t, n, q in reversed(several) if n in ("text", "attention")}
        images = paint_all(run, list(ends.values()), batch)
        for (phrase, name), other in zip(ends, images, strict=True):
            painted[phrase][name] = other
    return ExplainedPicture(run.seed, image, trace, effects, carriers, painted)


def _check_aligned(target: Target, way: Trajectory, found: EffectSums) -> None:
    """Raises `UserError` unless the two texts' other tokens are the same, column by column."""
    one, other = way.text, found.text
    if one is None or other is None or one.ids is None or other.ids is None:
        return
    same = len(one.ids) == len(other.ids) and all(
        a == b or column in target.columns
        for column, (a, b) in enumerate(zip(one.ids, other.ids, strict=True))
    )
    if not same:
        put = "nothing" if target.other is None else shown(target.other)
        raise UserError(
            f"expected a word of as many tokens in the place of {shown(target.phrase)}, so that "
            f"all others keep their columns, but came {put}; name one with "
            f"instead={{{shown(target.phrase)}: …}}, or leave the interventions 'only' and "
            "'carriers' out"
        )


def _word(target: Target, pictures: Sequence[ExplainedPicture]) -> ExplainedWord:
    word = target.phrase
    effects = [each.effects[word] for each in pictures]
    attention = [each.attention(word) for each in pictures]
    share = float(np.mean([each.share for each in attention]))
    sizes = {name: interval([each[name].size for each in effects]) for name in effects[0]}
    floor = sizes.pop("placebo", None)
    found = evidence(attention, effects, [each.image for each in pictures])
    carriers = {
        name: float(np.mean([each.carriers[word][name] for each in pictures]))
        for name in pictures[0].carriers[word]
    }
    kind = kind_of(word)
    graded = grade(found, kind)
    told = sentence(word, target.others, share, sizes, found, carriers, graded)
    return ExplainedWord(
        word,
        kind,
        target.others,
        share,
        sizes,
        floor,
        found,
        probability(found, kind),
        carriers,
        graded,
        told,
    )


def _first_picture(output: Any) -> Image.Image:
    names = ("images", "frames", "image")  # as pipelines call what they give
    found = next((getattr(output, name) for name in names if hasattr(output, name)), None)
    while isinstance(found, list | tuple) and found:  # a video is a list of frames
        found = found[0]
    if not isinstance(found, Image.Image):
        raise UserError(
            "expected a pipeline that gives pictures of Pillow, but came "
            f"{type(output if found is None else found).__name__}; leave output_type out"
        )
    return found
