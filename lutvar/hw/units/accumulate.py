# SPDX-License-Identifier: Apache-2.0
"""Sequential float32 accumulation over groups, row vectors interleaved (contract, section 5)."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .fp32_add import Fp32Add, register
from .scale import ScaleMultiply

#: Cycles from a slot's issue to its next: read, select, add, write, and one for the memory.
MIN_INTERVAL = Fp32Add.LATENCY + 4


class Accumulator(wiring.Component):
    """``acc[slot] = RNE((first ? bias : acc[slot]) + p)``, one addition a cycle.

    Members:
        valid: In, this cycle carries an addition.
        p: In, float32 pattern of the scaled group sum.
        slot: In, which of ``block`` interleaved accumulators.
        first: In, start from ``bias`` instead of the stored value.
        bias: In, float32 pattern.
        y: Out, the new value, ``LATENCY`` cycles later.

    The same slot may come again after ``MIN_INTERVAL`` cycles at the earliest, which is why the
    memory
    needs no transparent port: a write is at least a cycle old when its word is read.
    """

    LATENCY = 2 + Fp32Add.LATENCY

    def __init__(self, block: int) -> None:
        if block < 1:
            raise ValueError(f"block is {block}; at least one accumulator is needed")
        self.block = block
        super().__init__(
            {
                "valid": In(1),
                "p": In(32),
                "slot": In(range(block)),
                "first": In(1),
                "bias": In(32),
                "y": Out(32),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=32, depth=self.block, init=[])
        read, write = memory.read_port(), memory.write_port()
        m.submodules.add = add = Fp32Add()

        m.d.comb += [read.addr.eq(self.slot), read.en.eq(1)]
        p, bias, first = (
            register(m, signal, name)
            for signal, name in ((self.p, "p1"), (self.bias, "bias1"), (self.first, "first1"))
        )
        m.d.comb += [
            add.a.eq(register(m, Mux(first, bias, read.data), "start")),
            add.b.eq(register(m, p, "p2")),
            self.y.eq(add.y),
        ]
        # Slot and write enable travel beside the adder; the enable is reset, the slot need not be.
        enable, slot = self.valid, self.slot
        for cycle in range(self.LATENCY):
            held = Signal(name=f"enable{cycle}")
            m.d.sync += held.eq(enable)
            enable, slot = held, register(m, slot, f"slot{cycle}")
        m.d.comb += [write.addr.eq(slot), write.data.eq(add.y), write.en.eq(enable)]
        return m


class ScaleAccumulate(wiring.Component):
    """Group sum in, accumulated float32 result out: what follows each dot product of the array.

    Members:
        valid: In, this cycle carries a group sum (the only member that must be 0 between issues).
        d, m, ws, e: In, see :class:`~lutvar.hw.units.scale.ScaleMultiply`.
        slot, first, bias: In, see :class:`Accumulator`; all in the same cycle as ``d``.
        y: Out, the slot's new value, ``LATENCY`` cycles after ``d``; the result when the issue
        was the last.

    One group sum a cycle; a slot at most every ``MIN_INTERVAL`` cycles.
    """

    LATENCY = ScaleMultiply.LATENCY + Accumulator.LATENCY

    def __init__(self, sum_bits: int, block: int) -> None:
        self.sum_bits, self.block = sum_bits, block
        super().__init__(
            {
                "valid": In(1),
                "d": In(signed(sum_bits)),
                "m": In(16),
                "ws": In(16),
                "e": In(signed(8)),
                "slot": In(range(block)),
                "first": In(1),
                "bias": In(32),
                "y": Out(32),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.scale = scale = ScaleMultiply(self.sum_bits)
        m.submodules.accumulator = accumulator = Accumulator(self.block)
        m.d.comb += [
            scale.d.eq(self.d),
            scale.m.eq(self.m),
            scale.ws.eq(self.ws),
            scale.e.eq(self.e),
            accumulator.p.eq(scale.p),
            self.y.eq(accumulator.y),
        ]
        valid, slot, first, bias = self.valid, self.slot, self.first, self.bias
        for cycle in range(ScaleMultiply.LATENCY):
            held = Signal(name=f"valid{cycle}")
            m.d.sync += held.eq(valid)
            valid = held
            slot = register(m, slot, f"slot{cycle}")
            first = register(m, first, f"first{cycle}")
            bias = register(m, bias, f"bias{cycle}")
        m.d.comb += [
            accumulator.valid.eq(valid),
            accumulator.slot.eq(slot),
            accumulator.first.eq(first),
            accumulator.bias.eq(bias),
        ]
        return m
