"""One training loop for every stage: accelerate, moving average, resumable at any moment.

A stage is a module and a function ``loss(module, step) -> scalar`` that draws its batch and its
noise from the step alone. Nothing else has state, so the checkpoint is the module, its moving
average and the optimizers' moments, in one safetensors file.
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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from lab.training.muon import Muon, hidden_matrices
from lab.training.recipe import Schedule

LossFunction = Callable[[Any, int], Tensor]
"""Draws the batch and the noise of a step for a module (whose children have names)."""

Curve = list[tuple[int, float, float]]
"""Step, mean loss since the last entry, and seconds trained so far (over all sessions)."""

LOG_EVERY = 50


def new_accelerator(mixed_precision: str) -> Accelerator:
    """The device and the precision of autocast; other products of matrices are TF32 on a GPU."""
    torch.set_float32_matmul_precision("high")
    return Accelerator(mixed_precision=mixed_precision)


def generator_for(
    seed: int, stage: str, step: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Randomness that belongs to one step of one stage, for tensors of a device."""
    mixed = (seed * 1_000_003 + step) * 31 + sum(stage.encode())
    return torch.Generator(device).manual_seed(mixed)


def seed_for(seed: int, stage: str, step: int) -> list[int]:
    """The same for numpy's generators."""
    return [seed, sum(stage.encode()), step]


def new_optimizers(
    module: nn.Module, rates: dict[str, float], matrix_rates: dict[str, float]
) -> dict[str, torch.optim.Optimizer]:
    """AdamW, and Muon for the hidden matrices of the children in ``matrix_rates``.

    ``rates`` holds a learning rate for each child of ``module``. AdamW decays matrices only. A
    child whose rate in ``matrix_rates`` is 0 is AdamW's as a whole.
    """
    adam: list[dict[str, Any]] = []
    muon: list[dict[str, Any]] = []
    for name, child in module.named_children():
        hidden = hidden_matrices(child) if matrix_rates.get(name) else []
        if hidden:
            muon.append({"params": hidden, "peak": matrix_rates[name], "weight_decay": 0.01})
        taken = {id(each) for each in hidden}
        trained = [each for each in child.parameters() if each.requires_grad]
        for matrices in (True, False):
            chosen = [p for p in trained if (p.dim() > 1) == matrices and id(p) not in taken]
            if chosen:
                decay = 0.01 if matrices else 0.0
                adam.append({"params": chosen, "peak": rates[name], "weight_decay": decay})
    optimizers: dict[str, torch.optim.Optimizer] = {
        "adam": torch.optim.AdamW(adam, lr=0.0, betas=(0.9, 0.99), fused=True)
    }
    if muon:
        optimizers["muon"] = Muon(muon)
    return optimizers


