# SPDX-License-Identifier: Apache-2.0
"""Errors of each kind: code, context and interrupt, and a program that is right afterwards."""

from collections.abc import Mapping
from typing import Any

import cocotb

from lutvar.contract.accelerator import BEAT_BYTES
from lutvar.contract.isa import (
    HEADER_FIELDS,
    INSTRUCTION_BYTES,
    PAYLOAD_FIELDS,
    PROGRAM_HEADER,
    UNITS,
    Instruction,
    Opcode,
    OperandField,
    Region,
    encode,
    split_address,
)
from lutvar.contract.register_map import (
    BY_NAME,
    WEIGHT_PORTS,
    WRITE_PORTS,
    DeviceError,
    HeaderRule,
    InstructionRule,
)

from .common import BASES, PROGRAM, Testbench, build_ports
from .units import UnitsCase, make_units_case

WATCHDOG_CYCLES = 400
#: Memory port -> the instruction that uses it, its operand with the address, the unit.
USES = {
    **{(port, False): (Opcode.FETCH, "address") for port in WEIGHT_PORTS},
    ("front", False): (Opcode.FRONT, "address"),
    ("post", False): (Opcode.POST, "input"), ("post", True): (Opcode.POST, "output"),
    ("keys", False): (Opcode.ATTEND, "keys_address"),
    ("values", False): (Opcode.ATTEND, "values_address"),
    ("values", True): (Opcode.ATTEND, "output"),
}  # fmt: skip
PORTS = [*(f"r_{p}" for p in build_ports()), *(f"w_{p}" for p in WRITE_PORTS)]


def port_key(port: str) -> tuple[str, bool]:
    """Name and whether it writes, of one of PORTS."""
    direction, name = port.split("_")
    return name, direction == "w"


def response_code(port: str) -> DeviceError:
    """What a bad response on one of PORTS is told as."""
    name, write = port_key(port)
    return DeviceError[f"{'WRITE' if write else 'READ'}_{name.upper()}"]


def _address(case: UnitsCase, port: str) -> int:
    """First address that the program touches on a port."""
    if port == "r_prog":
        return PROGRAM
    opcode, operand = USES[port_key(port)]
    instruction = next(i for i in case.instructions if i.opcode is opcode)
    region, offset = split_address(instruction.operands[operand])
    return BASES[region] + offset + share_offset(instruction.operands, port)


def share_offset(operands: Mapping[str, int], port: str) -> int:
    """Bytes from the start of a panel to a weight port's share of it; 0 for other ports.

    The panel of `make_units_case` has a stripe for each weight port.
    """
    name, write = port_key(port)
    index = WEIGHT_PORTS.index(name) if name in WEIGHT_PORTS and not write else 0
    return index * operands["beats"] * BEAT_BYTES if index else 0


async def recover(tb: Testbench, case: UnitsCase) -> None:
    """SOFT_RESET clears error, status and counters; then a program must be right."""
    await tb.soft_reset()
    await _clean(tb)
    await case.run(tb)


async def _clean(tb: Testbench) -> None:
    for name in ("ERROR", "ERROR_INFO", "ISR", "PROGRAMS", "READ_BEATS_PROG", "CYCLES_LO"):
        assert await tb.read(name) == 0, f"{name} is not 0 after SOFT_RESET"
    assert await tb.read("CTRL") == BY_NAME["CTRL"].reset | 1 << 3  # idle and ready
    assert not tb.dut.interrupt.value
    assert await tb.read64("BASE3") == BASES[Region.CACHE], "SOFT_RESET keeps the arguments"


