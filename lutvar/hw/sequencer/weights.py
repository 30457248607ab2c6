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
from lutvar.hw.links import stripes_of

from .checks import CHECK_LATENCY, operand

_BITS = READINGS_AHEAD.bit_length() - 1


class WeightCredit(wiring.Component):
    """Counts readings of panels: those of the FETCH instructions less those that MATRIX needs.

    One count for each weight port, on which either may have no share of an instruction's panels.
    The rule WEIGHTS: the counts are never below 0, are 0 at END, and stay below `READINGS_AHEAD`.
    Together with the marks of the beats, which MATRIX checks, it makes sure that no reading is
    left over or missing on any port when a program ends.

    Args:
        ports: weight ports.

    `broken` is there as late as those of `InstructionCheck`, `CHECK_LATENCY` cycles after `word`.
    """

    word: In(INSTRUCTION_BYTES * 8)  #: the instruction
    push: In(1)  #: it is dispatched; counts from the next cycle on
    clear: In(1)  #: a program starts
    broken: Out(1)  #: it must not be dispatched

    def __init__(self, ports: int) -> None:
        self.ports = ports
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        op = operand(self.word, HEADER_FIELDS[0])
        fetch, matrix = (
            {item.name: operand(self.word, item) for item in PAYLOAD_FIELDS[code]}
            for code in (Opcode.FETCH, Opcode.MATRIX)
        )
        brings = Mux(fetch["repeat"][1], fetch["panels"] << 1, fetch["panels"])
        twice = matrix["dual"] | matrix["terms"]
        needs = Mux(twice, matrix["groups"] << 1, matrix["groups"])
        assert len(brings) <= _BITS and len(needs) <= _BITS
        readings = Signal(max(len(brings), len(needs)))
        is_fetch, is_matrix = op == int(Opcode.FETCH), op == int(Opcode.MATRIX)
        ends = Signal()
        ended = Signal()
        # An opcode and a port's share each have a register: together they are a long way.
        fetches = Signal()
        multiplies = Signal()
        m.d.sync += [
            fetches.eq(is_fetch),
            multiplies.eq(is_matrix),
            readings.eq(Mux(is_fetch, brings, needs)),
            ends.eq(op == int(Opcode.END)),
            ended.eq(ends),
        ]
        stripes = stripes_of(matrix["blocks"])
        broken = []
        for port in range(self.ports):
            credit = Signal(_BITS, name=f"credit_{port}")
            adds, takes = Signal(name=f"adds_{port}"), Signal(name=f"takes_{port}")
            # A port without a share has no readings. Broken numbers of ports break another rule.
            brought = (fetch["full"] > port) | (fetch["rest"] != 0) if port else Const(1)
            needed = stripes > port if port else Const(1)
            has_share = Signal(2, name=f"has_share_{port}")
            m.d.sync += has_share.eq(Cat(brought, needed))
            m.d.comb += [adds.eq(fetches & has_share[0]), takes.eq(multiplies & has_share[1])]
            # One bit more, which is set below 0 and from READINGS_AHEAD on. One carry chain: the
            # lowest bits of its operands make the carry that turns a complement into the negative.
            following = Signal(_BITS + 1, name=f"following_{port}")
            used = readings & (adds | takes).replicate(len(readings))
            change = Cat(used, Const(0, _BITS + 1))[: _BITS + 1] ^ takes.replicate(_BITS + 1)
            m.d.sync += following.eq((Cat(takes, credit) + Cat(takes, change))[1:])
            broken.append(following[-1] | (ended & (following != 0)))
            with m.If(self.clear):
                m.d.sync += credit.eq(0)
            with m.Elif(self.push):
                m.d.sync += credit.eq(following)
        # Two levels for each port, one more to join them.
        m.d.sync += self.broken.eq(Cat(broken).any())
        assert CHECK_LATENCY == 3
        return m
