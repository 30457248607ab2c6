# SPDX-License-Identifier: Apache-2.0
"""The sequencer's rules in Python say what the rules' own testbench provokes, and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import HEADER_FIELDS, PAYLOAD_FIELDS, PROGRAM_HEADER, Opcode, Region
from lutvar.contract.register_map import DeviceError, HeaderRule, InstructionRule
from lutvar.sim.fuzz.case import Case, Step, read_case
from lutvar.sim.fuzz.contents import PROGRAM_OFFSET, regions
from lutvar.sim.fuzz.malformed import bytes_of, get, put, renumbered, words_of
from lutvar.sim.fuzz.oracle import Oracle
from lutvar.sim.fuzz.outcome import Outcome
from lutvar.sim.fuzz.renew import renew
from lutvar.sim.fuzz.rules import misfit, refusal
from lutvar.sim.fuzz.wellformed import Generator

CONFIG = load_accelerator("small-fp4")
HEAD = {f.name: f for f in HEADER_FIELDS}


def program(seed: int = 1) -> Step:
    made = Generator(CONFIG, np.random.default_rng(seed), small=True).make(6)
    return Step(made.program.encode(), True, made.fills)


def with_field(words: list[int], opcode: Opcode, name: str, value: int) -> tuple[list[int], int]:
    """The program with a field of the first instruction of a kind changed; that one's index."""
    at = next(i for i, w in enumerate(words) if i and get(w, HEAD["opcode"]) == opcode)
    item = next(f for f in (*HEADER_FIELDS, *PAYLOAD_FIELDS[opcode]) if f.name == name)
    new = list(words)
    new[at] = put(new[at], item, value)
    return new, at - 1


def test_words_behind_end_do_not_matter() -> None:
    """The header counts up to END; what lies behind it is no instruction and breaks no rule."""
    made = program()
    step = replace(made, program=made.program + bytes(range(256)), right=False)
    memory = regions(CONFIG, step.fills)
    raw = np.frombuffer(step.program, np.uint8)
    memory[Region.IO][PROGRAM_OFFSET : PROGRAM_OFFSET + len(raw)] = raw
    assert Oracle(CONFIG).judge(step, Outcome(done=True, memory=memory), 0) is None


@pytest.mark.parametrize("config", ["small-fp4", "small-fp6"])
def test_right_programs_are_not_refused(config: str) -> None:
    accelerator = load_accelerator(config)
    rng = np.random.default_rng(4)
    for number in range(10):
        made = Generator(accelerator, rng, small=number % 2 == 0).make(12)
        words = words_of(made.program.encode())
        assert refusal(accelerator, words) is None
        assert misfit(accelerator, words) is None


