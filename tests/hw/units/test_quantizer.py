# SPDX-License-Identifier: Apache-2.0
"""The quantizer as a stream unit: groups, scales, order, rate, back-pressure, non-finite input.

The arithmetic of each value is covered by `test_quantizer_lanes`; here the oracle is plain
integers, value by value.
"""

import random
from fractions import Fraction

import pytest
from amaranth.back import verilog

from lutvar.contract.formats import NumberFormat, get_format
from lutvar.contract.formats.ties import TieRule
from lutvar.hw.units.quantizer import Quantizer
from support.hw.streams import Sink, Source, pack, run_streams, unpack

PRESETS = {"fp4": ("E2M1", "DUAL4"), "fp6": ("E2M3", "DUAL6")}
Group = tuple[list[int], int, int]  # patterns, dual, last
Result = tuple[list[int], int, int, int, int]  # codes, scale, negative scale, dual, last


def value(pattern: int) -> int:
    """Magnitude of an extended FP16 pattern in units of 2**-24."""
    field, fraction = pattern >> 10 & 31, pattern & 1023
    return (fraction + 1024) << (field - 1) if field else fraction


def nearest(fmt: NumberFormat, ties: str, negative: bool, x: int, m: int) -> int:
    """Code of the level nearest to `x * M / m`."""
    levels = fmt.half(negative).levels
    distances = [abs(x * fmt.scale_top(negative) - level * m) for level in levels]
    best = min(distances)
    ranks = [rank for rank, distance in enumerate(distances) if distance == best]
    if ties == "even":
        ranks = [rank for rank in ranks if len(ranks) == 1 or rank % 2 == 0]
    signed = sorted(ranks, key=lambda rank: -levels[rank] if negative else levels[rank])
    return fmt.encode_int(levels[signed[-1 if ties == "up" else 0]], negative)


def expected(plain: NumberFormat, dual: NumberFormat | None, ties: str, group: Group) -> Result:
    patterns, is_dual, last = group
    use_dual = is_dual and dual is not None
    fmt = dual if is_dual and dual is not None else plain
    maxima = {
        negative: max((p & 0x7FFF for p in patterns if p >> 15 == negative), default=0)
        for negative in (0, 1)
    }
    if not use_dual:
        maxima = dict.fromkeys((0, 1), max(maxima.values()))
    maxima = {negative: m if m >= 0x0400 else 0 for negative, m in maxima.items()}
    codes = []
    for p in patterns:
        m = value(maxima[p >> 15])
        codes.append(nearest(fmt, ties, bool(p >> 15), value(p), m) if m else 0)
    scale_neg = 0
    if use_dual and maxima[1]:
        exact = Fraction(value(maxima[1]) * fmt.scale_top(False), fmt.scale_top(True))
        step = max(0, int(exact).bit_length() - 11)
        scale_neg = (step << 10) + round(exact / (1 << step))
    return codes, maxima[0], scale_neg, int(bool(use_dual)), last


def run_groups(
    groups: list[Group],
    lanes: int,
    names: tuple[str, str | None],
    ties: TieRule = TieRule.EVEN,
    *,
    idle: float = 0.0,
    stall: float = 0.0,
    observers=(),
) -> Sink:
    """Check all results; return the sink for its cycles."""
    plain = get_format(names[0])
    dual = get_format(names[1]) if names[1] else None
    dut = Quantizer(lanes, plain, dual, ties)
    beats = 128 // lanes
    items = []
    for patterns, is_dual, last in groups:
        for beat in range(beats):
            part = patterns[beat * lanes : (beat + 1) * lanes]
            final = last and beat == beats - 1
            # The rotate bit carries no meaning here; it must not matter.
            fields = [(p, 16) for p in part] + [(beat & 1, 1), (is_dual, 1), (final, 1)]
            items.append(pack(fields))
    sink = Sink(dut.o, len(items), stall)
    watch = [observer(dut) for observer in observers]
    run_streams(dut, [Source(dut.i, items, idle)], [sink], seed=lanes, observers=watch)
    for number, group in enumerate(groups):
        words = sink.items[number * beats : (number + 1) * beats]
        rows = [unpack(word, [plain.bits] * lanes + [16, 16, 1, 1]) for word in words]
        assert len({tuple(row[lanes : lanes + 3]) for row in rows}) == 1, f"group {number}"
        assert not any(row[-1] for row in rows[:-1]), f"group {number}"
        codes = [code for row in rows for code in row[:lanes]]
        seen = (codes, *rows[-1][lanes:])
        assert seen == expected(plain, dual, ties, group), f"group {number}"
    return sink


