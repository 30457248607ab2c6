# SPDX-License-Identifier: Apache-2.0
"""The Hadamard unit against exact integers and numpy's rounding to FP16."""

import functools
import random

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Value
from amaranth.sim import Simulator

from lutvar.contract.hadamard import draw_sign_vector, sign_vector
from lutvar.hw.units.elastic import beats_per_group
from lutvar.hw.units.fp16 import FROM_SUM_LATENCY, SUM_BITS, FromSum
from lutvar.hw.units.hadamard import Hadamard, check_signs
from support.hw.streams import Sink, Source, pack, run_streams, unpack

SIGNS = sign_vector(42)
SYLVESTER = np.array(
    [[(-1) ** (i & j).bit_count() for j in range(128)] for i in range(128)], dtype=np.int64
)
LANES = (4, 16, 32, 128)


def fixed(pattern: int) -> int:
    """Value of an extended FP16 pattern in units of 2**-24."""
    field, fraction = pattern >> 10 & 31, pattern & 1023
    magnitude = (fraction + 1024) << (field - 1) if field else fraction
    return -magnitude if pattern >> 15 else magnitude


def rounded(total: int) -> int:
    """RNE_fp16(total * 2**-31) as a pattern, exponent 31 ordinary, by integer arithmetic."""
    size = abs(total)
    drop = max(size.bit_length() - 11, 7)
    kept, rest = size >> drop, size & ((1 << drop) - 1)
    half = 1 << (drop - 1)
    kept += rest > half or (rest == half and kept & 1)
    pattern = (drop - 7 << 10) + kept
    return pattern | (0x8000 if total < 0 else 0)


def transform(patterns: list[int], signs: tuple[int, ...] = SIGNS) -> list[int]:
    values = np.array([fixed(p) for p in patterns], dtype=np.int64)
    sums = SYLVESTER @ (values * np.array(signs))
    return [rounded(int(total)) for total in sums]


def beats(group: list[int], lanes: int, rotate: int, dual: int, last: int) -> list[int]:
    items = []
    for first in range(0, 128, lanes):
        final = last and first + lanes == 128
        fields = [(p, 16) for p in group[first : first + lanes]]
        items.append(pack([*fields, (rotate, 1), (dual, 1), (final, 1)]))
    return items


Job = tuple[list[int], int, int, int]


