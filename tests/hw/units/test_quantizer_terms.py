# SPDX-License-Identifier: Apache-2.0
"""The quantizer with groups in two terms: codes, scales, order of both, rate, any pauses."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lutvar.contract.formats import get_format
from lutvar.contract.formats.ties import TieRule
from lutvar.hw.units.quantizer import Quantizer
from support.hw.streams import Sink, Source, pack, run_streams, unpack
from support.quant import golden_reference as ref
from support.quant.golden_cases import random_groups, special_groups

PAIRS = {"fp4": ("E2M1", "DUAL4"), "fp6": ("E2M3", "DUAL6"), "int4": ("INT4", None)}
LANES = 16
BEATS = 128 // LANES
Group = tuple[list[int], int, int]  # patterns, dual, terms


def run(
    groups: list[Group], pair: str, ties: TieRule = TieRule.EVEN, idle: float = 0, stall: float = 0
) -> Sink:
    """Check both terms of all groups; return the sink for its cycles."""
    plain, dual = (name and get_format(name) for name in PAIRS[pair])
    assert plain
    dut = Quantizer(LANES, plain, dual or None, ties, terms=True)
    items = []
    for number, (patterns, is_dual, terms) in enumerate(groups):
        for beat in range(BEATS):
            part = patterns[beat * LANES : (beat + 1) * LANES]
            marks = [(beat & 1, 1), (is_dual, 1), (number & 1, 1), (terms, 1)]
            items.append(pack([(p, 16) for p in part] + marks))
    sink = Sink(dut.o, len(items) + BEATS * sum(terms for *_, terms in groups), stall)
    run_streams(dut, [Source(dut.i, items, idle)], [sink], seed=len(groups))
    rows = [unpack(word, [1] + [plain.bits] * LANES + [16, 16, 1, 1]) for word in sink.items]
    came = {term: [row[1:] for row in rows if row[0] == term] for term in (0, 1)}
    for number, (patterns, is_dual, terms) in enumerate(groups):
        if is_dual and dual:
            wanted = [ref.quantize_group(patterns, dual, ties)]
        elif terms:
            wanted = [(*term, 0) for term in ref.quantize_two_terms(patterns, plain, ties)]
        else:
            wanted = [ref.quantize_group(patterns, plain, ties)]
        for term, (codes, scale, scale_neg) in enumerate(wanted):
            mine, came[term] = came[term][:BEATS], came[term][BEATS:]
            where = f"group {number}, term {term}"
            assert [c for row in mine for c in row[:LANES]] == codes, where
            assert {tuple(row[LANES : LANES + 2]) for row in mine} == {(scale, scale_neg)}, where
    assert not any(came.values())
    return sink


def some_groups(
    count: int, seed: int, pair: str, kinds: tuple[int, ...] = (0, 1, 2)
) -> list[Group]:
    """Random rows of all kinds, each in one term (0), dual (1) or two terms (2)."""
    rng = random.Random(seed)
    top = get_format(PAIRS[pair][0]).scale_top()
    rows = np.concatenate([random_groups(seed, count), special_groups(top)])
    chosen = [row.tolist() for row in rows]
    rng.shuffle(chosen)
    picks = [rng.choice(kinds) for _ in range(count)]
    return [(row, int(k == 1), int(k == 2)) for row, k in zip(chosen, picks, strict=False)]


@pytest.mark.parametrize("ties", TieRule)
@pytest.mark.parametrize("pair", PAIRS)
def test_codes_and_scales(pair: str, ties: TieRule) -> None:
    top = get_format(PAIRS[pair][0]).scale_top()
    rows = [*special_groups(top), *random_groups(3, 12)]
    run([(row.tolist(), 0, 1) for row in rows], pair, ties)


@pytest.mark.parametrize(
    ("idle", "stall"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.7), (0.3, 0.3), (0.05, 0.05)]
)
def test_kinds_in_any_order_with_pauses(idle: float, stall: float) -> None:
    run(some_groups(30, 10 + int(100 * idle), "fp4"), "fp4", idle=idle, stall=stall)


def test_a_group_in_two_terms_takes_twice_as_long() -> None:
    groups = some_groups(40, 5, "fp4", (2,))
    sink = run(groups, "fp4")
    taken = sink.cycles[-1] - sink.cycles[0] + 1
    # From the first to the last result; the last group's second term comes alone.
    assert taken <= 2 * BEATS * len(groups) + 40


def test_groups_in_one_term_lose_nothing() -> None:
    sink = run(some_groups(40, 6, "fp4", (0, 1)), "fp4")
    assert sink.cycles[0] == BEATS + 4 + Quantizer.LATENCY + 4
    assert sink.cycles == list(range(sink.cycles[0], sink.cycles[0] + len(sink.cycles)))
