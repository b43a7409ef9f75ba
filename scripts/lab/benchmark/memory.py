"""Peak memory of a mode, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_LAB = Path(__file__).parents[2]
"""Where `lab` is found, by a process of its own too."""

_CODE = """
import json, resource, sys
import torch
from lab.benchmark import make_loop, mode

options = json.loads(sys.argv[1])
loop = make_loop(options["denoiser"], pixels=options["pixels"], tokens=options["tokens"],
                 dtype=getattr(torch, options["dtype"]), device=options["device"])
loop.run(1)
with mode(options["mode"], loop):
    loop.run(options["steps"])
if options["device"] == "cpu":
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
else:
    print(torch.cuda.max_memory_allocated())
"""


def peak_memory(
    denoiser: str,
    mode: str,
    steps: int,
    *,
    pixels: int | None = None,
    tokens: int | None = None,
    dtype: str = "bfloat16",
    device: str = "cpu",
) -> int:
    """Bytes at the highest point of a run: resident memory on a CPU, allocated on an accelerator.

    Raises:
        RuntimeError: the run failed; its last lines are in the message.
    """
    options = {
        "denoiser": denoiser,
        "mode": mode,
        "steps": steps,
        "pixels": pixels,
        "tokens": tokens,
        "dtype": dtype,
        "device": device,
    }
    path = os.pathsep.join(filter(None, [str(_LAB), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", _CODE, json.dumps(options)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    if done.returncode:
        raise RuntimeError(f"the run of {mode!r} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])
