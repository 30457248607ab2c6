# SPDX-License-Identifier: Apache-2.0
"""The control half of the core: registers, job start, errors, reset, interrupt, counters."""

from amaranth.hdl import Cat, DomainRenamer, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.config import HardwareConfig, QuantConfig
from lutvar.contract.identity import config_hash
from lutvar.contract.registers import ADDRESS_BITS, BY_NAME, MAGIC, REGISTERS, VERSION, ErrorCode

from .arguments import JobChecker
from .axi_lite import RegisterBusSignature
from .monitor import COUNTED, Counters, ErrorLatch, Watchdog
from .register_file import RegisterFile

SOFT_RESET_CYCLES = 4  #: how long SOFT_RESET holds the core in reset
#: Status that the engine reports, member name -> width.
ENGINE_STATUS = {
    "done": 1, "idle": 1, "front_busy": 1, "back_busy": 1, "wgt_full": 2, "act_full": 2,
    "frame_act": 1, "frame_wgt": 1, "nonfinite": 1,
    "frame_act_info": 32, "frame_wgt_info": 32, "nonfinite_info": 32,
    "issue": 1, "stall_act": 1, "stall_wgt": 1, "stall_out": 1, "stall_gap": 1,
}  # fmt: skip
STREAM_STATUS = tuple(f"{s}_{w}" for s in ("act", "wgt", "out") for w in ("valid", "ready"))


def place_fields(name: str, values: dict):
    """A register word with the given field values; every field of the table must be given."""
    word = Signal(32, name=f"{name.lower()}_word")
    fields = {f.name: f for f in BY_NAME[name].fields}
    if set(fields) != set(values):
        raise ValueError(
            f"{name} has fields {sorted(fields)}, values for {sorted(values)} were given"
        )
    return word, [word[f.low : f.low + f.width].eq(values[f.name]) for f in fields.values()]


def pack_fields(name: str, values: dict[str, int]) -> int:
    """The same for integers known at build time."""
    word = 0
    for item in BY_NAME[name].fields:
        if not 0 <= values[item.name] < 1 << item.width:
            raise ValueError(
                f"{name}.{item.name} = {values[item.name]} needs over {item.width} bits"
            )
        word |= values[item.name] << item.low
    return word


def constants(hardware: HardwareConfig, quant: QuantConfig) -> dict[str, int]:
    """Values of the read-only registers that identify a build."""
    digest = config_hash(hardware, quant)
    return {
        "MAGIC": MAGIC,
        "VERSION": VERSION,
        "HASH_LO": digest & 0xFFFFFFFF,
        "HASH_HI": digest >> 32,
        "CAPS0": pack_fields("CAPS0", {
            "token_rows": hardware.token_rows, "outputs": hardware.outputs,
            "stream_bytes": hardware.stream_bytes, "code_bits": quant.code_bits,
        }),
        "CAPS1": pack_fields("CAPS1", {
            "max_groups": hardware.max_groups, "row_block": hardware.row_block,
        }),
        "CAPS2": hardware.buffer_vectors,
    }  # fmt: skip


