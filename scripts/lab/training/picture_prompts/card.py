"""The card of the encoder and the adapters: what they are, how they were made, their figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lab.training.picture_prompts.recipe import PARTS, PicturePromptRecipe
from t2i_xattn.errors import UserError

HEADER = """\
---
license: apache-2.0
library_name: diffusers
---

# Pictures as prompts for the model in the box

A small CLIP vision encoder, and two adapters that let the model in the box take a picture beside
its text: `separate.safetensors` is an IP-Adapter (keys and values of its own at every site, and a
softmax of its own; arXiv 2308.06721), `concatenated.safetensors` a projection whose tokens stand
behind the text's in one sequence. Both were trained on drawn scenes by
`scripts/train_pictures.py`, with everything else frozen.

```python
import t2i_xattn as tx

pipe = tx.load_default(pictures="separate")  # pipe.load_ip_adapter(this folder, …)
pipe("in a forest at night", ip_adapter_image=picture)
```

They know what the model in the box knows: its things, places and lights, and nothing else.
"""


def picture_prompts_card(recipe: PicturePromptRecipe, run: Path, figures: Path | None) -> str:
    """The card as Markdown.

    Args:
        recipe: what was trained.
        run: the folder of the run, with the losses of its finished stages.
        figures: what `evaluate.py picture-prompts --json` wrote.

    Raises:
        UserError: there are no such figures.
    """
    rows = [
        "## Training",
        "",
        f"{recipe.scenes} drawn scenes. The last loss is a mean over 50 steps.",
        "",
        "| stage | steps | batch | minutes | first loss | last loss |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in PARTS:
        settings = getattr(recipe, name)
        curve = _curve(run / f"{name}.averaged.safetensors")
        # A stage of fewer steps than an entry's has none.
        told = ["", "", ""]
        if curve:
            told = [f"{curve[-1][2] / 60:.0f}", f"{curve[0][1]:.3f}", f"{curve[-1][1]:.3f}"]
        rows.append(f"| {name} | {settings.steps} | {settings.batch} | {' | '.join(told)} |")
    return "\n".join([HEADER, *rows, *(_measured(figures) if figures else ())]) + "\n"


def _curve(path: Path) -> list[list[float]]:
    with safe_open(path, "pt") as file:
        curve: list[list[float]] = json.loads(file.metadata()["curve"])
    return curve


def _measured(path: Path) -> list[str]:
    try:
        read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"expected figures that evaluate.py picture-prompts --json wrote at {path}, but came "
            f"{error}"
        ) from error
    names = ("object", "once", "kind", "place", "light", "object and place", "peak inside")
    settings = read["settings"]
    rows = [
        "",
        "## Measured",
        "",
        f"{settings['limit']} drawn pictures that training has not seen, {settings['steps']} "
        f"steps, guidance {settings['guidance']:g}, by the judge; in %, with Wilson's 95 % "
        "interval. `alone`: the picture and no text; `elsewhere`: the text tells another place. "
        "`once`: no other thing is like it. `text` has everything told in words and no picture. "
        "`peak inside`: the map of what the picture gives has its highest place in the box of "
        "the thing that came from it.",
        "",
        f"| task | way | {' | '.join(names)} |",
        f"| --- | --- |{' --- |' * len(names)}",
    ]
    for task in ("alone", "elsewhere"):
        for way, told in read[task].items():
            cells = [_share(told[name]) for name in names]
            rows.append(f"| {task} | {way} | {' | '.join(cells)} |")
    return rows


def _share(told: dict[str, Any]) -> str:
    if told["share"] is None:
        return ""
    low, high = (100 * each for each in told["wilson_95"])
    return f"{100 * told['share']:.0f} ({low:.0f}–{high:.0f})"
