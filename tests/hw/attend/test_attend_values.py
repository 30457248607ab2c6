# SPDX-License-Identifier: Apache-2.0
"""The row of weighted sums: two columns in a multiplier, at the boundaries of the arithmetic."""

import random
from typing import Any

import pytest
from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.sim import Simulator

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.formats import get_format
from lutvar.hw.attend import value_row
from lutvar.hw.attend.sizes import AttentionSizes
from lutvar.hw.attend.value_row import ValueRow
from support.hw.pipeline import run_pipeline


@pytest.mark.parametrize("name", ["E2M3", "E2M1"])
def test_value_row(name: str) -> None:
    """All sums at their largest magnitude, pauses, and each block while the one before is read."""
    size = AttentionSizes(2, 400, get_format(name))
    rng = random.Random(4)
    bits, top = size.code_bits, size.top
    blocks = []
    for kind in range(9):
        keys = []
        for _ in range(16 if kind else 400):
            # Columns of the largest codes: equal signs, different ones, changing from key to key.
            signs = [(1, 1), (-1, -1), (1, -1), (-1, 1), rng.choices((1, -1), k=2)][kind % 5]
            codes = [top * signs[d % 2] for d in range(HEAD_DIM)]
            if kind >= 5:
                codes = [rng.randint(-top, top) for _ in range(HEAD_DIM)]
            keys.append((32752 if kind < 5 else rng.randrange(32753), codes))
        blocks.append(keys)
    events = []  # (weight, codes, add, last)
    for keys in blocks:
        for index, (weight, codes) in enumerate(keys):
            last = index == len(keys) - 1
            events.append((weight, codes, 1, int(last)))
            if index in (0, 7) or last:
                events.append((999, codes, 0, 0))
    idle = (0, [0] * HEAD_DIM, 0, 0)
    events += [idle] * 10

    def pairs(cycle: int) -> list[tuple[int, int]]:
        codes = events[cycle][1] if cycle >= 0 else idle[1]
        return list(zip(codes[::2], codes[1::2], strict=True))

    def packed(fields: list[int], width: int) -> int:
        return sum((f & (1 << width) - 1) << width * i for i, f in enumerate(fields))

    late = value_row.SUM_CYCLE + value_row.KEPT_LATENCY
    inputs, shown = [], []
    for cycle, (weight, _, _, _) in enumerate(events):
        after = cycle - value_row.SUM_CYCLE
        since = next((k for k in range(4) if cycle >= late + k and events[cycle - late - k][3]), 0)
        selected = any(cycle >= late + k and events[cycle - late - k][3] for k in range(4))
        inputs.append({
            "weight": weight,
            "grid": packed([f for c, d in pairs(cycle) for f in (c, d - (c < 0))], bits),
            "add": events[cycle - value_row.ADD_CYCLE][2],
            "units": packed([d for _, d in pairs(cycle - value_row.UNITS_CYCLE)], 2),
            "signs": packed([c < 0 for c, _ in pairs(cycle - value_row.SIGN_CYCLE)], 1),
            "capture": events[after][3] if after >= 0 else 0,
            "select": int(selected), "quarter": since if selected else 3,
        })  # fmt: skip
        shown.append(selected)
    rows = run_pipeline(ValueRow(size), inputs, ("word",), 1)
    words = [word for (word,), selected in zip(rows, shown, strict=True) if selected]
    assert not any(word for (word,), selected in zip(rows, shown, strict=True) if not selected)
    assert len(words) == 4 * len(blocks)
    width = size.magnitude_bits + 1
    for number, keys in enumerate(blocks):
        expected = [sum(w * codes[d] for w, codes in keys) for d in range(HEAD_DIM)]
        constants = [Const(w, value_row.word_bits(size)) for w in words[4 * number :][:4]]
        sums = value(Cat(*(value_row.split_word(word, size) for word in constants)))
        assert sums == packed(expected, width), number


def value(expression: Value) -> int:
    """Value of an expression of constants."""
    m = Module()
    result = Signal(len(expression))
    m.d.comb += result.eq(expression)
    found = []

    async def testbench(ctx: Any) -> None:
        await ctx.delay(1e-9)
        found.append(ctx.get(result))

    simulator = Simulator(m)
    simulator.add_testbench(testbench)
    simulator.run()
    return found[0]


def test_a_pair_of_columns_counts_its_overflows() -> None:
    """Sums beside a boundary of 2**20 and every product, against big integers."""
    rng = random.Random(6)
    step = 1 << value_row.STEP
    for _ in range(200):
        a, b, h = 0, 0, 0
        for _ in range(60):
            w = rng.choice((32752, 32751, rng.randrange(32753)))
            c, d = rng.choice((60, -60, rng.randint(-60, 60))), rng.randint(-60, 60)
            expected = (a + (b << 20) >> 20) + w * d
            a, b = a + w * c, b + w * d
            moved = (a + (b << 20) >> 20) - expected & 3
            h += moved - 4 if moved & 2 and c < 0 else moved
            assert h == a // step
