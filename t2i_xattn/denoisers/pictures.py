"""Pictures that stand beside the text as prompts."""

from __future__ import annotations

from typing import Any

from t2i_xattn.denoisers.of_pipeline import main_denoiser
from t2i_xattn.kernel.module_calls import uncompiled


def has_ip_adapter(pipe: Any) -> bool:
    """Whether an IP-Adapter is loaded into a pipeline's denoiser."""
    return ip_adapters(pipe) > 0


def ip_adapters(pipe: Any) -> int:
    """How many IP-Adapters are loaded into a pipeline's denoiser; it wants a picture for each."""
    denoiser = main_denoiser(pipe)
    if denoiser is None:
        return 0
    projection = getattr(uncompiled(denoiser), "encoder_hid_proj", None)
    return len(getattr(projection, "image_projection_layers", ()))
