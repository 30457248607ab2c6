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
from lutvar.contract.quant_preset import SITE_NAMES

from .check import check_program
from .costs import CostModel, UnitTimes
from .emit import Emitter
from .errors import CompileError
from .layer_plan import padded
from .memory_plan import MemoryPlan
from .model_layout import ModelLayout
from .program import Program, accelerator_hash, assemble
from .schedule import Scheduler
from .steps import PassRows, StepShape, Tiling, place_rows
from .tiling import (
    candidates,
    check_tiling,
    most_rows,
    proxy_shape,
    total_rows,
    with_memory,
)


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
        result = np.empty((self.rows.rows, width), np.float32)
        used = 0
        for seq in self.rows.sequences:
            step = steps[seq.step]
            x = step.x_cond if seq.conditional else step.x_uncond
            if x is None or x.shape != (seq.tokens, width):
                raise CompileError(
                    f"image step {seq.step} has embeddings {None if x is None else x.shape}; the "
                    f"program is for ({seq.tokens}, {width})"
                )
            result[used : seq.first] = 0
            used = seq.first + seq.tokens
            result[seq.first : used] = x
        result[used:] = 0
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
        """Logits of each image step, [tokens, vocab], from the bytes at `logits_first`.

        They are views of these bytes where the vocabulary fills whole blocks.
        """
        vocab = self.plan.shape.vocab
        values = raw.view(np.float32).reshape(-1, padded(vocab))
        result, at = [], 0
        for step in self.rows.steps:
            result.append(np.ascontiguousarray(values[at : at + step.tokens, :vocab]))
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
        exponents: scale exponent e of each set of weights, in the order of `layout.layers`; zeros
            will do for estimates.
        epsilon: of the norms.
        null_label: class of the unconditional halves.
        model_hash: identifies the packed model, for the program's header.
        times: constants of the cycle model that the scheduler uses.
        tile_rows, sections: rows of every tile and most sections, instead of what the model says is
            fastest for each pass.

    Raises:
        CompileError: exponents of another model, or tiles that the accelerator cannot have.
    """

    def __init__(
        self,
        layout: ModelLayout,
        exponents: Sequence[int] | None = None,
        epsilon: float = 1e-6,
        null_label: int | None = None,
        model_hash: int = 0,
        times: UnitTimes | None = None,
        tile_rows: int | None = None,
        sections: int | None = None,
    ) -> None:
        self.layout, self.config, self.shape = layout, layout.config, layout.shape
        self.exponents = list(exponents) if exponents is not None else [0] * layout.sets
        if len(self.exponents) != layout.sets:
            raise CompileError(
                f"{len(self.exponents)} exponents; the model has {layout.sets} sets of weights in "
                f"{len(layout.layers)} layers"
            )
        self.epsilon, self.model_hash = epsilon, model_hash
        self.null_label = layout.labels[-1] if null_label is None else null_label
        self.costs = CostModel(self.config, times)
        self._hash = accelerator_hash(self.config)
        self.tile_rows, self.max_sections = check_tiling(self.config, tile_rows, sections)
        self._tilings: dict[tuple[int, tuple[StepShape, ...]], Tiling] = {}
        self._proxy: Compiler | None = None

    def place(self, steps: Sequence[StepShape], tiling: Tiling) -> PassRows:
        """The rows of a pass. Raises CompileError for steps that do not fit each other."""
        return place_rows(steps, self.shape, self.config, self.null_label, tiling)

    def tilings(self, steps: Sequence[StepShape]) -> list[tuple[Tiling, PassRows]]:
        """Ways to cut a pass into tiles that are worth a look, the one for the array first."""
        whole = Tiling(self.tile_rows or self.config.rows, self.max_sections)
        if self.tile_rows or self.max_sections == 1:
            return [(whole, self.place(steps, whole))]

        def place(tiling: Tiling) -> PassRows:
            return self.place(steps, tiling)

        return candidates(self.config, total_rows(steps), place, self.max_sections)

    def most_rows(self, steps: Sequence[StepShape]) -> PassRows:
        """Rows that a pass of these steps takes at most, however it is cut: for memory's size."""
        whole = Tiling(self.config.rows, self.max_sections)
        return most_rows(self.config, self.place(steps, whole))

    def tiling(self, steps: Sequence[StepShape], depth: int | None = None) -> Tiling:
        """How a pass is cut into tiles: by the schedules of a proxy of few blocks.

        depth: blocks of the model that it is for, by default this one: with few blocks it counts
        more how a pass begins and ends.
        """
        depth = self.shape.depth if depth is None else depth
        key = depth, tuple(steps)
        if key not in self._tilings:
            found = self.tilings(steps)
            proxy = self._shallow()
            times = [0]
            if len(found) > 1:
                times = [proxy._time(rows, depth) for _, rows in found]
            self._tilings[key] = found[times.index(min(times))][0]
        return self._tilings[key]

    def _shallow(self) -> Compiler:
        """A compiler of the proxy that candidates are compared with."""
        shape = proxy_shape(self.shape)
        if self._proxy is None and shape == self.shape:
            return self
        if self._proxy is None:
            own = self.layout
            terms = (*own.terms[: shape.depth * len(SITE_NAMES)], own.terms[-1])
            layout = ModelLayout.of(shape, self.config, own.labels, own.quant, own.hidden, terms)
            self._proxy = Compiler(
                layout, None, self.epsilon, self.null_label, times=self.costs.times
            )
        return self._proxy

    def _time(self, rows: PassRows, depth: int) -> int:
        """Cycles of a pass in a model of so many blocks, like those of this one after the first.

        The schedule does not know that all ports share a memory: `with_memory` counts it.
        """
        scheduler = self._scheduled(rows)
        ends, line = scheduler.block_ends, scheduler.timeline
        each = (ends[-1] - ends[0]) // (len(ends) - 1) if len(ends) > 1 else 0
        share = line.moved / (line.end * self.costs.times.memory_bytes)
        return round(with_memory(line.end + (depth - len(ends)) * each, share))

    def _scheduled(self, rows: PassRows) -> Scheduler:
        emitter = Emitter(self.layout, MemoryPlan(self.shape, rows), self.exponents, self.epsilon)
        with _without_collection():
            scheduler = Scheduler(emitter, self.costs)
            scheduler.run()
        return scheduler

    def compile(
        self, steps: Sequence[StepShape], check: bool = False, tiling: Tiling | None = None
    ) -> CompiledPass:
        """Compile a pass; `check` also proves its order (slow for large models).

        tiling: how its rows are cut into tiles, instead of `self.tiling`.

        Raises:
            CompileError: steps that the accelerator or the model cannot run.
            OrderError: with `check`; a defect of the compiler.
        """
        rows = self.place(steps, tiling or self.tiling(steps))
        plan = MemoryPlan(self.shape, rows)
        timeline = self._scheduled(rows).timeline
        with _without_collection():
            program = assemble(timeline, self.config.queue, self._hash, self.model_hash)
        if check:
            check_program(program, self.config)
        return CompiledPass(rows, plan, timeline.end, lambda: program)
