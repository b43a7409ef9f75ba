"""How much the places take from the text, and how much from pictures given as prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.denoisers.seen import Rows, Seen
from t2i_xattn.denoisers.streams import TEXT, picture_stream
from t2i_xattn.kernel.attention import mixed_values, output_matrix
from t2i_xattn.kernel.call import taken
from t2i_xattn.kernel.room import roomy
from t2i_xattn.shapes import Float


def given_lengths(
    attn: Any, vectors: Float[Tensor, "rows heads places d"]
) -> Float[Tensor, "rows places"]:
    """‖o(x) W‖: how long what the places x take is, o of all heads behind each other and W the
    output projection without its bias. fp32.

    Shares of attention do not say how much a softmax of its own adds to the text's; lengths of what
    is added do, as for tokens in Kobayashi et al., "Attention is Not Only a Weight" (arXiv
    2004.10102), section 3.
    """
    matrix = output_matrix(attn.to_out[0], vectors)
    dtype = roomy(vectors, matrix, times=float(matrix.shape[-1]) ** 2)
    with torch.autocast(device_type=vectors.device.type, enabled=False):
        flat = vectors.to(dtype).transpose(1, 2).flatten(-2)
        return (flat @ matrix.to(dtype).mT).norm(dim=-1).float()


class Modalities:
    """What the places take from each in one call of the denoiser, in one branch after the other."""

    def __init__(self, given: Mapping[str, Any], adapters: int = 0) -> None:
        """
        Args:
            given: the arguments of the call.
            adapters: IP-Adapters of the run. A picture whose tokens stand among the text's has the
                number after theirs, so that each is measured by itself.
        """
        self._among = picture_stream(adapters + 1)
        kwargs = given.get("cross_attention_kwargs") or {}
        self._masks: Any = kwargs.get("ip_adapter_masks")
        self._sums: dict[tuple[str, str, str], Tensor] = {}

    def lengths(
        self, seen: Seen, branch: str, rows: Rows, pictures: Sequence[Sequence[int]]
    ) -> Iterator[tuple[str, Tensor]]:
        """The streams that this kernel call completes, with fp32 `(rows, 1, places, 1)`.

        Args:
            seen: the kernel call.
            branch: of the guidance.
            rows: of the branch.
            pictures: for each of them, the columns of pictures among the text's.
        """
        own = taken(seen.result, rows).float()
        if seen.stream == TEXT:
            if any(pictures):
                columns = torch.zeros(len(pictures), seen.tokens(rows), device=own.device)
                for row, each in enumerate(pictures):
                    columns[row, list(each)] = 1
                shares = seen.edited(rows) * columns[:, None, None]
                of_picture = mixed_values(shares, seen.values(rows)).float()
                own = own - of_picture
                yield self._among, self._map(seen, of_picture)
            yield TEXT, self._map(seen, own)
            return
        key = (seen.site.name, branch, seen.stream)
        own = own * self._scale(seen, own)
        # Under masks several pictures of an adapter add up.
        self._sums[key] = own if key not in self._sums else self._sums[key] + own
        if seen.reading.part == seen.reading.parts - 1:
            yield seen.stream, self._map(seen, self._sums.pop(key))

    def _map(self, seen: Seen, vectors: Tensor) -> Tensor:
        return given_lengths(seen.module, vectors)[:, None, :, None]

    def _scale(self, seen: Seen, vectors: Tensor) -> Tensor:
        """What diffusers' processors multiply a picture's part by, broadcast to the vectors."""
        number, part = int(seen.stream.split()[-1]) - 1, seen.reading.part
        scale = seen.module.processor.scale[number]
        factor = vectors.new_tensor(float(scale[part] if isinstance(scale, list) else scale))
        if self._masks is None or self._masks[number] is None:
            return factor
        from diffusers.image_processor import IPAdapterMaskProcessor

        mask = self._masks[number][:, part]
        places = int(vectors.shape[2])
        small = IPAdapterMaskProcessor.downsample(mask, len(vectors), places, 1)
        return factor * small[:, None].to(vectors)
