# SPDX-License-Identifier: Apache-2.0
"""Checks of counters: against the units' lines, the program's own work and the memory's count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from lutvar.contract.accelerator import STRIPE, WEIGHT_BLOCK
from lutvar.contract.isa import HEADER_FIELDS, PAYLOAD_FIELDS, UNITS, Opcode
from lutvar.contract.register_map import read_ports
from lutvar.contract.sections import SECTIONS, rounds
from lutvar.sim.device import Port
from lutvar.sim.fuzz.bench import Bench
from lutvar.sim.fuzz.case import Step
from lutvar.sim.fuzz.events import Event, Pace, Timing
from lutvar.sim.fuzz.malformed import get, words_of
from lutvar.sim.fuzz.oracle import Oracle

_Run = Callable[[Bench, Oracle], str]
#: Cycles of FRONT for each 128 values of a row.
_FRONT_CYCLES = 8
_LATENCY = 200


def _least(step: Step) -> Counter[str]:
    """By unit: cycles that it cannot do without, from the program's operands alone."""
    result: Counter[str] = Counter()
    for word in words_of(step.program)[1:]:
        opcode = Opcode(get(word, HEADER_FIELDS[0]))
        o = {f.name: get(word, f) for f in PAYLOAD_FIELDS[opcode]}
        if opcode is Opcode.MATRIX:
            stripes = rounds(o["blocks"] * WEIGHT_BLOCK, SECTIONS[o["sections"]])
            result["MATRIX"] += o["groups"] * stripes * STRIPE * (1 + o["dual"] + o["terms"])
        elif opcode is Opcode.FRONT:
            result["FRONT"] += o["rows"] * o["groups"] * _FRONT_CYCLES * (1 + o["terms"])
        elif opcode is Opcode.FETCH:
            result["FETCH"] += o["panels"] * o["beats"] * o["repeat"]
    return result


def _one(bench: Bench, oracle: Oracle, step: Step) -> str:
    names = [f"{kind}_{unit.name}" for kind in ("BUSY", "ACTIVE") for unit in UNITS]
    before = {name: bench.read(name) for name in (*names, "MATRIX_ISSUE", "PROGRAMS")}
    cycles = bench.read("CYCLES_LO")
    bench.device.start_trace()
    outcome = bench.run(step)
    trace = bench.device.take_trace()
    if (deviation := oracle.judge(step, outcome, 0)) is not None:
        return f"{deviation.kind}: {deviation.what}"
    counted = {name: bench.read(name) - value for name, value in before.items()}
    last = np.append(trace[1:, 0], bench.device.cycles + 1)
    length = (last - trace[:, 0]).astype(np.int64)
    for column, kind in ((1, "BUSY"), (2, "ACTIVE")):
        for unit in UNITS:
            bits = (trace[:, column].astype(np.int64) >> int(unit)) & 1
            name, right = f"{kind}_{unit.name}", int((bits * length).sum())
            if counted[name] != right:
                return f"{name} has counted {counted[name]}, {right} is right"
    spent = bench.read("CYCLES_LO") - cycles
    if not 0 < spent <= outcome.cycles or bench.read("CYCLES_HI"):
        return f"CYCLES has counted {bench.read('CYCLES_HI')}, {spent} of {outcome.cycles}"
    least = _least(step)
    for unit in UNITS:
        busy, active = counted[f"BUSY_{unit.name}"], counted[f"ACTIVE_{unit.name}"]
        if not least[unit.name] <= active <= busy <= spent:
            return (
                f"{unit.name} was active in {active} of {busy} cycles; at least "
                f"{least[unit.name]} of at most {spent} are right"
            )
    if counted["MATRIX_ISSUE"] != least["MATRIX"]:
        return f"MATRIX_ISSUE has counted {counted['MATRIX_ISSUE']}, {least['MATRIX']} is right"
    if counted["PROGRAMS"] != 1:
        return "PROGRAMS has not counted"
    return f"UNSOLICITED is {count}" if (count := bench.read("UNSOLICITED")) else ""


def counters(steps: Sequence[Step]) -> _Run:
    """Counters of programs against the units' lines in each cycle, and against their work."""

    def run(bench: Bench, oracle: Oracle) -> str:
        return next((what for step in steps if (what := _one(bench, oracle, step))), "")

    return run


def _beats(bench: Bench, ports: Sequence[str]) -> int:
    """What the memory has sent on these ports."""
    return sum([bench.device.beats(cast("Port", port)) for port in ports])


def unsolicited_anywhere(step: Step) -> _Run:
    """After a hard reset while one port's answers are on their way, each of them is counted."""
    cycles, latency = 700, 1000

    def run(bench: Bench, oracle: Oracle) -> str:
        for name in read_ports(bench.config.weight_ports):
            if name == "prog":  # `unsolicited`
                continue
            slow = Timing(1, {f"r_{name}": Pace(latency, latency)})
            event = Event("hard_reset", {"cycle": cycles, "cycles": 2, "keep": 1})
            before, told = _beats(bench, [name]), bench.read("UNSOLICITED")
            outcome = bench.run(replace(step, timing=slow, event=event))
            if (deviation := oracle.judge(step, outcome, 0)) is not None:
                return f"{deviation.kind}: {deviation.what}"
            late = _beats(bench, [name]) - before
            counted = bench.read("UNSOLICITED")
            bench.device.reset(8)
            bench.open()
            if told or counted != late:
                return f"UNSOLICITED is {counted}, {told} before; {late} beats of {name} came late"
        return ""

    return run


def unsolicited(step: Step) -> _Run:
    """After a hard reset while the instructions are on their way, each of them is counted."""
    slow = Timing(1, {"r_prog": Pace(_LATENCY, _LATENCY)})
    event = Event("hard_reset", {"cycle": 3 * _LATENCY // 2, "cycles": 2, "keep": 1})

    def run(bench: Bench, oracle: Oracle) -> str:
        ports = read_ports(bench.config.weight_ports)
        before = _beats(bench, ports)
        outcome = bench.run(replace(step, timing=slow, event=event))
        if (deviation := oracle.judge(step, outcome, 0)) is not None:
            return f"{deviation.kind}: {deviation.what}"
        moved = _beats(bench, ports) - before
        # The header came before the reset.
        if (count := bench.read("UNSOLICITED")) != moved - 1 or moved < 10:
            return f"UNSOLICITED is {count} after {moved} beats, of which one was asked for"
        again = bench.run(replace(step, timing=Timing()))
        if (deviation := oracle.judge(replace(step, timing=Timing()), again, 0)) is not None:
            return f"{deviation.kind}: {deviation.what}"
        if bench.read("UNSOLICITED") != count:
            return "UNSOLICITED has counted beats that were asked for"
        bench.device.reset(8)
        bench.open()
        return f"UNSOLICITED is {left} after a reset" if (left := bench.read("UNSOLICITED")) else ""

    return run