def _write(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """A file, whole or not at all."""
    part = path.with_suffix(".part")
    save_file(tensors, part, about)
    part.replace(path)


class _Checkpoint:
    """The whole state of a stage as flat tensors, written whole or not at all."""

    def __init__(
        self,
        path: Path,
        module: nn.Module,
        average: AveragedModel,
        optimizers: dict[str, torch.optim.Optimizer],
    ) -> None:
        self.path, self.module, self.average = path, module, average
        self.optimizers = optimizers

    def _parameters(self, name: str) -> list[Tensor]:
        return [each for group in self.optimizers[name].param_groups for each in group["params"]]

    def _moments(self) -> dict[str, Tensor]:
        tensors = {}
        for name, optimizer in self.optimizers.items():
            for index, each in enumerate(self._parameters(name)):
                for key, value in optimizer.state.get(each, {}).items():
                    tensors[f"{name}.{index}.{key}"] = value
        return tensors

    def save(self, step: int, curve: Curve) -> None:
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= self._moments()
        contiguous = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
        _write(self.path, contiguous, {"step": str(step), "curve": json.dumps(curve)})

    def load(self) -> tuple[int, Curve]:
        if not self.path.exists():
            return 0, []
        with safe_open(self.path, "pt") as file:
            meta = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for prefix, module in (("module.", self.module), ("average.", self.average)):
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            module.load_state_dict(state)
        for name, optimizer in self.optimizers.items():
            keys = ("step", "exp_avg", "exp_avg_sq") if name == "adam" else ("momentum",)
            for index, each in enumerate(self._parameters(name)):
                found = {key: tensors[f"{name}.{index}.{key}"] for key in keys}
                # In the layout of the parameter, so that sums run in the same order as before.
                optimizer.state[each] = {
                    key: value.to(each.device)
                    if key == "step"
                    else torch.empty_like(each, requires_grad=False).copy_(value)
                    for key, value in found.items()
                }
        return int(meta["step"]), [tuple(each) for each in json.loads(meta["curve"])]


def _save_averaged(path: Path, module: nn.Module, curve: Curve) -> None:
    state = {name: each.contiguous() for name, each in module.state_dict().items()}
    _write(path, state, {"curve": json.dumps(curve)})


def _load_averaged(path: Path, module: nn.Module) -> Curve:
    with safe_open(path, "pt") as file:
        curve: Curve = [tuple(each) for each in json.loads(file.metadata()["curve"])]
    module.load_state_dict(load_file(path))
    return curve


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
    matrix_rates: dict[str, float] | None = None,
    accelerator: Accelerator,
    save_every: float = 300.0,
    max_steps: int | None = None,
) -> StageResult:
    """Train a stage to its end, going on from ``folder/NAME.safetensors`` where it exists.

    A finished stage leaves ``folder/NAME.averaged.safetensors``, which is all that later stages
    need: the other file may then be deleted.

    Args:
        name: the stage, for the progress bar and the file.
        module: what is trained, its children the parameter groups.
        loss: draws a batch for a step and returns the mean loss.
        schedule: length and learning rate.
        folder: where the checkpoint lies.
        rates: learning rate of each child of ``module``.
        matrix_rates: Muon's learning rate of those children whose matrices it trains.
        accelerator: device and precision.
        save_every: seconds between checkpoints; an interrupt saves too.
        max_steps: stop (and save) after this many steps; a later call goes on.

    Raises:
        KeyboardInterrupt: an interrupt or a termination came; all is saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = module.to(accelerator.device)
    optimizers = new_optimizers(module, rates, matrix_rates or {})
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema))
    checkpoint = _Checkpoint(folder / f"{name}.safetensors", module, average, optimizers)
    kept = folder / f"{name}.averaged.safetensors"
    if kept.exists() and not checkpoint.path.exists():
        return StageResult(average.module, _load_averaged(kept, average.module), 0, True)
    step, curve = checkpoint.load()
    start = step
    end = schedule.steps if max_steps is None else min(step + max_steps, schedule.steps)
    interrupted = False

    def interrupt(*_: Any) -> None:
        nonlocal interrupted
        interrupted = True

    previous = {one: signal.signal(one, interrupt) for one in (signal.SIGINT, signal.SIGTERM)}
    recent: list[Tensor] = []
    saved = time.monotonic()
    # Seconds since the last entry are lost by an interrupt, as are its losses: at most 50 steps'.
    began = time.monotonic() - (curve[-1][2] if curve else 0.0)
    try:
        with tqdm(total=schedule.steps, initial=step, desc=name, mininterval=1.0) as bar:
            while step < end and not interrupted:
                for each in optimizers.values():
                    for group in each.param_groups:
                        group["lr"] = group["peak"] * schedule.rate(step)
                with accelerator.autocast():
                    value = loss(module, step)
                accelerator.backward(value)
                nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                for each in optimizers.values():
                    each.step()
                    each.zero_grad(set_to_none=True)
                average.update_parameters(module)
                step += 1
                # Asking for its value would let an accelerator wait.
                recent.append(value.detach())
                bar.update()
                if step % LOG_EVERY == 0:
                    mean = float(torch.stack(recent).mean())
                    curve.append((step, mean, round(time.monotonic() - began, 1)))
                    bar.set_postfix(loss=f"{mean:.4f}")
                    recent = []
                if time.monotonic() - saved > save_every:
                    checkpoint.save(step, curve)
                    saved = time.monotonic()
        if step > start:
            checkpoint.save(step, curve)
        if step == schedule.steps:
            _save_averaged(kept, average.module, curve)
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)
    if interrupted:
        raise KeyboardInterrupt
    return StageResult(average.module, curve, step - start, step == schedule.steps)
