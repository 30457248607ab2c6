# SPDX-License-Identifier: Apache-2.0
"""The control half of the accelerator: registers and what they steer."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Cat, Const, DomainRenamer, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import UNITS
from lutvar.contract.register_map import (
    ADDRESS_BITS,
    BY_NAME,
    READ_PORTS,
    REGISTERS,
    WRITE_PORTS,
    DeviceError,
)
from lutvar.hw.axi.lite import RegisterBusSignature
from lutvar.hw.axi.register_file import RegisterFile
from lutvar.hw.links import (
    ADDRESS,
    BEAT_ADDRESS,
    INDEX_BITS,
    WINDOWS,
    report_layout,
    windows_layout,
)

from .monitor import EventCounters, FirstError, Watchdog
from .words import constants, pack_fields

RESET_CYCLES = 16  #: how long a reset holds the units in reset: what is in flight drains
#: Registers from `core_reset` to the domains that it resets, the same number on every way: one for
#: each unit, and one in the unit and in each large part of it (`verilog.place`).
RESET_DEPTH = 2
#: From the end of `core_reset` until all units have left reset and see `stop` fall after it.
RELEASE_CYCLES = RESET_DEPTH + 2
STOP_CYCLES = 16 + RESET_DEPTH  #: from `stop` to the first look at `idle`
#: Cycles without a beat or response after which none of a burst from before a reset is expected.
SETTLE_CYCLES = 1024
_COUNTED = (
    *(f"BUSY_{u.name}" for u in UNITS), *(f"ACTIVE_{u.name}" for u in UNITS),
    "MATRIX_ISSUE", "MATRIX_WAIT_WEIGHTS",
    *(f"READ_BEATS_{p.upper()}" for p in READ_PORTS),
    *(f"WRITE_BEATS_{p.upper()}" for p in WRITE_PORTS), "PROGRAMS",
)  # fmt: skip


def _bits(register: str) -> int:
    """Bits of a register that have a meaning."""
    return max(field.low + field.width for field in BY_NAME[register].fields)


class Control(wiring.Component):
    """Registers, start, errors, watchdog, counters, soft reset, interrupt.

    Clock domains (one clock): register storage and resets are in `bus`; everything else is in
    `sync`, whose reset the top derives from `core_reset`.

    A start is accepted when CTRL.ready is 1 and ignored otherwise. After an error nothing is
    dispatched until SOFT_RESET, which also clears CTRL.done, ISR and the counters. SOFT_RESET
    stops the units, waits until their memory ports are idle, and resets them.

    A reset of `bus`, of one cycle too, holds the units in reset for `RESET_CYCLES`. Bursts that it
    cut off may still be answered, for the memory need not be reset with the accelerator: until
    `settle` cycles have passed without an answer CTRL.ready stays 0. So it is after
    SOFT_RESET.force. A plain SOFT_RESET leaves no burst behind and needs no such wait.

    Args:
        settle: cycles without an answer before CTRL.ready rises after such a reset.
    """

    bus: In(RegisterBusSignature(ADDRESS_BITS))  #: register accesses
    bus_hold: Out(1)  #: accesses have to wait (during the reset itself)
    start: Out(1)  #: one cycle: run the program
    program: Out(ADDRESS)  #: byte address of the program
    bases: Out(4 * ADDRESS)  #: base address of each region, 64 bits each
    windows: Out(windows_layout())  #: memory that each region may use
    serial: Out(1)  #: dispatch an instruction only when the earlier ones are complete
    halt: Out(1)  #: dispatch and offer nothing new
    stop: Out(1)  #: begin nothing new on memory ports; what has begun ends
    running: In(1)  #: the sequencer has a program under way
    finished: In(1)  #: one cycle at the end of a program
    progress: In(1)  #: the sequencer dispatched an instruction or read the header
    bad_header: In(1)  #: one cycle: the program's header was refused
    bad_instruction: In(1)  #: one cycle: an instruction was refused
    bad_info: In(32)  #: ERROR_INFO of either
    surplus: In(1)  #: MATRIX has got beats of weights beyond those of its instruction
    missing: In(1)  #: MATRIX has got fewer beats of weights than its instruction needs
    weights_index: In(INDEX_BITS)  #: ERROR_INFO of either
    #: instructions that each unit has completed since the start
    completed: In(data.ArrayLayout(32, len(UNITS)))
    incomplete: In(len(UNITS))  #: units with instructions that are not complete
    empty: In(len(UNITS))  #: units whose queue is empty
    waiting: In(len(UNITS))  #: units whose oldest instruction waits for other units
    dispatching: In(1)  #: the sequencer has an instruction for a queue
    ending: In(1)  #: the sequencer waits for the last instructions
    busy: In(len(UNITS))  #: units with an instruction in progress
    active: In(len(UNITS))  #: units that move or compute something in this cycle
    done: In(len(UNITS))  #: units that complete an instruction in this cycle
    idle: In(1)  #: no memory port has anything outstanding
    issue: In(1)  #: the array takes a weight vector
    wait_weights: In(1)  #: the array waits for weights
    ports: In(_bits("PORTS"))  #: bits of PORTS
    ports_write: In(_bits("PORTS_WRITE"))  #: bits of PORTS_WRITE
    read_beats: In(len(READ_PORTS))  #: read ports on which a beat moves
    write_beats: In(len(WRITE_PORTS))  #: write ports on which a beat moves
    #: of the readers of READ_PORTS, then of the writers of WRITE_PORTS
    reports: In(data.ArrayLayout(report_layout(), len(READ_PORTS) + len(WRITE_PORTS)))
    arrivals: In(1)  #: a memory port is offered a beat or a response
    #: resets everything but the registers, through `RESET_DEPTH` registers; high after power-up
    core_reset: Out(1, init=1)
    mute: Out(1, init=1)  #: the units are in reset: what they drive on memory ports does not count
    interrupt: Out(1)  #: level

    def __init__(self, config: AcceleratorConfig, *, settle: int = SETTLE_CYCLES) -> None:
        if settle < 1:
            raise ValueError(f"settle is {settle}; it must be at least 1 cycle")
        self._config, self._settle = config, settle
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.registers = registers = DomainRenamer("bus")(
            RegisterFile(
                REGISTERS,
                constants=constants(self._config),
                live=("CTRL",),
                watched=("CTRL", "CYCLES_LO"),
            )
        )
        wiring.connect(m, wiring.flipped(self.bus), registers.bus)
        resetting = self._soft_reset(m, registers)
        settling = self._settling(m, registers)
        state = Signal(32)
        m.d.sync += state.eq(self._state(resetting, settling))
        errors = self._errors(m, registers, state)
        self._control_register(m, registers, settling)
        self._count(m, registers)
        self._interrupts(m, registers, errors.raised)
        m.d.comb += [
            self.program.eq(Cat(registers.program_lo, registers.program_hi)),
            self.bases.eq(Cat(
                getattr(registers, f"base{i}_{half}") for i in range(4) for half in ("lo", "hi")
            )),
            *(
                self.windows[i][kind].eq(
                    Cat(getattr(registers, f"{kind}{i}_{half}") for half in ("lo", "hi"))[6:]
                )
                for i in range(WINDOWS) for kind in ("base", "limit")
            ),
            self.serial.eq(registers.mode[0]),
            self.halt.eq(errors.halt | self.stop),
            registers.state.eq(state),
        ]  # fmt: skip
        m.d.sync += [registers.ports.eq(self.ports), registers.ports_write.eq(self.ports_write)]
        return m

    def _state(self, resetting: Signal, settling: Signal) -> Value:
        each = {"busy": self.busy, "active": self.active, "empty": self.empty,
                "waits": self.waiting, "incomplete": self.incomplete}  # fmt: skip
        return pack_fields("STATE", {
            **{f"{what}_{u.name.lower()}": bits[int(u)] for what, bits in each.items()
               for u in UNITS},
            "dispatch": self.dispatching, "end": self.ending, "quiet": self.idle,
            "resetting": resetting, "halted": self.halt, "settling": settling,
        })  # fmt: skip

    def _errors(self, m: Module, registers: Any, state: Signal) -> FirstError:
        m.submodules.stall_timer = watchdog = Watchdog()
        m.submodules.errors = errors = FirstError([c for c in DeviceError if c.value])
        moved = Cat(self.active, self.done, self.read_beats, self.write_beats, self.progress)
        m.d.comb += [
            watchdog.limit.eq(registers.watchdog),
            watchdog.active.eq(self.running & ~errors.halt),
            watchdog.progress.eq(moved.any()),
        ]
        hits: dict[DeviceError, tuple[Value, Value | int]] = {
            DeviceError.BAD_HEADER: (self.bad_header, self.bad_info),
            DeviceError.BAD_INSTRUCTION: (self.bad_instruction, self.bad_info),
            DeviceError.WATCHDOG: (watchdog.fire, state),
            DeviceError.WEIGHTS_SURPLUS: (self.surplus, self.weights_index),
            DeviceError.WEIGHTS_MISSING: (self.missing, self.weights_index),
        }
        # Whose address counts, by code and lowest bit of its info.
        sources: dict[tuple[DeviceError, int], int] = {}
        numbers = range(len(READ_PORTS) + len(WRITE_PORTS))
        readers = dict(zip(READ_PORTS, numbers, strict=False))
        writers = dict(zip(WRITE_PORTS, numbers[len(READ_PORTS) :], strict=True))
        for kind, masters in (("READ", readers), ("WRITE", writers)):
            for port, master in masters.items():
                code, report = DeviceError[f"{kind}_{port.upper()}"], self.reports[master]
                hits[code] = (report.response | report.last, report.last)
                sources[code, 0] = sources[code, 1] = master
        for port, master in readers.items():
            code, report = DeviceError[f"OUTSIDE_{port.upper()}"], self.reports[master]
            written = self.reports[writers[port]].outside if port in writers else Const(0)
            hits[code] = (report.outside | written, ~report.outside)
            sources[code, 0] = master
            if port in writers:
                sources[code, 1] = writers[port]
        for number, code in enumerate(c for c in DeviceError if c.value):
            m.d.comb += [
                errors.hits[number].eq(hits[code][0]),
                errors.infos[number].eq(hits[code][1]),
            ]
        # The port keeps its address; it is here before anybody can read the code. Decode and
        # selection are separate steps, which keeps the wide selection shallow.
        address = Signal(BEAT_ADDRESS)
        chosen = Signal(len(numbers))
        found = Cat(errors.info[0], errors.code)
        starts = []
        for master in numbers:
            keys = [int(code) << 1 | info for (code, info), n in sources.items() if n == master]
            m.d.sync += chosen[master].eq(Cat(found == key for key in keys).any())
            starts.append(Mux(chosen[master], self.reports[master].address, 0))
        m.d.sync += address.eq(reduce(or_, starts))
        m.d.comb += [
            registers.error.eq(errors.code),
            registers.error_info.eq(errors.info),
            Cat(registers.error_address_lo, registers.error_address_hi).eq(
                Cat(Const(0, 6), address)
            ),
        ]
        return errors

    def _control_register(self, m: Module, registers: Any, settling: Signal) -> None:
        done = Signal()
        pending = Signal()
        begin = Signal()
        with m.If(self.finished):
            m.d.sync += done.eq(1)
        with m.Elif(registers.ctrl_seen):
            m.d.sync += done.eq(0)
        ready = ~self.running & ~self.halt & ~pending & ~settling
        # A register in the path; the next write to an argument comes at least three cycles later.
        m.d.sync += begin.eq(registers.ctrl_write[0])
        m.d.comb += self.start.eq(begin & ready)
        m.d.sync += pending.eq(self.start)  # until the sequencer runs
        word = pack_fields("CTRL", {
            "start": pending, "done": done, "idle": ~self.running & ~pending, "ready": ready,
        })  # fmt: skip
        m.d.comb += registers.ctrl.eq(word)

    def _count(self, m: Module, registers: Any) -> None:
        m.submodules.counters = counters = EventCounters(len(_COUNTED))
        m.d.comb += [
            counters.events.eq(Cat(
                self.busy, self.active, self.issue, self.wait_weights,
                self.read_beats, self.write_beats, self.finished,
            )),
            counters.running.eq(self.running & ~self.halt),
            counters.cycles_lo_seen.eq(registers.cycles_lo_seen),
            registers.cycles_lo.eq(counters.cycles_lo),
            registers.cycles_hi.eq(counters.cycles_hi),
        ]  # fmt: skip
        # A soft reset keeps this one: what it counts is no program's doing.
        dropped = Signal(range(len(READ_PORTS) + len(WRITE_PORTS) + 1))
        unsolicited = Signal(32)
        m.d.bus += [
            dropped.eq(sum(report.unsolicited for report in self.reports)),
            unsolicited.eq(unsolicited + dropped),
        ]
        m.d.comb += registers.unsolicited.eq(unsolicited)
        for number, name in enumerate(_COUNTED):
            m.d.comb += getattr(registers, name.lower()).eq(counters.counts[number])
        for unit in UNITS:
            value = getattr(registers, f"instructions_{unit.name.lower()}")
            m.d.comb += value.eq(self.completed[int(unit)])

    def _interrupts(self, m: Module, registers: Any, raised: Signal) -> None:
        pending = Signal(2)
        events = Signal(2)
        fields = {f.name: f.low for f in BY_NAME["ISR"].fields}
        m.d.comb += [
            events[fields["done"]].eq(self.finished),
            events[fields["error"]].eq(raised),
            registers.isr.eq(pending),
        ]
        m.d.sync += pending.eq((pending & ~registers.isr_write) | events)
        m.d.sync += self.interrupt.eq(registers.gie[0] & (pending & registers.ier).any())

    def _soft_reset(self, m: Module, registers: Any) -> Signal:
        """Returns: a reset was asked for and waits for the memory ports."""
        resetting = Signal()
        stopped = Signal(range(STOP_CYCLES + 1))
        whole = RESET_CYCLES + RELEASE_CYCLES
        left = Signal(range(whole + 1), init=whole)
        # `left` is not 0: the bus waits for it, and the units are silent. 1 from `bus` reset on.
        going = self.mute
        request, force = registers.soft_reset_write[0], registers.soft_reset_write[1]
        over = Signal()
        m.d.comb += [
            # Until the reset has taken effect: nothing may start on a port that is idle.
            self.stop.eq(resetting | going),
            over.eq(resetting & (stopped == STOP_CYCLES) & self.idle),
            self.bus_hold.eq(going),
        ]
        m.d.bus += self.core_reset.eq(going & (left > RELEASE_CYCLES))
        with m.If(resetting & (stopped != STOP_CYCLES)):
            m.d.bus += stopped.eq(stopped + 1)
        with m.If(force | over):
            m.d.bus += [resetting.eq(0), stopped.eq(0), left.eq(whole), going.eq(1)]
        with m.Elif(request):
            m.d.bus += resetting.eq(1)
        with m.If(going & ~(force | over)):
            m.d.bus += [left.eq(left - 1), going.eq(left != 1)]
        return resetting

    def _settling(self, m: Module, registers: Any) -> Signal:
        """Returns: answers to bursts that a reset cut off may still come."""
        settling = Signal(init=1)
        calm = Signal(range(self._settle))  # cycles without an answer
        with m.If(self.arrivals | self.mute):
            m.d.bus += calm.eq(0)
        with m.Elif(settling):
            m.d.bus += [calm.eq(calm + 1), settling.eq(calm != self._settle - 1)]
        with m.If(registers.soft_reset_write[1]):
            m.d.bus += settling.eq(1)
        return settling
