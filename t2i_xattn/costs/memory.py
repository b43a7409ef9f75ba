"""How much memory there is, and how it is told."""

from __future__ import annotations

import torch


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a device now; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu":
        import psutil  # accelerate needs it, so it is there

        return int(psutil.virtual_memory().available)
    return None


def gigabytes(count: int) -> str:
    """`"3.2 GB"`, or `"41 MB"` of less than one."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
