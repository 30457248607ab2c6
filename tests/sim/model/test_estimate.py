# SPDX-License-Identifier: Apache-2.0
"""The cycle model: its constants are the units', its runs obey the bounds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from lutvar.bench.area import MAX_LEVELS
from lutvar.bench.units import UNITS
from lutvar.cli.main import cli
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.costs import UnitCost
from lutvar.contract.isa import Opcode, PostOp, Unit
from lutvar.contract.shape import TransformerShape
from lutvar.contract.unit_costs import UnitPoint, unit_fields
from lutvar.host.compile.costs import CostModel, UnitTimes, unit_times
from lutvar.hw.inspection import for_inspection
from lutvar.sim.model.model import Estimator
from lutvar.sim.model.plans import plan
from lutvar.sim.model.resources import resources
from lutvar.sim.model.simulate import simulate
from support.host.compile_cases import DIGITS, accelerator, compiler, staggered

SMALL = accelerator()


@pytest.mark.parametrize(
    "name", ["small-fp4", "small-da-fp4", "small-dsp-fp4", "small-fp6", "vck190-fp4"]
)
def test_constants_are_those_of_the_matrix_unit(name: str) -> None:
    from lutvar.hw.matrix.unit import MatrixUnit

    config = load_accelerator(name)
    unit, times = for_inspection(MatrixUnit(config)), unit_times(config)
    assert abs(unit.fill - times.fill) <= 4
    assert abs(unit.operand_cycles - times.operand) <= 24
    assert abs(unit.start_cycles - times.matrix_start) <= 24
    assert abs(unit.drain_cycles - times.matrix_tail) <= 8


def test_constants_are_those_of_the_attend_unit() -> None:
    from lutvar.hw.attend.unit import AttendUnit

    config = accelerator("vck190-fp4", attention_rows=12)
    unit, costs = for_inspection(AttendUnit(config)), CostModel(config)
    for part in (unit.scores, unit.values, unit.results, *unit.scores.units):
        for_inspection(part)
    for rows, keys in ((12, 680), (12, 1), (5, 30)):
        operands = {"rows": rows, "heads": 1, "keys": keys}
        found = costs.of(Opcode.ATTEND, operands).occupied
        assert abs(found - unit.block_cycles(rows, keys)) <= 4


def test_formulas() -> None:
    costs = CostModel(SMALL)
    matrix = {"groups": 3, "blocks": 8, "dual": 1, "terms": 0, "sections": 0}
    cost = costs.of(Opcode.MATRIX, matrix)
    assert cost.issue == 3 * 2 * 256
    assert cost.occupied == 3 * 2 * 8 * 33 + 2 * 8 * 2
    front = costs.of(Opcode.FRONT, {"rows": 5, "groups": 2, "norm": 1, "terms": 0})
    assert front.occupied == 5 * 17 + 32
    assert dict(front.traffic)["front"] == 5 * 1024 + 1024
    twice = costs.of(Opcode.FRONT, {"rows": 5, "groups": 2, "norm": 1, "terms": 1})
    assert twice.occupied == 2 * 5 * 16 and twice.traffic == front.traffic
    terms = costs.of(Opcode.MATRIX, {**matrix, "dual": 0, "terms": 1})
    assert terms == cost
    post = costs.of(Opcode.POST, {"rows": 16, "blocks": 2, "op": PostOp.ADD, "vector": 1})
    assert post.occupied == unit_times(SMALL).post_issue + 2 * 132
    assert dict(post.traffic)["post_write"] == 16 * 256 * 4


#: Every layer has an even number of stripes.
WIDER = TransformerShape(256, 2, 4, 1024, 256, (1, 2, 3))


def test_two_weight_ports() -> None:
    """A vector in each cycle at 4 and 6 bits, half of the weights through each port."""
    matrix = {"groups": 3, "blocks": 8, "dual": 1, "terms": 0, "sections": 0}
    fetch = {"beats": 4 * 49, "full": 2, "rest": 0, "panels": 2, "repeat": 2}
    for name in ("small-fp4", "small-fp6"):
        one, two = (CostModel(accelerator(name, weight_ports=ports)) for ports in (1, 2))
        assert two.of(Opcode.MATRIX, matrix).occupied == 3 * 2 * 256
        assert two.of(Opcode.MATRIX, matrix).issue == one.of(Opcode.MATRIX, matrix).issue
        half = 4 * 49 * 4 * 64
        assert two.of(Opcode.FETCH, fetch).traffic == (("weights", half), ("weights1", half))
        assert two.of(Opcode.FETCH, fetch).occupied == 4 * 49 * 4
        whole = {**fetch, "beats": 8 * 49, "full": 1}
        assert one.of(Opcode.FETCH, whole).traffic == (("weights", 2 * half),)
    # Whole passes: at 6 bits the array is a third less busy, and all bytes are counted.
    runs = []
    for ports in (1, 2):
        own = compiler(WIDER, accelerator("small-fp6", acc_depth=1024, weight_ports=ports))
        runs.append(simulate(own.compile(staggered(WIDER)).program, own.costs))
    one_, two_ = runs
    assert one_.issue == two_.issue and one_.bytes == two_.bytes
    assert two_.traffic["weights"] == two_.traffic["weights1"] == one_.traffic["weights"] // 2
    assert two_.busy[Unit.MATRIX] == pytest.approx(one_.busy[Unit.MATRIX] * 32 / 49, rel=0.03)
    assert two_.busy[Unit.MATRIX] >= two_.issue
    assert two_.cycles < one_.cycles


def test_sections_take_a_vector_each() -> None:
    """Two sections halve the cycles of an even number of stripes; a port limits each of them."""
    config = accelerator("small-fp4", rows=32, weight_ports=4, max_sections=2)
    costs = CostModel(config)
    for stripes, sections, issue, beats in ((4, 0, 512, 132), (4, 1, 256, 132), (3, 1, 256, 132),
                                            (2, 1, 128, 132), (9, 1, 640, 396)):  # fmt: skip
        operands = {"groups": 5, "blocks": 4 * stripes, "dual": 0, "terms": 0, "sections": sections}
        cost = costs.of(Opcode.MATRIX, operands)
        assert cost.issue == 5 * issue
        assert cost.occupied >= 5 * max(issue, beats)
        assert cost.occupied <= 5 * max(issue, beats) + 3 * 8


def test_weights_of_several_ports_come_while_tables_are_filled() -> None:
    """Measured on the array (`tests/hw/matrix/test_sections.py`): stripes, sections, cycles of a
    panel without biases."""
    config = accelerator("vck190-fp6")
    costs, fill = CostModel(config), unit_times(config).fill
    for stripes, sections, cycles in (
        (4, 2, 128 + fill - 1), (8, 2, 392), (16, 2, 784), (8, 1, 512 + fill - 1),
    ):  # fmt: skip
        operands = {"groups": 9, "blocks": 4 * stripes, "dual": 0, "terms": 0, "sections": sections}
        more, one = (costs.of(Opcode.MATRIX, {**operands, "groups": g}) for g in (9, 1))
        assert more.occupied - one.occupied == 8 * cycles
        beats = stripes // 4 * 196
        assert more.starts == 9 * max(0, cycles - max(stripes // 2**sections * 128, beats))


def test_a_simulation_obeys_its_bounds() -> None:
    own = compiler(DIGITS, SMALL)
    compiled = own.compile(staggered(DIGITS))
    free = simulate(compiled.program, own.costs)
    assert free.cycles >= max(free.busy)
    items = compiled.program.instructions
    for unit in (Unit.FRONT, Unit.MATRIX, Unit.POST, Unit.ATTEND):
        occupied = sum(own.costs.instruction(i).occupied for i in items if i.opcode == unit + 1)
        assert free.busy[unit] == pytest.approx(occupied, rel=0.02)
    assert 0 < free.utilisation < 1
    # The scheduler's simpler model comes to nearly the same.
    assert free.cycles == pytest.approx(compiled.cycles, rel=0.1)
    # Every cycle of the array has a name.
    assert free.issue + sum(free.waits.values()) == pytest.approx(free.cycles, abs=2)
    assert set(free.waits) <= {
        "FRONT", "POST", "ATTEND", "weights", "operands", "memory", "dispatch", "end"
    }  # fmt: skip


def test_a_slow_memory_bounds() -> None:
    own = compiler(DIGITS, SMALL)
    program = own.compile(staggered(DIGITS)).program
    free = simulate(program, own.costs)
    slow = simulate(program, own.costs, memory=4.0)
    assert slow.bytes == free.bytes
    assert slow.cycles >= slow.bytes / 4.0
    assert slow.cycles == pytest.approx(slow.bytes / 4.0, rel=0.35)
    assert free.cycles < slow.cycles


def test_serial_units_are_slower() -> None:
    quick, slow = compiler(DIGITS, SMALL), compiler(DIGITS, accelerator(pipelined=False))
    steps = staggered(DIGITS)
    a = simulate(quick.compile(steps).program, quick.costs).cycles
    b = simulate(slow.compile(steps).program, slow.costs).cycles
    assert b > 5 * a


def test_plans() -> None:
    shape = TransformerShape.official("d30")
    single = plan(shape, "single", 7, True)
    assert [len(p.steps) for p in single] == [1] * 10
    assert sum(p.images for p in single) == pytest.approx(1)
    (all_,) = plan(shape, "stagger", 2, True)
    assert len(all_.steps) == 20 and all_.images == 2
    assert len({s.slot for s in all_.steps}) == 20
    with pytest.raises(ValueError, match="known are"):
        plan(shape, "other", 1, True)


def test_few_blocks_stand_for_many() -> None:
    shape = replace(TransformerShape.official("d16"), depth=14)
    config = load_accelerator("vck190-fp4")
    short, full = (
        Estimator(config, shape, "d14", full=f).estimate("stagger") for f in (False, True)
    )
    assert short.extrapolated and not full.extrapolated
    assert short.cycles == pytest.approx(full.cycles, rel=0.04)
    assert short.images_per_second == pytest.approx(full.images_per_second, rel=0.04)


def test_more_images_fill_the_array() -> None:
    config = accelerator("vck190-fp4", rows=368, attention_rows=11, weight_ports=2, max_sections=1)
    estimator = Estimator(config, TransformerShape.official("d16"), "d16")
    one, staggered_ = estimator.estimate("single"), estimator.estimate("stagger")
    assert staggered_.images_per_second > 1.5 * one.images_per_second
    assert staggered_.useful > one.useful
    assert one.latency < staggered_.latency
    faster = Estimator(
        config, TransformerShape.official("d16"), "d16", times=UnitTimes()
    ).estimate("stagger")  # fmt: skip
    assert faster.cycles < staggered_.cycles  # without filling tables


def test_resources_have_limits() -> None:
    found = resources(accelerator("vck190-fp4", rows=368, bank_groups=18, decoder=False))
    assert found.limit("lut") == 629_888 and found.limit("dsp") == 1476
    banks = found.lines[-1].amounts
    # Of each 16 rows: 54 groups of 8 words of 72 bits; 1024 bits of accumulators side by side.
    assert banks == {"bram36": 23 * 16, "uram": 23 * 15}
    assert found.fits("bram36") and found.fits("uram")
    assert not resources(accelerator("vck190-fp4", rows=384)).fits("uram")
    larger = resources(accelerator("vck190-fp4", rows=384, act_banks=8, bank_groups=18))
    assert larger.lines[-1].amounts["bram36"] == 24 * 36 and not larger.fits("bram36")
    fp6 = resources(accelerator("vck190-fp6", rows=144, act_banks=8))
    assert fp6.lines[-1].amounts["bram36"] == 9 * 54  # a word of 104 bits takes 3 x 36
    assert resources(SMALL).fits("bram36")


def test_the_large_configuration_fits() -> None:
    """The units that come with the package, as they were measured: area, and logic levels."""
    found = resources(accelerator("vck190-fp4"))
    for kind in ("lut", "dsp", "bram36", "uram"):
        assert not found.missing(kind), kind
        assert found.fits(kind), kind
    deep = {line.unit: line.levels for line in found.lines if (line.levels or 0) > MAX_LEVELS}
    assert not deep


def test_resources_add_up_the_measured_units() -> None:
    """Every unit once, a row group for each 16 rows."""
    config = accelerator("vck190-fp4", rows=64)
    points = [
        UnitPoint(
            name, unit_fields(name, config), "", "",
            UnitCost(lut=10**k, lut_unpacked=0, ff=0, dsp=k, bram36=9 if name == "matrix" else 1,
                     uram=1, levels={k: 1}, seconds=1.0, source="Yosys"),
        )
        for k, name in enumerate(UNITS)
    ]  # fmt: skip
    found = resources(config, points)
    assert list(UNITS)[-2:] == ["matrix", "row_group"]
    first = found.lines[-2]
    assert found.total("lut") == 111111 + 10**6 + 4 * 10**7
    assert found.total("dsp") == 0 + 1 + 2 + 3 + 4 + 5 + 6 + 4 * 7
    assert first.levels == 7 and found.synthesised and not found.missing("lut")
    # The array's memories are its banks, and what MATRIX has beside those of its row groups.
    banks = found.lines[-1].amounts
    assert found.total("bram36") == 6 + 9 + (banks["bram36"] or 0)
    # A query row more: one size does not say what it costs.
    more_rows = config.model_copy(update={"attention_rows": config.attention_rows + 1})
    assert resources(more_rows, points).missing("lut") == [
        f"ATTEND, {more_rows.attention_rows} query rows"
    ]
    assert not resources(more_rows, points).synthesised
    del points[-1]
    assert resources(config, points).missing("lut") == ["MATRIX, 4 row groups"]


def test_command() -> None:
    arguments = ["estimate", "--config", "small-fp4", "--model", "digits", "--schedule", "single"]
    text = CliRunner().invoke(cli, arguments).output
    assert text.count("modelled") >= 5
    data = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert data["modelled"] is True and len(data["passes"]) == 4
    assert data["images_per_second"] > 0
    wrong = CliRunner().invoke(cli, ["estimate", "--set", "rows=5"])
    assert wrong.exit_code == 2 and "greater than or equal to 16" in wrong.output
    wrong = CliRunner().invoke(cli, ["estimate", "--set", "row=16"])
    assert wrong.exit_code == 2 and "KEY=VALUE" in wrong.output


def test_no_wait_is_negative() -> None:
    """d16 ends in fewer waits for POST the deeper it is: extrapolated they would be below 0."""
    size = accelerator("vck190-fp4", rows=288, attention_rows=18, act_banks=4, bank_groups=18)
    found = Estimator(size, TransformerShape.official("d16"), "d16").estimate("stagger")
    for each in found.passes:
        assert min(each.waits.values()) >= 0
        assert sum(each.waits.values()) == pytest.approx(each.cycles - each.issue)
