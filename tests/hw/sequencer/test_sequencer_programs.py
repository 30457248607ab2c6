# SPDX-License-Identifier: Apache-2.0
"""The sequencer: waits, order, limits, malformed programs, serial mode."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import (
    READINGS_AHEAD,
    UNITS,
    Instruction,
    Opcode,
    ProgramError,
    Unit,
    check_readings,
    encode,
    encode_header,
)
from lutvar.contract.register_map import HeaderRule, InstructionRule
from lutvar.hw.sequencer.checks import CHECK_LATENCY
from lutvar.hw.sequencer.weights import WeightCredit
from support.hw.program_cases import END, operands, program_bytes, random_program, resolved
from support.hw.sequencer import CONFIG, FOUR, Run, run


def _check(program: list[Instruction], result: Run) -> None:
    """Each unit got its instructions in order, none before its waits were over."""
    assert result.finished is not None and result.bad is None
    number = 0
    for u in UNITS:
        mine = [i for i in program if i.opcode.name == u.name]
        assert result.payloads[int(u)] == [resolved(i) for i in mine]
        number += len(mine)
        starts = [cycle for cycle, unit, _ in result.started if unit == u]
        for cycle, instruction in zip(starts, mine, strict=True):
            for other, wait in zip(UNITS, instruction.waits, strict=True):
                ends = [c for c, unit, _ in result.ended if unit == other]
                assert wait == 0 or ends[wait - 1] < cycle
    assert len(result.ended) == number


@pytest.mark.parametrize(("seed", "duration"), [(1, 3), (2, 60), (3, 25)])
def test_units_get_their_instructions_in_order_after_their_waits(seed: int, duration: int) -> None:
    program = random_program(CONFIG, 90, seed)
    _check(program, run(program_bytes(CONFIG, program), duration=duration))


def test_every_legal_operand_of_other_sizes_passes() -> None:
    for config in (load_accelerator("vck190-fp6"), load_accelerator("medium-fp4"), FOUR):
        program = random_program(config, 60, 5)
        _check(program, run(program_bytes(config, program), config=config, duration=2))


def test_units_overlap_and_serial_mode_forbids_it() -> None:
    rng = random.Random(4)
    same = {"panels": 6, "repeat": 1, "groups": 3, "dual": 1}

    def one(unit: Unit) -> Instruction:
        values = operands(CONFIG, Opcode[unit.name], rng)
        return Instruction(
            Opcode[unit.name], {name: same.get(name, values[name]) for name in values}
        )

    program = [one(u) for _ in range(4) for u in UNITS]
    raw = program_bytes(CONFIG, [*program, END])
    both = [run(raw, serial=serial, duration=60) for serial in (False, True)]
    for result in both:
        _check([*program, END], result)
    most = []
    for result in both:
        # The serial mode does not wait for FETCH: what it fetches leaves when MATRIX takes it.
        starts = [(c, 1) for c, unit, _ in result.started if unit != Unit.FETCH]
        ends = [(c, -1) for c, unit, _ in result.ended if unit != Unit.FETCH]
        events = sorted(starts + ends)
        level, top = 0, 0
        for _, change in events:
            level += change
            top = max(top, level)
        most.append(top)
    assert most[0] >= 3 and most[1] == 1
    order = [Opcode[UNITS[unit].name] for _, unit, _ in both[1].started if unit != Unit.FETCH]
    assert order == [i.opcode for i in program if i.opcode is not Opcode.FETCH]


def test_end_waits_for_every_unit() -> None:
    program = [Instruction(Opcode.POST, operands(CONFIG, Opcode.POST, random.Random(1))), END]
    assert run(program_bytes(CONFIG, program), dead=3, limit=400).finished is None
    result = run(program_bytes(CONFIG, program), duration=300, limit=800)
    assert result.finished is not None


def test_programs_of_one_end_and_twice_in_a_row() -> None:
    assert run(program_bytes(CONFIG, [END])).finished is not None
    program = random_program(CONFIG, 12, 9)
    result = run(program_bytes(CONFIG, program), again=True, duration=5)
    assert len(result.ended) == 2 * (len(program) - 1) and result.finished is not None


def test_counts_wrap_at_sixteen_bits() -> None:
    values = operands(CONFIG, Opcode.POST, random.Random(3))
    # A wait that lies behind by up to 2**15 - 1 is over.
    first = Instruction(Opcode.POST, values, (0xFFFF,) * 5)
    assert run(program_bytes(CONFIG, [first, END])).finished is not None
    stuck = Instruction(Opcode.POST, values, (1, 1, 1, 1, 1))
    result = run(program_bytes(CONFIG, [stuck, END]), limit=300)
    assert result.finished is None and not result.started


@pytest.mark.parametrize("rule", list(HeaderRule))
def test_bad_headers(rule: HeaderRule) -> None:
    raw = bytearray(program_bytes(CONFIG, [END]))
    at, value = {
        HeaderRule.MAGIC: (7, 1), HeaderRule.HASH: (15, raw[15] ^ 1),
        HeaderRule.LENGTH: (16, 0), HeaderRule.ZERO: (60, 4),
    }[rule]  # fmt: skip
    raw[at] = value
    assert run(bytes(raw)).bad == ("header", int(rule))


def test_a_program_that_is_too_long() -> None:
    raw = encode_header(int.from_bytes(program_bytes(CONFIG, [END])[8:16], "little"), (1 << 24) + 1)
    assert run(raw).bad == ("header", int(HeaderRule.LENGTH))


def test_a_bad_instruction_stops_the_program() -> None:
    good = random_program(CONFIG, 4, 2)[:3]
    bad = Instruction(
        Opcode.ATTEND, {**operands(CONFIG, Opcode.ATTEND, random.Random()), "keys": 0}
    )
    result = run(program_bytes(CONFIG, [*good, bad, *good, END]), duration=3)
    assert result.bad == ("instruction", 3 | int(InstructionRule.KEYS) << 24)
    assert sum(map(len, result.payloads.values())) == 3


def _weights(op: Opcode, **values: int) -> Instruction:
    return Instruction(op, operands(CONFIG, op, random.Random(1)) | values)


#: Programs without END whose readings of panels do not add up, and where that is found.
_UNPAIRED = {
    "one panel fewer": ([(2, 1), (-3, 0)], 1),
    "one panel more": ([(4, 1), (-3, 0)], 2),
    "read once instead of twice": ([(3, 1), (-3, 1)], 1),
    "read twice instead of once": ([(3, 2), (-3, 0)], 2),
    "no FETCH": ([(-1, 0)], 0),
    "FETCH after MATRIX": ([(-1, 0), (1, 1)], 0),
    "FETCH twice": ([(3, 2), (3, 2), (-3, 1)], 3),
    "no MATRIX": ([(1, 1)], 1),
    "one of several": ([(3, 2), (-3, 1), (2, 1), (1, 1), (-2, 1), (-1, 0)], 4),
}


@pytest.mark.parametrize("what", _UNPAIRED)
def test_readings_of_panels_must_add_up(what: str) -> None:
    """The same in gateware, compiler and interpreter: the instruction, before it is dispatched."""
    numbers, where = _UNPAIRED[what]
    program = [
        _weights(Opcode.FETCH, panels=n, repeat=twice) if n > 0
        else _weights(Opcode.MATRIX, groups=-n, dual=twice) for n, twice in numbers
    ]  # fmt: skip
    program.append(END)
    result = run(program_bytes(CONFIG, program), duration=3)
    assert result.bad == ("instruction", where | int(InstructionRule.WEIGHTS) << 24)
    assert sum(map(len, result.payloads.values())) == where
    name = program[where].opcode.name
    with pytest.raises(ProgramError, match=rf"^instruction {where} \({name}\)"):
        check_readings(program, CONFIG.weight_ports)


#: Programs for four ports, as (ports with a share, readings; negative for MATRIX), and where a
#: port has too many or too few, if that is so.
_BY_PORT = {
    "shares of all kinds": ([(4, 2), (1, 3), (-4, 2), (2, 1), (-1, 3), (-2, 1)], None),
    "a port without a share": ([(3, 1), (-4, 1)], 1),
    "a share that is not needed": ([(4, 1), (-3, 1)], 2),
    "shares of another instruction": ([(4, 1), (1, 1), (-1, 1), (-3, 1)], 4),
    "as many in sum": ([(1, 3), (3, 1), (-2, 2)], 2),
}


@pytest.mark.parametrize("what", _BY_PORT)
def test_readings_must_add_up_on_every_port(what: str) -> None:
    numbers, where = _BY_PORT[what]
    program = []
    for share, count in numbers:
        if share > 0:
            changes = {"panels": count, "repeat": 1, "beats": 8, "full": share, "rest": 0}
            op = Opcode.FETCH
        else:
            changes = {"groups": count, "dual": 0, "sections": 0, "blocks": -4 * share}
            op = Opcode.MATRIX
        values = operands(FOUR, op, random.Random(1)) | changes
        program.append(Instruction(op, values))
    program.append(END)
    result = run(program_bytes(FOUR, program), config=FOUR, duration=3)
    if where is None:
        _check(program, result)
        check_readings(program, 4)
        return
    assert result.bad == ("instruction", where | int(InstructionRule.WEIGHTS) << 24)
    with pytest.raises(ProgramError, match=rf"^instruction {where} "):
        check_readings(program, 4)


def test_readings_ahead_are_limited() -> None:
    """The count itself; a device would be stuck long before."""
    dut, fetch = WeightCredit(1), _weights(Opcode.FETCH, panels=255, repeat=2)
    matrix = _weights(Opcode.MATRIX, groups=1, dual=0)
    bring, need = (int.from_bytes(encode(item, 0), "little") for item in (fetch, matrix))
    times = (READINGS_AHEAD - 1) // 510

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.word, bring)
        for _ in range(times):
            await ctx.tick().repeat(CHECK_LATENCY)
            assert not ctx.get(dut.broken)
            ctx.set(dut.push, 1)
            await ctx.tick()
            ctx.set(dut.push, 0)
        await ctx.tick().repeat(CHECK_LATENCY)
        assert ctx.get(dut.broken)
        ctx.set(dut.word, need)
        await ctx.tick().repeat(CHECK_LATENCY)
        assert not ctx.get(dut.broken)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    check_readings([fetch] * times, 1)
    with pytest.raises(ProgramError, match=f"^instruction {times} .* ahead of MATRIX"):
        check_readings([fetch] * (times + 1), 1)


def test_end_must_be_the_last_instruction() -> None:
    rule = int(InstructionRule.END) << 24
    good = random_program(CONFIG, 2, 1)[0]
    assert run(program_bytes(CONFIG, [good, END, END]), duration=3).bad == ("instruction", 1 | rule)
    assert run(program_bytes(CONFIG, [good, good]), duration=3).bad == ("instruction", 1 | rule)
