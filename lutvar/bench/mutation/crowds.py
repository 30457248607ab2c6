# SPDX-License-Identifier: Apache-2.0
"""Programs that keep one unit's queue full: many instructions of one kind in a row."""

from __future__ import annotations

import copy

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode, PostOp
from lutvar.sim.fuzz.case import Step
from lutvar.sim.fuzz.draft import Full, Pieces
from lutvar.sim.fuzz.events import Pace, Timing
from lutvar.sim.fuzz.wellformed import DUAL, PLAIN, TERMS, Generator, Wellformed

KINDS = (Opcode.ATTEND, Opcode.FRONT, Opcode.POST, Opcode.FETCH)


class Crowd(Generator):
    """A generator of such programs."""

    def crowd(self, opcode: Opcode, count: int, op: PostOp | None = None) -> Wellformed:
        """About `count` instructions of a kind, fewer where memory ends.

        op: what all POSTs of a crowd do; default: anything.
        """
        self.pieces = Pieces()
        while not self._count(Opcode.POST):
            try:
                self._chain()
            except Full:
                self.pieces = Pieces()
        while self._count(opcode) < count:
            before = copy.deepcopy(self.pieces)
            try:
                if opcode is Opcode.ATTEND:
                    self._attend()
                elif opcode is Opcode.FRONT:
                    self._front(int(self.rng.integers(self.config.act_banks)))
                else:
                    self._more(opcode, op)
            except Full:
                self.pieces = before
                break
        made = self._ordered(self.pieces.instructions)
        return Wellformed(made, tuple(self.pieces.fills))

    def _count(self, opcode: Opcode) -> int:
        return sum(item.opcode is opcode for item in self.pieces.instructions)

    def _more(self, opcode: Opcode, op: PostOp | None) -> None:
        """POSTs of the same sums, or panels that each have a FETCH."""
        matrix = next(
            item.operands for item in reversed(self.pieces.instructions)
            if item.opcode is Opcode.MATRIX
        )  # fmt: skip
        if opcode is Opcode.POST:
            sums = matrix["acc_bank"], matrix["blocks"] // 4, matrix["rows"], matrix["sections"]
            self._post(*sums, op)
            return
        treatment = DUAL if matrix["dual"] else TERMS if matrix["terms"] else PLAIN
        self._matrix(
            matrix["bank"], matrix["acc_bank"], matrix["groups"], matrix["blocks"], treatment,
            matrix["rows"], matrix["sections"], more=1,
        )  # fmt: skip


def slow_writes(config: AcceleratorConfig, seed: int) -> list[Step]:
    """POSTs faster than the memory takes their results: all places for results are in use."""
    rng = np.random.default_rng(seed)
    timing = Timing(paces={"w_post": Pace(200, 300, 0.95, 0.97)})
    crowds = [Crowd(config, rng).crowd(Opcode.POST, 16) for _ in range(2)]
    return [Step(made.program.encode(), True, made.fills, timing) for made in crowds]