def run_groups(
    jobs: list[Job], lanes: int, *, idle: float = 0.0, stall: float = 0.0
) -> tuple[list[Job], Sink, int]:
    dut = Hadamard(lanes, SIGNS)
    items = [beat for job in jobs for beat in beats(job[0], lanes, *job[1:])]
    sink = Sink(dut.o, len(items), stall)
    run_streams(dut, [Source(dut.i, items, idle)], [sink], seed=lanes)
    results: list[Job] = []
    for start in range(0, len(items), 128 // lanes):
        rows = [unpack(v, [16] * lanes + [1] * 3) for v in sink.items[start : start + 128 // lanes]]
        assert len({tuple(row[lanes : lanes + 2]) for row in rows}) == 1
        assert not any(row[-1] for row in rows[:-1])
        rotate, dual, last = rows[-1][lanes:]
        results.append(([p for row in rows for p in row[:lanes]], rotate, dual, last))
    return results, sink, dut.latency


def expected(job: Job) -> Job:
    return (transform(job[0]) if job[1] else job[0], *job[1:])


def random_group(rng: random.Random, kind: int) -> list[int]:
    if kind == 0:  # any pattern
        return [rng.getrandbits(16) for _ in range(128)]
    if kind == 1:  # subnormal and near it
        return [rng.getrandbits(1) << 15 | rng.randrange(0x0C00) for _ in range(128)]
    if kind == 2:  # like activations
        values = np.array([rng.gauss(0, 1) for _ in range(128)])
        return values.astype(np.float16).view(np.uint16).tolist()
    exponent = rng.randrange(31)  # one binade: long carries, few cancellations
    return [rng.getrandbits(1) << 15 | exponent << 10 | rng.getrandbits(10) for _ in range(128)]


@functools.cache
def directed_groups() -> list[list[int]]:
    """Largest sums, cancellation, zero of both signs, subnormal results and ties."""
    largest = [0x7FFF if s > 0 else 0xFFFF for s in SIGNS]
    finite = [0x7BFF if s > 0 else 0xFBFF for s in SIGNS]
    groups = [
        [0x7FFF] * 128,
        largest,
        [p ^ 0x8000 for p in largest],
        finite,
        [0x8000] * 128,
        [0x0000, 0x8000] * 64,
        [0x0001 if s > 0 else 0x8001 for s in SIGNS],
        [0x0001] + [0x8000] * 127,
        [0x03FF if s > 0 else 0x83FF for s in SIGNS],
    ]
    # Two equal values of opposite effect cancel in every other output.
    groups.append([0] * 128)
    groups[-1][5], groups[-1][6] = 0x3C01, 0x3C01 ^ (0x8000 if SIGNS[5] == SIGNS[6] else 0)
    # 2**-24 * (128 k + 64) / 128: a tie in the last place of a subnormal, k even and odd; and
    # its two neighbours, one unit of the sum away.
    for k in (0, 1, 2, 3, 1022, 1023):
        for extra in (-1, 0, 1):
            group = [0] * 128
            total = 128 * k + 64 + extra
            for lane in range(128):
                part = min(total, 1023)
                total -= part
                group[lane] = part | (0x8000 if SIGNS[lane] < 0 else 0)
            groups.append(group)
    # One full-width value plus half a unit of the result's last place, plus or minus a little.
    for odd in (0, 1):
        for little in (0, 0x0001, 0x8001):
            group = [0] * 128
            for lane, pattern in ((0, 0x6400 | odd), (1, 0x3800), (2, little)):
                group[lane] = pattern ^ (0x8000 if SIGNS[lane] < 0 else 0)
            groups.append(group)
    return groups


def test_oracle_agrees_with_numpy() -> None:
    rng = random.Random(1)
    for kind in range(3):
        group = [p & 0xBFFF for p in random_group(rng, kind)]
        sums = SYLVESTER @ np.array([fixed(p) * s for p, s in zip(group, SIGNS, strict=True)])
        with np.errstate(under="ignore"):
            values = (sums.astype(np.float64) * 2.0**-31).astype(np.float16)
        assert transform(group) == values.view(np.uint16).tolist()


def test_oracle_counts_patterns() -> None:
    assert [rounded(fixed(p) << 7) for p in range(0x8000)] == list(range(0x8000))


@pytest.mark.parametrize("lanes", LANES)
def test_directed_and_random_at_full_rate(lanes: int) -> None:
    rng = random.Random(3)
    groups = [*directed_groups(), *(random_group(rng, n % 4) for n in range(12))]
    jobs = [(group, 1, 0, 0) for group in groups]
    results, sink, latency = run_groups(jobs, lanes)
    for number, (job, result) in enumerate(zip(jobs, results, strict=True)):
        assert result == expected(job), f"group {number}"
    assert sink.cycles[0] == 128 // lanes + latency + 3
    assert sink.cycles == list(range(sink.cycles[0], sink.cycles[0] + len(sink.cycles)))


def test_impulse_at_each_position() -> None:
    jobs: list[Job] = []
    for position in range(128):
        group = [0] * 128
        group[position] = 0x3C00 + position
        jobs.append((group, 1, position & 1, 0))
    results, *_ = run_groups(jobs, 16)
    for position, (job, result) in enumerate(zip(jobs, results, strict=True)):
        assert result == expected(job), f"impulse at {position}"


@pytest.mark.parametrize(
    ("lanes", "idle", "stall"), [(16, 0.6, 0.0), (16, 0.0, 0.6), (16, 0.3, 0.3), (32, 0.3, 0.3)]
)
def test_random_idle_and_back_pressure(lanes: int, idle: float, stall: float) -> None:
    """Rotated and other groups mixed; the order stays."""
    rng = random.Random(2)
    jobs = [
        (random_group(rng, n % 4), int(n % 3 != 2), rng.getrandbits(1), int(n % 5 == 4))
        for n in range(16)
    ]
    results, *_ = run_groups(jobs, lanes, idle=idle, stall=stall)
    assert results == [expected(job) for job in jobs]


def test_one_group_needs_no_other() -> None:
    """The single group comes out although no further beat arrives (run_streams would time out)."""
    job: Job = (random_group(random.Random(4), 2), 1, 1, 1)
    results, *_ = run_groups([job], 16)
    assert results == [expected(job)]


def test_rounding_at_every_exponent() -> None:
    """Ties and their neighbours for each position of the leading one, both signs."""
    totals = [0]
    for top in range(48):
        for kept in (1 << top, (1 << top) | (1 << top >> 10), (2 << top) - 1):
            drop = max(top - 10, 7)
            base = kept >> drop << drop
            for offset in (0, 1, (1 << drop) - 1):
                totals.append(base + offset)
            for offset in (-1, 0, 1):
                totals.append(base + (1 << (drop - 1)) + offset)
    # Beyond this the result would not fit; no sum of 128 patterns reaches it.
    totals = [t for t in totals if t <= 2047 << 37]
    totals += [-t for t in totals]
    dut = FromSum()
    results = []

    async def testbench(ctx) -> None:
        for total in [*totals, *[0] * FROM_SUM_LATENCY]:
            ctx.set(dut.x, total)
            await ctx.tick()
            results.append(ctx.get(Value.cast(dut.y)))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert min(totals) >= -(1 << SUM_BITS - 1)
    # Inputs are set before the edge, so the first result is seen after LATENCY edges.
    seen = results[FROM_SUM_LATENCY - 1 :][: len(totals)]
    for total, pattern in zip(totals, seen, strict=True):
        assert pattern == rounded(total), f"{total:#x}"


def test_sign_vector() -> None:
    assert draw_sign_vector(42) == SIGNS
    assert sign_vector(7) == draw_sign_vector(7) != SIGNS


def test_sign_vector_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    sign_vector.cache_clear()
    assert sign_vector(42) == SIGNS
    with pytest.raises(RuntimeError, match=r"seed 43 must be drawn with torch.*use seed 42"):
        sign_vector(43)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="lanes is 24"):
        beats_per_group(24)
    with pytest.raises(ValueError, match="lanes is 256"):
        beats_per_group(256)
    with pytest.raises(ValueError, match="128 times"):
        check_signs(SIGNS[:64])
    with pytest.raises(ValueError, match="128 times"):
        check_signs((0,) * 128)


def test_exports() -> None:
    text = verilog.convert(Hadamard(16, SIGNS), name="hadamard", emit_src=False)
    assert "module hadamard" in text
