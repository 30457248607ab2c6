# SPDX-License-Identifier: Apache-2.0
"""From passes to programs.

compiler = Compiler(packed.layout, packed.exponents, packed.epsilon, packed.null_label)
compiled = compiler.compile([StepShape.of(step) for step in steps])
compiled.program.encode()
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.passes import ImageStep

from .check import check_program
from .costs import CostModel, UnitTimes
from .emit import Emitter
from .errors import CompileError
from .memory_plan import MemoryPlan
from .model_layout import ModelLayout, padded
from .program import Program, accelerator_hash, assemble
from .schedule import Scheduler
from .steps import PassRows, StepShape, place_rows


class CompiledPass:
    """The program of a pass, and where its inputs and outputs lie.

    Attributes:
        rows: the rows of the pass.
        plan: where the tensors lie in WORK, IO and CACHE, and how large these must be.
        cycles: end in the scheduler's model; `lutvar.sim.model` has the finer one.
    """

    def __init__(
        self, rows: PassRows, plan: MemoryPlan, cycles: int, make: Callable[[], Program]
    ) -> None:
        self.rows, self.plan, self.cycles, self._make = rows, plan, cycles, make

    @cached_property
    def program(self) -> Program:
        """Run it with the model, and with the cache of all earlier passes."""
        return self._make()

    @property
    def instructions(self) -> int:
        """Instructions of the program, END included."""
        return len(self.program.instructions)

    def encode(self) -> bytes:
        """The program as it lies in memory."""
        return self.program.encode()

    def embeddings(self, steps: Sequence[ImageStep]) -> NDArray[np.float32]:
        """What to write to IO at offset 0 before the run: [rows, C] float32, unused rows 0."""
        width = self.plan.shape.width
        result = np.zeros((self.rows.rows, width), np.float32)
        for seq in self.rows.sequences:
            step = steps[seq.step]
            x = step.x_cond if seq.conditional else step.x_uncond
            if x is None or x.shape != (seq.tokens, width):
                raise CompileError(
                    f"image step {seq.step} has embeddings {None if x is None else x.shape}; the "
                    f"program is for ({seq.tokens}, {width})"
                )
            result[seq.first : seq.first + seq.tokens] = x
        return result

    @property
    def logits_first(self) -> int:
        """Offset in IO of all logits."""
        return self.plan.logits_offset(0)

    @property
    def logits_bytes(self) -> int:
        """Bytes of the logits of all steps."""
        return self.plan.io_size - self.logits_first

    def logits(self, raw: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Logits of each image step, [tokens, vocab], from the bytes at `logits_first`."""
        vocab = self.plan.shape.vocab
        values = raw.view(np.float32).reshape(-1, padded(vocab))
        result, at = [], 0
        for step in self.rows.steps:
            result.append(values[at : at + step.tokens, :vocab].copy())
            at += step.tokens
        return result


@contextmanager
def _without_collection() -> Iterator[None]:
    """Many objects and no reference cycles: looking for some takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Compiler:
    """Compiles passes of one model for one accelerator.

    Args:
        layout: where the packed model lies; has sizes and configuration.
        exponents: scale exponent e of each layer, in the order of `layout.layers`; zeros will do
            for estimates.
        epsilon: of the norms.
        null_label: class of the unconditional halves.
        model_hash: identifies the packed model, for the program's header.
        times: constants of the cycle model that the scheduler uses.
    """

    def __init__(
        self,
        layout: ModelLayout,
        exponents: Sequence[int] | None = None,
        epsilon: float = 1e-6,
        null_label: int | None = None,
        model_hash: int = 0,
        times: UnitTimes | None = None,
    ) -> None:
        self.layout, self.config, self.shape = layout, layout.config, layout.shape
        self.exponents = list(exponents) if exponents is not None else [0] * len(layout.layers)
        if len(self.exponents) != len(layout.layers):
            raise CompileError(
                f"{len(self.exponents)} exponents; the model has {len(layout.layers)} layers"
            )
        self.epsilon, self.model_hash = epsilon, model_hash
        self.null_label = layout.labels[-1] if null_label is None else null_label
        self.costs = CostModel(self.config, times)
        self._hash = accelerator_hash(self.config)

    def compile(self, steps: Sequence[StepShape], check: bool = False) -> CompiledPass:
        """Compile a pass; `check` also proves its order (slow for large models).

        Raises:
            CompileError: steps that the accelerator or the model cannot run.
            OrderError: with `check`; a defect of the compiler.
        """
        rows = place_rows(steps, self.shape, self.config, self.null_label)
        plan = MemoryPlan(self.shape, rows)
        emitter = Emitter(self.layout, plan, self.exponents, self.epsilon)
        with _without_collection():
            timeline = Scheduler(emitter, self.costs).run()
            program = assemble(timeline, self.config.queue, self._hash, self.model_hash)
        if check:
            check_program(program, self.config)
        return CompiledPass(rows, plan, timeline.end, lambda: program)
