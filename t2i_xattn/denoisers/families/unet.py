"""UNets of down, middle and up blocks whose transformers cross-attend to a text: Stable Diffusion,
SDXL, their ControlNets, and video UNets, whose rows are batch × frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.sites import AttentionSite, Kind, Place
from t2i_xattn.denoisers.streams import SELF, TEXT, picture_stream
from t2i_xattn.kernel.call import KernelCall

_OVER_TIME = ("motion_modules", "temp_attentions", "temporal_transformer_blocks")
"""Modules whose queries are the frames of one place, and not the places of a picture."""


class UNet:
    """See the module; the protocol is `families.Family`."""

    def is_one(self, denoiser: nn.Module) -> bool:
        return hasattr(denoiser, "down_blocks") and hasattr(denoiser, "mid_block")

    def walk(self, denoiser: nn.Module) -> Iterator[tuple[AttentionSite, nn.Module]]:
        counts: dict[Kind, int] = {"cross": 0, "self": 0}
        for name, module, place, level in self._layers(denoiser):
            # Not by the name "attn2": with `only_cross_attention` the first layer crosses too.
            kind: Kind = "cross" if module.is_cross_attention else "self"
            yield (
                AttentionSite(name, kind, counts[kind], place, level, int(module.heads)),
                module,
            )
            counts[kind] += 1

    def _layers(self, denoiser: Any) -> Iterator[tuple[str, Any, Place, int]]:
        level = 0
        for index, block in enumerate(denoiser.down_blocks):
            yield from _of_block(block, f"down_blocks.{index}", "down", level)
            # The halving comes after the block's layers; the last down block has none.
            level += _resamples(block, "downsamplers")
        if denoiser.mid_block is not None:
            yield from _of_block(denoiser.mid_block, "mid_block", "mid", level)
        for index, block in enumerate(getattr(denoiser, "up_blocks", ())):
            yield from _of_block(block, f"up_blocks.{index}", "up", level)
            level -= _resamples(block, "upsamplers")

    def call(self, denoiser: nn.Module, given: Mapping[str, Any]) -> DenoiserCall | None:
        sample, text = given["sample"], given.get("encoder_hidden_states")
        if not isinstance(text, Tensor):
            return None
        frames = int(sample.shape[2]) if sample.ndim == 5 else 1
        return DenoiserCall(
            given=given,
            sample=sample,
            # One for each frame or one for each picture.
            text=text[::frames] if len(text) == len(sample) * frames else text,
            tokens=int(text.shape[1]),
            timestep=given["timestep"],
            latent=(frames, int(sample.shape[-2]), int(sample.shape[-1])),
            frames_as_rows=True,
        )

    def aside(self, denoiser: nn.Module, given: Mapping[str, Any]) -> bool:
        return False

    def with_sample(self, given: Mapping[str, Any], sample: Tensor) -> dict[str, Any]:
        return dict(given) | {"sample": sample}

    def reading(
        self,
        site: AttentionSite,
        module: nn.Module,
        kernel: KernelCall,
        number: int,
        call: DenoiserCall,
    ) -> Reading:
        rows, _, queries, _ = kernel.query.shape
        size = size_of(site, queries, call.latent_size)
        stream, problem = (SELF, 0, 1), None
        if site.kind == "cross":
            streams = self.streams(module, call.given)
            stream = streams[min(number, len(streams) - 1)]
            keys = kernel.key.shape[2]
            if number >= len(streams):
                problem = f"the kernel was called {number + 1} times there"
            elif stream[0] == TEXT and keys != call.tokens:
                problem = f"the kernel got {keys} keys there for a text of {call.tokens} tokens"
        batch = call.rows * call.row_frames
        # Perturbed-attention guidance: the perturbed rows, which come last, look at nothing.
        takes_the_first = type(getattr(module, "processor", None)).__name__.startswith("PAG")
        if rows != batch and not (rows < batch and takes_the_first):
            problem = f"the kernel got {rows} rows there for a batch of {batch}"
        elif size is None:
            height, width = call.latent_size
            problem = f"its {queries} places there fit no grid of a latent of {height} × {width}"
        return Reading(None if size is None else (1, *size), *stream, problem=problem)

    def streams_at(
        self, site: AttentionSite, module: nn.Module, call: DenoiserCall
    ) -> tuple[str, ...]:
        if site.kind != "cross":
            return (SELF,)
        scales, embeds = _adapters(module, call.given)
        numbers = range(1, min(len(scales), len(embeds)) + 1)
        return (TEXT, *(picture_stream(number) for number in numbers))

    def streams(
        self, module: nn.Module, given: Mapping[str, Any]
    ) -> Sequence[tuple[str, int, int]]:
        streams = [(TEXT, 0, 1)]
        scales, embeds = _adapters(module, given)
        masks = (given.get("cross_attention_kwargs") or {}).get("ip_adapter_masks")
        for number, scale in enumerate(scales):
            # An adapter whose scale is 0 is left out by diffusers' processors.
            each = scale if isinstance(scale, list | tuple) else [scale]
            if number >= len(embeds) or all(one == 0 for one in each):
                continue
            # Under masks each picture has its own softmax.
            masked = masks is not None and masks[number] is not None
            parts = int(embeds[number].shape[1]) if masked else 1
            streams += [(picture_stream(number + 1), part, parts) for part in range(parts)]
        return streams


def _adapters(module: nn.Module, given: Mapping[str, Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """The scales of a site's IP-Adapters, and the embeddings of their pictures."""
    embeds = (given.get("added_cond_kwargs") or {}).get("image_embeds")
    scales = getattr(getattr(module, "processor", None), "scale", None)
    if not isinstance(embeds, list | tuple) or not isinstance(scales, list | tuple):
        return (), ()
    return scales, embeds


def size_of(site: AttentionSite, queries: int, latent: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of a site; None if its queries do not fit what the UNet is built like."""
    # Each halving rounds up, as strided convolutions do (kernel 3, stride 2, padding 1), and on the
    # way up the UNet is forced to the sizes of the way down.
    height, width = latent
    for _ in range(site.level or 0):
        height, width = -(-height // 2), -(-width // 2)
    return (height, width) if height * width == queries else None


def _of_block(
    block: nn.Module, block_name: str, place: Place, level: int
) -> Iterator[tuple[str, Any, Place, int]]:
    for name, module in block.named_modules(prefix=block_name):
        # The class first: a module that lacks an attribute takes its time to say so.
        if not hasattr(type(module), "set_processor") or not hasattr(module, "is_cross_attention"):
            continue
        if not any(part in _OVER_TIME for part in name.split(".")):
            yield name, module, place, level


def _resamples(block: nn.Module, which: str) -> int:
    return 1 if getattr(block, which, None) is not None else 0
