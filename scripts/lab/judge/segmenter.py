"""The network that tells what each pixel of a picture of the world is: a small U-Net."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from lab.judge.pixel_maps import PixelMaps, names_of_maps
from lab.scenes.layout import SIDE
from t2i_xattn.errors import UserError

WEIGHTS = Path(__file__).parents[1] / "models" / "world_judge"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class _Block(nn.Module):
    """Two convolutions, the second of which adds to what comes in."""

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(entering, leaving, 3, padding=1)
        self.first = nn.GroupNorm(8, leaving)
        self.change = nn.Conv2d(leaving, leaving, 3, padding=1)
        self.second = nn.GroupNorm(8, leaving)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = functional.silu(self.first(self.enter(hidden)))
        return hidden + functional.silu(self.second(self.change(hidden)))


class Segmenter(nn.Module):
    """Pictures `(batch, 3, height, width)` from -1 to 1 to scores of each map, by name.

    Each is `(batch, values, height, width)`; see `names_of_maps`. Height and width are multiples
    of 16.

    Args:
        channels: by size, each half of the one before; multiples of 8.
        patch: pixels a side that are one position at the largest size.
        fine: channels of each pixel, in which outlines are told; a multiple of 8.
        names: what the values of each map stand for; this version's if None.
    """

    def __init__(
        self,
        channels: list[int],
        patch: int = 2,
        fine: int = 32,
        names: dict[str, list[str]] | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.patch, self.fine = list(channels), patch, fine
        self.names = names_of_maps() if names is None else names
        # Where a pixel is says much of what it is: the sky is up.
        entering = [3 * patch**2 + 2, *channels[:-1]]
        self.down = nn.ModuleList(map(_Block, entering, channels))
        lower, upper = channels[:0:-1], channels[-2::-1]
        self.up = nn.ModuleList(_Block(a + b, b) for a, b in zip(lower, upper, strict=True))
        self.spread = nn.Conv2d(channels[0], fine * patch**2, 1)
        self.outline = _Block(fine + 3, fine)
        self.tell = nn.Conv2d(fine, sum(map(len, self.names.values())), 1)

    def form(self) -> dict[str, object]:
        """What it takes to make one like it."""
        return {"channels": self.channels, "patch": self.patch, "fine": self.fine}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        patches = functional.pixel_unshuffle(images, self.patch)
        batch, _, height, width = patches.shape
        rows = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)
        columns = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)
        where = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        hidden = torch.cat([patches, where.expand(batch, -1, -1, -1)], dim=1)
        kept: list[Tensor] = []
        for block in self.down:
            hidden = block(functional.avg_pool2d(hidden, 2) if kept else hidden)
            kept.append(hidden)
        kept.pop()
        for block in self.up:
            hidden = functional.interpolate(hidden, scale_factor=2.0)
            hidden = block(torch.cat([hidden, kept.pop()], dim=1))
        # Whose a pixel of an outline is, its own colour tells best.
        pixels = functional.pixel_shuffle(self.spread(hidden), self.patch)
        told = self.tell(self.outline(torch.cat([pixels, images], dim=1)))
        scores = told.float().split(list(map(len, self.names.values())), dim=1)
        return dict(zip(self.names, scores, strict=True))


@torch.no_grad()
def segment(segmenter: Segmenter, image: Image.Image) -> PixelMaps:
    """The maps that the network sees in a picture, 128 pixels a side.

    Raises:
        UserError: the picture is not square.
    """
    if image.width != image.height:
        raise UserError(
            f"expected a square picture, as all of the world are, but came {image.width} × "
            f"{image.height}; crop it"
        )
    picture = image.convert("RGB")
    if picture.width != SIDE:
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    device = next(segmenter.parameters()).device
    pixels = torch.from_numpy(np.array(picture)).to(device).permute(2, 0, 1)[None]
    scores = segmenter(pixels.float() / 127.5 - 1)
    best = {name: each[0].argmax(dim=0).cpu().numpy() for name, each in scores.items()}
    return PixelMaps(**{name: each.astype(np.int16) for name, each in best.items()})


def save_segmenter(segmenter: Segmenter, folder: Path) -> None:
    """Write a network: its weights in fp16, and its form with what its scores stand for."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**segmenter.form(), "names": segmenter.names}
    state = segmenter.state_dict()
    weights = {name: each.half().contiguous() for name, each in state.items()}
    part = folder / (WEIGHTS_FILE + ".part")
    save_file(weights, part)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    part.replace(folder / WEIGHTS_FILE)


def load_segmenter(folder: Path = WEIGHTS, *, any_world: bool = False) -> Segmenter:
    """Read a network, for fp32.

    Args:
        folder: where it lies.
        any_world: whether it may tell of other things than this version of the world has.

    Raises:
        UserError: there is none, or it tells of other things.
    """
    advice = "train it with `python scripts/train_judge.py --run runs/judge --export FOLDER`"
    try:
        config = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        weights = load_file(folder / WEIGHTS_FILE)
        names = config["names"]
        if names != names_of_maps() and not any_world:
            raise UserError(
                f"expected a judge of {_counted(names_of_maps())}, but the one in {folder} tells "
                f"{_counted(names)}, or others; {advice}"
            )
        segmenter = Segmenter(config["channels"], config["patch"], config["fine"], names)
        segmenter.load_state_dict({name: each.float() for name, each in weights.items()})
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"expected the trained judge of the world in {folder}, but came {error!r}; {advice}"
        ) from error
    return segmenter.eval()


def _counted(names: dict[str, list[str]]) -> str:
    return ", ".join(f"{len(values)} {name}" for name, values in names.items())