class Control(wiring.Component):
    """Registers and what they steer.

    Clock domains (one clock): register storage is in ``bus`` and survives SOFT_RESET; everything
    else is in ``sync``, whose reset the top derives from ``core_reset``.

    A start is accepted when CTRL.ready is 1 and ignored otherwise. After an error nothing starts
    until SOFT_RESET, which also clears CTRL.done, ISR and the counters.

    Members:
        bus: register accesses.
        bus_hold: accesses have to wait (the core is being reset).
        job: checked jobs for the engine.
        status members of the engine (:data:`ENGINE_STATUS`) and of the streams.
        halt: an error is kept; the engine and the streams stop.
        core_reset: reset of everything but the register storage; high after power-up.
        interrupt: level, high while an enabled event is pending.
    """

    def __init__(self, hardware: HardwareConfig, quant: QuantConfig, job_shape):
        self._hardware, self._quant, self._job_shape = hardware, quant, job_shape
        super().__init__({
            "bus": In(RegisterBusSignature(ADDRESS_BITS)),
            "bus_hold": Out(1),
            "job": Out(stream.Signature(job_shape)),
            **{name: In(width) for name, width in ENGINE_STATUS.items()},
            **{name: In(1) for name in STREAM_STATUS},
            "halt": Out(1), "core_reset": Out(1, init=1), "interrupt": Out(1),
        })  # fmt: skip

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = DomainRenamer("bus")(
            RegisterFile(
                REGISTERS,
                constants=constants(self._hardware, self._quant),
                live=("CTRL",),
                watched=("CTRL", "CYCLES_LO"),
            )
        )
        m.submodules.checker = checker = JobChecker(self._hardware, self._quant, self._job_shape)
        m.submodules.errors = errors = ErrorLatch()
        m.submodules.stall_timer = watchdog = Watchdog()
        m.submodules.counters = counters = Counters()
        wiring.connect(m, wiring.flipped(self.bus), registers.bus)
        wiring.connect(m, checker.o, wiring.flipped(self.job))

        running, beats = self._run_state(m, checker)
        self._control_register(m, registers, checker, running)
        state, statements = place_fields(
            "STATE",
            {name: getattr(self, name) for name in (
                *STREAM_STATUS, "front_busy", "back_busy", "wgt_full", "act_full",
            )},
        )  # fmt: skip
        m.d.comb += statements
        m.d.comb += [
            watchdog.limit.eq(registers.watchdog),
            watchdog.active.eq(running & ~errors.halt),
            watchdog.progress.eq(Cat(beats.values()).any() | self.issue),
            registers.state.eq(state),
        ]
        sources = {
            ErrorCode.BAD_ARGUMENT: (checker.bad, checker.bad_offset),
            ErrorCode.FRAME_ACT: (self.frame_act, self.frame_act_info),
            ErrorCode.FRAME_WGT: (self.frame_wgt, self.frame_wgt_info),
            ErrorCode.NONFINITE: (self.nonfinite, self.nonfinite_info),
            ErrorCode.STALL: (watchdog.fire, state),
        }
        for code, (pulse, info) in sources.items():
            m.d.comb += [
                getattr(errors, code.name.lower()).eq(pulse),
                getattr(errors, f"{code.name.lower()}_info").eq(info),
            ]
        m.d.comb += [
            registers.error.eq(errors.code),
            registers.error_info.eq(errors.info),
            self.halt.eq(errors.halt),
        ]
        self._count(m, registers, counters, running, beats)
        self._interrupts(m, registers, errors)
        self._soft_reset(m, registers)
        return m

    def _run_state(self, m, checker):
        """(there is work, name -> a beat moves)."""
        beats = {f"beat_{s}": Signal(name=f"beat_{s}") for s in ("act", "wgt", "out")}
        for name, beat in beats.items():
            side = name.removeprefix("beat_")
            m.d.comb += beat.eq(getattr(self, f"{side}_valid") & getattr(self, f"{side}_ready"))
        running = Signal()
        # A result that was not taken yet belongs to a job that is not over for its user.
        m.d.comb += running.eq(checker.busy | ~self.idle | self.out_valid)
        return running, beats

    def _control_register(self, m, registers, checker, running):
        done = Signal()
        with m.If(self.done):
            m.d.sync += done.eq(1)
        with m.Elif(registers.ctrl_seen):
            m.d.sync += done.eq(0)
        word, statements = place_fields("CTRL", {
            "start": checker.busy, "done": done, "idle": ~running,
            "ready": ~checker.busy & ~self.halt,
        })  # fmt: skip
        m.d.comb += statements
        # A register in the path; the next write to an argument comes at least three cycles later.
        start = Signal()
        m.d.sync += start.eq(registers.ctrl_write[0])
        args = checker.arguments
        flags = {f.name: registers.flags[f.low] for f in BY_NAME["FLAGS"].fields}
        m.d.comb += [
            registers.ctrl.eq(word),
            checker.start.eq(start & ~self.halt),
            args.rows.eq(registers.rows), args.groups.eq(registers.groups),
            args.tiles.eq(registers.tiles), args.scale_exp.eq(registers.scale_exp),
            args.rotate.eq(flags["rotate"]), args.dual.eq(flags["dual"]),
            args.dump.eq(flags["dump"]),
        ]  # fmt: skip

    def _count(self, m, registers, counters, running, beats):
        for name, strobe in COUNTED.items():
            source = beats[strobe] if strobe in beats else getattr(self, strobe)
            m.d.comb += getattr(counters, f"count_{name.lower()}").eq(source)
            m.d.comb += getattr(registers, name.lower()).eq(getattr(counters, name.lower()))
        m.d.comb += [
            counters.running.eq(running & ~self.halt),
            counters.cycles_lo_seen.eq(registers.cycles_lo_seen),
            registers.cycles_lo.eq(counters.cycles_lo),
            registers.cycles_hi.eq(counters.cycles_hi),
        ]

    def _interrupts(self, m, registers, errors):
        pending = Signal(2)
        events = Signal(2)
        fields = {f.name: f.low for f in BY_NAME["ISR"].fields}
        m.d.comb += [
            events[fields["done"]].eq(self.done),
            events[fields["error"]].eq(errors.raised),
            registers.isr.eq(pending),
        ]
        m.d.sync += pending.eq((pending & ~registers.isr_write) | events)
        m.d.sync += self.interrupt.eq(registers.gie[0] & (pending & registers.ier).any())

    def _soft_reset(self, m, registers):
        left = Signal(range(SOFT_RESET_CYCLES + 1))
        m.d.bus += self.core_reset.eq(left != 0)
        with m.If(registers.soft_reset_write[0]):
            m.d.bus += left.eq(SOFT_RESET_CYCLES)
        with m.Elif(left != 0):
            m.d.bus += left.eq(left - 1)
        m.d.comb += self.bus_hold.eq((left != 0) | self.core_reset)
