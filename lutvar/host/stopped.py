# SPDX-License-Identifier: Apache-2.0
"""Runs programs, and says at which instruction a device was when it stopped, or time was up.

The registers say how many instructions of each unit are complete, and of an error its port and
address, or the instruction's index; the program says what each instruction reads and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import ALIGN, UNITS, Instruction, Opcode, Region, Unit, split_address
from lutvar.contract.register_map import DeviceError as Code
from lutvar.host.compile.footprint import footprint
from lutvar.host.compile.program import Note, Program

from .device import Device
from .device_errors import ProgramTimeout
from .device_status import AcceleratorError, DeviceCounters, DeviceSnapshot, ReadRegister
from .errors import HostError

#: A program may take this many times the cycles of the scheduler's model, and some more.
_PATIENCE, _GRACE = 8, 1_000_000
#: Which unit uses a memory port.
_USERS: Mapping[str, Unit] = {
    "FRONT": Unit.FRONT, "POST": Unit.POST, "KEYS": Unit.ATTEND, "VALUES": Unit.ATTEND,
    **dict.fromkeys(("WGT", "WGT1", "WGT2", "WGT3"), Unit.FETCH),
}  # fmt: skip
#: Instructions of a unit that may be under way besides the oldest one: its queue is not looked at.
_AHEAD = 2


def run_program(
    device: Device,
    encoded: bytes,
    cycles: int,
    what: str,
    program: Callable[[], Program],
    place: Callable[[Note], str],
) -> DeviceCounters:
    """Run a compiled program; errors say at which of its instructions.

    Args:
        device: holds what the program needs.
        encoded: the program as it lies in memory.
        cycles: that it takes in the scheduler's model; the deadline follows from them.
        what: its name in errors.
        program: the same with notes, called only for an error.
        place: an instruction's place in the model, of its note.

    Raises:
        AcceleratorError, ProgramTimeout and the others: see `Device.run`.
    """
    try:
        return device.run(encoded, cycles * _PATIENCE + _GRACE, what)
    except AcceleratorError as error:
        where = what + _where(device, error.snapshot, program(), place)
        raise AcceleratorError(error.snapshot, where) from error
    except ProgramTimeout as late:
        where = what + _where(device, late.snapshot, program(), place)
        raise ProgramTimeout(where, late.cycles, late.snapshot, late.seconds) from late


def _where(
    device: Device, snapshot: DeviceSnapshot, program: Program, place: Callable[[Note], str]
) -> str:
    """Place and instruction that a program stopped at; empty where the registers do not say."""
    items = program.instructions
    try:
        index = stopped_at(items, device.config, snapshot, bases(device.register))
    except HostError:  # it does not even answer any more: the error itself goes on
        return ""
    if index is None:
        return ""
    note = program.notes[index]
    at = "END" if note.what == "end" else place(note)
    return f", at {at}, instruction {index} ({items[index].opcode.name})"


def place_in_pass(note: Note) -> str:
    """What an instruction of a pass is for: "block3.fc1" or "head"."""
    return note.what if note.what == "head" else f"block{note.block}.{note.what}"


def bases(read: ReadRegister) -> dict[Region, int]:
    """Where the regions lie in the device's address space, as its registers say."""
    return {
        region: read(f"BASE{int(region)}_LO") | read(f"BASE{int(region)}_HI") << 32
        for region in Region
    }


def stopped_at(
    items: Sequence[Instruction],
    config: AcceleratorConfig,
    snapshot: DeviceSnapshot,
    bases: Mapping[Region, int],
) -> int | None:
    """Index of the instruction that an error belongs to; None where the registers do not say.

    Of a transfer: the one of the port's unit that is under way and reaches the address, or else
    the oldest that is not complete. A refused write may also be the last that is complete: its
    response ends it. Of anything else that names no instruction, as a watchdog's error or a
    deadline: the oldest of all that are not complete, those of FETCH aside.
    """
    code, info = snapshot.error, snapshot.error_info
    if code in (Code.BAD_INSTRUCTION, Code.WEIGHTS_SURPLUS, Code.WEIGHTS_MISSING):
        index = info & 0xFF_FFFF
        return index if index < len(items) else None
    of = {unit: _indices(items, unit) for unit in UNITS}
    done = dict(zip(UNITS, snapshot.instructions, strict=True))
    if code in (Code.NONE, Code.WATCHDOG):
        # FETCH only holds weights ready: whoever takes them, or does not, is MATRIX.
        oldest = {unit: of[unit][done[unit]] for unit in UNITS if done[unit] < len(of[unit])}
        fetch = oldest.pop(Unit.FETCH, None)
        return min(oldest.values(), default=fetch)
    kind, _, port = Code(code).name.partition("_") if code in set(Code) else ("", "", "")
    if port not in _USERS:
        return None
    unit = _USERS[port]
    under_way = of[unit][done[unit] :][: 1 + _AHEAD]
    ended = of[unit][: done[unit]][-1:] if kind == "WRITE" else []
    reaching = (
        i for i in (*under_way[:1], *ended, *under_way[1:])
        if _reaches(items[i], config, snapshot.error_address, bases)
    )  # fmt: skip
    return next(reaching, under_way[0] if under_way else None)


def _indices(items: Sequence[Instruction], unit: Unit) -> list[int]:
    """Indices of the instructions of a unit."""
    return [i for i, item in enumerate(items) if item.opcode == Opcode(unit + 1)]


def _reaches(
    item: Instruction, config: AcceleratorConfig, address: int, bases: Mapping[Region, int]
) -> bool:
    """Whether an instruction reads or writes the line at an address of the device."""
    of = footprint(item, config)
    for region, lines in (*of.reads, *of.writes):
        if (bases[region] + lines * ALIGN == address // ALIGN * ALIGN).any():
            return True
    for start, size in of.model:
        region, offset = split_address(start)
        if 0 <= address - bases[region] - offset < size:
            return True
    return False
