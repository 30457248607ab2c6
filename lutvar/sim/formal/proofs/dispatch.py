# SPDX-License-Identifier: Apache-2.0
"""The sequencer as a whole: which instructions it dispatches, and when a program ends.

Its memory port may answer anything; what the reader then delivers is the program that is meant
here. The checks of an instruction are proved in `sequencer.rules`; here they are asked for once
more, of each word in the cycle in which it is dispatched.
"""

from __future__ import annotations

from collections.abc import Iterator

from amaranth.hdl import Cat, Mux, Signal, Value

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import (
    HEADER_FIELDS,
    MAX_INSTRUCTIONS,
    PROGRAM_HEADER,
    PROGRAM_MAGIC,
    UNITS,
    Opcode,
    OperandField,
    Unit,
)
from lutvar.hw.sequencer.checks import CHECK_LATENCY
from lutvar.hw.sequencer.sequencer import IN_FLIGHT, Sequencer
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

from .sequencer import broken_rules

_CONFIG = load_accelerator("small-fp4")
_SEQUENCER = "lutvar.hw.sequencer.sequencer"
#: In the order in which the gateware first names them, which numbers them.
_STATES = (
    "IDLE", "HEADER", "JUDGE_HEADER", "REFUSE_HEADER", "WAIT", "JUDGE", "REFUSE", "LAST", "PUSH",
    "END", "STOPPED",
)  # fmt: skip
_OLD = CHECK_LATENCY + 2  #: cycles after which a word's checks are over, with a register behind


