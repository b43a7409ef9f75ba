"""What recording costs: time against the plain loop in the same process, and memory."""

from lab.benchmark.denoisers import DENOISERS, Loop, make_loop
from lab.benchmark.memory import peak_memory
from lab.benchmark.modes import MODES, PEER_MODES, STEERING_MODES, all_modes, mode
from lab.benchmark.timing import Ratio, time_in_turn

__all__ = [
    "DENOISERS",
    "MODES",
    "PEER_MODES",
    "STEERING_MODES",
    "Loop",
    "Ratio",
    "all_modes",
    "make_loop",
    "mode",
    "peak_memory",
    "time_in_turn",
]
