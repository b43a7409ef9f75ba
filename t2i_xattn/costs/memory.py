"""How much memory there is, and how it is told."""

from __future__ import annotations

from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a device now; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu":
        import psutil  # accelerate needs it, so it is there

        free = int(psutil.virtual_memory().available)
        return min([free, *_left_in_container()])
    return None


def _left_in_container() -> list[int]:
    """What the limits of a container leave (cgroup v2): the machine has more, and the process is
    killed where it takes it. Pages of files count as free, since they go when room is needed."""
    try:
        own = next(line for line in _OWN.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    found, folder = [], _CGROUPS / own.removeprefix("0::").strip("/")
    while folder == _CGROUPS or _CGROUPS in folder.parents:
        try:
            limit = int((folder / "memory.max").read_text())
            taken = int((folder / "memory.current").read_text())
            lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            told = {name: int(count) for name, count in lines}
            pages = told.get("active_file", 0) + told.get("inactive_file", 0)
            found.append(max(0, limit - taken + pages))
        except (OSError, ValueError):
            pass  # no limit here, or nothing that can be read
        folder = folder.parent
    return found


def gigabytes(count: int) -> str:
    """`"3.2 GB"`, or `"41 MB"` of less than one."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
