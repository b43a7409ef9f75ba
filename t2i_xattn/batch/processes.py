"""Which of several processes this one is, as `accelerate launch` or `torchrun` says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """One of the processes of a run.

    Attributes:
        rank: its number, 0 the first.
        world: how many there are, over all machines.
        device: where it computes; None: as without others.
    """

    rank: int
    world: int
    device: str | None


@contextmanager
def this_process(device: str | None) -> Iterator[Process]:
    """This one. The processes are only counted: nothing is sent from one to another.

    Args:
        device: that the user has named; `cuda` is each process's own.
    """
    import torch
    from accelerate import PartialState

    on_cpu = not torch.cuda.is_available() if device is None else device.split(":")[0] == "cpu"
    state = PartialState(cpu=on_cpu)
    own = device
    if state.num_processes > 1 and not on_cpu and device in (None, "cuda"):
        own = str(state.device)
    try:
        yield Process(state.process_index, state.num_processes, own)
    finally:
        state.destroy_process_group()
