# SPDX-License-Identifier: Apache-2.0
"""The checker accepts what the compiler makes, and nothing that lost a wait or was changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lutvar.contract.isa import Opcode, Unit
from lutvar.host.compile.check import check_program
from lutvar.host.compile.clocks import Clocks
from lutvar.host.compile.errors import OrderError
from lutvar.host.compile.program import Program
from lutvar.host.compile.schedule import unit_of
from lutvar.host.compile.steps import StepShape
from support.host.compile_cases import DIGITS, ODD, accelerator, compile_pass, staggered

SMALL = accelerator()


def changed(program: Program, index: int, **changes: Any) -> Program:
    items = list(program.instructions)
    items[index] = replace(items[index], **changes)
    return replace(program, instructions=tuple(items))


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_pass(DIGITS, SMALL, staggered(DIGITS)[1:]).program


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        accelerator("small-fp6", act_banks=2, acc_banks=2, acc_depth=128, queue=2),
        accelerator("small-da-fp4", rows=64, attention_rows=3),
        accelerator("medium-fp4"),
    ],
    ids=["small", "narrow", "tall", "medium"],
)
@pytest.mark.parametrize("shape", [DIGITS, ODD], ids=["digits", "odd"])
def test_compiled_programs_are_in_order(shape: Any, config: Any) -> None:
    steps = staggered(shape)
    for part in (steps, steps[:1], steps[-1:], [replace(steps[2], guided=False), steps[1]]):
        compile_pass(shape, config, part)


def test_equal_classes_share_their_instructions() -> None:
    n = ODD.scale_tokens
    same = [StepShape(i, 4, n[0], n[1]) for i in range(3)]
    other = [replace(s, label=i) for i, s in enumerate(same)]
    config = accelerator(rows=64)
    counts = [len(compile_pass(ODD, config, s).program.instructions) for s in (same, other)]
    assert counts[0] < counts[1]


def newly_waiting(program: Program) -> list[tuple[int, tuple[int, ...]]]:
    """Instructions that wait for more than the one before them on their unit, and its waits."""
    found = []
    last: dict[Opcode, tuple[int, ...]] = {op: (0,) * 5 for op in Opcode}
    for i, item in enumerate(program.instructions[:-1]):
        waits = tuple(item.waits)
        if waits != last[item.opcode]:
            found.append((i, last[item.opcode]))
        last[item.opcode] = waits
    return found


@pytest.mark.parametrize(
    "opcode", [Opcode.FRONT, Opcode.MATRIX, Opcode.POST, Opcode.ATTEND], ids=lambda o: o.name
)
def test_a_lost_wait_is_found(program: Program, opcode: Opcode) -> None:
    """An instruction that starts as early as the one before it reads or writes too early."""
    places = [p for p in newly_waiting(program) if program.instructions[p[0]].opcode == opcode]
    assert len(places) > 10
    chosen = np.random.default_rng(int(opcode)).choice(len(places), 10, replace=False)
    for index, waits in (places[i] for i in chosen):
        with pytest.raises(OrderError, match="waits for"):
            check_program(changed(program, index, waits=waits), SMALL)


def test_waiting_for_one_instruction_less_is_found(program: Program) -> None:
    """Where one unit's count is all that is new, one less is too few."""
    tried = 0
    for index, waits in newly_waiting(program):
        now = list(program.instructions[index].waits)
        new = [u for u in range(5) if now[u] != waits[u]]
        if len(new) == 1 and tried < 20:
            now[new[0]] -= 1
            tried += 1
            with pytest.raises(OrderError, match="waits for"):
                check_program(changed(program, index, waits=tuple(now)), SMALL)
    assert tried


def first(program: Program, opcode: Opcode, **operands: int) -> int:
    return next(
        i for i, item in enumerate(program.instructions)
        if item.opcode == opcode and all(item.operands[k] == v for k, v in operands.items())
    )  # fmt: skip


@pytest.mark.parametrize(
    ("opcode", "change", "message"),
    [
        (Opcode.MATRIX, {"groups": 2}, "groups"),
        (Opcode.MATRIX, {"acc_bank": 7}, "acc_bank is 7"),
        (Opcode.FRONT, {"bank": 4}, "bank is 4"),
        (Opcode.FRONT, {"row_first": 15}, "rows is"),
        (Opcode.FRONT, {"scale": 1 << 38}, "not in MODEL"),
        (Opcode.POST, {"blocks": 1}, "holds"),
        (Opcode.POST, {"row_first": 15}, "rows is"),
        (Opcode.POST, {"output": 0}, "writes to MODEL"),
        (Opcode.POST, {"sums": 1, "op": 2}, "only STORE and ADD have sums"),
        (Opcode.ATTEND, {"keys": 300}, "keys is 300"),
        (Opcode.ATTEND, {"query": 1 << 38}, "nobody wrote|waits|reads"),
        (Opcode.FETCH, {"beats": 3}, "FETCH brings"),
        (Opcode.FETCH, {"repeat": 2}, "FETCH brings"),
    ],
)
def test_wrong_operands_are_found(
    program: Program, opcode: Opcode, change: dict[str, int], message: str
) -> None:
    at = first(program, opcode)
    operands = {**program.instructions[at].operands, **change}
    if opcode == Opcode.FRONT and "row_first" in change:
        operands["rows"] = 4
    if opcode == Opcode.POST and "row_first" in change:
        operands["rows"] = 4
    with pytest.raises(OrderError, match=message):
        check_program(changed(program, at, operands=operands), SMALL)


