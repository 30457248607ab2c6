# SPDX-License-Identifier: Apache-2.0
"""The dot product against plain integers: extremes, one-signed groups, passes, random groups."""

import gc
import random
from collections.abc import Callable
from typing import Any

import pytest

from lutvar.hw.units import dot
from lutvar.hw.units.dot import TableDot, make_dot
from support.hw.pipeline import run_pipeline
from support.hw.product_cases import CASES, Case, CodedDot, activation_value, pack, weight_value

Group = tuple[list[int], list[int], int, int]  # activation codes, weight codes, dual, neg


def check(case: Case, lanes: int, groups: list[Group]) -> None:
    design = case.design
    unit = CodedDot(design, lanes)
    inputs = [
        {
            "activations": pack(a, design.plain.bits),
            "weights": pack(w, design.weight.bits),
            "dual": dual,
            "neg": neg,
        }
        for a, w, dual, neg in groups
    ]
    results = run_pipeline(unit, inputs, ("sum",), unit.latency)
    for index, ((a, w, dual, neg), (got,)) in enumerate(zip(groups, results, strict=True)):
        want = sum(
            activation_value(case, x, dual, neg) * weight_value(case, y)
            for x, y in zip(a, w, strict=True)
        )
        assert got == want, f"group {index}, dual {dual}, neg {neg}: {got}, not {want}"


def extremes(case: Case, lanes: int) -> list[Group]:
    """Largest sums of both signs, alternating signs, zeros of both signs, one lane alone."""
    groups: list[Group] = []
    for dual, neg in case.passes:
        acts = range(case.design.plain.code_count)
        by_value: Callable[[int], int] = lambda c: activation_value(case, c, dual, neg)  # noqa: B023, E731
        high_a, low_a = max(acts, key=by_value), min(acts, key=by_value)
        codes_w = range(case.design.weight.code_count)
        high_w = max(codes_w, key=lambda c: weight_value(case, c))
        low_w = min(codes_w, key=lambda c: weight_value(case, c))
        minus_zero = case.design.plain.sign_bit
        for a, w in [
            ([high_a], [high_w]), ([high_a], [low_w]), ([low_a], [high_w]), ([low_a], [low_w]),
            ([high_a, low_a], [high_w]), ([low_a, high_a], [low_w]), ([0], [high_w]),
            ([high_a, low_a], [high_w, low_w]), ([minus_zero], [low_w]),
            ([0, minus_zero], [0, case.design.weight.sign_bit]),
        ]:  # fmt: skip
            groups.append(((a * lanes)[:lanes], (w * lanes)[:lanes], dual, neg))
        for lane in {0, 1, lanes // 2, lanes - 1}:
            alone = [0] * lanes
            alone[lane] = low_a if neg else high_a
            groups.append((alone, [low_w] * lanes, dual, neg))
    return groups


def random_groups(case: Case, lanes: int, count: int, seed: int) -> list[Group]:
    """Uniform codes, then groups of mostly one sign, in which the sign counter runs full."""
    rng = random.Random(seed)
    acts, weights = case.design.plain.code_count, case.design.weight.code_count
    groups: list[Group] = []
    for index in range(count):
        dual, neg = rng.choice(case.passes)
        a = [rng.randrange(acts) for _ in range(lanes)]
        w = [rng.randrange(weights) for _ in range(lanes)]
        if index % 3 == 1:
            a = [code | acts // 2 for code in a]
        elif index % 3 == 2:
            flip = rng.randrange(lanes)
            w = [code & weights // 2 - 1 for code in w]
            w[flip] |= weights // 2
        groups.append((a, w, dual, neg))
    return groups


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_full_size(case: Case) -> None:
    check(case, 128, extremes(case, 128) + random_groups(case, 128, 60, seed=1))


@pytest.mark.parametrize("lanes", [2, 3, 5, 6, 8, 13, 64, 65, 100])
@pytest.mark.parametrize("case", [CASES[2], CASES[5]], ids=str)
def test_other_sizes(case: Case, lanes: int) -> None:
    check(case, lanes, extremes(case, lanes) + random_groups(case, lanes, 40, seed=lanes))


def test_every_count_of_negative_lanes() -> None:
    """The sign counter for each possible number of negative lanes."""
    case = CASES[0]
    one = case.formats[0].encode_int(1, negative=False)
    minus = case.formats[0].encode_int(1, negative=True)
    rng = random.Random(5)
    groups: list[Group] = []
    for negative in range(129):
        w = [minus] * negative + [one] * (128 - negative)
        rng.shuffle(w)
        groups.append(([one] * 128, w, 0, 0))
    check(case, 128, groups)


def test_sum_width_is_the_contract() -> None:
    """16 bits for FP4, 20 bits for FP6 (contract, section 5), and no bit to spare."""
    widths = {str(case): case.design.sum_bits(128) for case in CASES}
    assert widths["E2M1-E2M1-DUAL4"] == 16
    assert widths["E2M3-E2M3-DUAL6"] == 20
    for case in CASES:
        top = 128 * case.design.top
        assert 1 << widths[str(case)] - 2 <= top < 1 << widths[str(case)] - 1


def test_a_wrong_correction_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressor that loses a carry must not pass."""
    honest = dot._compress

    def lossy(columns: list[list[Any]]) -> list[list[Any]]:
        result = honest(columns)
        return [column[:1] for column in result]

    monkeypatch.setattr(dot, "_compress", lossy)
    with pytest.raises(AssertionError, match="group"):
        check(CASES[0], 128, random_groups(CASES[0], 128, 20, seed=2))


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_dot_refuses() -> None:
    with pytest.raises(ValueError, match="unknown dot product form 'systolic'; known: table"):
        make_dot(CASES[0].design, 128, "systolic")
    with pytest.raises(ValueError, match="1 lanes"):
        TableDot(CASES[0].design, 1)
    gc.collect()  # what was refused must not be reported as unused later
