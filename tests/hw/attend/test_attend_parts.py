# SPDX-License-Identifier: Apache-2.0
"""Parts of the attention unit at the boundaries of their arithmetic, against exact fractions."""

import dataclasses
import random
from fractions import Fraction

import numpy as np
import pytest

from lutvar.contract.formats import get_format
from lutvar.contract.functions import exp2_table
from lutvar.hw.attend import reciprocal, result_lane, weight_row
from lutvar.hw.attend.reciprocal import Reciprocal
from lutvar.hw.attend.result_lane import ResultLane
from lutvar.hw.attend.score_row import ScoreRow
from lutvar.hw.attend.sizes import AttentionSizes
from lutvar.hw.attend.weight_row import WeightRow
from support.hw import attend
from support.hw.pipeline import run_pipeline

FORMATS = ("E2M3", "E2M1")
MOST = 2240  #: keys of the largest model


def sizes(name: str = "E2M3", keys: int = MOST) -> AttentionSizes:
    return AttentionSizes(2, keys, get_format(name))


def half(pattern: int) -> Fraction:
    """Value of an extended FP16 pattern."""
    field = pattern >> 10
    return Fraction(2) ** (max(field, 1) - 25) * ((pattern & 1023) + (1024 if field else 0))


# -- results -------------------------------------------------------------------------------


def check_lane(size: AttentionSizes, cases: list[tuple[int, int, int]]) -> None:
    """Cases: A, R, limit; the value is `A * R * 2**(limit - product_bits - 13)`."""
    mask = (1 << size.magnitude_bits + 1) - 1
    inputs = []
    for index, (a, _, _) in enumerate(cases):
        _, r, limit = cases[index - result_lane.OPERAND_CYCLE]
        inputs.append({"total": a & mask, "reciprocal": r, "limit": limit})
    # The operands of a value come a cycle after it; the last case repeats the first one's.
    inputs.append({"total": 0, "reciprocal": cases[-1][1], "limit": cases[-1][2]})
    results = run_pipeline(ResultLane(size), inputs, ("value",), result_lane.LATENCY)
    exponent = [limit - size.product_bits - 13 for _, _, limit in cases]
    exact = np.ldexp([float(a * r) for a, r, _ in cases], exponent)
    # 50 bits are exact in float64, so this rounds once.
    with np.errstate(over="ignore"):
        expected = np.clip(exact, -65504, 65504).astype(np.float16).view(np.uint16)
    for case, (found,), want in zip(cases, results, expected.tolist(), strict=False):
        assert found == want, f"A {case[0]}, R {case[1]}, limit {case[2]}: {found:04x} {want:04x}"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("keys", [16, MOST, 4095])
def test_result_lane(name: str, keys: int) -> None:
    size = sizes(name, keys)
    rng = random.Random(keys)
    largest = 1 + size.limit_offset, 31 + 12 + size.limit_offset
    assert largest[1] < 64
    most = (1 << size.magnitude_bits) - 1
    cases = [(0, 1 << 16, limit) for limit in largest]
    for limit in range(largest[0], largest[1] + 1):
        for r in (1 << 16, (1 << 17) - 1, 0x10001, 0x18000):
            bits = rng.randrange(1, size.magnitude_bits + 1)
            # One bit, all bits, and halfway cases of eleven bits with and without a rest.
            tie = rng.getrandbits(11) << 1 | 1
            shift = max(0, bits - 12)
            for a in (1 << bits - 1, (1 << bits) - 1, tie << shift, (tie << shift) + 1, most):
                cases.append((min(a, most) * rng.choice((1, -1)), r, limit))
    cases += [
        (
            rng.randint(-most, most) >> rng.randrange(size.magnitude_bits),
            rng.randrange(1 << 15, 1 << 17),
            rng.randint(*largest),
        )
        for _ in range(1500)
    ]
    check_lane(size, cases)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("keys", [16, 4095])
