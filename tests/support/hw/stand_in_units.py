# SPDX-License-Identifier: Apache-2.0
"""Units that compute nothing: they take commands, touch memory and report completion."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.axi.writer import BurstWriter
from lutvar.hw.fetch.unit import FetchUnit
from lutvar.hw.links import (
    INDEX_BITS,
    UnitComponent,
    axi_read,
    axi_write,
    bank_write_layout,
    connect_masters,
    drain_layout,
    drain_values,
    memory_members,
    unit_members,
    weight_stream,
)
from lutvar.hw.port_types import Stream


class StandInUnit(UnitComponent):
    """Reads `rows` beats (writes one), waits `delay` cycles, reports the instruction done.

    Args:
        reads, writes: memory member -> operand that holds its address.
        links: further members, left alone but for `weights`, which are always taken.
    """

    weights: list[Stream]

    def __init__(
        self, opcode: Opcode, delay: int, reads: dict[str, str], writes: dict[str, str],
        links: dict[str, Any],
    ) -> None:  # fmt: skip
        self._delay, self._reads, self._writes = delay, reads, writes
        super().__init__({
            **unit_members(opcode), **links,
            **(memory_members(len(reads | writes)) if reads or writes else {}),
            **{name: Out(axi_read()) for name in reads},
            **{name: Out(axi_write()) for name in writes},
        })  # fmt: skip

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        command = self.command.payload
        ends, idle, parts, ready = [], [], [], []
        begin, ended = Signal(), Signal()
        if "weights" in self.signature.members:
            m.d.comb += [weights.ready.eq(1) for weights in self.weights]
        for name, operand in (self._reads | self._writes).items():
            write = name in self._writes
            part: Any = BurstWriter(32) if write else BurstReader(32)
            m.submodules[name] = part
            wiring.connect(m, part.memory, wiring.flipped(getattr(self, name)))
            beats, left = (1 if write else command.rows), Signal(10, name=f"left_{name}")
            m.d.comb += [
                part.request.payload.address.eq(getattr(command, operand)),
                part.request.payload.beats.eq(beats),
                part.request.valid.eq(begin),
            ]
            if write:
                m.d.comb += part.data.valid.eq(begin)
                step = part.responses
            else:
                m.d.comb += part.data.ready.eq(1)
                step = part.data.valid
            m.d.sync += left.eq(left - step)
            with m.If(begin):
                m.d.sync += left.eq(beats)
            ends.append(left == 0)
            idle.append(part.idle)
            ready.append(part.request.ready)
            parts.append(part)
        if parts:
            connect_masters(m, self, parts)
        waited = Signal(range(self._delay + 2))
        over = self.busy & (waited == self._delay)
        for end in ends:
            over = over & end
        free = ~self.busy
        for one in ready:
            free = free & one
        rest: Any = 1
        for one in idle:
            rest = rest & one
        m.d.comb += [
            self.command.ready.eq(free & ~self.stop),
            begin.eq(self.command.valid & self.command.ready),
            ended.eq(over),
            self.active.eq(self.busy & (waited != self._delay)),
            self.idle.eq(rest),
        ]
        m.d.sync += self.done.eq(ended)
        with m.If(begin):
            m.d.sync += [self.busy.eq(1), waited.eq(0)]
        with m.Elif(ended):
            m.d.sync += self.busy.eq(0)
        with m.Elif(waited != self._delay):
            m.d.sync += waited.eq(waited + 1)
        return m


def stand_ins(config: AcceleratorConfig, delay: int = 20) -> dict[str, Any]:
    """All units; FETCH is the real one."""
    return {
        "fetch": FetchUnit(config),
        "front": StandInUnit(
            Opcode.FRONT, delay, {"memory": "address"}, {},
            {"bank_write": Out(bank_write_layout(config))},
        ),
        "matrix": StandInUnit(Opcode.MATRIX, delay, {}, {}, {
            "weights": In(weight_stream()).array(config.weight_ports),
            "bank_write": In(bank_write_layout(config)),
            "drain": In(drain_layout(config)), "drained": Out(drain_values()),
            "issue": Out(1), "wait_weights": Out(1),
            "surplus": Out(1), "missing": Out(1), "weights_index": Out(INDEX_BITS),
        }),
        "post": StandInUnit(
            Opcode.POST, delay, {"read": "input"}, {"write": "output"},
            {"drain": Out(drain_layout(config)), "drained": In(drain_values())},
        ),
        "attend": StandInUnit(
            Opcode.ATTEND, delay,
            {"keys_memory": "keys_address", "values_memory": "values_address"},
            {"write": "output"}, {},
        ),
    }  # fmt: skip
