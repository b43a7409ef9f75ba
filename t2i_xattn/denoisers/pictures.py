"""Pictures that stand beside the text as prompts."""

from __future__ import annotations

from typing import Any

from t2i_xattn.kernel.module_calls import uncompiled


def has_ip_adapter(pipe: Any) -> bool:
    """Whether an IP-Adapter is loaded into a pipeline's denoiser."""
    # Not by its truth value, which a compiled one does not have.
    denoiser = getattr(pipe, "unet", None)
    denoiser = getattr(pipe, "transformer", None) if denoiser is None else denoiser
    if denoiser is None:
        return False
    projection = getattr(uncompiled(denoiser), "encoder_hid_proj", None)
    return hasattr(projection, "image_projection_layers")