def test_reciprocal(name: str, keys: int) -> None:
    size = sizes(name, keys)
    rng = random.Random(keys)
    most = keys << 15
    totals = [1 << 15, (1 << 15) + 1, most, most - 1]
    totals += [t for b in range(16, most.bit_length()) for t in ((1 << b) - 1, 1 << b)]
    totals += [rng.randint(1 << 15, most) for _ in range(600)]
    rows = run_pipeline(
        Reciprocal(size), [{"total": t} for t in totals], ("reciprocal",), reciprocal.LATENCY
    )
    early = run_pipeline(
        Reciprocal(size), [{"total": t} for t in totals], ("zeros",), reciprocal.LATENCY - 1
    )
    mu, _, z = size.divider
    for total, (found,), (zeros,) in zip(totals, rows, early, strict=True):
        n = total.bit_length()
        assert found == 2 ** (43 + z) // (mu * (total << 28 - n)), total
        assert zeros == size.sum_bits - n


# -- weights -------------------------------------------------------------------------------


def test_weight_row() -> None:
    size = sizes()
    rng = random.Random(3)
    low, high = -(1 << 18), (1 << 18) - 1
    cases = [(high, low, 2047, 0), (high, high, 2047, 0), (0, 0, 0, 30), (low, low, 1024, 1)]
    for distance in [0, 1, 1023, 1024, 1025, 15 * 1024, 16 * 1024 - 1, 16 * 1024, 20000, 1 << 18]:
        for significand, shift in ((2047, 0), (1024, 1), (1, 0), (1500, 14), (2047, 15)):
            cases.append((low + distance + 7, low + 7, significand, shift))
    for _ in range(400):
        maximum = rng.randint(low, high)
        t = max(low, maximum - rng.getrandbits(rng.randrange(1, 20)))
        cases.append((maximum, t, rng.getrandbits(11), rng.randrange(31)))
    cycles = range(len(cases) + weight_row.LATENCY)
    idle = (0, 0, 0, 0)

    def case(index: int) -> tuple[int, int, int, int]:
        return cases[index] if 0 <= index < len(cases) else idle

    inputs, first = [], {0, 4, 5, 200}
    for cycle in cycles:
        at = cycle - weight_row.SUM_CYCLE
        inputs.append({
            "maximum": case(cycle)[0],
            "t": case(cycle)[1],
            "significand": case(cycle - weight_row.SIGNIFICAND_CYCLE)[2],
            "shift": case(cycle - weight_row.SHIFT_CYCLE)[3],
            "add": int(0 <= at < len(cases) and at % 7 != 6),
            "first": int(at in first),
        })  # fmt: skip
    rows = run_pipeline(WeightRow(size), inputs, ("weight", "total"), 0)
    total = 0
    for index, (maximum, t, significand, shift) in enumerate(cases):
        distance = maximum - t
        p = exp2_table()[distance % 1024] >> distance // 1024
        if index % 7 != 6:
            total = (0 if index in first else total) + p
        weight = p * significand >> 11 + shift
        if index + weight_row.LATENCY < len(rows):
            assert rows[index + weight_row.LATENCY][0] == weight, cases[index]
        assert rows[index + weight_row.SUM_CYCLE + 1][1] == total, cases[index]


