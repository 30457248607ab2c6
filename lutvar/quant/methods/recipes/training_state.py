# SPDX-License-Identifier: Apache-2.0
"""Variables and optimizer of a run that may be interrupted, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lutvar.quant.var.pickled import read_pickled
from lutvar.quant.var.tensors import write_state


class TrainingState:
    """Keeps and restores variables and their optimizer.

    Args:
        path: the file. It stands beside what else is kept of the run, so it is of the same run.
        variables: what is trained; `load` changes them in place.
        optimizer: of these variables.
    """

    def __init__(
        self, path: Path, variables: Sequence[Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        self.path, self.variables, self.optimizer = path, variables, optimizer

    def save(self, steps: int) -> None:
        """Write the state after a number of steps, atomically."""
        content = {
            "steps": steps,
            "variables": [v.detach() for v in self.variables],
            "optimizer": self.optimizer.state_dict(),
        }
        write_state(self.path, content)

    def load(self) -> int:
        """Steps done; 0 where there is no state, or none that can be used (it is removed)."""
        if not self.path.exists():
            return 0
        try:
            content: Any = read_pickled(self.path)
            values = content["variables"]
            if [v.shape for v in values] != [v.shape for v in self.variables]:
                raise ValueError("other variables")
            self.optimizer.load_state_dict(content["optimizer"])
        except (OSError, RuntimeError, ValueError, LookupError, TypeError):
            self.path.unlink()
            return 0
        with torch.no_grad():
            for variable, value in zip(self.variables, values, strict=True):
                variable.copy_(value)
        return int(content["steps"])
