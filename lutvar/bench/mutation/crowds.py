# SPDX-License-Identifier: Apache-2.0
"""Programs that keep one unit's queue full, and resets in the middle of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode, PostOp
from lutvar.sim.fuzz.case import Step
from lutvar.sim.fuzz.draft import Full, Pieces
from lutvar.sim.fuzz.events import Event, Pace, Timing, directions
from lutvar.sim.fuzz.wellformed import DUAL, PLAIN, TERMS, Generator, Wellformed

#: Unit of a port's instructions, by the end of its name.
_OF_PORT = {"front": Opcode.FRONT, "post": Opcode.POST, "keys": Opcode.ATTEND,
            "values": Opcode.ATTEND}  # fmt: skip
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


def resets_behind_slow_ports(
    config: AcceleratorConfig, seed: int, after: Step, cycles: Sequence[int] = (300, 700, 1300)
) -> list[Step]:
    """Soft resets while one port is slow and what is meant for it piles up in the queues before.

    Args:
        config: the accelerator.
        seed: of the programs.
        after: a right program that follows each reset.
        cycles: from the start of a program to the reset.
    """
    rng = np.random.default_rng(seed)
    steps: list[Step] = []
    for port in directions(config):
        opcode = _OF_PORT.get(port.split("_")[1], Opcode.FETCH)
        for cycle in cycles:
            made = Crowd(config, rng, small=opcode is not Opcode.ATTEND).crowd(opcode, 12)
            timing = Timing(paces={port: Pace(150, 300, 0.7, 0.7)})
            event = Event("soft_reset", {"cycle": cycle})
            steps += [Step(made.program.encode(), True, made.fills, timing, event), after]
    return steps
