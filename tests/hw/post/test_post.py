# SPDX-License-Identifier: Apache-2.0
"""The POST unit against the golden functions: all operations, memory with latency and stalls."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from lutvar.contract.column_sums import SumMode
from lutvar.contract.isa import Opcode, PostOp
from lutvar.contract.widths import drain_latency
from lutvar.host.compile.costs import CostModel, unit_times
from lutvar.hw.post.unit import PostUnit
from lutvar.hw.verilog import export_verilog
from support.hw.axi_memory import AxiMemory
from support.hw.post import Program, Spec, config_of
from support.hw.post_run import Result, run_program
from support.hw.verilated_unit import build_unit

pytestmark = pytest.mark.verilator

#: Seven row groups: sections have 7, 3 or 1 of them.
CONFIG = config_of(rows=112, weight_ports=4, max_sections=4)
STORE, ADD, GELU, QKV, NORM, SUMS = PostOp
BEGIN, ON = SumMode.BEGIN, SumMode.ON

#: Every operation, its neighbours of other paths, whole and partial row groups.
MIXED = [
    Spec(STORE, 2),
    Spec(ADD, 2, row_first=3, rows=13),
    Spec(GELU, 3, row_first=1, rows=7, shift=True),
    Spec(QKV, 4, heads=4, rows=16),
    Spec(QKV, 3, heads=4, block_first=1, row_first=5, rows=11, vector=False),
    Spec(ADD, 1, rows=1, row_first=15, vector=False),
    Spec(GELU, 1, rows=16),
    Spec(GELU, 2, rows=3, vector=False, shift=True),
    Spec(STORE, 1, rows=1, vector=False),
    Spec(QKV, 2, heads=4, block_first=2, row_first=2, rows=3),
    Spec(QKV, 1, heads=6, block_first=5, rows=1),
    Spec(QKV, 1, heads=2, block_first=0, rows=16),
    Spec(ADD, 2, in_place=True, tight=True),
    Spec(STORE, 1, row_first=8, rows=8),
]
#: The decoder's operations between each other and all others; sums over several instructions.
DECODER = [
    Spec(STORE, 3, sums=BEGIN, large=True),
    Spec(NORM, 2, rows=5, shift=True, gate=True),
    Spec(SUMS, 3),
    Spec(NORM, 1, rows=1, vector=False),
    Spec(GELU, 2, rows=3, shift=True),
    Spec(NORM, 3, rows=16, vector=False, shift=True),
    Spec(STORE, 1, rows=2),
    Spec(ADD, 3, rows=1, sums=ON, large=True),
    Spec(ADD, 2, rows=1, row_first=15, sums=ON, in_place=True, tight=True),
    Spec(SUMS, 2),
    Spec(SUMS, 3),
    Spec(QKV, 3, heads=4, block_first=1, rows=3),
    Spec(NORM, 1, rows=7, gate=True),
    Spec(QKV, 1, heads=2, rows=1),
    Spec(SUMS, 1),
    Spec(GELU, 1, rows=1),
    Spec(SUMS, 1),
    Spec(STORE, 1, rows=1, sums=BEGIN),
    Spec(STORE, 1, rows=1, sums=ON),
    Spec(SUMS, 3),
    Spec(STORE, 1, rows=1, sums=BEGIN),
    Spec(NORM, 1, rows=2, shift=True, vector=False, gate=True),
    Spec(SUMS, 1),
]


@pytest.fixture(scope="module")
def library() -> Path:
    return build_unit(PostUnit(CONFIG))


def run(library: Path, specs: list[Spec], seed: int, **options) -> tuple[Program, Result]:
    program = Program(CONFIG, specs, seed)
    result = run_program(library, program, **options)
    program.check(result.memory)
    return program, result


@pytest.mark.parametrize(
    ("latency", "jitter", "stall", "pause"),
    [(4, 0, 0.0, 0.0), (60, 40, 0.0, 0.3), (10, 30, 0.5, 0.0), (2, 0, 0.8, 0.9)],
)
def test_all_operations(library, latency, jitter, stall, pause) -> None:
    memory = AxiMemory(seed=latency, latency=latency, jitter=jitter, stall=stall)
    _, result = run(library, MIXED, latency, memory=memory, pause=pause)
    assert not result.error
    assert result.taken[3] < result.done[0], "instructions do not overlap"


@pytest.mark.parametrize(
    ("latency", "jitter", "stall", "pause"),
    [(4, 0, 0.0, 0.0), (60, 40, 0.0, 0.3), (10, 30, 0.5, 0.0), (2, 0, 0.8, 0.9)],
)
def test_operations_of_the_decoder(library, latency, jitter, stall, pause) -> None:
    memory = AxiMemory(seed=latency, latency=latency, jitter=jitter, stall=stall)
    _, result = run(library, DECODER, latency, memory=memory, pause=pause)
    assert not result.error


def test_all_operations_in_dsp58() -> None:
    config = config_of(rows=32, float32="dsp58")
    memory = AxiMemory(seed=4, latency=20, jitter=30, stall=0.2)
    program = Program(config, MIXED + DECODER, 15)
    result = run_program(build_unit(PostUnit(config)), program, memory=memory, pause=0.2)
    program.check(result.memory)


def test_a_build_without_the_decoder() -> None:
    config = config_of(rows=32, decoder=False)
    program = Program(config, MIXED, 16)
    memory = AxiMemory(seed=5, latency=20, jitter=30, stall=0.2)
    program.check(run_program(build_unit(PostUnit(config)), program, memory=memory).memory)
    text = export_verilog(PostUnit(config), "lutvar_post")
    assert "norm_lane" not in text and "sum_lane" not in text


def test_random_instructions(library) -> None:
    rng = random.Random(4)
    specs = []
    for _ in range(40):
        op, rows, blocks = rng.choice(list(PostOp)), rng.randint(1, 16), rng.randint(1, 2)
        heads = 2 * rng.randint(1, 4)
        sums = rng.choice([0, BEGIN, ON]) if op in (STORE, ADD) else 0
        specs.append(
            Spec(
                op, blocks, row_first=rng.randint(0, 16 - rows), rows=rows,
                vector=rng.random() < 0.5, heads=heads,
                in_place=op is not NORM and rng.random() < 0.5, sums=sums,
                gate=rng.random() < 0.5,
                block_first=rng.randint(0, heads // 2 * 3 - blocks), tight=rng.random() < 0.5,
                shift=op in (GELU, NORM) and rng.random() < 0.5,
            )
        )  # fmt: skip
    run(library, specs, 4, memory=AxiMemory(latency=20, jitter=20, stall=0.1))


def test_short_instructions_of_all_paths(library) -> None:
    """Blocks that wait behind long rows, then paths that change every few cycles."""
    rng = random.Random(12)
    specs = []
    for _ in range(10):
        specs.append(Spec(STORE, 4, vector=False))
        for op in rng.choices([ADD, GELU, QKV, NORM, SUMS], k=10):
            rows = rng.randint(1, 2)
            specs.append(
                Spec(
                    op,
                    1,
                    rows=rows,
                    vector=op in (GELU, NORM) and rng.random() < 0.5,
                    heads=4,
                    block_first=rng.randint(0, 5),
                    shift=op in (GELU, NORM) and rng.random() < 0.5,
                    sums=rng.choice([BEGIN, ON]) if op is ADD else 0,
                )
            )
    run(library, specs, 12, memory=AxiMemory(latency=10))


def test_one_at_a_time(library) -> None:
    run(library, MIXED[2:9], 5, wait_each=True, memory=AxiMemory(latency=15))


@pytest.mark.parametrize(
    "spec",
    [Spec(STORE, 4), Spec(STORE, 4, vector=False), Spec(ADD, 4, vector=False), Spec(GELU, 4),
     Spec(GELU, 4, shift=True), Spec(GELU, 4, rows=2, shift=True),
     Spec(QKV, 4, heads=4), Spec(QKV, 4, heads=4, block_first=2), Spec(ADD, 4, rows=8),
     Spec(STORE, 4, vector=False, sums=BEGIN), Spec(NORM, 4, vector=False),
     Spec(NORM, 4, shift=True, gate=True), Spec(SUMS, 4)],
    ids=lambda spec: f"{spec.op.name}-{spec.rows}-{spec.block_first}-{spec.shift}-{spec.sums}",
)  # fmt: skip
def test_rate(library, spec) -> None:
    """Two columns in each cycle across blocks and instructions; two cycles for those of sums."""
    memory = AxiMemory(latency=20)
    _, result = run(library, [spec] * 3, 6, memory=memory)
    block = 8 * spec.rows if spec.op in (STORE, ADD) else 64
    if spec.op is NORM:
        block = 8 * spec.rows + 4 * (spec.vector + spec.shift)
    elif spec.op is SUMS:
        block = 32
    drained = 0 if spec.op in (NORM, SUMS) else 3 * spec.blocks * 64
    assert len(result.drains) == drained
    assert result.done[-1] <= 3 * spec.blocks * block + drain_latency(CONFIG) + 180
    # Instructions end one after the other without a gap.
    for before, after in zip(result.done, result.done[1:], strict=False):
        assert after - before <= spec.blocks * block + 16


@pytest.mark.parametrize("latency", [20, 100])
def test_documented_cycles(library, latency) -> None:
    """Alone, from the start to the end: what `PostUnit` and the cycle model say."""
    costs = CostModel(CONFIG, replace(unit_times(CONFIG), memory=latency, post_issue=0))
    for spec in (
        Spec(STORE, 2, rows=1, vector=False), Spec(STORE, 1, rows=5, vector=False),
        Spec(ADD, 1, rows=3, vector=False), Spec(ADD, 1, rows=2),
        Spec(GELU, 2, rows=16, vector=False), Spec(GELU, 1, rows=9, shift=True),
        Spec(STORE, 2, rows=12, vector=False),
        Spec(QKV, 2, rows=4, heads=4, vector=False), Spec(QKV, 1, rows=7, heads=2, block_first=1),
        Spec(NORM, 1, rows=5, vector=False), Spec(NORM, 1, rows=4, shift=True), Spec(SUMS, 1),
    ):  # fmt: skip
        program, result = run(library, [spec], 13, memory=AxiMemory(latency=latency))
        cost = costs.of(Opcode.POST, program.cases[0].operands)
        found = result.done[0] - result.taken[0]
        late = spec.rows if spec.op == QKV and not spec.block_first else 0  # q: not one write
        assert abs(cost.occupied + cost.tail - late - found) <= 4, spec


@pytest.mark.parametrize(
    ("pair", "pauses"), [((STORE, GELU), 1 + 20), ((GELU, QKV), 31 + 33), ((QKV, ADD), 33 + 1)]
)
def test_pauses_where_the_path_changes(library, pair, pauses) -> None:
    specs = [Spec(op, 2, heads=8, vector=False) for op in pair] * 3
    _, result = run(library, specs, 14, memory=AxiMemory(latency=20))
    cycles = sum(2 * (128 if op in (STORE, ADD) else 64) for op in pair)
    period = result.done[4] - result.done[2]
    assert period <= cycles + pauses + 2
    assert period > cycles


@pytest.mark.parametrize("op", [STORE, GELU, QKV, SUMS])
def test_pauses_before_and_behind_norm(library, op) -> None:
    specs = [Spec(kind, 2, heads=8, vector=False) for kind in (NORM, op)] * 3
    _, result = run(library, specs, 14, memory=AxiMemory(latency=20))
    cycles = 256 + {STORE: 256, SUMS: 64}.get(op, 128)
    assert result.done[4] - result.done[2] <= cycles + 2 * 60


def test_rate_of_an_addition_with_factors(library) -> None:
    """Four more beats are read for each block than it has parts."""
    _, result = run(library, [Spec(ADD, 4)] * 2, 7, memory=AxiMemory(latency=20))
    assert result.done[1] - result.done[0] <= 4 * 132 + 8


def test_rows_just_stored_are_added(library) -> None:
    """Guidance: rows that an earlier instruction stores, not yet in memory, are read."""
    base = 0x7_0000_0000
    specs = [
        Spec(STORE, 1, base=base, tight=True, vector=False),
        Spec(ADD, 1, base=base, tight=True, in_place=True, vector=False),
        Spec(STORE, 1, row_first=4, rows=5),
        Spec(ADD, 1, base=base, tight=True, in_place=True),
    ]
    memory = AxiMemory(latency=150)
    program, result = run(library, specs, 8, memory=memory)
    assert program.cases[1].operands["input"] == program.cases[0].operands["output"]
    assert result.done == sorted(result.done)


def test_rows_just_stored_are_normalised(library) -> None:
    base = 0x7_0000_0000
    specs = [
        Spec(STORE, 2, base=base, tight=True, vector=False, sums=BEGIN),
        Spec(NORM, 2, source=base, vector=False, shift=True),
        Spec(STORE, 1, row_first=4, rows=5),
        Spec(NORM, 2, source=base, gate=True),
    ]
    memory = AxiMemory(latency=150)
    program, result = run(library, specs, 8, memory=memory)
    assert program.cases[1].operands["input"] == program.cases[0].operands["output"]
    assert result.done == sorted(result.done)


def test_bad_responses_are_reported_and_counted(library) -> None:
    for side in ("output", "input"):
        program = Program(CONFIG, [Spec(STORE, 1), Spec(ADD, 2), Spec(GELU, 1)], 9)
        bad = program.cases[1].operands[side]
        memory = AxiMemory(latency=10, bad=frozenset({bad}))
        result = run_program(library, program, memory=memory)
        assert result.error and result.error_address == bad
        assert len(result.done) == 3
        program.check(memory)


def test_stop_leaves_nothing_outstanding(library) -> None:
    program = Program(CONFIG, [Spec(ADD, 4), Spec(ADD, 4)], 10)
    for after in (40, 200, 330):
        memory = AxiMemory(latency=30, jitter=10)
        run_program(library, program, memory=memory, stop_after=after)
        assert memory.outstanding == 0


def test_not_pipelined() -> None:
    """The comparison form computes the same, one beat of results at a time; records of E2M1."""
    config = config_of(rows=16, pipelined=False, kv_format="E2M1")
    specs = [Spec(STORE, 1, rows=2), Spec(QKV, 2, heads=2, rows=2), Spec(GELU, 1, rows=3),
             Spec(NORM, 1, rows=1), Spec(SUMS, 1)]  # fmt: skip
    program = Program(config, specs, 11)
    result = run_program(None, program, memory=AxiMemory(latency=5), limit=5000)
    program.check(result.memory)
    assert result.done[0] > 64 + 16 * 20
    assert result.done[2] - result.done[1] > 12 * 20


def test_exports() -> None:
    text = export_verilog(PostUnit(config_of("vck190-fp4")), "lutvar_post")
    for lane in ("gelu_lane", "norm_lane", "multiply_add", "half_lane", "sum_lane"):
        assert text.count(f"module lutvar_post_{lane}(") == 1
    assert text.count("module lutvar_quantizer_lane_e2m3(") == 1
