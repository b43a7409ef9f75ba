"""One training loop for every stage: accelerate, moving average, resumable at any moment.

A stage is a module and a function ``loss(module, step) -> scalar`` that draws its batch and its
noise from the step alone. Nothing else has state, so the checkpoint is the module, its moving
average and AdamW's moments, in one safetensors file.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from t2i_xattn.training.recipe import Schedule

LossFunction = Callable[[Any, int], Tensor]
"""Draws the batch and the noise of a step for a module (whose children have names)."""

Curve = list[tuple[int, float, float]]
"""Step, mean loss since the last entry, and seconds trained so far (over all sessions)."""

LOG_EVERY = 50


def generator_for(seed: int, stage: str, step: int) -> torch.Generator:
    """Randomness that belongs to one step of one stage, on the CPU."""
    mixed = (seed * 1_000_003 + step) * 31 + sum(stage.encode())
    return torch.Generator().manual_seed(mixed)


def seed_for(seed: int, stage: str, step: int) -> list[int]:
    """The same for numpy's generators."""
    return [seed, sum(stage.encode()), step]


def parameter_groups(module: nn.Module, rates: dict[str, float]) -> list[dict[str, Any]]:
    """AdamW's groups: a learning rate for each child of ``module``; decay for matrices only."""
    groups = []
    for name, child in module.named_children():
        trained = [each for each in child.parameters() if each.requires_grad]
        for matrices in (True, False):
            chosen = [each for each in trained if (each.dim() > 1) == matrices]
            if chosen:
                decay = 0.01 if matrices else 0.0
                groups.append({"params": chosen, "peak": rates[name], "weight_decay": decay})
    return groups


class _Checkpoint:
    """The whole state of a stage as flat tensors, written whole or not at all."""

    def __init__(self, path: Path, module: nn.Module, average: AveragedModel, adam: Any) -> None:
        self.path, self.module, self.average, self.adam = path, module, average, adam

    def _moments(self) -> dict[str, Tensor]:
        tensors = {}
        for index, each in enumerate(p for g in self.adam.param_groups for p in g["params"]):
            for key, value in self.adam.state.get(each, {}).items():
                tensors[f"adam.{index}.{key}"] = value
        return tensors

    def save(self, step: int, curve: Curve) -> None:
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= self._moments()
        contiguous = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
        part = self.path.with_suffix(".part")
        save_file(contiguous, part, {"step": str(step), "curve": json.dumps(curve)})
        part.replace(self.path)

    def load(self) -> tuple[int, Curve]:
        if not self.path.exists():
            return 0, []
        with safe_open(self.path, "pt") as file:
            meta = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for prefix, module in (("module.", self.module), ("average.", self.average)):
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            module.load_state_dict(state)
        parameters = [p for g in self.adam.param_groups for p in g["params"]]
        for index, each in enumerate(parameters):
            found = {
                key: tensors[f"adam.{index}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
            }
            # In the layout of the parameter, so that sums run in the same order as before.
            moments = {
                key: torch.empty_like(each, requires_grad=False).copy_(found[key])
                for key in ("exp_avg", "exp_avg_sq")
            }
            self.adam.state[each] = {"step": found["step"], **moments}
        return int(meta["step"]), [tuple(each) for each in json.loads(meta["curve"])]


@dataclass(frozen=True)
class StageResult:
    """A stage after training.

    Attributes:
        averaged: the moving average of the module, which is what ships.
        curve: an entry every 50 steps.
        trained: steps of this call.
        finished: whether the stage has had all its steps.
    """

    averaged: Any
    curve: Curve
    trained: int
    finished: bool


def train_stage(
    name: str,
    module: nn.Module,
    loss: LossFunction,
    schedule: Schedule,
    folder: Path,
    *,
    rates: dict[str, float],
    accelerator: Accelerator,
    save_every: float = 300.0,
    max_steps: int | None = None,
) -> StageResult:
    """Train a stage to its end, going on from ``folder/NAME.safetensors`` where it exists.

    Args:
        name: the stage, for the progress bar and the file.
        module: what is trained, its children the parameter groups.
        loss: draws a batch for a step and returns the mean loss.
        schedule: length and learning rate.
        folder: where the checkpoint lies.
        rates: learning rate of each child of ``module``.
        accelerator: device and precision.
        save_every: seconds between checkpoints; an interrupt saves too.
        max_steps: stop (and save) after this many steps; a later call goes on.

    Raises:
        KeyboardInterrupt: an interrupt or a termination came; all is saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = module.to(accelerator.device)
    adam = torch.optim.AdamW(parameter_groups(module, rates), lr=0.0, betas=(0.9, 0.99), fused=True)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema))
    checkpoint = _Checkpoint(folder / f"{name}.safetensors", module, average, adam)
    step, curve = checkpoint.load()
    start = step
    end = schedule.steps if max_steps is None else min(step + max_steps, schedule.steps)
    interrupted = False

    def interrupt(*_: Any) -> None:
        nonlocal interrupted
        interrupted = True

    previous = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    recent: list[float] = []
    saved = time.monotonic()
    # Seconds since the last entry are lost by an interrupt, as are its losses: at most 50 steps'.
    began = time.monotonic() - (curve[-1][2] if curve else 0.0)
    try:
        with tqdm(total=schedule.steps, initial=step, desc=name, mininterval=1.0) as bar:
            while step < end and not interrupted:
                for group in adam.param_groups:
                    group["lr"] = group["peak"] * schedule.rate(step)
                with accelerator.autocast():
                    value = loss(module, step)
                accelerator.backward(value)
                nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                adam.step()
                adam.zero_grad(set_to_none=True)
                average.update_parameters(module)
                step += 1
                recent.append(value.item())
                bar.update()
                if step % LOG_EVERY == 0:
                    mean = sum(recent) / len(recent)
                    curve.append((step, mean, round(time.monotonic() - began, 1)))
                    bar.set_postfix(loss=f"{mean:.4f}")
                    recent = []
                if time.monotonic() - saved > save_every:
                    checkpoint.save(step, curve)
                    saved = time.monotonic()
        if step > start:
            checkpoint.save(step, curve)
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
    if interrupted:
        raise KeyboardInterrupt
    return StageResult(average.module, curve, step - start, step == schedule.steps)
