# SPDX-License-Identifier: Apache-2.0
"""Sums over rows in the order of the contract: trees of 16, 16 partial sums, a tree of them."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES
from lutvar.hw.port_types import View
from lutvar.hw.units.fp16_to_fp32 import Fp16ToFp32
from lutvar.hw.units.fp32_add import Fp32Add
from lutvar.hw.units.fp32_multiply import Fp32Multiply
from lutvar.hw.units.pipeline import delay, valid_line
from lutvar.hw.units.sum16 import Sum16
from lutvar.hw.verilog import place

#: Bits of a float32 that came from FP16; the others are 0.
_HALF = 19
_SELECT = LANES.bit_length() - 1


class PartialSums(wiring.Component):
    """Sums of rows that come as beats of 16 float32 values, one row after the other.

    One beat in each cycle: a beat's tree enters its partial sum long before the next beat for the
    same one, 16 later. The next row's beats may follow at once, but for the cycle of `final`.
    Cost: 16 float32 adders and 512 flip-flops of partial sums.
    """

    #: Register, tree.
    LATENCY = 1 + Sum16.LATENCY
    #: The same, the adder of partial sums, their register.
    HOLD = LATENCY + Fp32Add.LATENCY + 1

    z: In(data.ArrayLayout(unsigned(32), LANES))  #: a beat of 16 float32 values
    valid: In(1)  #: the beat counts
    index: In(_SELECT)  #: its position in the row modulo 16
    fresh: In(1)  #: it is one of the first 16 of the row
    #: add up the partial sums, in the place of a beat: `HOLD` cycles after a row's last beat; `z`
    #: is then ignored
    final: In(1)
    s: Out(32)  #: the row's float32 sum, `LATENCY` cycles after `final`

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        partial = Signal(LANES * 32, reset_less=True)
        beat = Signal(LANES * 32, reset_less=True)
        m.submodules.tree = tree = Sum16()
        add = Fp32Add()
        place(m, platform, "add", add, "fp32_add")
        m.d.sync += beat.eq(Mux(self.final, partial, Value.cast(self.z)))
        m.d.comb += [Value.cast(tree.z).eq(beat), self.s.eq(tree.s), add.x.eq(tree.s)]

        # The partial sum that a tree's result is added to, chosen in two steps.
        early = delay(m, Cat(self.index, self.fresh), self.LATENCY - 2, "early")
        low, high = early[:2], early[2:_SELECT]
        quarter = Signal(4 * 32, reset_less=True)
        high_1 = Signal(len(high), reset_less=True)
        fresh_1 = Signal(reset_less=True)
        operand = Signal(32, reset_less=True)
        m.d.sync += [
            quarter.eq(
                Cat(
                    Cat(partial.word_select(4 * q + k, 32) for k in range(4)).word_select(low, 32)
                    for q in range(4)
                )
            ),
            high_1.eq(high),
            fresh_1.eq(early[_SELECT]),
            operand.eq(Mux(fresh_1, 0, quarter.word_select(high_1, 32))),
        ]
        m.d.comb += add.y.eq(operand)

        # Write it back. A row of fewer than 16 beats leaves sums that count as 0: the first beat
        # of each row clears all others.
        age = self.HOLD - 1
        history = valid_line(m, self.valid, age, "history")
        late = delay(m, Cat(self.index, self.fresh), age - 1, "late")
        target = Signal(LANES, reset_less=True)
        clear = Signal(reset_less=True)
        m.d.sync += [
            target.eq(Const(1, LANES) << late[:_SELECT]),
            clear.eq(late[_SELECT] & (late[:_SELECT] == 0)),
        ]
        with m.If(history[-1]):
            m.d.sync += partial.eq(
                Cat(
                    Mux(target[k], add.s, Mux(clear, 0, partial.word_select(k, 32)))
                    for k in range(LANES)
                )
            )
        return m


class RowSums(wiring.Component):
    """Sum and sum of squares of FP16 rows (contract, sections 7 and 9).

    One word in each cycle, but none `GAP` cycles after a last one. Cost: 32 float32 adders, 16
    DSP.
    """

    _CONVERT = Fp16ToFp32.LATENCY + Fp32Multiply.LATENCY
    GAP = PartialSums.HOLD
    LATENCY = _CONVERT + PartialSums.HOLD + PartialSums.LATENCY

    x: View  #: in: 16 FP16 values
    valid: Signal  #: in: they count
    word: Signal  #: in: their position in the row
    last: Signal  #: in: they are its last
    total: Signal  #: out: float32 sum of a row, `LATENCY` cycles after its last word
    squares: Signal  #: out: float32 sum of its squares, in the same cycle
    done: Signal  #: out: both are here

    def __init__(self, word_bits: int) -> None:
        super().__init__(
            {
                "x": In(data.ArrayLayout(unsigned(16), LANES)),
                "valid": In(1),
                "word": In(word_bits),
                "last": In(1),
                "total": Out(32),
                "squares": Out(32),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        linear, squares = PartialSums(), PartialSums()
        place(m, platform, "linear", linear, "front_partial_sums")
        place(m, platform, "squares", squares, "front_partial_sums")

        exact, products = [], []
        for k in range(LANES):
            convert, multiply = Fp16ToFp32(), Fp32Multiply(11)
            place(m, platform, f"convert_{k}", convert, "fp16_to_fp32")
            place(m, platform, f"square_{k}", multiply, "fp32_multiply_11")
            m.d.comb += [
                convert.x.eq(self.x[k]),
                multiply.x.eq(convert.y),
                multiply.y.eq(convert.y),
            ]
            exact.append(convert.y[-_HALF:])
            products.append(multiply.s)
        line = delay(m, Cat(exact), Fp32Multiply.LATENCY, "values_line")
        values = Cat(
            Cat(Const(0, 32 - _HALF), line[_HALF * k : _HALF * (k + 1)]) for k in range(LANES)
        )

        # Bit t: such a word came t + 1 cycles ago.
        valid = valid_line(m, self.valid, self._CONVERT, "valid")
        ended = valid_line(m, self.valid & self.last, self.LATENCY, "ended")
        fresh = ~self.word[_SELECT:].any()
        tags = delay(m, Cat(self.word[:_SELECT], fresh), self._CONVERT, "tags")
        final = ended[self._CONVERT + PartialSums.HOLD - 1]
        for unit, z in ((linear, values), (squares, Cat(products))):
            m.d.comb += [
                Value.cast(unit.z).eq(z),
                unit.valid.eq(valid[-1]),
                unit.index.eq(tags[:_SELECT]),
                unit.fresh.eq(tags[_SELECT]),
                unit.final.eq(final),
            ]
        m.d.comb += [
            self.total.eq(linear.s),
            self.squares.eq(squares.s),
            self.done.eq(ended[-1]),
        ]
        return m
