# SPDX-License-Identifier: Apache-2.0
"""The sequencer's parts: queues of instructions, and the rules that these are checked against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from amaranth.hdl import Cat, Const, Mux, Signal, Value

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.isa import (
    HEADER_FIELDS,
    MARK,
    PAYLOAD_FIELDS,
    UNITS,
    Opcode,
    OperandField,
    PostOp,
)
from lutvar.contract.register_map import InstructionRule as Rule
from lutvar.hw.sequencer.checks import CHECK_LATENCY, InstructionCheck
from lutvar.hw.sequencer.queue import WAIT_BITS, WAITS, UnitQueue
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

from .order import Follow, stable

_CHECKS = "lutvar.hw.sequencer.checks"
_SMALL = load_accelerator("small-fp4")
#: One weight port; four, and sections that do not divide the array.
_CONFIGS = (
    _SMALL,
    AcceleratorConfig.model_validate(
        {
            **_SMALL.model_dump(),
            "name": "four-ports",
            "rows": 112,
            "weight_ports": 4,
            "max_sections": 4,
        }
    ),
)
_QUEUE = "lutvar.hw.sequencer.queue"
DEPTH = 16  #: of the queues in every shipped configuration
_SEEN = 2  #: bits of the operands that are followed


def _unit_queue(c: Check[UnitQueue]) -> None:
    q, m, depth = c.dut, c.m, c.dut.depth
    payload = Value.cast(q.command.payload)
    size = len(payload)
    c.assume(~q.push | q.room)
    # The instruction's waits are followed too, as part of the item.
    head = c.probe("dut.queue.o__payload", size + WAITS)

    def part(word: Value) -> Value:
        return Cat(word[:_SEEN], word[size:])

    data = Cat(Value.cast(q.payload)[:_SEEN], q.waits)
    leaves = c.wire("leaves", q.command.valid & q.command.ready)
    f = Follow(c, "commands", q.push, data, leaves, part(head), depth + 2)
    c.require("the command is the queue's", payload[:_SEEN] == head[:_SEEN])
    stable(c, "command", q.command.valid, q.command.ready, payload[:_SEEN])

    # Counts go up by one at a time, and no unit is ever 2**15 instructions ahead of a wait.
    before, known = c.previous("completed_before", q.completed), Signal(name="completed_known")
    m.d.sync += known.eq(1)
    over = []
    for unit in UNITS:
        now, old = (v.word_select(int(unit), WAIT_BITS) for v in (q.completed, before))
        wait = f.word[_SEEN:].word_select(int(unit), WAIT_BITS)
        c.assume(~known | (now == old) | (now == (old + 1)[:WAIT_BITS]))
        c.assume(~(known & f.waits) | ((old - wait)[:WAIT_BITS] != 0x7FFF))
        over.append(~(now - wait)[WAIT_BITS - 1])
    all_over = c.wire("all_waits_over", Cat(over).all())
    c.require("not before its waits", implies(f.is_next & q.command.valid, all_over))
    was_valid = c.previous("was_valid", q.command.valid)
    was_halted = c.previous("was_halted", q.halt)
    c.require("halt", implies(was_halted & ~was_valid, ~q.command.valid))

    level, staged = c.probe("dut.queue.level", range(depth + 1)), c.probe("dut.queue.staged")
    valid, left = c.probe("dut.queue.o__valid"), c.probe("dut.left")
    looked, flags = c.probe("dut.looked"), c.probe("dut.over", len(UNITS))
    c.lemma("left", left == c.previous("left_copy", leaves))
    c.lemma("what left is still shown", implies(left, valid & ~q.command.valid & ~looked))
    c.lemma("shown", implies(q.command.valid | looked, valid))
    c.lemma(
        "answers", (q.room == (level != depth)) & (c.probe("dut.queue.level_some") == (level != 0))
    )
    shown = c.wire("shown", valid & ~left)
    c.lemma("head", implies(f.is_next & shown, part(head) == f.word))
    latch = c.probe("dut.queue.ram.stage", size + WAITS)
    c.lemma("latch", implies(f.waits & staged & (f.ahead == shown), part(latch) == f.word))
    looked_at = f.is_next & looked
    for unit in UNITS:
        flag = flags[int(unit)]
        c.lemma(f"over {unit.name}", implies(looked_at & flag, over[int(unit)]))
    f.in_ram(
        c, "ram", places=depth, write=c.probe("dut.queue.write_addr", range(depth)),
        read=c.probe("dut.queue.read_addr", range(depth)), level=level, behind=staged + shown,
        cells="dut.queue.ram.words", width=size + WAITS, part=part,
    )  # fmt: skip


def _places(f: Mapping[str, Value], config: AcceleratorConfig) -> Value:
    """Groups that an instruction takes of a bank: a build without terms refuses them by TERMS."""
    twice = f["terms"] & int(config.input_terms > 1)
    return Mux(twice, f["groups"] << 1, f["groups"])


def broken_rules(
    word: Value, index: Value, last: Value, config: AcceleratorConfig
) -> dict[Rule, Any]:
    """Which rules a word breaks, said once more: from the tables of docs/isa.md, in integers."""

    def field(item: OperandField) -> Value:
        return word[item.low : item.low + item.width]

    head = {item.name: field(item) for item in HEADER_FIELDS}
    broken: dict[Rule, Any] = {rule: Const(0) for rule in Rule}
    broken[Rule.MARK] = (head["mark"] != MARK) | (head["zero"] != 0)
    broken[Rule.INDEX] = head["index"] != index[:16]
    broken[Rule.OPCODE] = (head["opcode"] == 0) | (head["opcode"] > max(Opcode))
    broken[Rule.END] = (head["opcode"] == Opcode.END) ^ last
    ports, most, array = config.weight_ports, config.max_sections, config.rows // 16
    width, groups = config.max_width, config.bank_groups
    for op, items in PAYLOAD_FIELDS.items():
        f = {item.name: field(item) for item in items}
        mine: dict[Rule, Any] = {}
        used = sum(((1 << i.width) - 1) << i.low for i in (*HEADER_FIELDS, *items))
        mine[Rule.UNUSED] = (word & Const(~used & (1 << len(word)) - 1, len(word))) != 0
        places = [f[i.name] for i in items if i.kind == "address" or "stride" in i.name]
        if places:
            mine[Rule.ALIGNMENT] = Cat(place[:6] != 0 for place in places).any()
        if "dual" in f and config.quant_config.dual_format is None:
            mine[Rule.DUAL] = f["dual"] != 0
        if "terms" in f:
            mine[Rule.TERMS] = (f["terms"] != 0) & ((config.input_terms == 1) | (f["dual"] != 0))
        # Row groups of a section, and sections; their field has values that mean none.
        row_groups: Value = Const(array)
        sections: Value = Const(1)
        if "sections" in f:
            mine[Rule.SECTIONS] = f["sections"] >= most.bit_length()
            for number in range(1, most.bit_length()):
                chosen = f["sections"] == number
                row_groups = Mux(chosen, array >> number, row_groups)
                sections = Mux(chosen, 1 << number, sections)
        rows, depth = row_groups << 4, sections * config.acc_depth
        if op is Opcode.FETCH:
            once_or_twice = (f["repeat"] == 1) | (f["repeat"] == 2)
            counts = (f["full"] == 0) | (f["full"] > ports)
            shares = Mux(f["full"] == ports, f["rest"] != 0, f["rest"] >= f["beats"])
            some = (f["beats"] == 0) | (f["panels"] == 0)
            mine[Rule.BEATS] = some | ~once_or_twice | counts | shares
        elif op is Opcode.FRONT:
            mine[Rule.ROWS] = (f["rows"] == 0) | (f["row_first"] + f["rows"] > rows)
            mine[Rule.BANK] = f["bank"] >= config.act_banks
            limit = Mux(f["norm"], min(width // 128, groups), groups)
            more = _places(f, config) > groups
            mine[Rule.GROUPS] = (f["groups"] == 0) | (f["groups"] > limit) | more
        elif op is Opcode.MATRIX:
            mine[Rule.ROWS] = (f["rows"] == 0) | (f["rows"] > rows)
            mine[Rule.BANK] = (f["bank"] >= config.act_banks) | (f["acc_bank"] >= config.acc_banks)
            mine[Rule.GROUPS] = (f["groups"] == 0) | (_places(f, config) > groups)
            outputs = f["blocks"] * 32
            part = (f["blocks"] & 3) != 0
            mine[Rule.OUTPUTS] = (outputs == 0) | (outputs > depth) | part
        elif op is Opcode.POST:
            mine[Rule.ROWS] = (f["rows"] == 0) | (f["row_first"] + f["rows"] > 16)
            mine[Rule.BANK] = (f["acc_bank"] >= config.acc_banks) | (f["row_group"] >= row_groups)
            columns = f["blocks"] * 128
            mine[Rule.OUTPUTS] = (f["blocks"] == 0) | (columns > depth)
            # Sums are of up to 16 blocks, and belong to STORE and ADD.
            summed = (f["sums"] != 0) | (f["op"] == PostOp.SUMS)
            mine[Rule.OPERATION] = (
                (f["op"] > max(PostOp))
                | (f["sums"] == 3)
                | (summed & (f["blocks"] > 16))
                | ((f["sums"] != 0) & (f["op"] != PostOp.STORE) & (f["op"] != PostOp.ADD))
            )
            if not config.decoder:
                mine[Rule.OPERATION] |= summed | (f["op"] == PostOp.NORM)
            heads = f["heads"]
            # q, k and v of two heads of 64 are three blocks of 128.
            past = 2 * (f["block_first"] + f["blocks"]) > 3 * heads
            wrong = (heads == 0) | (heads * 64 > width) | heads[0] | past
            mine[Rule.HEADS] = (f["op"] == PostOp.QKV) & wrong
        elif op is Opcode.ATTEND:
            mine[Rule.ROWS] = f["rows"] == 0
            mine[Rule.HEADS] = (f["heads"] == 0) | (f["heads"] * 64 > width)
            mine[Rule.KEYS] = (f["keys"] == 0) | (f["keys"] > config.max_keys)
        for rule, condition in mine.items():
            broken[rule] = broken[rule] | ((head["opcode"] == op) & condition)
    return broken


def _check_of(config: AcceleratorConfig) -> InstructionCheck:
    return InstructionCheck(config)  # a name that is looked up late: mutants replace it


def _instruction_check(config: AcceleratorConfig, c: Check[InstructionCheck]) -> None:
    dut: Any = c.dut
    inputs = Cat(dut.word, dut.index, dut.last)
    same = c.wire("same", inputs == c.previous("inputs_before", inputs))
    age = Signal(range(CHECK_LATENCY + 1))  # cycles since the inputs changed
    now = Signal(range(CHECK_LATENCY + 1))
    c.m.d.comb += now.eq(Mux(same, Mux(age == CHECK_LATENCY, age, age + 1), 0))
    c.m.d.sync += age.eq(now)
    # In the cycle of a reset the inputs before it are forgotten.
    for rule, condition in broken_rules(dut.word, dut.index, dut.last, config).items():
        settled = now == CHECK_LATENCY
        right = dut.broken[int(rule) - 1] == Value.cast(condition).any()
        c.require(rule.name, implies(settled, right))


def properties() -> Iterator[Property]:
    """All of this file."""
    yield Property(
        "sequencer.queue", f"UnitQueue, depth {DEPTH}",
        "instructions leave in order, none lost or doubled, none before all its waits are over; "
        "`halt` stops new ones; an offered one stays until taken",
        lambda: UnitQueue(Opcode.FETCH, DEPTH), _unit_queue,
        mutants=(
            Mutant("waits-any", _QUEUE, "(looked & over.all() & ~offered & ~self.halt)",
                   "(looked & over.any() & ~offered & ~self.halt)"),
            Mutant("stale-look", _QUEUE, "looked.eq(head.valid & ~leave & ~left)",
                   "looked.eq(head.valid)"),
            Mutant("halt-ignored", _QUEUE, "~offered & ~self.halt)", "~offered)"),
        ),
    )  # fmt: skip
    for number, config in enumerate(_CONFIGS):
        yield Property(
            f"sequencer.rules-{config.weight_ports}", f"InstructionCheck, {config.name}",
            "an instruction that is held is told to break exactly the rules that it breaks, for "
            f"all words, {CHECK_LATENCY} cycles later",
            partial(_check_of, config), partial(_instruction_check, config),
            depth=CHECK_LATENCY + 1,
            mutants=() if number == 0 else (
                Mutant("last-row", _CHECKS, "end > tile_rows(config, s)",
                       "end > tile_rows(config, s) + 1"),
                Mutant("gap", _CHECKS, "low + UNUSED_PIECE].any()",
                       "low + UNUSED_PIECE - 1].any()"),
                Mutant("odd-heads", _CHECKS, "HEAD_DIM) | f[\"heads\"][0]", "HEAD_DIM)"),
                Mutant("whole-array", _CHECKS, "result = Mux(f[\"sections\"] == number",
                       "result = Mux(f[\"sections\"] == 3"),
                Mutant("rest-of-none", _CHECKS, "f[\"rest\"] != 0, ~fewer", "Const(0), ~fewer"),
                Mutant("sums-of-17", _CHECKS, "int(PostOp.SUMS))) & many)",
                       "int(PostOp.SUMS))) & 0)"),
            ),
        )  # fmt: skip
