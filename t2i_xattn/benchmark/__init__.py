"""What recording costs: time against the plain loop in the same process, and memory."""

from t2i_xattn.benchmark.denoisers import DENOISERS, Loop, make_loop
from t2i_xattn.benchmark.memory import peak_memory
from t2i_xattn.benchmark.modes import MODES, PEER_MODES, STEERING_MODES, all_modes, mode
from t2i_xattn.benchmark.timing import Ratio, time_in_turn

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
