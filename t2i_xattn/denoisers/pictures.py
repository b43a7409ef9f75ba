"""Pictures that stand beside the text as prompts."""

from __future__ import annotations

from typing import Any

from t2i_xattn.kernel.module_calls import uncompiled


def has_ip_adapter(pipe: Any) -> bool:
    """Whether an IP-Adapter is loaded into a pipeline's denoiser."""
    return ip_adapters(pipe) > 0


def ip_adapters(pipe: Any) -> int:
    """How many IP-Adapters are loaded into a pipeline's denoiser; it wants a picture for each."""
    # A compiled module cannot say whether it is true.
    parts = [getattr(pipe, name, None) for name in ("unet", "transformer")]
    denoiser = next((part for part in parts if part is not None), None)
    if denoiser is None:
        return 0
    projection = getattr(uncompiled(denoiser), "encoder_hid_proj", None)
    return len(getattr(projection, "image_projection_layers", ()))
