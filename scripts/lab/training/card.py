"""The model card: recipe, pictures seen, time, losses, and every measured figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.training.loop import LOG_EVERY
from lab.training.recipe import RECIPE_COPY, STAGES, Recipe, Schedule, load_recipe
from lab.training.sources import source_named
from t2i_xattn.errors import UserError

HEADER = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# {title}

A small Stable Diffusion for trying, testing and teaching attention tools. It paints:
{about}
Every picture that it was trained on was drawn by the package t2i-xattn, which therefore
knows the pixels of every word.

```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("path/to/this/folder")
pipe("{example}", num_inference_steps=25, guidance_scale=5.0).images[0]
```

It knows the words of its small language and nothing else. Some combinations ({held_out}) are kept
from training, so that composition can be tested. It stands for no other model: what is true of its
attention need not be true of a model of photographs.
"""

SEEN = {
    "autoencoder": "{crops} crops of {side} × {side}, or {whole} whole pictures, a step",
    "text": "prompts only",
    "denoiser": "pictures, each {passes} times with other words and noise",
    "decoder": "as the autoencoder",
}


Curves = dict[str, list[list[float]]]


def model_card(
    recipe: Recipe, run: Path, figures: Path | None = None, earlier: Sequence[Path] = ()
) -> str:
    """The card as Markdown.

    Args:
        recipe: what was trained.
        run: the folder of the run, with the losses of its finished stages.
        earlier: folders of the runs that this one went on from, each with its recipe too.
        figures: what ``scripts/evaluate.py all --json`` wrote of the trained model, or ``world
            --json`` of one of the world; without it the card says that nothing was measured.

    Raises:
        UserError: the figures, or an earlier run's recipe, cannot be read.
    """
    sittings = [(load_recipe(each / RECIPE_COPY), _curves(each)) for each in earlier]
    sittings.append((recipe, _curves(run)))
    source = source_named(recipe.scenes)
    header = HEADER.format(
        title=source.title, about=source.about, example=source.example, held_out=source.held_out()
    )
    parts = [header, _training(recipe, sittings)]
    if figures is None:
        parts.append("## Accuracy\n\nNot measured yet.\n")
    else:
        try:
            measured = json.loads(figures.read_text("utf-8"))
            parts.append(_pictures(measured))
            parts.append(_peaks(measured) if "peaks" in measured else _maps(measured))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"expected the figures of `evaluate.py all --json`, or of `world`, in {figures}, "
                f"but it cannot be read as that ({error!r})"
            ) from error
    return "\n".join(parts)


def _curves(run: Path) -> Curves:
    curves: Curves = json.loads((run / "curves.json").read_text("utf-8"))
    return {stage: curve for stage, curve in curves.items() if curve}


def _row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _table(names: list[str], rows: list[tuple[Any, ...]]) -> str:
    return "\n".join([_row(*names), _row(*(["---"] * len(names))), *(_row(*row) for row in rows)])


