# SPDX-License-Identifier: Apache-2.0
"""Sequential float32 accumulation of many interleaved sums (contract, section 5)."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .fp32_add import Fp32Add
from .pipeline import delay, valid_line

#: Least distance, in cycles, of two additions to one slot: read, add, write, and only then read.
MIN_INTERVAL = Fp32Add.LATENCY + 2


class Accumulator(wiring.Component):
    """`acc[slot] = RNE((bias if first else acc[slot]) + p)`, for `block` slots.

    Throughput: one addition each cycle. The slot distance keeps reads and writes of one word apart,
    so the memory needs no bypass and no transparent port.
    """

    LATENCY = Fp32Add.LATENCY + 1

    valid: Signal  #: in: an addition; without it the memory keeps its words
    p: Signal  #: in: float32 pattern to add
    #: in: which sum. The same slot may come again `MIN_INTERVAL` cycles later, not earlier
    slot: Signal
    first: Signal  #: in: start the sum from `bias` instead of the stored value
    bias: Signal  #: in: float32 pattern, looked at with `first` only
    y: Signal  #: out: the new sum, `LATENCY` cycles later (after the last addition: the result)

    def __init__(self, block: int) -> None:
        if block < 2:
            raise ValueError(f"block is {block}; at least two slots are needed")
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

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sums = sums = memory.Memory(
            shape=unsigned(32), depth=self.block, init=[], attrs={"ram_style": "distributed"}
        )
        m.submodules.adder = adder = Fp32Add()
        # LUTRAM reads at once; the register after it is ours, so that it has an initial value.
        read, write = sums.read_port(domain="comb"), sums.write_port()
        stored = Signal(32, reset_less=True)
        first = Signal(reset_less=True)
        bias = Signal(32, reset_less=True)
        m.d.comb += read.addr.eq(self.slot)
        m.d.sync += [stored.eq(read.data), first.eq(self.first), bias.eq(self.bias)]
        m.d.sync += adder.y.eq(self.p)
        m.d.comb += adder.x.eq(Mux(first, bias, stored))

        # Which word to write travels beside the adder. The valid bits have a reset.
        valid = valid_line(m, self.valid, self.LATENCY, "valid")
        m.d.comb += [
            write.addr.eq(delay(m, self.slot, self.LATENCY, "slot_line")),
            write.data.eq(adder.s),
            write.en.eq(valid[-1]),
            self.y.eq(adder.s),
        ]
        return m
