# SPDX-License-Identifier: Apache-2.0
"""Every FP16 value against many maxima, for each format and tie rule, in compiled lanes.

The oracle compares integers: a level is chosen by `2 * M * |x|` against `(l + l') * m` for each
pair of neighbouring levels. It shares nothing with the gateware but the format objects.
"""

import itertools
import random
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from amaranth.hdl import C, Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.formats import NumberFormat, get_format
from lutvar.contract.formats.ties import TieRule
from lutvar.hw.units.group_scales import GroupScales
from lutvar.hw.units.pipeline import delay_stages
from lutvar.hw.units.quantizer_lane import QuantizerFormats, QuantizerLane
from lutvar.hw.verilog import export_verilog
from support import hw
from support.hw.executable import compile_program

LANE = Path(hw.__file__).with_name("lane.cpp")

#: Formats of each lane: plain, dual or none, tie rule.
CASES: list[tuple[str, str | None, TieRule]] = [
    *(("E2M1", "DUAL4", ties) for ties in TieRule),
    *(("E2M3", "DUAL6", ties) for ties in TieRule),
    ("INT6", "DUAL6", TieRule.UP),
    ("E3M2", None, TieRule.EVEN),  # the widest product and tables
]
#: Smallest and largest normal numbers and neighbours, prime significands, exponent 31, maxima that
#: make a zero group; then significands 3, 7, 15, 31 and 127 times a power of two, for which the
#: decision points of the formats fall on FP16 values: exact ties, in every binade.
MAXIMA = (
    0x0400, 0x0401, 0x07FF, 0x0800, 0x3C00, 0x3FFF, 0x1007, 0x37F7, 0x7BFE, 0x7BFF, 0x7FFF,
    0x03FF, 0x0000, 0x2E00, 0x2F00, 0x2F80, 0x2FC0, 0x2FF0,
)  # fmt: skip
Record = np.dtype([("x", "<u2"), ("negative", "<u2"), ("positive", "<u2"), ("dual", "<u2")])
WORDS = 2  #: uint32 for each case: code, two scales


