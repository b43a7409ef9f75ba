"""What an evaluation leaves: tables to read, and a JSON file with the same figures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from lab.evaluation.figures import Mean, Share
from lab.evaluation.inversions import InversionFigure
from lab.evaluation.judging import JudgeAccuracy
from lab.evaluation.map_costs import Cost
from lab.evaluation.maps import ALL, MapFigure, MapOf
from lab.evaluation.nearest import Recall
from lab.evaluation.reconstruction import Reconstruction
from lab.evaluation.segmentation import class_iou, mean_iou
from lab.evaluation.world_maps import WordPeaks
from lab.scenes.world import class_names
from t2i_xattn.errors import UserError


def judge_table(accuracies: Sequence[JudgeAccuracy]) -> Table:
    """The judge's own accuracy, by what was done to the pictures and by number of objects."""
    table = Table(
        "pictures",
        title="The judge on rendered scenes, half of them with held-out combinations: "
        "share judged rightly in every respect (Wilson 95 %)",
        title_justify="left",
    )
    for name in ("1 object", "2 objects", "3 objects", "all", "scenes"):
        table.add_column(name, justify="right")
    for each in accuracies:
        shares = [each.by_objects.get(count, Share(0, 0)) for count in (1, 2, 3)]
        table.add_row(each.spoiling, *map(str, shares), str(each.all), str(each.all.n))
    return table


def pictures_table(
    groups: Mapping[str, Mapping[str, Share]], objects: Mapping[str, int], judge: JudgeAccuracy
) -> Table:
    """Every figure of every group of prompts, beside the judge's accuracy for such scenes.

    Args:
        groups: for each group, its figures by name.
        objects: for each group, how many objects its prompts name.
        judge: measured in the same run.
    """
    table = Table("prompts", "figure", title="Painted pictures (Wilson 95 %)", title_justify="left")
    for name in ("share", "n", "the judge itself", "of"):
        table.add_column(name, justify="right")
    for group, figures in groups.items():
        own = judge.by_objects.get(objects[group], Share(0, 0))
        for index, (name, share) in enumerate(figures.items()):
            label = "" if index else group.replace("_", " ")
            last = index == len(figures) - 1
            row = (label, name, str(share), str(share.n), str(own), str(own.n))
            table.add_row(*row, end_section=last)
    return table


def world_table(
    groups: Mapping[str, Mapping[str, Share]], judge: Mapping[str, Share], iou: float
) -> Table:
    """What the pictures of the world's prompts show, and how far the judge is to be trusted."""
    table = Table("prompts", "figure", title="The world (Wilson 95 %)", title_justify="left")
    for name in ("share", "n"):
        table.add_column(name, justify="right")
    judged = {f"{name} right": share for name, share in judge.items()}
    for group, figures in {"the judge on drawn scenes": judged, **groups}.items():
        for index, (name, share) in enumerate(figures.items()):
            label = "" if index else group.replace("_", " ")
            last = index == len(figures) - 1
            table.add_row(label, name, str(share), str(share.n), end_section=last)
    table.caption = f"The judge's mean IoU over the classes of pixels: {iou:.3f}"
    return table


def world_judge_figures(judge: Mapping[str, Share], matrix: NDArray[np.int64]) -> dict[str, Any]:
    """The same of the judge, for JSON, with the IoU of every class that was there or seen."""
    classes = zip(class_names(), class_iou(matrix), strict=True)
    return {
        "mean IoU": mean_iou(matrix),
        "IoU": {name: float(iou) for name, iou in classes if not np.isnan(iou)},
        **{name: share.as_json() for name, share in judge.items()},
    }


def peaks_table(peaks: Mapping[str, Mapping[str, WordPeaks]], prompt: str) -> Table:
    """Whether the maps of a prompt's words have their peaks in what the words name."""
    title = f'"{prompt}": peaks of the maps'
    table = Table("way", "word", title=title, title_justify="left")
    for name in ("inside what it names", "by chance", "pictures"):
        table.add_column(name, justify="right")
    for way, of in peaks.items():
        for word, each in of.items():
            chance = f"{100 * each.by_chance:.0f} %"
            table.add_row(way, word, str(each.inside), chance, str(each.inside.n))
        table.add_section()
    return table


def recall_table(found: Recall) -> Table:
    """How near painted pictures come to those of the training."""
    table = Table("pictures", title="Distance to the nearest training picture (RMSE, 0 to 1)")
    for name in ("median", f"nearer than {found.threshold:.3f}"):
        table.add_column(name, justify="right")
    table.add_row("painted", f"{found.painted:.3f}", f"{found.near} of {found.pictures}")
    table.add_row("drawn, unseen", f"{found.unseen:.3f}", "1 %")
    table.caption = f"{found.trained_on} training pictures looked at"
    return table


