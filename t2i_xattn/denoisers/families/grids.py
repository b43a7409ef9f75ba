"""How the latents of a transformer lie: read from what it is given, class by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from t2i_xattn.denoisers.call import Grid

ReadGrids = Callable[[Any, Mapping[str, Any], Any], tuple[Grid, Grid]]
"""From a denoiser, its arguments and the latents to the grids of the latents and of the places."""


def patched(denoiser: Any, given: Mapping[str, Any], sample: Any) -> tuple[Grid, Grid]:
    """Latents `(rows, channels, [frames,] height, width)`, parted into patches."""
    frames = int(sample.shape[2]) if sample.ndim == 5 else 1
    return _in_patches(denoiser.config, frames, *sample.shape[-2:])


def frames_first(denoiser: Any, given: Mapping[str, Any], sample: Any) -> tuple[Grid, Grid]:
    """Latents `(rows, frames, channels, height, width)`, parted into patches."""
    return _in_patches(denoiser.config, int(sample.shape[1]), *sample.shape[-2:])


def channels_last(denoiser: Any, given: Mapping[str, Any], sample: Any) -> tuple[Grid, Grid]:
    """Latents `(rows, frames, height, width, channels)`, parted into patches."""
    return _in_patches(denoiser.config, *sample.shape[1:4])


def with_reference(denoiser: Any, given: Mapping[str, Any], sample: Any) -> tuple[Grid, Grid]:
    """As `channels_last`, with a given picture behind the video's frames, told by its place in
    time."""
    latent, places = channels_last(denoiser, given, sample)
    if given.get("visual_rope_pos") is None:
        return latent, places
    times = [time for (time,) in _numbers(given["visual_rope_pos"][0])]
    own = next((n for n in range(1, len(times)) if times[n] <= times[n - 1]), len(times))
    return (own, *latent[1:]), (own, *places[1:])


def one_by_one(denoiser: Any, given: Mapping[str, Any], sample: Any) -> tuple[Grid, Grid]:
    """A list of latents `(channels, frames, height, width)`, in patches of a given size."""
    frames, height, width = (int(each) for each in sample[0].shape[-3:])
    patch, over_time = given.get("patch_size", 2), given.get("f_patch_size", 1)
    return (frames, height, width), (frames // over_time, height // patch, width // patch)


def listed(denoiser: Any, given: Mapping[str, Any], sample: Any) -> tuple[Grid, Grid]:
    """Latents in sequences, whose sizes are listed: the picture's, then those of references."""
    shapes = given["img_shapes"]
    first = shapes[0]
    frames, height, width = first if isinstance(first[0], int) else first[0]
    return (frames, height * 2, width * 2), (frames, height, width)


def squared(denoiser: Any, given: Mapping[str, Any], sample: Any) -> tuple[Grid, Grid]:
    """Latents `(rows, channels, height, width)`; or in sequences that were filled up to the square,
    whose sizes in places are listed."""
    if sample.ndim == 4:
        return patched(denoiser, given, sample)
    height, width = (int(each) for each in given["img_sizes"][0])
    patch = int(denoiser.config.patch_size)
    return (1, height * patch, width * patch), (1, height, width)


def named(denoiser: Any, given: Mapping[str, Any], sample: Any) -> tuple[Grid, Grid]:
    """Latents in sequences, whose size is given by name."""
    grid = int(given["num_frames"]), int(given["height"]), int(given["width"])
    return grid, grid


def by_ids(
    key: str, axes: tuple[int, int, int] = (0, 1, 2), patch: int = 2, behind: str | None = None
) -> ReadGrids:
    """Latents in sequences, whose places are told by position ids `([rows,] places, axes)`.

    The picture's own places come first; behind them may be those of references, which have another
    number on the first axis.

    Args:
        key: the argument.
        axes: of the reference, of height and of width.
        patch: latents on a side of a place.
        behind: the argument of the text, where its own ids stand in front.
    """

    def read(denoiser: Any, given: Mapping[str, Any], sample: Any) -> tuple[Grid, Grid]:
        # Those of references whose keys are kept stand in front, in the call that makes them.
        in_front = given.get("num_ref_tokens", 0) if given.get("kv_cache_mode") == "extract" else 0
        if behind is not None:
            in_front = int(given[behind].shape[1])
        ids = _numbers(given[key])[in_front:]
        reference, down, right = axes
        own = [place for place in ids if place[reference] == ids[0][reference]]
        height, width = (len({place[axis] for place in own}) for axis in (down, right))
        return (1, height * patch, width * patch), (1, height, width)

    return read


_known = WeakTensorKeyDictionary()


def _numbers(ids: Tensor) -> list[list[float]]:
    """The numbers of a tensor of ids, the same all run long: read off a GPU once.

    Threads may ask at the same time, each for its own.
    """
    numbers: list[list[float]] | None = _known.get(ids)
    if numbers is None:
        of_row = ids[0] if ids.ndim == 3 else ids.reshape(len(ids), -1)
        numbers = _known[ids] = of_row.float().tolist()
    return numbers


def _in_patches(config: Any, frames: int, height: int, width: int) -> tuple[Grid, Grid]:
    size, over_time = getattr(config, "patch_size", None) or 1, getattr(config, "patch_size_t", 1)
    if isinstance(size, Sequence):
        over_time, down, right = size if len(size) == 3 else (over_time, *size)
    else:
        down = right = size
    latent = int(frames), int(height), int(width)
    places = latent[0] // (over_time or 1), latent[1] // down, latent[2] // right
    return latent, places
