# SPDX-License-Identifier: Apache-2.0
"""Unit ATTEND: instructions in, attention results in memory."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.axi.writer import BurstWriter
from lutvar.hw.links import (
    UnitComponent,
    axi_read,
    axi_write,
    connect_masters,
    memory_members,
    unit_members,
)
from lutvar.hw.port_types import AxiReadPort, AxiWritePort
from lutvar.hw.units.memory import Fifo

from .addresses import QueryKeyAddresses, ResultAddresses, ValueAddresses, command_layout
from .head_memory import HeadMemory, pass_layout
from .results import ResultPhase
from .scores import ScorePhase, block_layout
from .sizes import AttentionSizes
from .sorter import RecordSorter
from .values import TOTAL_LATENCY, ValuePhase

_AHEAD = 8  #: blocks whose records are requested ahead of the score phase
_PENDING = 64  #: result requests without response
_COMMANDS = 8  #: instructions in progress


class AttendUnit(UnitComponent):
    """Attention of query rows over the keys of one sequence, for a number of heads.

    A block is one head and up to R = `config.attention_rows` query rows, which share a pass over
    the K and V records. Heads are worked through one after the other, the rows of each in blocks
    of R. Three blocks are in progress at a time (scores, values, results), those of the next
    instruction included. An instruction reads each record from memory once: those of a head are
    kept for all of its blocks.

    Of a command, `rows`, `heads` and `keys` are at least 1 and `keys` at most `config.max_keys`
    (the sequencer checks it).

    Cycles of a block of n rows and L keys, with memory that delivers: `block_cycles(n, L)`.
    Reads are prefetched through queues of `config.read_fifo` beats, whatever the phases do.
    """

    keys_memory: AxiReadPort  #: out: reads of q and K records
    values_memory: AxiReadPort  #: out: reads of V records
    write: AxiWritePort  #: out: writes of the results, two beats for each row and head

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.sizes = AttentionSizes.of(config)
        self.scores = ScorePhase(self.sizes)
        self.values = ValuePhase(self.sizes)
        self.results = ResultPhase(self.sizes)
        super().__init__(
            {
                **unit_members(Opcode.ATTEND),
                **memory_members(3),
                "keys_memory": Out(axi_read()),
                "values_memory": Out(axi_read()),
                "write": Out(axi_write()),
            }
        )

    def block_cycles(self, rows: int, keys: int) -> int:
        """Cycles from block to block in a long run of equal blocks."""
        if not self.sizes.pipelined:
            return (rows + keys) * (self.scores.latency + 1)
        return max(rows + keys + 1, self.results.interval(rows))

    def latency(self, rows: int, keys: int) -> int:
        """Cycles from the first q record of a block, alone, to its last beat of results."""
        score = rows + keys + self.scores.latency + 4
        value = keys + TOTAL_LATENCY + self.results.select_delay
        return score + value + 4 * rows + 16

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        depth = self.config.read_fifo
        m.submodules.read_keys = read_keys = BurstReader(depth)
        m.submodules.read_values = read_values = BurstReader(depth)
        m.submodules.writer = writer = BurstWriter(32)
        m.submodules.scores = scores = self.scores
        m.submodules.values = values = self.values
        m.submodules.results = results = self.results
        m.submodules.key_addresses = key_addresses = QueryKeyAddresses(self.sizes)
        m.submodules.value_addresses = value_addresses = ValueAddresses(self.sizes)
        m.submodules.result_addresses = result_addresses = ResultAddresses(self.sizes)
        m.submodules.kept_keys = kept_keys = HeadMemory(self.sizes, scales=2)
        m.submodules.kept_values = kept_values = HeadMemory(self.sizes, scales=1)
        m.submodules.sorter = sorter = RecordSorter(self.sizes)
        m.submodules.blocks = blocks = Fifo(block_layout(self.sizes), _AHEAD)
        m.submodules.key_passes = key_passes = Fifo(pass_layout(self.sizes), _AHEAD)
        m.submodules.value_passes = value_passes = Fifo(pass_layout(self.sizes), _AHEAD)

        connect, flipped = wiring.connect, wiring.flipped
        connect(m, key_addresses.request, read_keys.request)
        self._fork(m, key_addresses.block, (blocks.i, key_passes.i, sorter.block))
        connect(m, blocks.o, scores.block)
        connect(m, value_addresses.request, read_values.request)
        connect(m, read_keys.data, sorter.records)
        connect(m, sorter.queries, scores.queries)
        connect(m, sorter.keys, kept_keys.records)
        connect(m, key_passes.o, kept_keys.passes)
        connect(m, kept_keys.o, scores.beats)
        connect(m, read_values.data, kept_values.records)
        connect(m, value_addresses.passes, value_passes.i)
        connect(m, value_passes.o, kept_values.passes)
        connect(m, kept_values.o, values.beats)
        connect(m, scores.scored, values.scored)
        connect(m, results.beats, writer.data)
        connect(m, read_keys.memory, flipped(self.keys_memory))
        connect(m, read_values.memory, flipped(self.values_memory))
        connect(m, writer.memory, flipped(self.write))
        m.d.comb += [
            scores.read.eq(values.read),
            values.scores.eq(scores.scores),
            values.ready.eq(results.ready),
            values.select.eq(results.select),
            values.quarter.eq(results.quarter),
        ]
        for name in ("ended", "done", "totals", "rows", "exponent", "word"):
            m.d.comb += getattr(results, name).eq(getattr(values, name))

        self._commands(m, (key_addresses, value_addresses, result_addresses))
        self._complete(m, result_addresses, writer)

        masters = (read_keys, read_values, writer)
        connect_masters(m, self, masters)
        m.d.sync += [
            self.idle.eq(read_keys.idle & read_values.idle & writer.idle),
            self.active.eq(scores.active | values.active | results.active),
        ]
        return m

    @staticmethod
    def _fork(m: Module, source: Any, sinks: tuple[Any, ...]) -> None:
        """Each sink takes its fields of every item, all in the same cycle."""
        for index, sink in enumerate(sinks):
            others = [other.ready for other in (*sinks[:index], *sinks[index + 1 :])]
            m.d.comb += sink.valid.eq(Cat(source.valid, *others).all())
            for name in sink.payload.shape().members:
                m.d.comb += sink.payload[name].eq(source.payload[name])
        m.d.comb += source.ready.eq(Cat(*(sink.ready for sink in sinks)).all())

    def _commands(self, m: Module, generators: tuple[Any, ...]) -> None:
        """An instruction goes to all three address generators; each may be ahead of the others."""
        running = Signal(range(_COMMANDS + 1))
        queues = []
        for index, generator in enumerate(generators):
            queue = Fifo(command_layout(*generator.OPERANDS), 2)
            m.submodules[f"commands{index}"] = queue
            wiring.connect(m, queue.o, generator.command)
            queues.append(queue)
        accept = Signal()
        ready = running != _COMMANDS
        for queue in queues:
            ready = ready & queue.i.ready
        m.d.comb += [
            self.command.ready.eq(ready),
            accept.eq(self.command.valid & ready),
            self.busy.eq(running != 0),
        ]
        for queue, generator in zip(queues, generators, strict=True):
            m.d.comb += queue.i.valid.eq(accept)
            for name in generator.OPERANDS:
                m.d.comb += queue.i.payload[name].eq(self.command.payload[name])
        m.d.sync += running.eq(running + accept - self.done)

    def _complete(self, m: Module, addresses: ResultAddresses, writer: BurstWriter) -> None:
        """Requests to the writer; the response to an instruction's last one completes it."""
        m.submodules.pending = pending = Fifo(unsigned(1), _PENDING)
        offer = Signal()
        m.d.comb += [
            offer.eq(addresses.request.valid & pending.i.ready),
            writer.request.valid.eq(offer),
            writer.request.payload.eq(addresses.request.payload),
            addresses.request.ready.eq(writer.request.ready & pending.i.ready),
            pending.i.valid.eq(addresses.request.valid & writer.request.ready),
            pending.i.payload.eq(addresses.last),
            pending.o.ready.eq(writer.responses),
        ]
        m.d.sync += self.done.eq(writer.responses & pending.o.payload)