def maps_table(
    figures: Sequence[MapFigure], scenes: int, source: str = "shapes", trained: bool = True
) -> Table:
    """Every map figure by way and kind of words, with the IoU of the baselines beside it."""
    weights = "" if trained else ", weights set at random"
    title = f"Heat maps against the true pixels, {scenes} drawn scenes of {source}{weights}"
    table = Table("way", "words", title=title, title_justify="left")
    names = ("IoU (95 %)", *_BASELINES, "true area", "% of peaks inside (95 %)", "energy", "n")
    for name in names:
        table.add_column(name, justify="right")
    by_key = {(each.way, each.kind, each.map_of): each for each in figures}
    for each in figures:
        if each.map_of != "the word":
            continue
        baselines = [by_key.get((each.way, each.kind, of)) for of in _BASELINES]
        table.add_row(
            each.way,
            each.kind,
            f"{each.iou.value:.3f} ({each.iou.low:.3f}–{each.iou.high:.3f})",
            *("none" if one is None else f"{one.iou.value:.3f}" for one in baselines),
            f"{each.iou_true_area.value:.3f}",
            f"{100 * each.pointing.value:.1f} "
            f"({100 * each.pointing.low:.1f}–{100 * each.pointing.high:.1f})",
            f"{each.energy.value:.2f}",
            str(each.n),
            end_section=each.kind == ALL,
        )
    return table


_BASELINES: tuple[MapOf, ...] = ("another's word", "a filler word", "uniform")


def map_costs_table(costs: Mapping[str, Cost], steps: int) -> Table:
    """What each way costs."""
    table = Table("way", title=f"What a map costs, one picture of {steps} steps with guidance")
    for name in ("seconds", "to those without", "pairs", "bytes kept", "ms a map"):
        table.add_column(name, justify="right")
    for way, each in costs.items():
        table.add_row(
            way,
            f"{each.seconds:.2f}",
            f"{each.ratio:.2f}",
            str(each.pairs),
            f"{each.bytes:,}",
            f"{1000 * each.map_seconds:.1f}",
        )
    return table


def above_uniform(figures: Sequence[MapFigure]) -> list[str]:
    """The ways whose maps lie on what their words name more than a map that knows nothing, in the
    mean over the kinds of words: with weights set at random, those that fail."""
    of_all = {(each.way, each.map_of): each for each in figures if each.kind == ALL}
    return [
        f"{way} ({told})"
        for way in dict.fromkeys(each.way for each in figures)
        for name, told in (("iou", "IoU"), ("pointing", "peak inside"))
        if getattr(of_all[way, "the word"], name).low > getattr(of_all[way, "uniform"], name).high
    ]


def means_table(kept: Reconstruction, seconds: float, steps: int) -> Table:
    """What a model's autoencoder keeps of a picture, and how long it takes to paint one."""
    table = Table("the model's means", title_justify="left")
    for name in ("value", "n"):
        table.add_column(name, justify="right")
    table.add_row("autoencoder, PSNR", f"{kept.psnr:.1f} dB", str(kept.n))
    table.add_row("autoencoder, of the worst", f"{kept.least:.1f} dB", "1")
    table.add_row("autoencoder, colour kept", f"{100 * kept.colourfulness:.1f} %", str(kept.n))
    table.add_row(f"one picture of {steps} steps", f"{seconds:.2f} s", "3")
    return table


def steering_table(figures: Mapping[str, Mapping[str, Share | Mean]]) -> Table:
    """What edits and guidance do, measurement by measurement."""
    table = Table(
        "edit",
        "figure",
        title="Edits and guidance, judged on the pictures (shares: Wilson 95 %; means: ± standard "
        "deviation)",
        title_justify="left",
    )
    for name in ("value", "n"):
        table.add_column(name, justify="right")
    for edit, each in figures.items():
        for index, (name, value) in enumerate(each.items()):
            last = index == len(each) - 1
            label = "" if index else edit
            table.add_row(label, name, str(value), str(value.n), end_section=last)
    return table


def plain_figures(figures: Mapping[str, Mapping[str, Share | Mean]]) -> dict[str, Any]:
    """The same as JSON has it."""
    return {
        edit: {name: value.as_json() for name, value in each.items()}
        for edit, each in figures.items()
    }


def inversions_table(figures: Sequence[InversionFigure]) -> Table:
    """Every method, beside what the autoencoder alone loses."""
    table = Table("method", title=f"{figures[0].n} rendered pictures inverted and painted again")
    for name in ("PSNR, dB", "behind the autoencoder, dB", "at worst, dB"):
        table.add_column(name, justify="right")
    for each in figures:
        numbers = (each.psnr, each.behind, each.behind_worst)
        table.add_row(each.method, *(f"{number:.1f}" for number in numbers))
    return table


def circumstances() -> dict[str, Any]:
    """Library versions and the machine."""
    import torch

    names = ("t2i-xattn", "torch", "diffusers", "transformers", "numpy", "scipy", "pillow")
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout, not installed
            versions[name] = None
    return {
        "versions": versions | {"python": platform.python_version()},
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def check_writable(path: Path) -> None:
    """Say so before anything is computed, where a file cannot be written.

    Raises:
        UserError: the folder does not exist or is not writable, or the path is a folder.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(
            f"expected a file that can be written at {path}, but its folder is missing or "
            "read-only, or it is a folder itself; choose another --json"
        )


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    work = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        work.chmod(0o644)  # mkstemp's files are private
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)
