# SPDX-License-Identifier: Apache-2.0
"""The matrix unit against the golden linear layer, bit by bit, and its cycle counts."""

from __future__ import annotations

import numpy as np
import pytest

from lutvar.contract.memory import block_cycles
from support.hw.matrix import BEATS, COMMANDS, DRAINS, WRITES, Unit, Work, run_works, small

pytestmark = pytest.mark.verilator

CONFIGS = {
    "fp4": small(),
    "fp6": small("fp6"),
    "fp6-two-ports": small("fp6", weight_ports=2),
    "four-ports": small(weight_ports=4, acc_depth=1024),
    "da": small(dot="da", rows=32, acc_banks=3),
    "dsp": small(dot="da", rows=32, float32="dsp58"),
    "dsp fp6": small("fp6", float32="dsp58"),
}


@pytest.fixture(scope="module")
def units(request):
    made: dict[str, Unit] = {}

    def get(name: str) -> Unit:
        if name not in made:
            made[name] = Unit(CONFIGS.get(name) or small(pipelined=False))
        made[name].reset()
        return made[name]

    return get


def works(config, rng, shapes):
    return [
        Work(
            config, rng, groups=groups, outputs=outputs, dual=kind is True,
            bank=i % config.act_banks, acc_bank=i % config.acc_banks,
            exponent=int(rng.integers(-20, 10)), terms=kind == "terms",
        )
        for i, (groups, outputs, kind) in enumerate(shapes)
    ]  # fmt: skip


#: Groups, outputs, and whether the format is dual or there are two terms.
SHAPES = [
    (1, 128, False), (3, 128, True), (2, 128, "terms"), (4, 256, False), (1, 256, True),
    (1, 256, "terms"), (2, 128, False),
]  # fmt: skip
#: More stripes than ports, and a number of them that ports do not divide.
SHAPES_LONG = [(2, 640, True), (1, 384, False)]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_back_to_back_instructions(units, name, stall):
    unit, rng = units(name), np.random.default_rng(len(name))
    for which in (WRITES, COMMANDS, BEATS, DRAINS):
        unit.pauses(which, stall, which + 1)
    more = [shape for shape in SHAPES_LONG if shape[1] <= unit.config.acc_depth]
    jobs = works(unit.config, rng, SHAPES + more)
    for job, values in zip(jobs, run_works(unit, jobs), strict=True):
        job.check(values)
    assert unit.count("issues") == sum(
        job.layer.outputs * job.layer.groups * job.passes for job in jobs
    )
    # A second round on the same unit: nothing is left over from the first.
    jobs = works(unit.config, rng, SHAPES[:2])
    for job, values in zip(jobs, run_works(unit, jobs), strict=True):
        job.check(values)
    unit.idle(5)
    assert not unit.count("busy")


def test_a_vector_at_a_time(units):
    """Without pipelining: long pauses between the columns of a pair."""
    unit, rng = units("serial"), np.random.default_rng(11)
    jobs = works(unit.config, rng, [(2, 128, True), (1, 128, False)])
    for job, values in zip(jobs, run_works(unit, jobs), strict=True):
        job.check(values)
    gaps = np.diff(unit.cycles("issue"))
    assert gaps.min() >= unit.unit.drain_cycles


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_sums_that_go_on(units, name, stall):
    """A layer in parts, each with codes of its own, without waiting between them."""
    unit, rng = units(name), np.random.default_rng(len(name))
    for which in (WRITES, COMMANDS, BEATS, DRAINS):
        unit.pauses(which, stall, which + 7)
    config, jobs = unit.config, []
    parts = [(2, False), (1, "terms"), (3, True), (2, "terms")]
    for part, (groups, kind) in enumerate(parts):
        jobs.append(
            Work(
                config, rng, groups=groups, outputs=128, dual=kind is True,
                terms=kind == "terms", bank=part % config.act_banks,
                acc_bank=1, after=jobs[-1] if part else None,
            )
        )  # fmt: skip
    jobs += works(config, rng, SHAPES[:1])
    values = run_works(unit, jobs)
    jobs[3].check(values[3])
    jobs[4].check(values[4])
    assert all(len(drained) == 0 for drained in values[:3])


@pytest.mark.parametrize("name", [n for n, c in CONFIGS.items() if c.weight_ports == 1])
def test_cycles_are_as_documented(units, name):
    """One weight port; several are in `test_sections`."""
    unit, rng = units(name), np.random.default_rng(7)
    config, bits = unit.config, unit.config.quant_config.code_bits
    jobs = works(config, rng, [(4, 256, False), (2, 256, True)])
    for job in jobs:
        unit.queue(WRITES, job.writes)
    total = sum(len(job.writes) for job in jobs)
    for job in jobs:
        unit.queue(COMMANDS, job.command, (total, 0, 0))
        unit.beats(job.beats)
    unit.run(2, 0)
    taken, done, issue = (unit.cycles(what) for what in ("taken", "done", "issue"))
    # `issue` is registered: one cycle after the vector left.
    assert issue[0] - 1 - taken[0] == unit.unit.start_cycles
    assert done[1] - (issue[-1] - 1) == unit.unit.drain_cycles
    expected, fill = 0, unit.unit.fill
    for job in jobs:
        passes = 1 + job.dual
        blocks = job.layer.outputs // 32
        v, w = (blocks * block_cycles(bits, first, 1) for first in (False, True))
        expected += job.layer.groups * passes * max(v + fill - 1, unit.unit.operand_cycles)
        expected += passes * (w - v)
    # From the first vector on: what comes before it is part of the start. Beats of scales may hide
    # behind the filling of tables.
    expected -= fill - 1
    passes = sum(job.layer.groups * (1 + job.dual) for job in jobs)
    assert 0 <= expected - (issue[-1] - issue[0] + 1) <= 3 + (2 * passes if fill > 1 else 1)
    if fill == 1 and bits == 4:
        assert len(issue) / (issue[-1] - issue[0] + 1) > 0.9
