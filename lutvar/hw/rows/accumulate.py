# SPDX-License-Identifier: Apache-2.0
"""Scaling and accumulation for 16 rows: ``acc[bank][column][row] += D * m * ws * 2**e``."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import ROW_GROUP, AcceleratorConfig
from lutvar.hw.links import drain_values
from lutvar.hw.shared import place
from lutvar.hw.units.float_steps import delay
from lutvar.hw.units.memory import READ_LATENCY, ChunkMemory

from .chain import vector_layout
from .dot_form import sum_bits
from .scale_add import make_scale_add, scale_add_timing, scale_bits


def accumulator_latency(config: AcceleratorConfig) -> int:
    """Cycles from sums to the cycle in which their accumulators may be read."""
    return scale_add_timing(config).total + 1


class GroupAccumulator(wiring.Component):
    """Accumulator banks of a row group. All 16 rows use the same column in the same cycle.

    Members:
        valid: sums that count.
        vector: bank, column; ``first``: start from the bias. ``ws`` and ``exponent`` come as
            ``scale``, what ``scale_add.weight_scale`` makes of them.
        sums: exact sums of the 16 rows. m: their FP16 scales. All in the cycle of ``valid``.
        drain_bank, drain_column: read 16 values; ``drained`` follows ``READ_LATENCY`` cycles
            later. Ignored (the values mean nothing) while sums go to the same bank.

    The same column may come again after ``min_interval`` cycles. A word is written at the end of
    cycle ``latency`` - 1 after its sums and may be read from ``latency`` on. Throughput: 16
    additions and 16 reads a cycle. Cost: 2 DSP a row, and a memory of 512 bits x ``acc_depth`` for
    each bank with one write and one read port: 8 UltraRAM or 8 block RAM for each 512 words.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        timing = scale_add_timing(config)
        # Cycles from the sums to the adder's operand registers, to the read, to the word to write.
        self._operands, self._write = timing.stored, timing.total
        self._read = timing.stored - 1 - READ_LATENCY
        assert self._read >= 1, "the read address is a register's"
        self.latency = accumulator_latency(config)
        self.min_interval = self.latency - self._read
        super().__init__(
            {
                "valid": In(1),
                "vector": In(vector_layout(config)),
                "sums": In(data.ArrayLayout(signed(sum_bits(config)), ROW_GROUP)),
                "m": In(data.ArrayLayout(unsigned(16), ROW_GROUP)),
                "scale": In(scale_bits(config)),
                "drain_bank": In(range(config.acc_banks)),
                "drain_column": In(range(config.acc_depth)),
                "drained": Out(drain_values()),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, width = self.config, len(Value.cast(self.drained))
        vector = self.vector
        valid = Signal(self._write)
        m.d.sync += valid.eq(Cat(self.valid, valid))

        def at(value: Value, cycle: int, name: str, start: int = 0) -> Value:
            return delay(m, Value.cast(value), cycle - start, name)

        place_bits = Cat(vector.column, vector.bank)
        columns = len(vector.column)
        reading = at(place_bits, self._read, "read_line")
        bank_then = at(reading[columns:], self._operands - 1, "bank_line", self._read)
        writing = at(reading, self._write, "write_line", self._read)
        first = at(vector.first, self._operands - 1, "first_line")
        bias = at(vector.bias, self._operands - 1, "bias_line")
        drain_bank = at(self.drain_bank, READ_LATENCY, "drain_bank_line")

        words: list[Value] = []
        written = Signal(width)
        for bank in range(config.acc_banks):
            store = ChunkMemory(width, width, config.acc_depth)
            m.submodules[f"bank_{bank}"] = store
            busy = valid[self._read - 1] & (reading[columns:] == bank)
            m.d.comb += [
                store.read_addr.eq(Mux(busy, reading[:columns], self.drain_column)),
                store.write_en.eq(valid[-1] & (writing[columns:] == bank)),
                store.write_addr.eq(writing[:columns]),
                store.write_data.eq(written),
            ]
            words.append(store.read_data)

        stored = Signal(width, reset_less=True)
        m.d.sync += stored.eq(
            Mux(first, bias.replicate(ROW_GROUP), _choose(m, words, bank_then, "stored_word"))
        )
        m.d.comb += Value.cast(self.drained).eq(_choose(m, words, drain_bank, "drained_word"))
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
        m.d.comb += written.eq(Cat(*sum_parts))
        return m


def _choose(m: Module, words: list[Value], index: Value, name: str) -> Value:
    """One of up to eight words."""
    if len(words) == 1:
        return words[0]
    chosen = Signal(len(words[0]), name=name)
    with m.Switch(index):
        for number, word in enumerate(words[:-1]):
            with m.Case(number):
                m.d.comb += chosen.eq(word)
        with m.Default():
            m.d.comb += chosen.eq(words[-1])
    return chosen