@cocotb.test()
@cocotb.parametrize(port=PORTS, response=[2, 3])
async def memory_refuses(dut: Any, port: str, response: int) -> None:
    """SLVERR and DECERR on each port are told with the start of the burst."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 71)
    await case.open(tb)
    where = _address(case, port)
    tb.memory.injected_errors = {port_key(port): (where, where, response)}
    await tb.start_program(case.raw)
    info = await tb.expect_error(response_code(port))
    assert info == 0
    found = await tb.read64("ERROR_ADDRESS")
    assert found == where, f"ERROR_ADDRESS is {found:#x}; the error was at {where:#x}"
    tb.memory.injected_errors = {}
    await recover(tb, case)


def changed(raw: bytes, at: int, item: OperandField, value: int) -> bytes:
    """A program with one field of the word at index `at` replaced."""
    low = at * INSTRUCTION_BYTES
    word = int.from_bytes(raw[low : low + INSTRUCTION_BYTES], "little")
    mask = (1 << item.width) - 1
    word = word & ~(mask << item.low) | (value & mask) << item.low
    return raw[:low] + word.to_bytes(INSTRUCTION_BYTES, "little") + raw[low + INSTRUCTION_BYTES :]


def _bad_headers(raw: bytes) -> dict[HeaderRule, bytes]:
    fields = {f.name: f for f in PROGRAM_HEADER}
    word = int.from_bytes(raw[:INSTRUCTION_BYTES], "little")
    changes = {
        HeaderRule.MAGIC: ("magic", 0), HeaderRule.HASH: ("hash", word >> 64 ^ 1 << 63),
        HeaderRule.LENGTH: ("length", 0), HeaderRule.ZERO: ("zero", 1 << 31),
    }  # fmt: skip
    return {rule: changed(raw, 0, fields[n], v) for rule, (n, v) in changes.items()}


@cocotb.test()
async def bad_headers(dut: Any) -> None:
    """Each rule of the program's first word; nothing is dispatched."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 72)
    await case.open(tb)
    for rule, raw in _bad_headers(case.raw).items():
        await tb.start_program(raw)
        info = await tb.expect_error(DeviceError.BAD_HEADER)
        assert info == rule, f"ERROR_INFO is {info}, {rule.name} was broken"
        assert tb.memory.beats("wgt") == 0
        await tb.soft_reset()
        await _clean(tb)
    await case.run(tb)


def _early_end(case: UnitsCase) -> bytes:
    """The program with END in front; only its place is wrong."""
    raw = case.raw
    end = encode(Instruction(Opcode.END), 0)
    return raw[:INSTRUCTION_BYTES] + end + raw[2 * INSTRUCTION_BYTES :]


def _bad_instructions(case: UnitsCase) -> list[tuple[InstructionRule, int, bytes]]:
    """(rule, index of the instruction, program)."""
    index = {i.opcode: number for number, i in enumerate(case.instructions)}
    head = {f.name: f for f in HEADER_FIELDS}
    config, rule = case.config, InstructionRule
    top = OperandField("", 1, "", INSTRUCTION_BYTES * 8 - 1)

    def payload(
        r: InstructionRule, op: Opcode, name: str, value: int
    ) -> tuple[InstructionRule, int, bytes]:
        item = next(f for f in PAYLOAD_FIELDS[op] if f.name == name)
        return r, index[op], changed(case.raw, index[op] + 1, item, value)

    def header(
        r: InstructionRule, at: int, name: str, value: int
    ) -> tuple[InstructionRule, int, bytes]:
        return r, at, changed(case.raw, at + 1, head[name], value)

    front = index[Opcode.FRONT]
    fields = {f.name: f for f in PAYLOAD_FIELDS[Opcode.FRONT]}
    # Two terms where there is one only, or of a dual format.
    both = InstructionRule.TERMS, front, changed(case.raw, front + 1, fields["terms"], 1)
    if config.input_terms > 1:
        both = *both[:2], changed(both[2], front + 1, fields["dual"], 1)
    return [
        header(rule.MARK, 0, "mark", 0),
        header(rule.INDEX, front, "index", 7),
        header(rule.OPCODE, front, "opcode", 9),
        (rule.UNUSED, front, changed(case.raw, front + 1, top, 1)),
        (rule.END, 0, _early_end(case)),
        payload(rule.ALIGNMENT, Opcode.FRONT, "address", 32),
        payload(rule.SECTIONS, Opcode.MATRIX, "sections", 3),
        payload(rule.ROWS, Opcode.FRONT, "rows", config.rows + 1),
        payload(rule.BANK, Opcode.MATRIX, "acc_bank", 7),
        payload(rule.GROUPS, Opcode.MATRIX, "groups", 0),
        payload(rule.OUTPUTS, Opcode.MATRIX, "blocks", 1),
        *([both] if config.input_terms == 1 or config.quant_config.dual_format else []),
        payload(rule.OPERATION, Opcode.POST, "op", 7),
        payload(rule.HEADS, Opcode.ATTEND, "heads", 0),
        payload(rule.KEYS, Opcode.ATTEND, "keys", config.max_keys + 1),
        payload(rule.BEATS, Opcode.FETCH, "beats", 0),
    ]


