# SPDX-License-Identifier: Apache-2.0
"""The FRONT unit: rows from memory to codes in an activation bank."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.contract.hadamard import sign_vector
from lutvar.contract.isa import Opcode
from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.links import (
    UnitComponent,
    axi_read,
    bank_write_layout,
    connect_masters,
    memory_members,
    unit_members,
)
from lutvar.hw.port_types import AxiReadPort, View, view_signal
from lutvar.hw.units.elastic import OutputQueue, beat_layout
from lutvar.hw.units.fp32_to_fp16 import Fp32ToFp16
from lutvar.hw.units.hadamard import Hadamard
from lutvar.hw.units.memory import ChunkMemory, Fifo
from lutvar.hw.units.pipeline import delay, valid_line
from lutvar.hw.units.quantizer import Quantizer
from lutvar.hw.verilog import place

from .bank_writer import BankWriter
from .issue import RowIssue, statistics_layout
from .normalise import NormaliseLane
from .receive import Receiver
from .requests import RowRequests
from .ring import WordRing
from .slots import SLOTS, TURN_BITS, slot_layout, slot_values, vector_words
from .statistics import RowStatistics
from .sums import RowSums

#: Cycles from a row's last word to its statistics, with the queues on the way.
STATISTICS_CYCLES = Fp32ToFp16.LATENCY + RowSums.LATENCY + RowStatistics.LATENCY + 8
#: Cycles of the second pass, from the ring to the queue before the Hadamard unit.
PASS_CYCLES = WordRing.READ_LATENCY + NormaliseLane.LATENCY


class FrontUnit(UnitComponent):
    """Executes FRONT instructions (contract, sections 9, 3, 4).

    Two instructions may be in progress: the second one's rows are read and summed while the first
    one's are normalised and quantized. Rows pass through a ring of words, so the statistics of
    long and short rows alike are computed while others move.

    Cycles, with W = 8 * groups words a row and memory delivering one beat in each cycle: back to
    back `rows * W` for each instruction, with norm `rows * (W + 1) + 2 * W` (the vectors take
    `2 * W`). From the first beat of an instruction to its `done`: about 100 more, with norm
    another 125 + W. As two are in progress at most, short ones take half of that whole time at
    least. In two terms each word counts twice; when an instruction of one term follows, some 40
    cycles are lost.

    `config.pipelined = False`: one group at a time between the ring and the bank, one row at a
    time in the ring.
    """

    memory: AxiReadPort  #: out: reads of rows and vectors
    bank_write: View  #: out: words for the activation bank; `done` comes together with the last one

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                **unit_members(Opcode.FRONT),
                **memory_members(1),
                "memory": Out(axi_read()),
                "bank_write": Out(bank_write_layout(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, quant = self.config, self.config.quant_config
        # A row being summed, and those whose statistics are being computed.
        depth = 1 << (vector_words(config) + STATISTICS_CYCLES + 16).bit_length()

        m.submodules.reader = reader = BurstReader(config.read_fifo, serial=not config.pipelined)
        m.submodules.requests = requests = RowRequests()
        m.submodules.receiver = receiver = Receiver(config, RowSums.GAP)
        m.submodules.ring = ring = WordRing(depth)
        m.submodules.issue = issue = RowIssue(config, alone_first=not config.pipelined)
        terms = config.input_terms > 1
        m.submodules.hadamard = hadamard = Hadamard(LANES, sign_vector(quant.hadamard_seed), terms)
        m.submodules.quantizer = quantizer = Quantizer(
            LANES, quant.plain_format, quant.dual_format, quant.ties, terms=terms
        )
        m.submodules.writer = writer = BankWriter(config)
        wiring.connect(m, reader.memory, wiring.flipped(self.memory))
        wiring.connect(m, requests.request, reader.request)
        wiring.connect(m, reader.data, receiver.data)
        wiring.connect(m, hadamard.o, quantizer.i)
        wiring.connect(m, quantizer.o, writer.codes)

        # Instructions in progress.
        accepted = Signal(TURN_BITS)
        progress = Signal(range(SLOTS + 1))
        slots = view_signal(data.ArrayLayout(slot_layout(), SLOTS), reset_less=True)
        accept = Signal()
        m.d.comb += [
            self.command.ready.eq((progress != SLOTS) & ~requests.busy & ~self.stop),
            accept.eq(self.command.valid & self.command.ready),
            requests.start.eq(accept),
            requests.work.eq(self.command.payload),
        ]
        m.d.sync += [
            accepted.eq(accepted + accept),
            progress.eq(progress + accept - writer.done),
        ]
        operands = slot_values(self.command.payload)
        for number in range(SLOTS):
            with m.If(accept & (accepted[0] == number)):
                m.d.sync += [slots[number][name].eq(value) for name, value in operands.items()]
        for stage in (receiver, issue, writer):
            m.d.comb += stage.slot.eq(Mux(stage.turn[0], slots[1].as_value(), slots[0].as_value()))
        for stage in (receiver, issue):
            m.d.comb += stage.accepted.eq(accepted)

        self._first_pass(m, platform, receiver, ring, issue, slots)
        queue = self._second_pass(m, platform, receiver, ring, issue)
        wiring.connect(m, queue.o, hadamard.i)

        if config.pipelined:
            m.d.comb += receiver.start.eq(1)
        else:
            words = Signal(8)  # issued and not written, in each of its terms: one group at most
            issued = Cat(issue.issue & ~issue.slot.terms, issue.issue & issue.slot.terms)
            m.d.sync += words.eq(words + issued - self.bank_write.valid)
            m.d.comb += [issue.alone.eq(words == 0), receiver.start.eq(ring.empty & issue.alone)]

        m.d.comb += [
            self.bank_write.eq(writer.write),
            self.done.eq(writer.done),
            self.busy.eq(progress != 0),
            requests.stop.eq(self.stop),
            self.idle.eq(reader.idle),
        ]
        connect_masters(m, self, (reader,))
        m.d.sync += self.active.eq(receiver.take | issue.issue | writer.write.valid)
        return m

    def _first_pass(
        self,
        m: Module,
        platform: Any,
        receiver: Receiver,
        ring: WordRing,
        issue: RowIssue,
        slots: Any,
    ) -> None:
        """FP16 words into the ring, sums and statistics of rows to the second pass."""
        halves = []
        for k in range(LANES):
            convert = Fp32ToFp16()
            place(m, platform, f"convert_{k}", convert, "fp32_to_fp16")
            m.d.comb += convert.x.eq(receiver.beat.word_select(k, 32))
            halves.append(convert.y)
        age = Fp32ToFp16.LATENCY
        plain = delay(m, receiver.beat[: LANES * 16], age, "plain")
        width = len(receiver.word)
        tags = delay(
            m, Cat(receiver.word, receiver.last, receiver.norm, receiver.number), age, "tags"
        )
        word, (last, norm, number) = tags[:width], tags[width : width + 3]
        present = valid_line(m, receiver.row, age, "present")
        m.d.comb += [
            receiver.room.eq(ring.room),
            ring.reserve.eq(receiver.take),
            ring.push.eq(present[-1]),
            ring.data.eq(Mux(norm, Cat(halves), plain)),
        ]

        m.submodules.sums = sums = RowSums(width)
        m.submodules.statistics = statistics = RowStatistics()
        m.submodules.statistics_queue = statistics_queue = Fifo(
            statistics_layout(), ring.depth // 8
        )
        slot_number = delay(m, number, RowSums.LATENCY, "own_line")
        late_slot_number = delay(m, slot_number, RowStatistics.EPSILON_AT, "later_line")
        m.d.comb += [
            Value.cast(sums.x).eq(Cat(halves)),
            sums.valid.eq(present[-1] & norm),
            sums.word.eq(word),
            sums.last.eq(last),
            statistics.total.eq(sums.total),
            statistics.squares.eq(sums.squares),
            statistics.valid.eq(sums.done),
            statistics.inverse_width.eq(
                Mux(slot_number, slots[1].inverse_width, slots[0].inverse_width)
            ),
            statistics.epsilon.eq(Mux(late_slot_number, slots[1].epsilon, slots[0].epsilon)),
            # It has a place for every row that fits the ring.
            statistics_queue.i.valid.eq(statistics.done),
            statistics_queue.i.payload.mean.eq(statistics.mean),
            statistics_queue.i.payload.root.eq(statistics.root),
        ]
        wiring.connect(m, statistics_queue.o, issue.statistics)

    def _second_pass(
        self, m: Module, platform: Any, receiver: Receiver, ring: WordRing, issue: RowIssue
    ) -> OutputQueue:
        """Words out of the ring, normalised or as they are, into a queue."""
        layout = beat_layout(LANES, self.config.input_terms > 1)
        m.submodules.queue = queue = OutputQueue(layout, 1, OutputQueue.depth_for(1, PASS_CYCLES))
        m.d.comb += [
            issue.some.eq(ring.some),
            issue.room.eq(queue.room),
            ring.pop.eq(issue.issue),
            queue.reserve.eq(issue.issue),
        ]

        # The vectors of both slots.
        words = vector_words(self.config)
        base = {0: 0, 1: words}
        write_address = receiver.word + Mux(receiver.number, base[1], base[0])
        # A row without norm may be longer than the vectors; what is read for it is not used.
        read_address = Mux(issue.slot.norm, issue.word, 0) + Mux(issue.turn[0], base[1], base[0])
        vectors = []
        for name, number, at in (
            ("scales", 0, NormaliseLane.SCALE_AT), ("shifts", 1, NormaliseLane.SHIFT_AT)
        ):  # fmt: skip
            memory = ChunkMemory(LANES * 16, LANES * 16, SLOTS * words)
            m.submodules[name] = memory
            size = len(memory.read_addr)
            m.d.comb += [
                memory.write_en.eq(receiver.vector & (receiver.shift == number)),
                memory.write_addr.eq(write_address),
                memory.write_data.eq(receiver.beat),
                memory.read_addr.eq(delay(m, read_address[:size], at, f"{name}_address")),
            ]
            vectors.append(memory.read_data)

        # Word, mean and root leave one register each; the lane wants them at different times.
        since = 1 - WordRing.READ_LATENCY
        mean = delay(m, issue.mean, NormaliseLane.MEAN_AT - since, "mean_line")
        root = delay(m, issue.root, NormaliseLane.ROOT_AT - since, "root_line")
        plain = delay(m, ring.word, NormaliseLane.LATENCY, "plain_line")
        results = []
        for k in range(LANES):
            lane = NormaliseLane()
            place(m, platform, f"lane_{k}", lane, "front_lane")
            m.d.comb += [
                lane.x.eq(ring.word.word_select(k, 16)),
                lane.mean.eq(mean),
                lane.root.eq(root),
                lane.scale.eq(vectors[0].word_select(k, 16)),
                lane.shift.eq(vectors[1].word_select(k, 16)),
            ]
            results.append(lane.z)

        slot = issue.slot
        marks = [slot.rotate, slot.dual, issue.last]
        if self.config.input_terms > 1:
            marks.append(slot.terms)
        flags = delay(m, Cat(slot.norm, *marks), PASS_CYCLES, "flags_line")
        history = valid_line(m, issue.issue, PASS_CYCLES, "history")
        m.d.comb += [
            queue.push.eq(history[-1]),
            Value.cast(queue.data).eq(Cat(Mux(flags[0], Cat(results), plain), flags[1:])),
        ]
        return queue