class LaneRow(wiring.Component):
    """One lane for each case and one scale unit for each pair of formats, all fed with the same.

    `result` holds, for each case, 32 bits of code and 32 bits of scales.
    """

    LATENCY = GroupScales.LATENCY + QuantizerLane.LATENCY

    x: Signal
    negative: Signal
    positive: Signal
    dual: Signal
    result: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "x": In(16),
                "negative": In(15),
                "positive": In(15),
                "dual": In(1),
                "result": Out(64 * len(CASES)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        x = delay_stages(m, self.x, GroupScales.LATENCY, "x")
        results: list[Value] = []
        units: dict[tuple[str, str | None], GroupScales] = {}
        for number, (plain, dual, ties) in enumerate(CASES):
            formats = QuantizerFormats(get_format(plain), get_format(dual) if dual else None, ties)
            if (plain, dual) not in units:
                m.submodules[f"scales_{number}"] = scales = GroupScales(formats)
                m.d.comb += [
                    scales.negative.eq(self.negative),
                    scales.positive.eq(self.positive),
                    scales.dual.eq(self.dual),
                    scales.valid.eq(1),
                ]
                units[plain, dual] = scales
            params = units[plain, dual].params
            m.submodules[f"lane_{number}"] = lane = QuantizerLane(formats)
            m.d.comb += [
                lane.x.eq(x),
                lane.dual.eq(delay_stages(m, params.dual, lane.LATENCY - 1, f"dual_{number}")),
                lane.reciprocal.eq(params.reciprocal),
                lane.exponent.eq(params.exponent),
            ]
            pair = Cat(params.scale, params.scale_neg)
            results += [Cat(lane.code, C(0, 32 - len(lane.code)))]
            results += [delay_stages(m, pair, lane.LATENCY, f"pair_{number}")]
        m.d.comb += self.result.eq(Cat(*results))
        return m


def magnitude(pattern: np.ndarray) -> np.ndarray:
    """Magnitude of extended FP16 patterns in units of 2**-24."""
    field = (pattern >> 10 & 31).astype(np.int64)
    fraction = (pattern & 1023).astype(np.int64)
    return np.where(field > 0, (fraction + 1024) << np.maximum(field - 1, 0), fraction)


def oracle(
    fmt: NumberFormat, ties: str, negative: bool, patterns: np.ndarray, maximum: int
) -> np.ndarray:
    """Codes of values of one sign whose group (or half) has the given maximum."""
    if maximum < 0x0400:
        return np.zeros(len(patterns), dtype=np.int64)
    levels = fmt.half(negative).levels
    scale = int(magnitude(np.array([maximum]))[0])
    points = np.array([(a + b) * scale for a, b in itertools.pairwise(levels)])
    doubled = 2 * fmt.scale_top(negative) * magnitude(patterns)
    inner = np.searchsorted(points, doubled, side="left")
    outer = np.searchsorted(points, doubled, side="right")  # one more at a tie
    if ties == "even":
        rank = np.where(inner % 2 == 0, inner, outer)
    else:
        rank = outer if (ties == "up") != negative else inner
    codes = np.array([fmt.encode_int(level, negative) for level in levels])
    return codes[rank]


def scale_of_negative(fmt: NumberFormat, maximum: int) -> int:
    """RNE_fp16(m * M+ / M-) by fractions; saturated above the largest pattern."""
    if maximum < 0x0400:
        return 0
    size = int(magnitude(np.array([maximum]))[0])
    exact = Fraction(size * fmt.scale_top(False), fmt.scale_top(True))
    step = 0
    while exact >= 2048 << step:
        step += 1
    rounded = round(exact / (1 << step))
    return min((step << 10) + rounded, 0x7FFF)


def records() -> np.ndarray:
    """All values against each maximum; dual groups with both halves' maxima different."""
    rng = random.Random(5)
    blocks = []
    for number, maximum in enumerate(MAXIMA):
        other = MAXIMA[(number + 5) % len(MAXIMA)]
        for dual, negative, positive in ((0, maximum, maximum), (1, maximum, other)):
            block = np.zeros(positive + 1 + negative + 1, dtype=Record)
            block["x"][: positive + 1] = np.arange(positive + 1)
            block["x"][positive + 1 :] = 0x8000 | np.arange(negative + 1)
            if not dual and rng.getrandbits(1):
                # A plain group may have its maximum on one side only.
                side = rng.choice(["negative", "positive"])
                block[side] = maximum
            else:
                block["negative"], block["positive"] = negative, positive
            block["dual"] = dual
            blocks.append(block)
    return np.concatenate(blocks)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """Records, and the (case, code/scales) words that the compiled row gave for each."""
    folder: Path = tmp_path_factory.mktemp("lanes")
    program = compile_program(
        folder,
        export_verilog(LaneRow(), "lutvar_lane_row"),
        "lutvar_lane_row",
        LANE,
        ["-CFLAGS", f"-DROW_LATENCY={LaneRow.LATENCY}"],
    )
    stimulus = records()
    stimulus.tofile(folder / "records.bin")
    subprocess.run([program, "records.bin", "words.bin"], cwd=folder, check=True)
    words = np.fromfile(folder / "words.bin", dtype="<u4")
    return stimulus, words.reshape(len(stimulus), len(CASES), WORDS)


@pytest.mark.verilator
@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, c)) for c in CASES])
def test_all_values(number: int, outputs: tuple[np.ndarray, np.ndarray]) -> None:
    plain_name, dual_name, ties = CASES[number]
    stimulus, words = outputs[0], outputs[1][:, number]
    plain, dual = get_format(plain_name), get_format(dual_name) if dual_name else None
    groups = stimulus[["negative", "positive", "dual"]]
    starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
    for start, end in zip(starts, [*starts[1:], len(stimulus)], strict=True):
        negative_max, positive_max, is_dual = (int(v) for v in groups[start])
        use_dual = bool(is_dual and dual)
        fmt = dual if dual is not None and use_dual else plain
        joint = max(negative_max, positive_max)
        seen = words[start:end]
        values = stimulus["x"][start:end]
        for negative in (False, True):
            own = negative_max if negative else positive_max
            chosen = (values >= 0x8000) == negative
            # Without a dual format all values meet the joint maximum.
            expected = oracle(fmt, ties, negative, values[chosen], own if use_dual else joint)
            wrong = np.flatnonzero(seen[chosen, 0] != expected)
            assert not len(wrong), (
                f"x {values[chosen][wrong[0]]:#06x} of maximum {own:#06x}, dual {use_dual}: "
                f"code {seen[chosen][wrong[0], 0]}, expected {expected[wrong[0]]}"
            )
        scale = positive_max if use_dual else joint
        scale = scale if scale >= 0x0400 else 0
        scale_neg = scale_of_negative(fmt, negative_max) if use_dual else 0
        assert set(seen[:, 1]) == {scale | scale_neg << 16}


@pytest.mark.verilator
def test_records_contain_ties(outputs: tuple[np.ndarray, np.ndarray]) -> None:
    """The tie rules give different codes, so the cases above do reach ties."""
    words = outputs[1]
    even, up, down = (words[:, number, 0] for number in range(3))
    assert np.count_nonzero(up != down) > 100
    assert np.count_nonzero(even != up) > 40
    assert np.count_nonzero(even != down) > 40


@pytest.mark.parametrize("name", ["E4M3", "E5M2"])
def test_format_too_fine(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 8 bits, absolute maximum at grid integer"):
        QuantizerFormats(get_format(name), None, TieRule.EVEN)


def test_wrong_kinds() -> None:
    plain, dual = get_format("E2M1"), get_format("DUAL4")
    with pytest.raises(ValueError, match="DUAL4 is dual"):
        QuantizerFormats(dual, None, TieRule.EVEN)
    with pytest.raises(ValueError, match="E2M1 has a single scale"):
        QuantizerFormats(plain, plain, TieRule.EVEN)
    with pytest.raises(ValueError, match="E2M1 has 4 bits, DUAL6 6"):
        QuantizerFormats(plain, get_format("DUAL6"), TieRule.EVEN)
    with pytest.raises(ValueError, match="nearest"):
        QuantizerFormats(plain, dual, cast(Any, "nearest"))


def test_every_scale_of_the_negative_half() -> None:
    """The table of derived scales for all normal patterns of one binade, by fractions."""
    from lutvar.hw.units.tables import rescaled

    for name in ("DUAL4", "DUAL6"):
        fmt = get_format(name)
        table = rescaled(fmt.scale_top(False), fmt.scale_top(True))
        for fraction, increment in enumerate(table):
            expected = scale_of_negative(fmt, 0x3C00 | fraction)
            assert 0x3C00 + increment == expected
    with pytest.raises(ValueError, match="ratio of half scales is 7/12"):
        rescaled(7, 12)