def _dispatch(c: Check[Sequencer]) -> None:
    dut, m = c.dut, c.m
    word, index = c.probe("dut.check.word", 512), c.probe("dut.check.index", 24)
    push = c.probe("dut.credit.push")
    valid = c.probe("dut.reader.queue.o__valid")
    number = c.probe("dut.fsm_state", 4)
    state = {name: c.wire(f"is_{name}", number == n) for n, name in enumerate(_STATES)}

    def field(item: OperandField) -> Value:
        return word[item.low : item.low + item.width]

    opcode, said = field(HEADER_FIELDS[0]), field(PROGRAM_HEADER[2])
    taken = c.wire("taken", state["JUDGE_HEADER"] | push | state["LAST"])
    c.assume(~dut.start | ~dut.running)
    was_running = c.previous("was_running", dut.running)
    c.assume(~(was_running & dut.running) | (dut.serial == c.previous("serial_before", dut.serial)))

    # What has been dispatched since the start, and how long the program says that it is.
    pushes, length = Signal(25), Signal(25)
    with m.If(dut.start & ~dut.running):
        m.d.sync += pushes.eq(0)
    with m.Elif(push):
        m.d.sync += pushes.eq(pushes + 1)
    with m.If(state["JUDGE_HEADER"]):
        m.d.sync += length.eq(said)
    is_last = c.wire("is_last", pushes + 1 == length)
    wrong = [
        Value.cast(condition).any()
        for condition in broken_rules(word, pushes, is_last, _CONFIG).values()
    ]
    malformed = c.wire("malformed", Cat(wrong).any() | c.probe("dut.credit.broken"))
    c.require("only well-formed ones", implies(push, ~malformed))
    c.require("refused for a reason", implies(dut.bad_instruction, malformed))
    c.require("none that is not there", implies(taken, valid))
    c.require("no END among them", implies(push, opcode != Opcode.END))

    # The header as docs/isa.md has it, in integers.
    head = {item.name: field(item) for item in PROGRAM_HEADER}
    end = PROGRAM_HEADER[-1].low + PROGRAM_HEADER[-1].width
    right = (head["magic"] == PROGRAM_MAGIC) & (head["hash"] == accelerator_hash(_CONFIG))
    right &= (said != 0) & (said <= MAX_INSTRUCTIONS) & (head["zero"] == 0) & (word[end:] == 0)
    judged = c.previous("header_judged", state["JUDGE_HEADER"])
    was_right = c.previous("header_was_right", right)
    c.require("a right header", implies(judged & was_right, state["WAIT"]))
    c.require("a wrong header", implies(judged & ~was_right, dut.bad_header))

    # Instructions that a unit owes: dispatched, and not told as done.
    debts = []
    for unit in UNITS:
        name = unit.name.lower()
        own = c.probe(f"dut.queue_{name}.queue.push")
        debt = Signal(IN_FLIGHT + 1, name=f"debt_{name}")
        m.d.sync += debt.eq(debt + own - dut.dones[int(unit)])
        c.assume(~dut.dones[int(unit)] | (debt != 0))
        c.assume(debt < (1 << IN_FLIGHT) - 1)  # more than any unit and its queue hold
        c.require(f"to {unit.name}", own == (push & (opcode == Opcode[unit.name])))
        level = c.probe(f"dut.queue_{name}.queue.level", range(_CONFIG.queue + 1))
        room = c.probe(f"dut.queue_{name}.queue.level_room")
        c.require(f"into a place of {unit.name}", implies(own, level < _CONFIG.queue))
        some = c.probe(f"dut.queue_{name}.queue.level_some")
        full = level == _CONFIG.queue
        c.lemma(f"level of {unit.name}", (room == ~full) & (some == (level != 0)))
        c.lemma(f"most of {unit.name}", level <= _CONFIG.queue)
        c.lemma(f"in flight {unit.name}", c.probe(f"dut.flight_{name}", IN_FLIGHT) == debt)
        debts.append(debt)
    others = [debt for unit, debt in zip(UNITS, debts, strict=True) if unit != Unit.FETCH]
    c.require("serial", implies(push & dut.serial, ~Cat(others).any()))
    c.require("not while halted", implies(c.previous("was_halted", dut.halt), ~push))
    ended = Signal()
    m.d.sync += ended.eq(Mux(state["LAST"], 1, ended & ~dut.start))
    c.require("the end: all are done", implies(dut.finished, ~Cat(debts).any()))
    c.require("the end: all of the program", implies(dut.finished, ended & is_last))
    refused = Signal()
    m.d.sync += refused.eq(refused | dut.bad_header | dut.bad_instruction)
    c.require("nothing after a refusal", implies(refused, ~push & ~dut.finished & dut.running))

    # A word stays until it is taken, and its checks are over when it is judged.
    age = Signal(range(_OLD + 1))
    m.d.sync += age.eq(Mux(taken | ~valid, 0, Mux(age == _OLD, age, age + 1)))
    settle = c.probe("dut.settle", 3)
    c.lemma("states", number < len(_STATES))
    c.lemma("settled", implies(state["HEADER"] | state["WAIT"], settle <= age))
    c.lemma("settled enough", implies(state["HEADER"], settle <= 2))
    c.lemma("settled enough later", implies(state["WAIT"], settle <= CHECK_LATENCY + 1))
    c.lemma("judged", implies(state["JUDGE"], age > CHECK_LATENCY))
    c.lemma("header judged", implies(state["JUDGE_HEADER"], age >= 2))
    done = state["PUSH"] | state["LAST"] | state["REFUSE"]
    c.lemma("acted on", implies(done, age == _OLD))
    c.lemma("dispatched in one state", push == state["PUSH"])
    c.lemma("stopped", implies(refused, state["STOPPED"]))
    inside = state["WAIT"] | state["JUDGE"] | done
    c.lemma("its number", implies(inside, (index == pushes[:24]) & (pushes < length)))
    before = state["HEADER"] | state["JUDGE_HEADER"]
    c.lemma("first", implies(before, (pushes == 0) & (index == 0)))
    left = c.probe("dut.remaining", 25)
    c.lemma("its length", implies(inside, (left + pushes == length) & (length <= 1 << 24)))
    c.lemma("ended", implies(state["END"], ended & is_last))


def properties() -> Iterator[Property]:
    """All of this file."""
    yield Property(
        "sequencer.dispatch", "Sequencer of small-fp4",
        "each word of the program is dispatched once, in order, to its unit and into a place; none "
        "that breaks a rule, none after a refusal or while halted; a program ends at its END, when "
        "every unit has done all that it was given",
        lambda: Sequencer(_CONFIG), _dispatch, depth=CHECK_LATENCY + 3, seconds=600,
        mutants=(
            Mutant("header-unread", _SEQUENCER, "with m.If(header.any()):",
                   "with m.If(header.all()):"),
            Mutant("goes-on", _SEQUENCER, 'with m.State("STOPPED"):\n                pass',
                   'with m.State("STOPPED"):\n                m.next = "IDLE"'),
        ),
    )  # fmt: skip