def test_a_build_without_the_decoder(program: Program) -> None:
    small = SMALL.model_copy(update={"decoder": False, "name": "plain"})
    at = first(program, Opcode.POST)
    for change in ({"op": 0, "sums": 1}, {"op": 4}, {"op": 5}):
        operands = {**program.instructions[at].operands, **change}
        with pytest.raises(OrderError, match="plain is built without NORM, sums and SUMS"):
            check_program(changed(program, at, operands=operands), small)


def test_sums_of_too_many_blocks(program: Program) -> None:
    deep = SMALL.model_copy(update={"acc_depth": 4096})
    at = first(program, Opcode.POST)
    for change in ({"op": 0, "sums": 1}, {"op": 5}):
        operands = {**program.instructions[at].operands, **change, "blocks": 17}
        with pytest.raises(OrderError, match="sums of 17 blocks; there are 16"):
            check_program(changed(program, at, operands=operands), deep)


def test_a_missing_instruction_is_found(program: Program) -> None:
    for opcode in (Opcode.FETCH, Opcode.FRONT, Opcode.MATRIX, Opcode.POST):
        at = first(program, opcode)
        items = program.instructions[:at] + program.instructions[at + 1 :]
        with pytest.raises(OrderError):
            check_program(replace(program, instructions=items), SMALL)
    with pytest.raises(OrderError, match="END"):
        check_program(replace(program, instructions=program.instructions[:-1]), SMALL)


def test_a_program_that_gets_stuck_is_found() -> None:
    """With a queue of 2, weights of the second layer ahead of the first MATRIX block the way."""
    config = accelerator(queue=2)
    program = compile_pass(ODD, config, staggered(ODD)[:1]).program
    items = list(program.instructions)
    fetches = [i for i, item in enumerate(items) if item.opcode == Opcode.FETCH]
    moved = items.pop(fetches[2])
    items.insert(fetches[1] + 1, moved)
    check_program(replace(program, instructions=tuple(items)), accelerator(queue=16))
    with pytest.raises(OrderError, match="stuck"):
        check_program(replace(program, instructions=tuple(items)), config)


def test_no_unit_loses_count_of_another() -> None:
    """The device compares counts modulo 2**16: how far units can be apart must not grow."""
    leads = []
    for depth in (12, 24):
        shape = replace(DIGITS, depth=depth)
        compiled = compile_pass(shape, accelerator(queue=4), staggered(shape))
        clocks = Clocks()
        for item in compiled.program.instructions[:-1]:
            clocks.add(unit_of(item.opcode), item.waits)
        leads.append([clocks.lead(a, b) for a in Unit for b in Unit])
        assert clocks.count(Unit.POST) > 1.3 * max(leads[-1])
    assert max(leads[1]) <= max(leads[0]) + 8


def test_clocks_know_what_follows() -> None:
    clocks = Clocks()
    clocks.add(Unit.FRONT, [0, 0, 0, 0, 0])
    clocks.add(Unit.MATRIX, [0, 1, 0, 0, 0])
    known = clocks.add(Unit.POST, [0, 0, 1, 0, 0])
    assert known == (0, 1, 1, 0, 0)
    with pytest.raises(ValueError, match="only 1 come before"):
        clocks.add(Unit.ATTEND, [0, 0, 0, 2, 0])


def test_a_layer_in_parts() -> None:
    """More inputs than a bank holds: sums go on, in order, with nothing in between."""
    shape = replace(DIGITS, width=256, heads=4, hidden=1024)
    config = accelerator(act_banks=3, bank_groups=4, rows=16)
    program = compile_pass(shape, config, staggered(shape)).program
    check_program(program, config)
    items = list(program.instructions)
    going_on = [i for i, x in enumerate(items) if x.operands.get("more")]
    sizes = {items[i].operands["groups"] for i in going_on}
    assert going_on and sizes == {4}, "fc2 has 8 groups: two parts of 4"
    with pytest.raises(OrderError, match="groups is 4"):
        check_program(
            program,
            accelerator(act_banks=3, bank_groups=4, rows=16).model_copy(update={"bank_groups": 3}),
        )
    # Into a bank that holds something else.
    at = going_on[0]
    wrong = (items[at].operands["acc_bank"] + 1) % config.acc_banks
    items[at] = replace(items[at], operands={**items[at].operands, "acc_bank": wrong})
    with pytest.raises(OrderError):
        check_program(replace(program, instructions=tuple(items)), config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bank_groups", 3, "normalised as a whole"),
        ("bank_groups", 129, "128"),
        ("act_banks", 1, "greater than or equal to 2"),
    ],
)
def test_bank_sizes_are_checked(key: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changes: dict[str, Any] = {key: value}
        accelerator(**changes)
