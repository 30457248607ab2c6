# SPDX-License-Identifier: Apache-2.0
"""The sequencer: waits, order, limits, malformed programs, serial mode."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.isa import (
    HEADER_FIELDS,
    PAYLOAD_FIELDS,
    READINGS_AHEAD,
    UNITS,
    Instruction,
    Opcode,
    PostOp,
    ProgramError,
    Unit,
    check_readings,
    encode,
    encode_header,
)
from lutvar.contract.register_map import HeaderRule, InstructionRule
from lutvar.hw.sequencer.checks import CHECK_LATENCY, InstructionCheck
from lutvar.hw.sequencer.weights import WeightCredit
from support.hw.program_cases import END, operands, program_bytes, random_program, resolved
from support.hw.sequencer import CONFIG, Run, run


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
    for name in ("vck190-fp6", "medium-fp4"):
        config = load_accelerator(name)
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


#: (opcode, changes of a legal instruction's operands, rule that they break)
BROKEN: list[tuple[Opcode, dict[str, int], InstructionRule]] = [
    (Opcode.FETCH, {"beats": 0}, InstructionRule.BEATS),
    (Opcode.FETCH, {"panels": 0}, InstructionRule.BEATS),
    (Opcode.FETCH, {"repeat": 0}, InstructionRule.BEATS),
    (Opcode.FETCH, {"repeat": 3}, InstructionRule.BEATS),
    (Opcode.FETCH, {"address": 32}, InstructionRule.ALIGNMENT),
    (Opcode.FRONT, {"rows": 0}, InstructionRule.ROWS),
    (Opcode.FRONT, {"rows": 9, "row_first": 8}, InstructionRule.ROWS),
    (Opcode.FRONT, {"bank": 4}, InstructionRule.BANK),
    (Opcode.FRONT, {"groups": 0, "norm": 0}, InstructionRule.GROUPS),
    (Opcode.FRONT, {"bank": 3}, InstructionRule.BANK),
    (Opcode.FRONT, {"groups": 11, "norm": 0}, InstructionRule.GROUPS),
    (Opcode.FRONT, {"groups": 5, "norm": 1}, InstructionRule.GROUPS),
    (Opcode.FRONT, {"stride": 65}, InstructionRule.ALIGNMENT),
    (Opcode.FRONT, {"shift": 1}, InstructionRule.ALIGNMENT),
    (Opcode.MATRIX, {"rows": 0}, InstructionRule.ROWS),
    (Opcode.MATRIX, {"rows": 17}, InstructionRule.ROWS),
    (Opcode.MATRIX, {"bank": 7}, InstructionRule.BANK),
    (Opcode.MATRIX, {"acc_bank": 4}, InstructionRule.BANK),
    (Opcode.MATRIX, {"bank": 3}, InstructionRule.BANK),
    (Opcode.MATRIX, {"groups": 11}, InstructionRule.GROUPS),
    (Opcode.MATRIX, {"blocks": 17}, InstructionRule.OUTPUTS),
    (Opcode.MATRIX, {"blocks": 3}, InstructionRule.OUTPUTS),
    (Opcode.POST, {"rows": 0}, InstructionRule.ROWS),
    (Opcode.POST, {"rows": 8, "row_first": 9}, InstructionRule.ROWS),
    (Opcode.POST, {"acc_bank": 5}, InstructionRule.BANK),
    (Opcode.POST, {"row_group": 1}, InstructionRule.BANK),
    (Opcode.POST, {"blocks": 0}, InstructionRule.OUTPUTS),
    (Opcode.POST, {"blocks": 5}, InstructionRule.OUTPUTS),
    (Opcode.POST, {"heads": 3, "op": int(PostOp.QKV)}, InstructionRule.HEADS),
    (Opcode.POST, {"heads": 0, "op": int(PostOp.QKV)}, InstructionRule.HEADS),
    (Opcode.POST, {"heads": 10, "op": int(PostOp.QKV)}, InstructionRule.HEADS),
    (Opcode.POST, {"heads": 4, "block_first": 5, "blocks": 2, "op": int(PostOp.QKV)},
     InstructionRule.HEADS),
    (Opcode.POST, {"vector_address": 63}, InstructionRule.ALIGNMENT),
    (Opcode.POST, {"head_stride": 16}, InstructionRule.ALIGNMENT),
    (Opcode.ATTEND, {"rows": 0}, InstructionRule.ROWS),
    (Opcode.ATTEND, {"heads": 0}, InstructionRule.HEADS),
    (Opcode.ATTEND, {"heads": 9}, InstructionRule.HEADS),
    (Opcode.ATTEND, {"keys": 0}, InstructionRule.KEYS),
    (Opcode.ATTEND, {"keys": 257}, InstructionRule.KEYS),
    (Opcode.ATTEND, {"output": 33}, InstructionRule.ALIGNMENT),
]  # fmt: skip


def _first_broken(words: list[tuple[bytes, int, bool]]) -> list[int]:
    """First rule that each (word, index, last) breaks, 0 for none."""
    dut = InstructionCheck(CONFIG)
    found = []

    async def testbench(ctx: Any) -> None:
        for word, index, last in words:
            ctx.set(dut.word, int.from_bytes(word, "little"))
            ctx.set(dut.index, index)
            ctx.set(dut.last, last)
            await ctx.tick().repeat(CHECK_LATENCY)
            broken = ctx.get(dut.broken)
            found.append((broken & -broken).bit_length())

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return found


def test_operands_beyond_the_limits() -> None:
    words, rules = [], []
    for index, (op, changes, rule) in enumerate(BROKEN):
        good = Instruction(op, operands(CONFIG, op, random.Random(index)))
        bad = Instruction(op, {**good.operands, **changes})
        words += [(encode(good, index), index, False), (encode(bad, index), index, False)]
        rules += [0, int(rule)]
    assert _first_broken(words) == rules


def test_malformed_words() -> None:
    good = int.from_bytes(encode(random_program(CONFIG, 2, 2)[0], 70_000), "little")
    changes = [
        ("mark", 0x564D, InstructionRule.MARK), ("zero", 128, InstructionRule.MARK),
        ("index", 70_001 & 0xFFFF, InstructionRule.INDEX), ("opcode", 0, InstructionRule.OPCODE),
        ("opcode", 7, InstructionRule.OPCODE), ("opcode", 0x81, InstructionRule.OPCODE),
    ]  # fmt: skip
    words = [(good.to_bytes(64, "little"), 70_000, False)]
    for name, value, _ in changes:
        item = next(f for f in HEADER_FIELDS if f.name == name)
        word = good & ~((1 << item.width) - 1 << item.low) | value << item.low
        words.append((word.to_bytes(64, "little"), 70_000, False))
    assert _first_broken(words) == [0, *(int(rule) for *_, rule in changes)]


def test_unused_bits_must_be_zero() -> None:
    words = []
    for op in Opcode:
        good = encode(Instruction(op, operands(CONFIG, op, random.Random(1))), 0)
        top = max([128, *(f.low + f.width for f in PAYLOAD_FIELDS[op])])
        for bit in {top, (top + 511) // 2, 511}:
            raw = bytearray(good)
            raw[bit // 8] |= 1 << bit % 8
            words.append((bytes(raw), 0, op is Opcode.END))
    assert set(_first_broken(words)) == {int(InstructionRule.UNUSED)}


def test_dual_needs_a_dual_format(monkeypatch: pytest.MonkeyPatch) -> None:
    quant = CONFIG.quant_config
    site = next(site for site in quant.sites.values() if not site.format.dual)
    plain = quant.model_copy(update={"sites": dict.fromkeys(quant.sites, site)})
    assert plain.dual_format is None
    monkeypatch.setattr(AcceleratorConfig, "quant_config", plain)
    words = []
    for op in (Opcode.FRONT, Opcode.MATRIX):
        good = operands(CONFIG, op, random.Random(1))
        words += [(encode(Instruction(op, {**good, "dual": d}), 0), 0, False) for d in (0, 1)]
    assert _first_broken(words) == [0, int(InstructionRule.DUAL)] * 2


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
        check_readings(program)


def test_readings_ahead_are_limited() -> None:
    """The count itself; a device would be stuck long before."""
    dut, fetch = WeightCredit(), _weights(Opcode.FETCH, panels=255, repeat=2)
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
    check_readings([fetch] * times)
    with pytest.raises(ProgramError, match=f"^instruction {times} .* ahead of MATRIX"):
        check_readings([fetch] * (times + 1))


def test_end_must_be_the_last_instruction() -> None:
    rule = int(InstructionRule.END) << 24
    good = random_program(CONFIG, 2, 1)[0]
    assert run(program_bytes(CONFIG, [good, END, END]), duration=3).bad == ("instruction", 1 | rule)
    assert run(program_bytes(CONFIG, [good, good]), duration=3).bad == ("instruction", 1 | rule)
