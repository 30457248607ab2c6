# SPDX-License-Identifier: Apache-2.0
"""Do the panels of FETCH and MATRIX add up?"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.isa import (
    HEADER_FIELDS,
    INSTRUCTION_BYTES,
    PAYLOAD_FIELDS,
    READINGS_AHEAD,
    Opcode,
)

from .checks import CHECK_LATENCY, operand

_BITS = READINGS_AHEAD.bit_length() - 1


class WeightCredit(wiring.Component):
    """Counts readings of panels: those of the FETCH instructions less those that MATRIX needs.

    The rule WEIGHTS: the count is never below 0, is 0 at END, and stays below `READINGS_AHEAD`.
    Together with the marks of the beats, which MATRIX checks, it makes sure that no reading is
    left over or missing when a program ends.

    `broken` is there as late as those of `InstructionCheck`, `CHECK_LATENCY` cycles after `word`.
    """

    word: In(INSTRUCTION_BYTES * 8)  #: the instruction
    push: In(1)  #: it is dispatched; counts from the next cycle on
    clear: In(1)  #: a program starts
    broken: Out(1)  #: it must not be dispatched

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        op = operand(self.word, HEADER_FIELDS[0])
        fetch, matrix = (
            {item.name: operand(self.word, item) for item in PAYLOAD_FIELDS[code]}
            for code in (Opcode.FETCH, Opcode.MATRIX)
        )
        credit = Signal(_BITS)
        brings = Mux(fetch["repeat"][1], fetch["panels"] << 1, fetch["panels"])
        needs = Mux(matrix["dual"], matrix["groups"] << 1, matrix["groups"])
        assert len(brings) <= _BITS and len(needs) <= _BITS
        readings = Signal(max(len(brings), len(needs)))
        adds, takes, ends = Signal(), Signal(), Signal()
        m.d.sync += [
            readings.eq(Mux(op == int(Opcode.FETCH), brings, needs)),
            adds.eq(op == int(Opcode.FETCH)),
            takes.eq(op == int(Opcode.MATRIX)),
            ends.eq(op == int(Opcode.END)),
        ]
        # One bit more, which is set below 0 and from READINGS_AHEAD on. One carry chain: the lowest
        # bits of its operands make the carry that turns a complement into the negative.
        following, ended = Signal(_BITS + 1), Signal()
        used = readings & (adds | takes).replicate(len(readings))
        change = Cat(used, Const(0, _BITS + 1))[: _BITS + 1] ^ takes.replicate(_BITS + 1)
        m.d.sync += [
            following.eq((Cat(takes, credit) + Cat(takes, change))[1:]),
            ended.eq(ends),
        ]
        m.d.sync += self.broken.eq(following[-1] | (ended & (following != 0)))
        assert CHECK_LATENCY == 3
        with m.If(self.clear):
            m.d.sync += credit.eq(0)
        with m.Elif(self.push):
            m.d.sync += credit.eq(following)
        return m