@pytest.mark.parametrize(
    ("rule", "opcode", "name", "value"),
    [
        (InstructionRule.MARK, Opcode.FRONT, "mark", 0),
        (InstructionRule.MARK, Opcode.FRONT, "zero", 1),
        (InstructionRule.INDEX, Opcode.POST, "index", 99),
        (InstructionRule.OPCODE, Opcode.POST, "opcode", 9),
        (InstructionRule.END, Opcode.END, "opcode", int(Opcode.ATTEND)),
        (InstructionRule.ALIGNMENT, Opcode.FETCH, "address", 32),
        (InstructionRule.ROWS, Opcode.FRONT, "rows", CONFIG.rows + 1),
        (InstructionRule.BANK, Opcode.MATRIX, "acc_bank", CONFIG.acc_banks),
        (InstructionRule.GROUPS, Opcode.MATRIX, "groups", CONFIG.bank_groups + 1),
        (InstructionRule.OUTPUTS, Opcode.MATRIX, "blocks", 3),
        (InstructionRule.OPERATION, Opcode.POST, "op", 6),
        (InstructionRule.OPERATION, Opcode.POST, "sums", 3),
        (InstructionRule.HEADS, Opcode.ATTEND, "heads", CONFIG.max_width // 64 + 1),
        (InstructionRule.KEYS, Opcode.ATTEND, "keys", CONFIG.max_keys + 1),
        (InstructionRule.BEATS, Opcode.FETCH, "repeat", 3),
        (InstructionRule.WEIGHTS, Opcode.MATRIX, "groups", 4),
    ],
)
def test_each_rule_of_instructions(
    rule: InstructionRule, opcode: Opcode, name: str, value: int
) -> None:
    words, index = with_field(words_of(program().program), opcode, name, value)
    assert refusal(CONFIG, words) == (DeviceError.BAD_INSTRUCTION, index | int(rule) << 24)


def test_two_terms_of_a_dual_format() -> None:
    words = words_of(program().program)
    for opcode in (Opcode.FRONT, Opcode.MATRIX):
        both, index = words, 0
        for name in ("dual", "terms", "groups"):
            both, index = with_field(both, opcode, name, 1)
        where = index | int(InstructionRule.TERMS) << 24
        assert refusal(CONFIG, both) == (DeviceError.BAD_INSTRUCTION, where)


@pytest.mark.parametrize("rule", HeaderRule)
def test_each_rule_of_the_header(rule: HeaderRule) -> None:
    words = words_of(program().program)
    name = {HeaderRule.ZERO: "zero"}.get(rule, rule.name.lower())
    item = next(f for f in PROGRAM_HEADER if f.name == name)
    value = 0 if rule is HeaderRule.LENGTH else get(words[0], item) ^ 1
    words[0] = put(words[0], item, value)
    assert refusal(CONFIG, words) == (DeviceError.BAD_HEADER, int(rule))


@pytest.mark.parametrize("change", [1, -1])
def test_wrong_beats_are_named_at_their_matrix(change: int) -> None:
    words = words_of(program().program)
    at = next(i for i, w in enumerate(words) if i and get(w, HEAD["opcode"]) == Opcode.MATRIX)
    beats = next(f for f in PAYLOAD_FIELDS[Opcode.FETCH] if f.name == "beats")
    fetch = next(i for i, w in enumerate(words) if i and get(w, HEAD["opcode"]) == Opcode.FETCH)
    words[fetch] = put(words[fetch], beats, get(words[fetch], beats) + change)
    code = DeviceError.WEIGHTS_SURPLUS if change > 0 else DeviceError.WEIGHTS_MISSING
    assert refusal(CONFIG, words) is None
    assert misfit(CONFIG, words) == (code, at - 1)
    step = replace(program(), program=bytes_of(words), right=False)
    oracle = Oracle(CONFIG)
    memory = oracle.expected(program()).memory
    memory = {region: content.copy() for region, content in memory.items()}
    raw = np.frombuffer(step.program, np.uint8)
    from lutvar.contract.isa import Region
    from lutvar.sim.fuzz.contents import PROGRAM_OFFSET

    memory[Region.IO][PROGRAM_OFFSET : PROGRAM_OFFSET + len(raw)] = raw
    silent = oracle.judge(step, Outcome(done=True, memory=memory), 0)
    assert silent is not None and code.name in silent.what, "a device that says nothing deviates"
    assert oracle.judge(step, Outcome(error=int(code), info=at - 1, memory=memory), 0) is None
    other = oracle.judge(step, Outcome(error=int(code), info=at, memory=memory), 0)
    assert other is not None and other.kind == "refusal"


def test_a_dropped_instruction_leaves_panels_over() -> None:
    words = words_of(program().program)
    at = next(i for i, w in enumerate(words) if i and get(w, HEAD["opcode"]) == Opcode.MATRIX)
    left = renumbered(words[:at] + words[at + 1 :])
    found = refusal(CONFIG, left)
    assert found is not None and found[1] >> 24 == InstructionRule.WEIGHTS


def test_cases_of_an_earlier_contract_can_be_renewed(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    Case(CONFIG, (program(),)).write(path)
    fresh = path.read_text()
    data = json.loads(fresh)
    digest = data["hash"]
    data["hash"], data["version"] = "00000000deadbeef", 1
    data["steps"][0]["program"][0] = data["steps"][0]["program"][0].replace(
        bytes.fromhex(digest)[::-1].hex(), bytes.fromhex("00000000deadbeef")[::-1].hex()
    )
    path.write_text(json.dumps(data))
    renew(path)
    assert path.read_text() == fresh
    assert read_case(path).steps == (program(),)