def directed(dual: int) -> list[Group]:
    """Zero groups, one-signed groups, subnormal values and maxima, -0, ties and neighbours."""
    rng = random.Random(6)

    def fill(*patterns: int, rest: int = 0) -> list[int]:
        placed = [rest] * 128
        for position, pattern in zip(rng.sample(range(128), len(patterns)), patterns, strict=True):
            placed[position] = pattern
        return placed

    subnormal = [rng.getrandbits(1) << 15 | rng.randrange(0x400) for _ in range(127)]
    groups = [
        [0] * 128,
        [0x8000] * 128,
        [0, 0x8000] * 64,
        fill(*subnormal, 0x03FF),  # largest maximum of a zero group
        fill(*subnormal, 0x83FF),
        fill(*subnormal, 0x0400),  # smallest maximum that counts
        fill(*subnormal, 0x8400),
        [rng.randrange(0x7C00) for _ in range(128)],
        [0x8000 | rng.randrange(0x7C00) for _ in range(128)],
        fill(0x3C00, rest=0x8000),
        fill(0xBC00, rest=0x0000),
        [0x7BFF] * 128,
        [0xFBFF] * 128,
    ]
    # 24, 14, 120 or 64 equal steps up to the maximum, so that all decision points are hit, each
    # with both neighbours, on both sides.
    for maximum, steps in ((0x3E00, 24), (0x3F00, 14), (0x4F80, 120), (0x3C00, 64), (0x3FC0, 62)):
        size = value(maximum)
        for sign in (0, 0x8000):
            points = []
            for step in range(1, steps):
                if size * step % steps == 0:
                    exact = size * step // steps
                    shift = max(0, exact.bit_length() - 11)
                    if exact % (1 << shift) == 0:
                        pattern = (shift << 10) + (exact >> shift)
                        points += [sign | pattern - 1, sign | pattern, sign | pattern + 1]
            for start in range(0, len(points), 126):
                part = points[start : start + 126]
                groups.append(fill(*part, maximum, 0x8000 | maximum))
    return [(group, dual, number % 3 == 0) for number, group in enumerate(groups)]


def random_groups(count: int, seed: int) -> list[Group]:
    rng = random.Random(seed)
    groups: list[Group] = []
    for number in range(count):
        low = rng.randrange(0x7000)
        high = rng.randrange(low + 1, 0x7C00)
        patterns = [rng.getrandbits(1) << 15 | rng.randrange(low, high) for _ in range(128)]
        groups.append((patterns, rng.getrandbits(1), number % 4 == 3))
    return groups


@pytest.mark.parametrize("ties", TieRule)
@pytest.mark.parametrize("preset", PRESETS)
def test_directed(preset: str, ties: TieRule) -> None:
    lanes = 32 if ties is TieRule.UP else 16
    groups = [group for pair in zip(directed(0), directed(1), strict=True) for group in pair]
    run_groups(groups, lanes, PRESETS[preset], ties)


@pytest.mark.parametrize(
    ("lanes", "idle", "stall"), [(16, 0.6, 0.0), (16, 0.0, 0.6), (32, 0.3, 0.3)]
)
def test_random_idle_and_back_pressure(lanes: int, idle: float, stall: float) -> None:
    run_groups(random_groups(24, lanes), lanes, PRESETS["fp4"], idle=idle, stall=stall)


@pytest.mark.parametrize("lanes", [4, 16, 32, 128])
def test_latency_and_throughput(lanes: int) -> None:
    """One beat in each cycle, sustained; a last group needs no further input."""
    sink = run_groups(random_groups(40, lanes), lanes, PRESETS["fp4"])
    levels = lanes.bit_length() - 1
    assert sink.cycles[0] == 128 // lanes + levels + Quantizer.LATENCY
    assert sink.cycles == list(range(sink.cycles[0], sink.cycles[0] + len(sink.cycles)))


@pytest.mark.parametrize("name", ["E1M2", "E3M0", "E3M2", "INT4", "INT6", "INT8"])
def test_other_formats(name: str) -> None:
    """Without a dual format, groups marked dual are treated as plain ones."""
    run_groups(directed(1)[3:] + random_groups(4, 7), 16, (name, None))


def test_nonfinite_pulse() -> None:
    rng = random.Random(8)
    groups = random_groups(6, 8)
    groups[2][0][77] = 0x7C00
    groups[4][0][3] = 0xFFFF
    groups[4][0][120] = 0x7D00
    pulses = []

    def observer(dut: Quantizer):
        async def process(ctx) -> None:
            async for _, _, pulse in ctx.tick().sample(dut.nonfinite):
                pulses.append(pulse)

        return process

    rng.shuffle(groups[0][0])
    run_groups(groups[:2], 16, PRESETS["fp4"], observers=[observer])
    assert pulses and not any(pulses)
    pulses.clear()
    plain = [(patterns, 0, last) for patterns, _, last in groups]
    run_groups(plain, 16, PRESETS["fp4"], observers=[observer], idle=0.5)
    assert sum(pulses) == 3  # three beats


def test_exports() -> None:
    names = PRESETS["fp6"]
    dut = Quantizer(16, get_format(names[0]), get_format(names[1]))
    assert "module quantizer" in verilog.convert(dut, name="quantizer", emit_src=False)
