# SPDX-License-Identifier: Apache-2.0
"""Reads a program, checks it, and gives each unit its instructions in order."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import (
    HEADER_FIELDS,
    MAX_INSTRUCTIONS,
    PAYLOAD_FIELDS,
    PROGRAM_HEADER,
    PROGRAM_MAGIC,
    UNITS,
    Opcode,
    Unit,
)
from lutvar.contract.register_map import HeaderRule, InstructionRule
from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.links import (
    ADDRESS,
    BEAT_ADDRESS,
    INDEX_BITS,
    axi_read,
    near_windows,
    payload_layout,
    report_layout,
    windows_layout,
)

from .checks import (
    CHECK_LATENCY,
    UNUSED_PIECE,
    AddressResolver,
    InstructionCheck,
    first_rule,
    operand,
)
from .queue import WAITS, UnitQueue
from .weights import WeightCredit

CHUNK = 1024  #: instructions in one request to memory
COUNT = 32  #: bits of the counts of completed instructions
IN_FLIGHT = 10  #: bits of the number of instructions that are dispatched and not complete
READ_AHEAD = 32  #: instructions read ahead
_OPCODES = {unit: Opcode[unit.name] for unit in UNITS}


class Sequencer(wiring.Component):
    """Runs one program at a time.

    Instructions are dispatched in program order; one whose unit's queue is full holds up the rest.
    Its unit gets it when the waits are over (see `UnitQueue`).

    Throughput: one instruction every 7 cycles. About 60 cycles and the memory's latency from
    `start` to the first command; the first instructions are checked while the rest is read.
    """

    start: In(1)  #: one cycle, only while not `running`
    program: In(ADDRESS)  #: byte address; sampled while the program runs and must stay
    bases: In(4 * ADDRESS)  #: base address of each region; must stay while the program runs
    serial: In(1)  #: dispatch an instruction when all earlier ones but those of FETCH are complete
    halt: In(1)  #: dispatch and offer nothing new
    stop: In(1)  #: request nothing new from memory; bursts under way end
    idle: Out(1)  #: nothing is outstanding on the memory port
    command_fetch: Out(stream.Signature(payload_layout(Opcode.FETCH)))  #: instructions to FETCH
    command_front: Out(stream.Signature(payload_layout(Opcode.FRONT)))  #: instructions to FRONT
    command_matrix: Out(stream.Signature(payload_layout(Opcode.MATRIX)))  #: instructions to MATRIX
    command_post: Out(stream.Signature(payload_layout(Opcode.POST)))  #: instructions to POST
    command_attend: Out(stream.Signature(payload_layout(Opcode.ATTEND)))  #: instructions to ATTEND
    dones: In(len(UNITS))  #: `done` of each unit, by number
    running: Out(1)  #: a program is under way
    finished: Out(1)  #: one cycle at its end
    bad_header: Out(1)  #: one cycle: the header was refused. Then the sequencer waits for a reset
    bad_instruction: Out(1)  #: one cycle: an instruction was refused. Likewise
    bad_info: Out(32)  #: ERROR_INFO of either
    #: instructions completed by each unit since the start, 32 bits each
    completed: Out(data.ArrayLayout(COUNT, len(UNITS)))
    incomplete: Out(len(UNITS))  #: one bit for each unit, see STATE
    empty: Out(len(UNITS))  #: one bit for each unit, see STATE
    waiting: Out(len(UNITS))  #: one bit for each unit, see STATE
    dispatching: Out(1)  #: see STATE
    ending: Out(1)  #: see STATE
    progress: Out(1)  #: an instruction was dispatched or the header read
    memory: Out(axi_read())  #: reads of the program
    windows: In(windows_layout())  #: memory that the program may lie in
    report: Out(report_layout())  #: of the memory port

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.reader = reader = BurstReader(READ_AHEAD)
        m.submodules.check = check = InstructionCheck(self._config)
        m.submodules.resolve = resolve = AddressResolver()
        wiring.connect(m, reader.memory, wiring.flipped(self.memory))
        word = reader.data.payload
        # Of the instruction at hand: its position, and how many there are from it on.
        index = Signal(INDEX_BITS)
        remaining = Signal(INDEX_BITS + 1)
        last = Signal()
        m.d.sync += last.eq(remaining == 1)
        m.d.comb += [
            reader.stop.eq(self.stop),
            self.idle.eq(reader.idle),
            reader.windows.eq(near_windows(m, self.windows)),
            self.report.eq(reader.report),
            check.word.eq(word), check.index.eq(index), check.last.eq(last),
            resolve.word.eq(word), resolve.bases.eq(self.bases),
        ]  # fmt: skip
        opcode = Signal(3)
        m.d.sync += opcode.eq(operand(word, HEADER_FIELDS[0])[:3])
        push = Signal()
        clear = Signal()
        m.submodules.credit = credit = WeightCredit(self._config.weight_ports)
        m.d.comb += [credit.word.eq(word), credit.push.eq(push), credit.clear.eq(clear)]
        room = self._queues(m, word, resolve.addresses, index, opcode, push)
        self._count(m, opcode, push, clear)
        header = self._header(m, word)
        ask = self._ask(m, reader, clear)
        self._control(
            m, reader, check.broken | credit.broken << int(InstructionRule.WEIGHTS) - 1, header,
            {"index": index, "remaining": remaining, "opcode": opcode, "room": room, "push": push,
             "clear": clear, "ask": ask, "word_length": operand(word, PROGRAM_HEADER[2])},
        )  # fmt: skip
        return m

    def _control(
        self, m: Module, reader: BurstReader, broken: Value, header: Signal, s: dict[str, Any]
    ) -> None:
        settle = Signal(range(CHECK_LATENCY + 3))
        has_broken = Signal()
        is_end = Signal()
        m.d.sync += [
            has_broken.eq(broken.any()),
            is_end.eq(s["opcode"] == int(Opcode.END)),
        ]
        free = Signal()  # the serial mode lets the next instruction go
        # FETCH is not waited for: its beats leave only when MATRIX, which follows, takes them.
        others = Cat(self.incomplete[int(u)] for u in UNITS if u != Unit.FETCH)
        m.d.sync += free.eq(~self.serial | ~others.any())
        bad = Signal(32)
        m.d.comb += [self.running.eq(1), self.bad_info.eq(bad)]
        # The word at the queue's output stays until it is taken; the checks follow in registers.
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.running.eq(0)
                with m.If(self.start):
                    m.d.comb += s["clear"].eq(1)
                    m.d.sync += [s["index"].eq(0), settle.eq(0)]
                    m.next = "HEADER"
            with m.State("HEADER"):
                with m.If(reader.data.valid):
                    m.d.sync += settle.eq(settle + 1)
                with m.If(settle == 2):
                    m.next = "JUDGE_HEADER"
            with m.State("JUDGE_HEADER"):
                m.d.comb += reader.data.ready.eq(1)
                m.d.sync += [settle.eq(0), s["remaining"].eq(s["word_length"])]
                for rule in reversed(HeaderRule):
                    with m.If(header[int(rule) - 1]):
                        m.d.sync += bad.eq(int(rule))
                with m.If(header.any()):
                    m.next = "REFUSE_HEADER"
                with m.Else():
                    m.d.comb += [s["ask"].eq(1), self.progress.eq(1)]
                    m.next = "WAIT"
            with m.State("WAIT"):
                with m.If(reader.data.valid):
                    m.d.sync += settle.eq(settle + 1)
                with m.If(settle == CHECK_LATENCY + 1):
                    m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.comb += self.dispatching.eq(1)
                m.d.sync += [settle.eq(0), bad.eq(Cat(s["index"], first_rule(broken)))]
                with m.If(self.halt):
                    pass
                with m.Elif(has_broken):
                    m.next = "REFUSE"
                with m.Elif(is_end):
                    m.next = "LAST"
                with m.Elif(s["room"] & free):
                    m.next = "PUSH"
            with m.State("PUSH"):
                m.d.comb += [s["push"].eq(1), reader.data.ready.eq(1), self.progress.eq(1)]
                m.d.sync += [
                    s["index"].eq(s["index"] + 1),
                    s["remaining"].eq(s["remaining"] - 1),
                ]
                m.next = "WAIT"
            with m.State("LAST"):
                m.d.comb += reader.data.ready.eq(1)
                m.next = "END"
            with m.State("END"):
                m.d.comb += self.ending.eq(1)
                with m.If(~self.incomplete.any() & ~self.halt):
                    m.d.comb += self.finished.eq(1)
                    m.next = "IDLE"
            with m.State("REFUSE_HEADER"):
                m.d.comb += self.bad_header.eq(1)
                m.next = "STOPPED"
            with m.State("REFUSE"):
                m.d.comb += self.bad_instruction.eq(1)
                m.next = "STOPPED"
            with m.State("STOPPED"):
                pass

    def _header(self, m: Module, word: Value) -> Signal:
        """One bit for each HeaderRule, two cycles after the word."""
        field = {item.name: operand(word, item) for item in PROGRAM_HEADER}
        end = PROGRAM_HEADER[-1].low + PROGRAM_HEADER[-1].width
        length = field["length"]
        most = MAX_INSTRUCTIONS.bit_length() - 1
        assert 1 << most == MAX_INSTRUCTIONS
        unused = Signal(-(-(len(word) - end) // UNUSED_PIECE) + 1, name="header_unused_pieces")
        beyond = [word[low : low + UNUSED_PIECE] for low in range(end, len(word), UNUSED_PIECE)]
        m.d.sync += unused.eq(Cat(piece.any() for piece in (field["zero"], *beyond)))
        conditions = {
            HeaderRule.MAGIC: field["magic"] != PROGRAM_MAGIC,
            HeaderRule.HASH: field["hash"] != accelerator_hash(self._config),
            # A comparison would be a carry chain, and a long way to it.
            HeaderRule.LENGTH: ~length.any()
            | length[most + 1 :].any()
            | (length[most] & length[:most].any()),
            HeaderRule.ZERO: unused.any(),
        }
        header = Signal(len(HeaderRule))
        for rule, condition in conditions.items():
            m.d.sync += header[int(rule) - 1].eq(condition)
        return header

    def _ask(self, m: Module, reader: BurstReader, clear: Signal) -> Signal:
        """Requests of the header and, from the returned strobe on, of the instructions."""
        ask = Signal()
        left = Signal(INDEX_BITS + 1)
        address = Signal(BEAT_ADDRESS, reset_less=True)
        request = reader.request
        bits = CHUNK.bit_length() - 1
        whole = Signal()
        size = Signal(bits + 1)
        m.d.comb += [
            whole.eq(left[bits:].any()),
            size.eq(Mux(whole, CHUNK, left[:bits])),
        ]
        with m.If(~request.valid):
            m.d.sync += [
                request.valid.eq(left != 0),
                request.payload.address.eq(address << 6),
                request.payload.beats.eq(size),
                address.eq(address + size),
                left.eq(left - size),
            ]
        with m.Elif(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(clear):
            m.d.sync += [left.eq(1), address.eq(self.program[6:])]
        with m.If(ask):
            m.d.sync += left.eq(operand(reader.data.payload, PROGRAM_HEADER[2]))
        return ask

    def _queues(
        self, m: Module, word: Value, addresses: Signal, index: Signal, opcode: Signal, push: Signal
    ) -> Signal:
        """The queues of the units. Returns: the instruction's queue has room, one cycle late.

        A queue gets an instruction every seven cycles at most, so what was true stays true.
        """
        room = Signal()
        rooms = Signal(len(UNITS))
        m.d.sync += room.eq(rooms.any())
        waits = [f for f in HEADER_FIELDS if f.name.startswith("wait_")]
        completed = Cat(self.completed[int(unit)][:16] for unit in UNITS)
        for unit, op in _OPCODES.items():
            name = unit.name.lower()
            queue = UnitQueue(op, self._config.queue)
            m.submodules[f"queue_{name}"] = queue
            wiring.connect(m, queue.command, wiring.flipped(getattr(self, f"command_{name}")))
            slot = 0
            for item in PAYLOAD_FIELDS[op]:
                value = operand(word, item)
                if item.kind == "address":
                    value = addresses.word_select(slot, ADDRESS)
                    slot += 1
                m.d.comb += queue.payload[item.name].eq(value)
            if op is Opcode.MATRIX:
                m.d.comb += queue.payload.index.eq(index)
            m.d.comb += [
                queue.waits.eq(word[waits[0].low : waits[0].low + WAITS]),
                queue.completed.eq(completed),
                queue.halt.eq(self.halt),
                self.empty[int(unit)].eq(queue.empty),
                self.waiting[int(unit)].eq(queue.waiting),
            ]
            is_target = Signal(name=f"for_{name}")
            m.d.sync += is_target.eq(opcode == int(op))
            m.d.comb += [
                queue.push.eq(push & is_target),
                rooms[int(unit)].eq(queue.room & is_target),
            ]
        return room

    def _count(self, m: Module, opcode: Signal, push: Signal, clear: Signal) -> None:
        for unit, op in _OPCODES.items():
            number = int(unit)
            done = self.dones[number]
            pushed = Signal(name=f"pushed_{unit.name.lower()}")
            flight = Signal(IN_FLIGHT, name=f"flight_{unit.name.lower()}")
            count = self.completed[number]
            m.d.comb += pushed.eq(push & (opcode == int(op)))
            m.d.sync += [
                flight.eq(flight + pushed - done),
                count.eq(count + done),
                self.incomplete[number].eq((flight != 0) | pushed),
            ]
            with m.If(clear):
                m.d.sync += count.eq(0)
