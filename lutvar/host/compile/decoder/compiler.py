# SPDX-License-Identifier: Apache-2.0
"""Compiles the decoder: a program for each stage."""

from __future__ import annotations

from dataclasses import dataclass

from lutvar.contract.decoder import Norm
from lutvar.contract.isa import Region
from lutvar.host.compile.check import check_program
from lutvar.host.compile.costs import CostModel
from lutvar.host.compile.program import Program, accelerator_hash, assemble
from lutvar.host.compile.schedule import Timeline

from .emit import DecoderEmitter
from .pack import PackedDecoder
from .plan import DecoderPlan
from .stages import Stage, stages
from .tiling import Tiling, best_tiling


@dataclass(frozen=True)
class CompiledStage:
    """The program of a stage.

    Attributes:
        stage: what it computes.
        program: run it when the host has done its share.
        cycles: end in the cost model.
    """

    stage: Stage
    program: Program
    cycles: int


class DecoderCompiler:
    """Compiles the decoder of one packed model for one accelerator.

    Args:
        packed: weights.
        base: offset in WORK from which on the maps lie; the transformer's tensors end before it.
        model_hash: identifies the packed model, for the programs' headers.
        check: prove the order of every program (slow for large decoders).

    Attributes:
        plan: where the maps lie.
        stages: what the programs compute.
    """

    def __init__(
        self, packed: PackedDecoder, base: int = 0, model_hash: int = 0, *, check: bool = False
    ) -> None:
        layout = packed.layout
        self.packed, self.plan = packed, DecoderPlan(layout.shape, layout.config, base)
        self.stages = stages(layout.shape)
        self.costs = CostModel(layout.config)
        self._model_hash, self._check = model_hash, check
        self._hash = accelerator_hash(layout.config)
        self._numbers = {id(step): i for i, step in enumerate(layout.shape.steps)}

    def tiling(self, name: str) -> Tiling:
        """How a convolution's rows become tiles."""
        layout = self.packed.layout
        conv = layout.convolutions[name].conv
        return best_tiling(conv, layout.form.terms(layout.shape, conv), layout.config, self.costs)

    def compile(self, stage: Stage) -> CompiledStage:
        """The program of a stage. Raises OrderError with `check`; a defect of the compiler."""
        emitter, line = DecoderEmitter(self.packed, self.plan), Timeline(self.costs)
        layout = self.packed.layout
        norms: list[tuple[int, Norm]] = []
        for step in stage.steps:
            number = self._numbers[id(step)]
            if isinstance(step, Norm):
                norms.append((number, step))
                continue
            conv = layout.convolutions[step.name]
            tiling = self.tiling(step.name)
            for draft in emitter.conv(number, conv, tiling, norms, step is stage.sums):
                line.add(draft)
            norms = []
        if stage.sums is not None:
            line.add(emitter.sums(self._numbers[id(stage.sums)], stage.sums))
        program = assemble(line, layout.config.queue, self._hash, self._model_hash)
        if self._check:
            check_program(program, layout.config, begun=(Region.WORK,))
        return CompiledStage(stage, program, line.end)
