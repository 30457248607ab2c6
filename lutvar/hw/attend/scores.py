# SPDX-License-Identifier: Apache-2.0
"""Score phase: q and K records in, scores into a ring, their maxima at the end of a block."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import BEAT
from lutvar.hw.port_types import Stream, view_signal
from lutvar.hw.units.memory import ChunkMemory, Fifo
from lutvar.hw.units.pipeline import delay
from lutvar.hw.verilog import place

from .records import record_codes, record_scale, record_value_scale, scale_parts
from .score_form import ScoreForm
from .score_row import ScoreRow
from .sizes import BLOCKS, EXPONENT, SCORE, AttentionSizes


def block_layout(sizes: AttentionSizes) -> data.StructLayout:
    """A block to work on: 1..R query rows of one head, and its keys."""
    return data.StructLayout({"rows": range(sizes.rows + 1), "keys": range(sizes.max_keys + 1)})


def scored_layout(sizes: AttentionSizes) -> data.StructLayout:
    """A block whose scores are complete: maxima of its rows, and E, the largest exponent of V."""
    return data.StructLayout(
        {
            "rows": range(sizes.rows + 1),
            "keys": range(sizes.max_keys + 1),
            "exponent": EXPONENT,
            "maxima": sizes.rows * SCORE,
        }
    )


class ScorePhase(wiring.Component):
    """Works through blocks: the q records of the rows, then the K records of the keys.

    A block of n rows and L keys takes n + L + 1 cycles; it is complete `latency` + 3 cycles after
    its last record.
    """

    block: Stream  #: in: blocks in the order of their records
    #: in: q records. Of queries and keys one is taken in each cycle but one for each block, while
    #: the ring has room and fewer than `BLOCKS` blocks wait for the value phase
    queries: Stream
    beats: Stream  #: in: K records
    scored: Stream  #: out: complete blocks; `scored.payload` stays until taken
    read: Signal  #: in: the value phase reads the scores of the next key in this cycle
    scores: Signal  #: out: R scores, two cycles after `read`
    active: Signal  #: out: a record is taken in this cycle

    def __init__(self, sizes: AttentionSizes) -> None:
        self.sizes = sizes
        self.units = [ScoreRow(sizes, sizes.form(row)) for row in range(sizes.rows)]
        #: Cycles from a record to the score in the ring.
        self.latency = 2 + self.units[0].latency
        super().__init__(
            {
                "block": In(stream.Signature(block_layout(sizes))),
                "queries": In(stream.Signature(unsigned(BEAT))),
                "beats": In(stream.Signature(unsigned(BEAT))),
                "scored": Out(stream.Signature(scored_layout(sizes))),
                "read": In(1),
                "scores": Out(sizes.rows * SCORE),
                "active": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        sizes, units = self.sizes, self.units
        record = Signal(BEAT, reset_less=True)
        take_query = Signal()
        take_key = Signal()
        block = view_signal(block_layout(sizes), reset_less=True)
        row, first, last = self._control(m, take_query, take_key, block)
        m.d.sync += record.eq(Mux(take_query, self.queries.payload, self.beats.payload))

        # Cycle 1: the record; 2: its operand, cycle 0 of the rows.
        operands = {form: self._operands(m, record, form) for form in sizes.forms}
        loads = Signal(2 * sizes.rows)
        m.d.sync += loads.eq(
            Cat(*(take_query & (row == r) for r in range(sizes.rows)), loads[: sizes.rows])
        )
        load = loads[sizes.rows :]
        scale_cycle = units[0].scale_cycle
        significand, exponent = scale_parts(record_scale(record))
        scale_line = delay(m, Cat(significand, exponent), scale_cycle + 1, "scale_line")
        scale_load = delay(m, load, scale_cycle, "scale_load", reset=True)

        # Cycle 2 + latency of the rows: scores.
        arrived = delay(m, Cat(take_key, take_key & first, take_key & last),
                             self.latency, "arrived", reset=True)  # fmt: skip
        for r, unit in enumerate(units):
            place(m, platform, f"row{r}", unit, f"attend_score_row{unit.form.module}")
            query, key = operands[unit.form]
            m.d.comb += [
                unit.key.eq(key),
                unit.query.eq(query),
                unit.query_load.eq(delay(m, load[r], unit.lag, f"query_load{r}", reset=True)),
                unit.significand.eq(scale_line[: len(significand)]),
                unit.exponent.eq(scale_line[len(significand) :]),
                unit.scale_load.eq(scale_load[r]),
                unit.update.eq(arrived[0]),
                unit.first.eq(arrived[1]),
            ]
        self._store(m, Cat(*(unit.t for unit in units)), arrived[0])

        # E, in step with the maxima.
        _, value_exponent = scale_parts(record_value_scale(record))
        value_exponent = delay(m, value_exponent, self.latency - 1, "value_exponent")
        largest = Signal(EXPONENT, reset_less=True)
        with m.If(arrived[0] & (arrived[1] | (value_exponent > largest))):
            m.d.sync += largest.eq(value_exponent)

        # One cycle later the block is complete. Its place in the queue was kept.
        m.submodules.queue = queue = Fifo(scored_layout(sizes), BLOCKS)
        complete = Signal()
        counts = delay(m, Value.cast(block), self.latency + 1, "counts")
        m.d.sync += complete.eq(arrived[2])
        m.d.comb += [
            queue.i.valid.eq(complete),
            Value.cast(queue.i.payload).eq(Cat(counts, largest, *(unit.maximum for unit in units))),
        ]
        wiring.connect(m, queue.o, wiring.flipped(self.scored))
        return m

    def _operands(self, m: Module, record: Value, form: ScoreForm) -> list[Value]:
        """Operands of query and key, in cycle `lag` of the rows."""
        operands = []
        for name, recode in zip(("query", "key"), form.make_operands(), strict=True):
            m.submodules[f"recode_{name}{form.module}"] = recode
            m.d.comb += recode.codes.eq(record_codes(record, self.sizes.fmt))
            line = f"{name}{form.module}_line"
            operands.append(delay(m, recode.operand, self.sizes.lag(form), line))
        return operands

    def _control(
        self, m: Module, take_query: Signal, take_key: Signal, block: Any
    ) -> tuple[Signal, Signal, Signal]:
        """Which record is taken as what. Returns the query's row; the key is first, last."""
        sizes = self.sizes
        row = Signal(range(sizes.rows))
        left = Signal(range(sizes.max_keys + 1))
        first = Signal()
        last = Signal()
        blocks = Signal(range(BLOCKS + 1))
        room = Signal()  # the ring has it
        may = Signal()  # the datapath is free; always, when pipelined
        popped = Signal()
        loaded = Signal()
        m.d.comb += [
            popped.eq(self.scored.valid & self.scored.ready),
            take_query.eq(0),
            self.active.eq(take_query | take_key),
            last.eq(left == 1),
        ]
        m.d.sync += blocks.eq(blocks + loaded - popped)
        if sizes.pipelined:
            m.d.comb += may.eq(1)
        else:
            wait = Signal(range(self.latency + 1))
            m.d.comb += may.eq(wait == 0)
            with m.If(self.active):
                m.d.sync += wait.eq(self.latency)
            with m.Elif(~may):
                m.d.sync += wait.eq(wait - 1)

        # Room is decided one cycle ahead, with a margin for what is on its way.
        free = Signal(range(sizes.ring + 1), init=sizes.ring)
        m.d.sync += [free.eq(free + self.read - take_key), room.eq(free > 4)]

        with m.FSM():
            with m.State("BLOCK"):
                m.d.comb += [
                    self.block.ready.eq(blocks != BLOCKS),
                    loaded.eq(self.block.valid & self.block.ready),
                ]
                with m.If(loaded):
                    m.d.sync += [
                        block.eq(self.block.payload),
                        left.eq(self.block.payload.keys),
                        row.eq(0),
                        first.eq(1),
                    ]
                    m.next = "QUERIES"
            with m.State("QUERIES"):
                m.d.comb += [
                    self.queries.ready.eq(may),
                    take_query.eq(self.queries.valid & self.queries.ready),
                ]
                with m.If(take_query):
                    m.d.sync += row.eq(row + 1)
                    with m.If(row + 1 == block.rows):
                        m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += [
                    self.beats.ready.eq(may & room),
                    take_key.eq(self.beats.valid & self.beats.ready),
                ]
                with m.If(take_key):
                    m.d.sync += [left.eq(left - 1), first.eq(0)]
                    with m.If(last):
                        m.next = "BLOCK"
        return row, first, last

    def _store(self, m: Module, scores: Value, write: Value) -> None:
        """The ring of scores; both sides go round in the order of keys."""
        depth = self.sizes.ring
        m.submodules.ring = ring = ChunkMemory(len(scores), len(scores), depth)
        for address, step in ((ring.write_addr, write), (ring.read_addr, self.read)):
            pointer = Signal(range(depth))
            m.d.comb += address.eq(pointer)
            with m.If(step):
                m.d.sync += pointer.eq(Mux(pointer == depth - 1, 0, pointer + 1))
        m.d.comb += [
            ring.write_en.eq(write),
            ring.write_data.eq(scores),
            self.scores.eq(ring.read_data),
        ]
