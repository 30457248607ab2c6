# SPDX-License-Identifier: Apache-2.0
"""One query row of the value phase: weights of the keys, and their sum."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.functions import EXP2_FRACTION, exp2_table
from lutvar.hw.units.pipeline import delay, register

from .sizes import PROBABILITY, SCORE, SIGNIFICAND, WEIGHT, AttentionSizes

#: Cycles, counted from the one in which the score is here.
SIGNIFICAND_CYCLE, SHIFT_CYCLE, SUM_CYCLE, LATENCY = 6, 8, 5, 10


class WeightRow(wiring.Component):
    """`p = exp2(maximum - t)`, `S += p` and `w = (p * sig) >> (11 + E - e)` of one row.

    No handshake; one key in each cycle. Cycle 0 is the one in which t is here.

    Cost: half a block RAM (the table), 1 DSP, about 130 LUTs.
    """

    t: Signal  #: in: score of the key; cycle 0
    maximum: Signal  #: in: largest score of the block; cycle 0
    add: Signal  #: in: the key counts; cycle `SUM_CYCLE`
    first: Signal  #: in: the key is the first of a block; cycle `SUM_CYCLE`
    total: Signal  #: out: S, up to and with the key whose `add` was in the cycle before
    significand: Signal  #: in: of V's scale; cycle `SIGNIFICAND_CYCLE`
    shift: Signal  #: in: E - e; cycle `SHIFT_CYCLE`
    weight: Signal  #: out: w; cycle `LATENCY`

    def __init__(self, sizes: AttentionSizes) -> None:
        self.sizes = sizes
        super().__init__(
            {
                "t": In(signed(SCORE)),
                "maximum": In(signed(SCORE)),
                "add": In(1),
                "first": In(1),
                "total": Out(sizes.sum_bits),
                "significand": In(SIGNIFICAND),
                "shift": In(5),
                "weight": Out(WEIGHT),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()

        # 1: distance; never negative for a key of the block.
        distance = register(m, (self.maximum - self.t)[:SCORE], "distance")

        # 2, 3: the table, with its output register.
        m.submodules.table = table = memory.Memory(
            shape=unsigned(PROBABILITY), depth=1 << EXP2_FRACTION, init=exp2_table(),
            attrs={"ram_style": "block"},
        )  # fmt: skip
        read = table.read_port(domain="sync")
        m.d.comb += read.addr.eq(distance[:EXP2_FRACTION])
        entry = register(m, read.data, "entry")
        whole = distance[EXP2_FRACTION:]
        vanishes = delay(m, register(m, whole[4:].any(), "vanishes"), 1, "vanishes_line")
        whole = delay(m, whole[:4], 2, "whole")

        # 4, 5: shift right by 0 .. 15.
        coarse = register(m, Mux(vanishes, 0, entry >> (whole[2:4] << 2)), "p_coarse")
        p = register(m, coarse >> delay(m, whole[:2], 1, "whole_low"), "p")
        with m.If(self.add):
            m.d.sync += self.total.eq(Mux(self.first, 0, self.total) + p)

        # 6, 7, 8: product, in a DSP.
        operand = register(m, p, "operand")
        product = register(m, operand * self.significand, "product_m")
        product = register(m, product, "product")

        # 9, 10: shift right by 11, and by 0 .. 30.
        coarse = register(
            m,
            Mux(self.shift[4], 0, product[11 : 11 + WEIGHT] >> (self.shift[2:4] << 2)),
            "w_coarse",
        )
        fine = register(m, coarse >> delay(m, self.shift[:2], 1, "shift_low"), "w")
        m.d.comb += self.weight.eq(fine)
        return m
