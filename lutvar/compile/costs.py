# SPDX-License-Identifier: Apache-2.0
"""How long an instruction occupies its unit, how long until it is done, and what it moves.

The formulas are those that the units document. An instruction *occupies* its unit until the next
one may follow; its results are there ``tail`` cycles later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from lutvar.contract.accelerator import BEAT_BYTES, LANES, AcceleratorConfig
from lutvar.contract.config import GROUP
from lutvar.contract.isa import Instruction, Opcode, PostOp
from lutvar.contract.memory import panel_beats

#: Memory ports, each 64 bytes a cycle.
PORTS = ("weights", "front", "post_read", "post_write", "keys", "values", "attend_write")


@dataclass(frozen=True)
class UnitTimes:
    """Constants of the cycle model, in cycles.

    Attributes:
        memory: from a read request to its first beat; from a write to its response.
        operand_gap: MATRIX, lost between two groups, or passes of a group.
        operand_least: MATRIX, an operand lasts at least as long: the next one is prepared.
        matrix_start, matrix_tail: from the start to the first vector; from the last vector on.
        front_start, front_tail, front_row: FRONT, see `_front`; the last is least cycles of a row.
        post_start, post_tail: POST.
        attend_block, attend_least, attend_tail: ATTEND: extra of a block of query rows, least
            cycles of its pass over keys, and after the last.
    """

    memory: int = 100
    operand_gap: int = 2
    operand_least: int = 16
    matrix_start: int = 20
    matrix_tail: int = 60
    front_start: int = 10
    front_tail: int = 150
    front_row: int = 16
    post_start: int = 10
    post_tail: int = 150
    attend_block: int = 8
    attend_least: int = 40
    attend_tail: int = 150


def unit_times(config: AcceleratorConfig) -> UnitTimes:
    """The constants of a configuration."""
    if config.dot == "da":
        return UnitTimes(operand_gap=2, operand_least=160)
    return UnitTimes()


@dataclass(frozen=True)
class Cost:
    """Cycles of an instruction, bytes of each port while it occupies its unit.

    ``issue``: cycles in which the array takes a weight vector (MATRIX).
    """

    occupied: int
    tail: int
    traffic: tuple[tuple[str, int], ...] = ()
    issue: int = 0


class CostModel:
    """Costs of instructions on one accelerator. Equal operands are computed once."""

    def __init__(self, config: AcceleratorConfig, times: UnitTimes | None = None) -> None:
        self.config = config
        self.times = times or unit_times(config)
        self._matrix_cost = lru_cache(maxsize=None)(self._matrix)
        self._front_cost = lru_cache(maxsize=None)(self._front)
        self._post_cost = lru_cache(maxsize=None)(self._post)
        self._attend_cost = lru_cache(maxsize=None)(self._attend)

    def of(self, opcode: Opcode, operands: Mapping[str, int]) -> Cost:
        """The cost of an instruction."""
        o = operands
        if opcode == Opcode.FETCH:
            beats = o["beats"] * o["panels"] * o["repeat"]
            return Cost(beats, self.times.memory, (("weights", beats * BEAT_BYTES),))
        if opcode == Opcode.MATRIX:
            return self._matrix_cost(o["groups"], o["blocks"], o["dual"])
        if opcode == Opcode.FRONT:
            return self._front_cost(o["rows"], o["groups"], o["norm"])
        if opcode == Opcode.POST:
            return self._post_cost(o["rows"], o["blocks"], o["op"], o["vector"])
        if opcode == Opcode.ATTEND:
            return self._attend_cost(o["rows"], o["heads"], o["keys"])
        return Cost(0, 0)

    def instruction(self, instruction: Instruction) -> Cost:
        return self.of(instruction.opcode, instruction.operands)

    def _matrix(self, groups: int, blocks: int, dual: int) -> Cost:
        t, outputs, passes = self.times, blocks * 32, 2 if dual else 1
        operand = max(outputs, t.operand_least) + t.operand_gap
        bits = self.config.quant_config.code_bits
        beats = panel_beats(outputs, bits, True) + (groups - 1) * panel_beats(outputs, bits, False)
        # The weight port brings a beat a cycle: 33 beats (FP6: 49) are 32 vectors.
        cycles = max(groups * passes * operand, beats * passes)
        return Cost(t.matrix_start + cycles, t.matrix_tail, (), groups * passes * outputs)

    def _front(self, rows: int, groups: int, norm: int) -> Cost:
        t, width = self.times, groups * GROUP
        cycles = t.front_start + rows * max(width // LANES, t.front_row if norm else 0)
        moved = rows * width * (4 if norm else 2) + (2 * width * 2 if norm else 0)
        if norm:
            cycles += 2 * width * 2 // BEAT_BYTES
        return Cost(cycles, t.front_tail + t.memory, (("front", moved),))

    def _post(self, rows: int, blocks: int, op: int, vector: int) -> Cost:
        t, columns = self.times, blocks * GROUP
        # 16 rows are drained whatever part of them is used.
        cycles = t.post_start + columns
        read = columns * 2 if vector else 0
        written = rows * columns * 4
        if op == PostOp.ADD:
            read += written
        elif op == PostOp.GELU:
            written //= 2
        elif op == PostOp.QKV:
            written = rows * columns  # a record of 64 bytes for 64 columns
        return Cost(cycles, t.post_tail + t.memory, (("post_read", read), ("post_write", written)))

    def _attend(self, rows: int, heads: int, keys: int) -> Cost:
        t, share = self.times, self.config.attention_rows
        blocks = heads * -(-rows // share)
        cycles = blocks * (max(keys, t.attend_least) + t.attend_block)
        moved = blocks * keys * BEAT_BYTES
        return Cost(
            cycles,
            t.attend_tail + t.memory + max(keys, t.attend_least),
            (
                ("keys", moved + rows * heads * BEAT_BYTES),
                ("values", moved),
                ("attend_write", rows * heads * 128),
            ),
        )
