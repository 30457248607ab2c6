# SPDX-License-Identifier: Apache-2.0
"""The training loop: seeded per step, saved atomically, resumable, safe to interrupt.

Every step starts by seeding torch from (seed, stage, step), so what a step does
depends on nothing but the state before it. A run that was interrupted and
resumed therefore ends with the same weights as one that was not (same machine,
same number of threads).
"""

from __future__ import annotations

import math
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from lutvar.progress import progress_bar
from lutvar.quant.var.pickled import PickledError, read_pickled
from lutvar.quant.var.tensors import write_state
from lutvar.stop import deferred

#: One history record: the step and its measured values.
Record = dict[str, float]


class Stage(Protocol):
    """One model being trained."""

    name: str
    steps: int
    fingerprint: str
    """Everything the result depends on; a saved state with another one is not resumed."""

    def step(self, index: int) -> Record:
        """Run one optimizer step; returns values for the history."""

    def measure(self) -> Record:
        """Values on held-out images; called now and then, must not change the state."""

    def state(self) -> dict[str, Any]:
        """Tensors to save."""

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""


class ModelStage:
    """State of a stage that has one model and one optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def state(self) -> dict[str, Any]:
        """What `load` needs to continue."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


@dataclass
class StageRun:
    """How far a stage is: steps done, wall-clock and processor seconds spent on them, history."""

    done: int
    seconds: float
    cpu_seconds: float
    history: list[Record]


class ResumeError(ValueError):
    """A saved training state that cannot be continued."""


SAVE_SECONDS = 20.0  #: between writes of the state
RECORDS = 120  #: of history in a run, about


def run_stage(
    stage: Stage,
    folder: Path,
    seed: int,
    resume: bool = True,
    progress: bool = True,
) -> StageRun:
    """Train a stage to its last step.

    Args:
        stage: what to train.
        folder: the state is kept in `<folder>/<stage.name>.state`.
        seed: seed of the whole run.
        resume: continue from a saved state when there is one.
        progress: show a progress bar.

    Returns:
        History and computing time, earlier parts of a resumed run included.

    Raises:
        ResumeError: the saved state is of other settings, or damaged.
        KeyboardInterrupt: Ctrl-C, after the step was finished and the state written;
            its subclass Terminated for SIGTERM.
    """
    path = folder / f"{stage.name}.state"
    fingerprint = f"{stage.fingerprint} seed={seed}"
    run = StageRun(0, 0.0, 0.0, [])
    if resume and path.exists():
        run = _load(path, stage, fingerprint)
    every = max(1, stage.steps // RECORDS)
    saved = time.monotonic()
    began, cpu_began = saved - run.seconds, time.process_time() - run.cpu_seconds
    bar = progress_bar(stage.name, stage.steps, initial=run.done, show=progress)
    with deferred() as stop, bar:
        for index in range(run.done, stage.steps):
            seed_step(seed, stage.name, index)
            values = stage.step(index)
            run.done = index + 1
            last = run.done == stage.steps
            if run.done % every == 0 or last:
                values = {"step": run.done, **values, **stage.measure()}
                run.history.append(values)
                shown = (f"{k}={v:.4g}" for k, v in values.items() if k != "step")
                bar.set_postfix_str(", ".join(shown))
            bar.update()
            now = time.monotonic()
            if last or stop.number or now - saved > SAVE_SECONDS:
                run.seconds, saved = now - began, now
                run.cpu_seconds = time.process_time() - cpu_began
                _save(path, stage, fingerprint, run)
            if stop.number:
                raise stop.error(f"{stage.name}: state saved at step {run.done}")
    return run


def cosine_lr(index: int, steps: int, max_lr: float, warmup: int) -> float:
    """Learning rate: linear rise over `warmup` steps, then a cosine down to 1 % of `max_lr`."""
    if index < warmup:
        return max_lr * (index + 1) / warmup
    done = (index - warmup) / max(1, steps - warmup)
    return max_lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameter groups one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def seed_step(seed: int, name: str, index: int) -> None:
    """Seed torch's global generator for one step of one stage (-1: making the model)."""
    torch.manual_seed(zlib.crc32(f"{seed}/{name}/{index}".encode()))


def _save(path: Path, stage: Stage, fingerprint: str, run: StageRun) -> None:
    content = {"fingerprint": fingerprint, "run": asdict(run), "stage": stage.state()}
    write_state(path, content)


def _load(path: Path, stage: Stage, fingerprint: str) -> StageRun:
    try:
        saved: Any = read_pickled(path)
        previous, run = saved["fingerprint"], StageRun(**saved["run"])
    except (PickledError, LookupError, TypeError) as error:
        raise ResumeError(
            f"{path}: damaged ({error}); delete it or train without resume"
        ) from error
    if previous != fingerprint:
        raise ResumeError(
            f"{path}: was made with other settings ({previous}; now {fingerprint}); use another "
            "folder, the same settings, or train without resume"
        )
    stage.load(saved["stage"])
    return run
