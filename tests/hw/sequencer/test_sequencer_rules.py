# SPDX-License-Identifier: Apache-2.0
"""The rules that each instruction must keep, one by one."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import (
    HEADER_FIELDS,
    PAYLOAD_FIELDS,
    Instruction,
    Opcode,
    PostOp,
    encode,
)
from lutvar.contract.register_map import InstructionRule
from lutvar.hw.sequencer.checks import CHECK_LATENCY, InstructionCheck
from support.hw.program_cases import operands, random_program
from support.hw.sequencer import CONFIG, FOUR

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
    (Opcode.FRONT, {"terms": 1, "dual": 1, "groups": 4}, InstructionRule.TERMS),
    (Opcode.FRONT, {"terms": 1, "dual": 0, "groups": 6, "norm": 0}, InstructionRule.GROUPS),
    (Opcode.MATRIX, {"terms": 1, "dual": 1, "groups": 3}, InstructionRule.TERMS),
    (Opcode.MATRIX, {"terms": 1, "dual": 0, "groups": 6}, InstructionRule.GROUPS),
    (Opcode.POST, {"rows": 0}, InstructionRule.ROWS),
    (Opcode.POST, {"rows": 8, "row_first": 9}, InstructionRule.ROWS),
    (Opcode.POST, {"acc_bank": 5}, InstructionRule.BANK),
    (Opcode.POST, {"row_group": 1}, InstructionRule.BANK),
    (Opcode.POST, {"blocks": 0}, InstructionRule.OUTPUTS),
    (Opcode.POST, {"blocks": 5}, InstructionRule.OUTPUTS),
    (Opcode.POST, {"op": 6}, InstructionRule.OPERATION),
    (Opcode.POST, {"op": 7}, InstructionRule.OPERATION),
    (Opcode.POST, {"op": int(PostOp.STORE), "sums": 3}, InstructionRule.OPERATION),
    (Opcode.POST, {"op": int(PostOp.GELU), "sums": 1}, InstructionRule.OPERATION),
    (Opcode.POST, {"op": int(PostOp.NORM), "sums": 2}, InstructionRule.OPERATION),
    (Opcode.POST, {"op": int(PostOp.SUMS), "sums": 1}, InstructionRule.OPERATION),
    (Opcode.POST, {"heads": 3, "op": int(PostOp.QKV), "sums": 0}, InstructionRule.HEADS),
    (Opcode.POST, {"heads": 0, "op": int(PostOp.QKV), "sums": 0}, InstructionRule.HEADS),
    (Opcode.POST, {"heads": 10, "op": int(PostOp.QKV), "sums": 0}, InstructionRule.HEADS),
    (Opcode.POST, {"heads": 4, "block_first": 5, "blocks": 2, "op": int(PostOp.QKV), "sums": 0},
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


#: The same for four ports and sections: the last legal value of a limit, and the next one.
LIMITS: list[tuple[Opcode, dict[str, int], dict[str, int], InstructionRule]] = [
    (Opcode.FETCH, {"full": 4, "rest": 0}, {"full": 5}, InstructionRule.BEATS),
    (Opcode.FETCH, {"full": 1, "beats": 9, "rest": 0}, {"full": 0}, InstructionRule.BEATS),
    (Opcode.FETCH, {"full": 4, "rest": 0}, {"rest": 1}, InstructionRule.BEATS),
    (Opcode.FETCH, {"full": 3, "beats": 9, "rest": 8}, {"rest": 9}, InstructionRule.BEATS),
    *(
        (op, {"sections": 2, "rows": 1, "row_first": 0, "row_group": 0, "blocks": 4},
         {"sections": 3}, InstructionRule.SECTIONS)
        for op in (Opcode.FRONT, Opcode.MATRIX, Opcode.POST)
    ),
    *(
        limit for sections, groups in enumerate((7, 3, 1)) for limit in (
            (Opcode.FRONT, {"sections": sections, "rows": 4, "row_first": 16 * groups - 4},
             {"rows": 5}, InstructionRule.ROWS),
            (Opcode.MATRIX, {"sections": sections, "rows": 16 * groups, "blocks": 4},
             {"rows": 16 * groups + 1}, InstructionRule.ROWS),
            (Opcode.MATRIX, {"sections": sections, "rows": 16, "blocks": 16 << sections},
             {"blocks": (16 << sections) + 4}, InstructionRule.OUTPUTS),
            (Opcode.POST, {"sections": sections, "row_group": groups - 1, "blocks": 1, "op": 0},
             {"row_group": groups}, InstructionRule.BANK),
            (Opcode.POST, {"sections": sections, "row_group": 0, "blocks": 4 << sections, "op": 0},
             {"blocks": (4 << sections) + 1}, InstructionRule.OUTPUTS),
        )
    ),
]  # fmt: skip


def _first_broken(
    words: list[tuple[bytes, int, bool]], config: AcceleratorConfig = CONFIG
) -> list[int]:
    """First rule that each (word, index, last) breaks, 0 for none."""
    dut = InstructionCheck(config)
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


def test_limits_of_ports_and_sections() -> None:
    assert FOUR.acc_depth == 512
    words, rules = [], []
    for index, (op, last, beyond, rule) in enumerate(LIMITS):
        values = operands(FOUR, op, random.Random(index))
        last = {name: value for name, value in last.items() if name in values}
        for change in ({}, beyond):
            item = Instruction(op, {**values, **last, **change})
            words.append((encode(item, index), index, False))
        rules += [0, int(rule)]
    assert _first_broken(words, FOUR) == rules


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


@pytest.mark.parametrize("terms", [1, 2])
def test_two_terms_fit_the_bank_and_are_not_dual(terms: int) -> None:
    two = CONFIG.model_copy(update={"input_terms": terms})
    most = two.bank_groups // 2
    cases = {0: (most, 0), InstructionRule.GROUPS: (most + 1, 0), InstructionRule.TERMS: (most, 1)}
    if terms == 1:
        cases = {InstructionRule.TERMS: (most, 0)}
    words = [
        (encode(Instruction(op, {**good, "groups": groups, "terms": 1, "dual": dual}), 0), 0, False)
        for op in (Opcode.FRONT, Opcode.MATRIX)
        for good in [operands(two, op, random.Random(1)) | {"norm": 0} if op is Opcode.FRONT
                     else operands(two, op, random.Random(1))]
        for groups, dual in cases.values()
    ]  # fmt: skip
    assert _first_broken(words, two) == [int(rule) for rule in cases] * 2


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


def test_operations_of_the_decoder() -> None:
    """A build without them refuses NORM, SUMS and sums; one with them, sums of 17 blocks."""
    deep = CONFIG.model_copy(update={"acc_depth": 4096})
    without = deep.model_copy(update={"decoder": False})
    good = operands(deep, Opcode.POST, random.Random(1)) | {"heads": 4, "block_first": 0}
    decoder = [(PostOp.STORE, 1), (PostOp.ADD, 2), (PostOp.NORM, 0), (PostOp.SUMS, 0)]
    others = [(PostOp.STORE, 0), (PostOp.ADD, 0), (PostOp.GELU, 0)]

    def broken(config: AcceleratorConfig, blocks: int) -> list[int]:
        changes = [{"op": int(op), "sums": sums} for op, sums in (*decoder, *others)]
        items = [Instruction(Opcode.POST, good | c | {"blocks": blocks}) for c in changes]
        return _first_broken([(encode(item, 0), 0, False) for item in items], config)

    refused = int(InstructionRule.OPERATION)
    assert broken(deep, 16) == [0] * 7
    assert broken(deep, 17) == [refused, refused, 0, refused, 0, 0, 0]
    assert broken(without, 16) == [refused] * 4 + [0] * 3