# -- scores --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dsp"), [*((n, 0) for n in FORMATS), ("E2M3", 2), ("E2M3", 1)])
def test_score_row(name: str, dsp: int) -> None:
    """Ties, saturation and vanishing scores: sums of few codes and scales of every exponent.

    With one row in multipliers the other one is tested, whose operands are then late.
    """
    size = dataclasses.replace(sizes(name), dsp_rows=dsp)
    form = size.form(1)
    fmt = size.fmt
    rng = random.Random(5)
    top = fmt.encode_int(size.top, False)
    keys: list[tuple[list[int], int]] = []
    patterns = [0, 1, 0x3FF, 0x400, 0x3C00, 0x7BFF, 0x7FFF]
    for d in (0, 1, -1, 2, -2, 3, -3):
        few = [fmt.encode_int(abs(d), d < 0), *[0] * 63]
        keys += [(few, e << 10) for e in range(1, 32)]
    full = [[top] * 64, [fmt.encode_int(size.top, True)] * 64]
    keys += [(codes, s) for codes in full for s in patterns]
    keys += [
        ([rng.randrange(fmt.code_count) for _ in range(64)], rng.getrandbits(15))
        for _ in range(200)
    ]
    queries = [
        ([fmt.encode_int(1, False), *[0] * 63], 0x3C00),
        ([top] * 64, 0x1400),
        ([rng.randrange(fmt.code_count) for _ in range(64)], 0x2555),
        ([rng.randrange(fmt.code_count) for _ in range(64)], 0x7FFF),
    ]
    grid = [fmt.decode_int(c) or 0 for c in range(fmt.code_count)]

    row = ScoreRow(size, form)
    assert (row.lag > 0) == (dsp == 1)
    events: list[tuple[int, int]] = []  # query or -1, key or -1
    for q in range(len(queries)):
        events += [(q, -1), *((-1, k) for k in range(len(keys)))]
    scale, late = row.scale_cycle, row.latency

    def event(index: int) -> tuple[int, int]:
        return events[index] if 0 <= index < len(events) else (-1, -1)

    # Operands arrive in parts; between two of a kind come others, which must not matter.
    def operands(unit: object, codes: list[list[int] | None]) -> list[int]:
        words = [
            {"codes": sum(c << fmt.bits * i for i, c in enumerate(row or [top] * 64))}
            for row in codes
        ]
        return [word for (word,) in run_pipeline(unit, words, ("operand",), 1)]

    cycles = range(len(events) + late)
    query_unit, key_unit = form.make_operands()
    picked = [event(cycle - row.lag) for cycle in cycles]
    query_words = operands(query_unit, [queries[q][0] if q >= 0 else None for q, _ in picked])
    key_words = operands(key_unit, [keys[k][0] if k >= 0 else None for _, k in picked])
    inputs = []
    for cycle in cycles:
        q, _ = picked[cycle]
        q_scale, k_scale = event(cycle - scale)
        _, k_late = event(cycle - late)
        pattern = 0
        if q_scale >= 0 or k_scale >= 0:
            pattern = queries[q_scale][1] if q_scale >= 0 else keys[k_scale][1]
        inputs.append({
            "key": key_words[cycle],
            "query": query_words[cycle],
            "query_load": int(q >= 0),
            "significand": (pattern & 1023) + (1024 if pattern >> 10 else 0),
            "exponent": max(1, pattern >> 10),
            "scale_load": int(q_scale >= 0),
            "update": int(k_late >= 0),
            "first": int(k_late == 0),
        })  # fmt: skip
    rows = run_pipeline(row, inputs, ("t", "maximum"), 0)
    seen, peak = set(), 0
    current: tuple[list[int], int] = queries[0]
    for index, (q, k) in enumerate(events):
        if q >= 0:
            current = queries[q]
            continue
        d = sum(grid[a] * grid[b] for a, b in zip(current[0], keys[k][0], strict=True))
        exact = d * half(current[1]) * half(keys[k][1]) * 1024 + Fraction(1, 2)
        t = max(-(1 << 18), min((1 << 18) - 1, exact.__floor__()))
        assert rows[index + late][0] == t, (q, k, d, hex(keys[k][1]))
        if index + late + 1 < len(rows):
            peak = t if k == 0 else max(peak, t)
            assert rows[index + late + 1][1] == peak
        seen.add(t)
    assert {0, 1, -1, (1 << 18) - 1, -(1 << 18)} <= seen


# -- sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("keys", [16, 100, 256, MOST, 4095])
def test_sizes_hold_the_largest_values(name: str, keys: int) -> None:
    size = sizes(name, keys)
    assert size.limit_offset + 1 >= 0
    assert keys * 32752 * size.top < 1 << size.magnitude_bits <= 1 << 35
    assert keys << 15 < 1 << size.sum_bits <= 1 << 28
    assert attend.config(kv_format=name).kv is size.fmt


def test_rows_in_multipliers_are_some_of_the_rows() -> None:
    assert attend.config(attention_rows=2, attention_dsp_rows=2).attention_dsp_rows == 2
    with pytest.raises(ValueError, match="attention_dsp_rows is 3; there are 2 attention_rows"):
        attend.config(attention_rows=2, attention_dsp_rows=3)
