# SPDX-License-Identifier: Apache-2.0
"""One query row of the value phase: 64 weighted sums of V codes."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import HEAD_DIM, LANES

from .sizes import WEIGHT, AttentionSizes

QUARTERS = HEAD_DIM // LANES
#: Cycles, counted from the one in which w and the codes are here.
ADD_CYCLE, SUM_CYCLE = 2, 3


class ValueRow(wiring.Component):
    """``A_d += w * c_d`` for the 64 columns of a head, and the finished sums of the last block.

    No handshake; one key in each cycle, but for one cycle between the keys of two blocks.

    Members:
        weight, grid: w and the 64 codes as two's-complement integers; cycle 0.
        add: the key counts; cycle ``ADD_CYCLE``.
        capture: keep the sums of this cycle, which is ``SUM_CYCLE`` of the block's last key, and
            start the next ones at 0. Not in a cycle with ``add``.
        select, quarter: which 16 of the sums that were kept to show; none: zeros.
        word: 16 sums, one cycle after ``select``.

    Cost: 64 DSP with input, product and sum registers; one flip-flop for each bit of a sum, and
    a multiplexer of four.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self.sizes = sizes
        self.width = sizes.magnitude_bits + 1
        super().__init__(
            {
                "weight": In(WEIGHT),
                "grid": In(HEAD_DIM * sizes.code_bits),
                "add": In(1),
                "capture": In(1),
                "select": In(1),
                "quarter": In(range(QUARTERS)),
                "word": Out(LANES * self.width),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits, width = self.sizes.code_bits, self.width
        # Input, product and sum registers of a DSP; a sum that is cleared instead of loaded uses
        # the reset of its register.
        weight, grid = Signal(WEIGHT, reset_less=True), Signal(len(self.grid), reset_less=True)
        m.d.sync += [weight.eq(self.weight), grid.eq(self.grid)]
        weight = Cat(weight, Const(0, 1)).as_signed()
        sums = []
        for lane in range(HEAD_DIM):
            code = grid[lane * bits : (lane + 1) * bits].as_signed()
            product = Signal(signed(bits + WEIGHT), name=f"product{lane}", reset_less=True)
            total = Signal(signed(width), name=f"sum{lane}")
            m.d.sync += product.eq(weight * code)
            with m.If(self.add):
                m.d.sync += total.eq(total + product)
            with m.If(self.capture):
                m.d.sync += total.eq(0)
            sums.append(total)
        kept = Signal(HEAD_DIM * width, reset_less=True)
        with m.If(self.capture):
            m.d.sync += kept.eq(Cat(*sums))
        with m.If(self.select):
            m.d.sync += self.word.eq(kept.word_select(self.quarter, LANES * width))
        with m.Else():
            m.d.sync += self.word.eq(0)
        return m
