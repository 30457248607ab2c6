# SPDX-License-Identifier: Apache-2.0
"""Sections of the array against the golden linear layer, bit by bit, and their cycles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from lutvar.contract.memory import panel_beats
from lutvar.contract.sections import SECTIONS, rounds
from support.hw.matrix import (
    BEAT,
    BEATS,
    COMMANDS,
    DRAINS,
    PORT_0,
    WRITES,
    Unit,
    Work,
    run_works,
    small,
)

pytestmark = pytest.mark.verilator

#: Row groups that sections divide, and others; both forms, 4 and 6 bits, ports to spare.
CONFIGS = {
    "two of three": small(rows=48, weight_ports=2, max_sections=2),
    "two of two, four ports": small(
        "fp6", rows=32, weight_ports=4, max_sections=2, act_banks=3, acc_depth=512
    ),
    "four of four, da": small(dot="da", rows=64, weight_ports=4, max_sections=4, acc_banks=3),
    "four of five": small(rows=80, weight_ports=4, max_sections=4),
    "four of six, da fp6": small(
        "fp6", "da", rows=96, weight_ports=4, max_sections=4, acc_depth=512
    ),
    "four of seven": small(rows=112, weight_ports=4, max_sections=4, acc_depth=512),
}
#: Built in little time.
QUICK = ("two of three",)
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]


@pytest.fixture(scope="module")
def units():
    made: dict[str, Unit] = {}

    def get(name: str) -> Unit:
        if name not in made:
            made[name] = Unit(CONFIGS[name])
        made[name].reset()
        return made[name]

    return get


def counts(config) -> list[int]:
    """Numbers of sections of a configuration."""
    return [s for s in SECTIONS if s <= config.max_sections]


def works(config, rng, shapes) -> list[Work]:
    """`shapes`: groups, stripes, dual, sections."""
    return [
        Work(
            config, rng, groups=groups, outputs=128 * stripes, dual=dual,
            bank=i % config.act_banks, acc_bank=i % config.acc_banks, sections=sections,
            exponent=int(rng.integers(-20, 10)),
        )
        for i, (groups, stripes, dual, sections) in enumerate(shapes)
    ]  # fmt: skip


def shapes(config, rng) -> list[tuple[int, int, bool, int]]:
    """Sections in every order; last rounds that are full and that are not; fewer stripes than
    sections."""
    found = []
    depth = config.acc_depth // 128
    for sections in [*counts(config), *reversed(counts(config)), counts(config)[-1]]:
        stripes = int(rng.integers(1, sections * depth + 1))
        found.append((int(rng.integers(1, 4)), stripes, bool(rng.integers(2)), sections))
    found.append((1, 1, True, counts(config)[-1]))
    found.append((2, counts(config)[-1] * depth, False, counts(config)[-1]))
    found.append((1, max(1, counts(config)[-1] * depth - 1), False, counts(config)[-1]))
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stall", ["none", "all", "one port", "other ports"])
def test_instructions_with_any_number_of_sections(units, name, stall):
    """Back to back, and every port stalls on its own."""
    unit, rng = units(name), np.random.default_rng(len(name) + len(stall))
    config = unit.config
    slow = int(rng.integers(config.weight_ports))
    for which in (WRITES, COMMANDS, DRAINS):
        unit.pauses(which, 0.2 if stall == "all" else 0.0, which + 1)
    for port in range(config.weight_ports):
        share = {"none": 0.0, "all": 0.1 + 0.2 * port, "one port": 0.7 * (port == slow),
                 "other ports": 0.6 * (port != slow)}[stall]  # fmt: skip
        unit.pauses(PORT_0 + port, share, 11 + port)
    jobs = works(config, rng, shapes(config, rng))
    for number, (job, values) in enumerate(zip(jobs, run_works(unit, jobs), strict=True)):
        try:
            job.check(values)
        except AssertionError as error:
            raise AssertionError((number, job.sections, job.layer.codes.shape)) from error
    assert unit.count("issues") == sum(
        128 * rounds(job.layer.outputs, job.sections) * job.layer.groups * (1 + job.dual)
        for job in jobs
    )
    unit.idle(5)
    assert not unit.count("busy") and not unit.count("surplus") and not unit.count("missing")


@pytest.mark.parametrize("name", NAMES)
def test_sums_that_go_on(units, name):
    """A layer in parts, its sums in the accumulators of all sections."""
    unit, rng = units(name), np.random.default_rng(5)
    config = unit.config
    unit.pauses(BEATS, 0.3, 3)
    for sections in counts(config):
        unit.reset()
        outputs = 128 * (sections * config.acc_depth // 128 - (sections > 1))
        jobs: list[Work] = []
        for part, (groups, dual) in enumerate([(2, False), (1, True), (1, False)]):
            jobs.append(
                Work(
                    config, rng, groups=groups, outputs=outputs, dual=dual,
                    bank=part % config.act_banks, acc_bank=1, after=jobs[-1] if part else None,
                    sections=sections,
                )
            )  # fmt: skip
        jobs[-1].check(run_works(unit, jobs)[-1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("surplus", [True, False])
def test_a_wrong_mark_on_any_port_is_told(units, name, surplus):
    """With the instruction that it is about, whose `done` does not come; then right ones again."""
    unit, rng = units(name), np.random.default_rng(9)
    config, most = unit.config, units(name).config.max_sections
    for port in range(config.weight_ports):
        unit.reset()
        jobs = works(config, rng, [(1, config.weight_ports, False, s) for s in (most, 1, most)])
        good = works(config, rng, [(1, 1, False, most)])
        for number, job in enumerate(jobs):
            job.index = 40 + number
            unit.queue(WRITES, job.writes)
        written = sum(len(job.writes) for job in jobs)
        for number, job in enumerate(jobs):
            beats = [bytearray(raw) for raw in job.beats]
            if number == 1:
                # The mark of the last beat is missing, or an earlier one has it.
                beats[port][-1 if surplus else BEAT * int(rng.integers(1, 100)) - 1] ^= 1
            unit.queue(COMMANDS, job.command, (written, 0, 0))
            unit.beats([bytes(raw) for raw in beats])
        unit.idle(3000)
        # A port runs ahead: the first one may still be multiplied when the fault is found.
        assert unit.count("done") <= 1
        assert (unit.count("surplus"), unit.count("missing")) == (surplus, not surplus)
        assert unit.count("index") == 41
        unit.reset()
        good[0].check(run_works(unit, good)[0])


@pytest.mark.parametrize("name", NAMES)
def test_cycles_of_sections_are_as_documented(units, name):
    """Weights without pause: limited by the ports when each feeds a section, else a vector of each
    section in every cycle."""
    unit, config = units(name), units(name).config
    rng, bits, ports = np.random.default_rng(7), config.quant_config.code_bits, config.weight_ports
    depth = config.acc_depth // 128
    for sections in counts(config):
        unit.reset()
        stripes = sections * depth
        # All ports have the same number of stripes, or none.
        stripes -= stripes % ports if stripes > ports else 0
        jobs = works(config, rng, [(4, stripes, False, sections)] * 3)
        for job in jobs:
            unit.queue(WRITES, job.writes)
        written = sum(len(job.writes) for job in jobs)
        for job in jobs:
            unit.queue(COMMANDS, job.command, (written, 0, 0))
            unit.beats(job.beats)
        unit.run(len(jobs), 0)
        taken, done, issue = (unit.cycles(what) for what in ("taken", "done", "issue"))
        assert issue[0] - 1 - taken[0] >= unit.unit.start_cycles
        assert done[-1] - (issue[-1] - 1) == unit.unit.drain_cycles
        each = rounds(128 * stripes, sections) * 128
        assert len(issue) == 3 * 4 * each
        # Beats of a pass on the busiest port; a stripe waits in its queue before it is due.
        plain, first = (panel_beats(128 * -(-stripes // ports), bits, f) for f in (False, True))
        least = max(each + unit.unit.fill - 1, unit.unit.operand_cycles)
        whole = sum(max(least, beats) for beats in (first, plain, plain, plain))
        starts = issue[:: 4 * each]
        for a, b in pairwise(starts[1:]):
            slack = 0 if unit.unit.fill == 1 and sections < ports else 4 * 4
            assert whole - slack <= b - a <= whole + slack, (sections, b - a, whole)
        if unit.unit.fill == 1 and sections < ports:
            assert (np.diff(issue[4 * each :]) == 1).all()