@cocotb.test()
async def bad_instructions(dut: Any) -> None:
    """Rules of instructions; ERROR_INFO has the rule and the index."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 73)
    await case.open(tb)
    for rule, index, raw in _bad_instructions(case):
        await tb.start_program(raw)
        info = await tb.expect_error(DeviceError.BAD_INSTRUCTION)
        found = InstructionRule(info >> 24).name
        assert found == rule.name, f"{found} is reported, {rule.name} was broken"
        assert info & 0xFF_FFFF == index, f"{rule.name}: instruction {info & 0xFFFFFF}, not {index}"
        await tb.soft_reset()
    await _clean(tb)
    await case.run(tb)


@cocotb.test()
@cocotb.parametrize(port=PORTS)
async def silent_memory(dut: Any, port: str) -> None:
    """A port that never answers ends in WATCHDOG, which names the unit; the reset waits for it."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 74)
    await case.open(tb)
    await tb.write("WATCHDOG", WATCHDOG_CYCLES)
    key = port_key(port)
    tb.memory.silent = {key}
    await tb.start_program(case.raw)
    state = await tb.expect_error(DeviceError.WATCHDOG)
    field = BY_NAME["STATE"].field_value
    if key in USES:
        unit = USES[key][0].name.lower()
        assert field(state, f"incomplete_{unit}"), f"{unit} is not named: STATE {state:#x}"
        assert not field(state, f"empty_{unit}") or field(state, f"busy_{unit}")
    named = {u.name.lower() for u in UNITS if field(state, f"incomplete_{u.name.lower()}")}
    # Without weights MATRIX cannot end, and POST waits for MATRIX; nobody else waits for ATTEND.
    follows = {"fetch": {"matrix", "post"}, "front": {"matrix", "post", "fetch"}}
    allowed = {USES[key][0].name.lower()} if key in USES else set()
    for unit in tuple(allowed):
        allowed |= follows.get(unit, set())
    assert named <= allowed, f"{named - allowed} are named without a reason"
    assert not field(state, "quiet")
    # The memory ports end what they have begun before anything is reset.
    await tb.write("SOFT_RESET", 1)
    await tb.cycles(100)
    assert await tb.field("STATE", "resetting"), "a soft reset left a burst behind"
    tb.memory.silent = set()
    for _ in range(40):
        if not await tb.field("STATE", "resetting"):
            break
    await tb.ready()
    assert not tb.memory.outstanding, "reset with bursts outstanding"
    await _clean(tb)
    assert await tb.read("WATCHDOG") == WATCHDOG_CYCLES
    await case.run(tb)


@cocotb.test()
@cocotb.parametrize(port=[f"w_{p}" for p in WRITE_PORTS])
async def last_response_is_bad(dut: Any, port: str) -> None:
    """The very last answer of a program, and it is an error: the program must not be told done."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 81)
    await case.open(tb)
    await case.run(tb)
    key = port_key(port)
    last = tb.memory.ports[key].bursts[-1]
    await tb.soft_reset()
    case.fill(tb)
    tb.memory.injected_errors = {key: (last, last, 2)}
    tb.memory.silent = {key}
    await tb.start_program(case.raw)
    await tb.cycles(1500)  # everything else is complete
    tb.memory.silent = set()
    await tb.expect_error(response_code(port))
    assert not await tb.field("ISR", "done") and not await tb.read("PROGRAMS")
    tb.memory.injected_errors = {}
    await recover(tb, case)


@cocotb.test()
async def dead_memory(dut: Any) -> None:
    """SOFT_RESET.force ends everything at once when a memory never answers again."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 75)
    await case.open(tb)
    tb.memory.silent = {(p, False) for p in build_ports()}
    await tb.start_program(case.raw)
    await tb.cycles(60)
    await tb.write("SOFT_RESET", 3)
    tb.memory.clear()  # the interconnect is reset as well
    tb.memory.silent = set()
    await tb.ready()
    await _clean(tb)
    await case.run(tb)


@cocotb.test()
@cocotb.parametrize(hard=[False, True])
async def reset_in_the_middle(dut: Any, hard: bool) -> None:
    """SOFT_RESET or ap_rst_n at different moments of a program; the next one must be right."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 76)
    await case.open(tb)
    for moment in (30, 80, 150, 260, 370):
        await tb.start_program(case.raw)
        await tb.cycles(moment)
        if hard:
            await tb.reset()
            assert await tb.read64("BASE3") == 0
            await case.open(tb)
        else:
            await tb.soft_reset()
            assert not tb.memory.outstanding
        await _clean(tb)
    await case.run(tb)
