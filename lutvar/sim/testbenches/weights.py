# SPDX-License-Identifier: Apache-2.0
"""Programs whose FETCH does not bring what MATRIX needs: an error, and nothing left behind."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cocotb

from lutvar.contract.accelerator import STRIPE
from lutvar.contract.isa import Instruction, Opcode
from lutvar.contract.memory import panel_beats
from lutvar.contract.register_map import DeviceError, InstructionRule

from .common import Testbench
from .units import UnitsCase, make_units_case

#: Program, code, ERROR_INFO.
Fault = tuple[list[Instruction], DeviceError, int]
_SURPLUS, _MISSING = DeviceError.WEIGHTS_SURPLUS, DeviceError.WEIGHTS_MISSING


def _changed(item: Instruction, changes: Mapping[str, int]) -> Instruction:
    return replace(item, operands={**item.operands, **changes})


def _lengths(case: UnitsCase) -> dict[str, Fault]:
    """Panels with a wrong number of beats; MATRIX finds out."""
    fetch, front, attend, matrix, post, end = case.instructions
    beats, ports = fetch.operands["beats"], case.config.weight_ports
    rest = panel_beats(STRIPE, case.config.quant_config.code_bits, first=False)
    more = 2 * matrix.operands["blocks"]

    def program(
        fetches: list[Mapping[str, int]], works: list[Mapping[str, int]]
    ) -> list[Instruction]:
        return [
            *(_changed(fetch, c) for c in fetches), front, attend,
            *(_changed(matrix, c) for c in works), post, end,
        ]  # fmt: skip

    def one(change: int) -> list[Instruction]:
        return program([{"beats": beats + change}], [{}])

    wrong = {"beats": rest + 1}
    some: dict[str, Fault] = {}
    if ports > 1:
        first = {"beats": beats + 1, "full": 1, "rest": beats}
        last = {"full": ports - 1, "rest": beats - 1}
        some["more on the first port"] = program([first], [{}]), _SURPLUS, 3
        some["fewer on the last port"] = program([last], [{}]), _MISSING, 3
    return some | {
        "a beat more": (one(1), _SURPLUS, 3),
        "two beats more": (one(2), _SURPLUS, 3),
        "a beat fewer": (one(-1), _MISSING, 3),
        "no more than scales": (program([{"beats": 1}], [{}]), _MISSING, 3),
        "more outputs": (program([{}], [{"blocks": more}]), _MISSING, 3),
        "the second of two": (program([{}, {"beats": beats + 1}], [{}, {}]), _SURPLUS, 5),
        "the second of two, fewer": (
            program([{}, {"beats": beats - 1}], [{}, {}]), _MISSING, 5
        ),
        "of the next one": (program([{}, {"beats": 2}], [{}, {}]), _MISSING, 5),
        "a later group": (program([{}, wrong], [{"groups": 2}]), _SURPLUS, 4),
        "the second reading": (
            program([{}, {"beats": beats - 1}], [{"dual": 1}]), _MISSING, 4
        ),
    }  # fmt: skip


def _numbers(case: UnitsCase) -> dict[str, Fault]:
    """A wrong number of panels or instructions; they are refused before they are dispatched."""
    fetch, front, attend, matrix, post, end = case.instructions

    def refused(program: list[Instruction], opcode: Opcode) -> Fault:
        where = max(i for i, item in enumerate(program) if item.opcode is opcode)
        return program, DeviceError.BAD_INSTRUCTION, where | int(InstructionRule.WEIGHTS) << 24

    def with_fetch(**changes: int) -> list[Instruction]:
        return [_changed(fetch, changes), front, attend, matrix, post, end]

    def with_matrix(**changes: int) -> list[Instruction]:
        return [fetch, front, attend, _changed(matrix, changes), post, end]

    return {
        "a panel more": refused(with_fetch(panels=2), Opcode.END),
        "a panel fewer": refused(with_matrix(groups=2), Opcode.MATRIX),
        "read twice": refused(with_fetch(repeat=2), Opcode.END),
        "read once": refused(with_matrix(dual=1), Opcode.MATRIX),
        "no FETCH": refused([front, attend, matrix, post, end], Opcode.MATRIX),
        "FETCH twice": refused([fetch, fetch, front, attend, matrix, post, end], Opcode.END),
        "no MATRIX": refused([fetch, front, attend, post, end], Opcode.END),
    }


async def _provoke(tb: Testbench, faults: Mapping[str, Fault]) -> None:
    """Each fault, told as it is; after SOFT_RESET a correct program computes right."""
    for number, (what, (program, code, where)) in enumerate(faults.items()):
        case = make_units_case(tb.config, 80 + number, 1 + number % 3)
        case.fill(tb)
        await tb.start_program(replace(case, instructions=tuple(program)).raw)
        info = await tb.expect_error(code)
        assert info == where, f"{what}: ERROR_INFO is {info:#x}, expected {where:#x}"
        assert not await tb.field("CTRL", "done"), f"{what}: the program has finished"
        await tb.soft_reset()
        await case.run(tb)


@cocotb.test()
@cocotb.parametrize(probability=[0.0, 0.4])
async def wrong_lengths(dut: Any, probability: float) -> None:
    """Surplus and missing beats; ERROR_INFO is the MATRIX instruction that they are meant for."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 81)
    await case.open(tb)
    tb.memory.pauses, tb.memory.latency = probability, (0, int(100 * probability))
    await _provoke(tb, _lengths(case))


@cocotb.test()
@cocotb.parametrize(probability=[0.0, 0.4])
async def wrong_numbers(dut: Any, probability: float) -> None:
    """Panels, repeats and instructions that do not add up; ERROR_INFO has rule and index."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 82)
    await case.open(tb)
    tb.memory.pauses, tb.memory.latency = probability, (0, int(100 * probability))
    await _provoke(tb, _numbers(case))
