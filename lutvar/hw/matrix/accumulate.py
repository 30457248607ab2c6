# SPDX-License-Identifier: Apache-2.0
"""Scaling and accumulation for 16 rows: `acc[bank][column][row] += D * m * ws * 2**e`."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import ROW_GROUP, AcceleratorConfig
from lutvar.hw.links import drain_values
from lutvar.hw.port_types import View
from lutvar.hw.units.memory import READ_LATENCY, SharedMemory
from lutvar.hw.units.pipeline import delay, valid_line
from lutvar.hw.verilog import place

from .chain import vector_layout
from .dot_form import sum_bits
from .scale_add import make_scale_add, scale_add_timing, scale_bits


def accumulator_latency(config: AcceleratorConfig) -> int:
    """Cycles from the sums of an odd column to the cycle in which its pair may be drained."""
    return scale_add_timing(config).total + 3


class GroupAccumulator(wiring.Component):
    """Accumulator banks of a row group. All 16 rows use the same column in the same cycle.

    Words hold a pair of columns (2 i, 2 i + 1), and so columns must come in pairs: an even one,
    then the odd one after it, with any number of idle cycles before, between and after.

    An even column may come again `min_interval` cycles after the odd one of its pair. Both may
    be drained `latency` cycles after the sums of the odd one. Throughput: 16 additions and 32
    reads a cycle. Cost: 2 DSP a row; one memory of 1024 bits x `acc_words` for all banks, which
    is 15 UltraRAM for each 4096 words.

    The memory's first port reads and writes, the second one drains. Reads come `_read` cycles
    after the sums of even columns, so never in two cycles that follow each other. A pair that is
    complete waits in a register for a cycle without a read: the first one that it sees, or the
    next. So it is gone before the next pair is complete, two cycles after it or later. What the
    first port does is decided a cycle ahead, so that address and write enable are registers'.

    A drain that meets the write of the same pair would return what the memory's make and mode
    decide. Nobody uses such values: a bank is drained by POST instructions that wait for its
    MATRIX instructions (the compiler's checker proves it of each program), whose `done` comes
    after the last write. Simulation returns wrong values then (`SharedMemory`), so no test could
    pass with them. `collision` marks these cycles for proofs.
    """

    valid: Signal  #: in: the sums count
    #: in: bank, column; `first`: start from the bias. `ws` and `exponent` come as `scale`
    vector: View
    sums: View  #: in: exact sums of the 16 rows, in the cycle of `valid`
    m: View  #: in: their FP16 scales, in the cycle of `valid`
    scale: Signal  #: in: what `scale_add.weight_scale` makes of the weights' scale
    drain_bank: Signal  #: in: bank to read; any one: if sums go to it, it has old or new ones
    drain_pair: Signal  #: in: pair of columns to read
    drained: View  #: out: the pair, `READ_LATENCY` cycles later

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        timing = scale_add_timing(config)
        # Cycles from the sums to the adder's operand registers, to the read, to the results.
        self._operands, self._result = timing.stored, timing.total
        self._read = timing.stored - 2 - READ_LATENCY
        assert self._read >= 1, "the read is decided a cycle before its address is out"
        self.latency = accumulator_latency(config)
        # A read in the cycle before it: no write has to wait.
        self.min_interval = self.latency - 1 - self._read
        super().__init__(
            {
                "valid": In(1),
                "vector": In(vector_layout(config)),
                "sums": In(data.ArrayLayout(signed(sum_bits(config)), ROW_GROUP)),
                "m": In(data.ArrayLayout(unsigned(16), ROW_GROUP)),
                "scale": In(scale_bits(config)),
                "drain_bank": In(range(config.acc_banks)),
                "drain_pair": In(range(config.acc_depth // 2)),
                "drained": Out(drain_values()),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, width = self.config, 32 * ROW_GROUP
        vector = self.vector
        # In cycle t, counted from the sums.
        valid = [self.valid, *valid_line(m, self.valid, self._result, "valid")]

        def at(value: Value, cycle: int, name: str, start: int = 0) -> Value:
            return delay(m, Value.cast(value), cycle - start, name)

        # The lowest bit of a column says which half of the word it is.
        place_then = Cat(vector.column, vector.bank)
        reading = at(place_then, self._read - 1, "read_line")
        odd_then = at(reading[0], self._operands - 2, "odd_line", self._read - 1)
        writing = at(reading, self._result - 1, "write_line", self._read - 1)
        odd_written = at(writing[0], 1, "odd_write_line")
        first = at(vector.first, self._operands - 2, "first_line")
        bias = at(vector.bias, self._operands - 2, "bias_line")

        # The bias takes no LUT for each row: where a sum starts from it, one register is reset, and
        # the next one is set at the bits of the bias.
        chosen = Signal(width, reset_less=True)
        stored = Signal(width, reset_less=True)
        ones = Signal(32, reset_less=True)
        sums = Signal(width)
        m.submodules.banks = banks = SharedMemory(2 * width, config.acc_words)
        odd_stored = Signal(width, reset_less=True)  # until its sums come
        m.d.sync += [
            chosen.eq(Mux(odd_then, odd_stored, banks.data[:width])),
            ones.eq(Mux(first, bias, 0)),
            stored.eq(chosen),
        ]
        with m.If(first):
            m.d.sync += chosen.eq(0)
        for bit in range(32):
            with m.If(ones[bit]):
                m.d.sync += [stored[32 * row + bit].eq(1) for row in range(ROW_GROUP)]
        with m.If(valid[self._operands - 2] & ~odd_then):
            m.d.sync += odd_stored.eq(banks.data[width:])

        # Results of an even column wait for those of the odd one.
        even_sums = Signal(width, reset_less=True)
        pair = Signal(2 * width, reset_less=True)
        pair_place = Signal(len(writing) - 1, reset_less=True)
        # Each a cycle ahead of the memory's port: a pair completes, one waits, the port reads.
        complete = Signal()
        waiting = Signal()
        read_next = Signal()
        address = Signal.like(banks.addr, reset_less=True)
        write = Signal()
        m.d.comb += [
            complete.eq(valid[-2] & writing[0]),
            read_next.eq(valid[self._read - 1] & ~reading[0]),
            banks.write.eq(write),
            banks.addr.eq(address),
            banks.write_data.eq(pair),
        ]
        m.d.sync += [
            waiting.eq(complete | (waiting & read_next)),
            write.eq(waiting & ~read_next),
            address.eq(Mux(read_next, reading[1:], pair_place)),
        ]
        with m.If(complete):
            m.d.sync += pair_place.eq(writing[1:])
        with m.If(valid[-1] & ~odd_written):
            m.d.sync += even_sums.eq(sums)
        with m.If(valid[-1] & odd_written):
            m.d.sync += pair.eq(Cat(even_sums, sums))
        m.d.comb += [
            banks.other_addr.eq(Cat(self.drain_pair, self.drain_bank)),
            Value.cast(self.drained).eq(banks.other_data),
        ]

        sum_parts: list[Value] = []
        for row in range(ROW_GROUP):
            adder = make_scale_add(config)
            place(m, platform, f"row_{row}", adder, "rows_scale_add")
            m.d.comb += [
                adder.d.eq(self.sums[row]),
                adder.m.eq(self.m[row]),
                adder.scale.eq(self.scale),
                adder.stored.eq(stored[32 * row : 32 * row + 32]),
            ]
            sum_parts.append(adder.s)
        m.d.comb += sums.eq(Cat(*sum_parts))
        return m