def _stage_row(recipe: Recipe, name: str, curve: list[list[float]]) -> tuple[Any, ...]:
    schedule: Schedule = getattr(recipe, name)
    points = [curve[0], *(curve[len(curve) * part // 4 - 1] for part in (1, 2, 3, 4))]
    # The last steps of a stage are fewer than those between two entries of its curve.
    done = int(curve[-1][0])
    broken = done + LOG_EVERY < schedule.steps
    return (
        name,
        f"{done:,} of {schedule.steps:,}" if broken else f"{schedule.steps:,}",
        schedule.batch,
        f"{(done if broken else schedule.steps) * schedule.batch:,}",
        SEEN[name].format(
            passes=getattr(schedule, "passes", 1),
            side=recipe.autoencoder.crop,
            crops=2 * schedule.batch,
            whole=max(1, schedule.batch // 2),
        ),
        f"{curve[-1][2] / 60:.0f}",
        ", ".join(f"{loss:.3f}" for _, loss, _ in points),
    )


def _training(recipe: Recipe, sittings: list[tuple[Recipe, Curves]]) -> str:
    rows = [
        _stage_row(trained, name, curves[name])
        for trained, curves in sittings
        for name in STAGES
        if name in curves
    ]
    names = ["stage", "steps", "batch", "seen", "of what", "minutes", "loss: begin, ¼, ½, ¾, end"]

    def most(setting: str) -> float:
        """What a sitting did stays in the model, so the largest of all counts."""
        return max(float(getattr(trained.denoiser, setting)) for trained, _ in sittings)

    mask_loss = most("mask_loss")
    supervised = (
        f"The cross-attention maps of nouns were supervised (TokenCompose, weight "
        f"{mask_loss}): they show what they were told to show."
        if mask_loss
        else "No attention map was supervised: the maps are the model's own."
    )
    segmentation_loss = most("segmentation_loss")
    if segmentation_loss:
        supervised += (
            " The denoiser's features, not its maps, had to tell a throw-away head what each pixel"
            f"\nshows (weight {segmentation_loss}), which may have shaped the maps."
        )
    hide_words = most("hide_words")
    if hide_words:
        supervised += (
            f" Of {hide_words:.0%} of the prompts some\nwords were hidden from the denoiser "
            "while it learned."
        )
    gaps = most("reading_dropout")
    if gaps:
        supervised += (
            f" The text encoder read with gaps meanwhile\n({gaps:.0%} of what its tokens read of "
            "each other was dropped)."
        )
    read_along = any(trained.denoiser.text_learning_rate for trained, _ in sittings)
    decoded = any("decoder" in curves for _, curves in sittings)
    last = "; and\nlast the autoencoder's decoder alone" if decoded else ""
    return f"""## Training

{supervised} The autoencoder was trained first, then the text encoder
alone (by questions that a
throw-away reader answers from the embeddings of a prompt's words: which shape has the red one,
where is it, which colour stands furthest left), then the denoiser with the text encoder
{"trained along" if read_along else "kept as it was"}: velocity
prediction, zero terminal signal, {recipe.denoiser.drop_prompt:.0%} of the prompts dropped{last}.
Muon for matrices and convolutions and AdamW for the rest, moving average of the weights,
{recipe.mixed_precision} autocast, weights stored in fp16. The recipe is
`scripts/lab/training/recipes/{recipe.scenes}.toml`, seed {recipe.seed}.

{recipe.remarks.strip()}

{_table(names, rows)}
"""


def _percent(share: dict[str, Any]) -> str:
    if share["share"] is None:
        return "none"
    low, high = share["wilson_95"]
    return f"{100 * share['share']:.1f} % ({100 * low:.0f}–{100 * high:.0f})"


def _pictures(measured: dict[str, Any]) -> str:
    settings = measured["settings"]
    rows = [
        (group.replace("_", " "), name, _percent(share), share["n"])
        for group, figures in measured["pictures"].items()
        for name, share in figures.items()
    ]
    world = "peaks" in measured
    judge = (measured["judge"] if world else measured["judge"]["clean"])["all"]
    limit = f" --limit {settings['limit']}" if settings.get("limit") else ""
    return f"""## Accuracy

Fixed prompts and seeds, {settings["steps"]} steps, guidance {settings["guidance"]}; judged from
the pixels by a judge that is itself right in every respect on {_percent(judge)} of {judge["n"]}
rendered scenes. Wilson 95 % intervals.
`scripts/evaluate.py {"world" if world else "pictures"}{limit}` prints it again.

{_table(["prompts", "figure", "share", "n"], rows)}
"""


def _maps(measured: dict[str, Any]) -> str:
    rows = [
        (
            each["way"],
            each["kind"],
            "all" if each["timestep"] is None else each["timestep"],
            each["map_of"],
            f"{each['iou']:.3f}",
            f"{each['iou_true_area']:.3f}",
            f"{100 * each['pointing']:.1f} %",
            each["n"],
        )
        for each in measured["maps"]
    ]
    names = ["way", "words", "timestep", "map of", "IoU", "IoU at true area", "peak inside", "n"]
    return f"""## How far its heat maps can be believed

Rendered scenes, noised to a level and passed once through the denoiser without guidance; maps of
words against the pixels that the words name. `scripts/evaluate.py maps` prints it again.

{_table(names, rows)}
"""


def _peaks(measured: dict[str, Any]) -> str:
    rows = [
        (way, word, _percent(each), each["n"], f"{100 * each['by chance']:.0f} %")
        for way, of in measured["peaks"].items()
        for word, each in of.items()
    ]
    return f"""## How far its heat maps can be believed

Pictures of "{measured["peaks of"]}",
and whether the map of a word has its peak where the judge's network sees what the word names: the
skyline, for "sunset" the sky. Maps are pooled over all sites, as they are by default, over the
finest sites alone, over all sites once one step along self-attention carried them, and where this
and the first agree, which is what `t2i-xattn inspect` shows.
`scripts/evaluate.py world` prints it again.

{_table(["way", "word", "peak inside", "n", "a random place"], rows)}
"""
