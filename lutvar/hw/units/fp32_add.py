# SPDX-License-Identifier: Apache-2.0
"""Float32 adder, round to nearest even, and the normaliser that it shares with the scale
multiplier.

Portable gateware for what a DSPFP32 does natively. The contract (section 5) proves that no
infinity, NaN
or subnormal can arise; an operand or a result below the normal range counts as zero.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

MANTISSA = 23  #: stored fraction bits of a float32
_GUARD = 3  #: guard, round and sticky bits below the fraction while adding


def register(m: Module, value: Value, name: str) -> Signal:
    """One pipeline register without reset: its content matters only together with a valid bit."""
    out = (
        Signal.like(value, name=name, reset_less=True)
        if isinstance(value, Signal)
        else Signal(value.shape(), name=name, reset_less=True)
    )
    m.d.sync += out.eq(value)
    return out


def shift_left_steps(
    m: Module, value: Value, steps: tuple[int, ...], name: str
) -> tuple[Value, Value]:
    """Move leading zeros out: for each step, largest first, shift by it if that many top bits are
    0.

    Returns the shifted value (same width) and the shift distance, both combinational. One step is
    an OR of
    ``step`` bits and a multiplexer: at most three LUT levels for 16 bits, two for 4.
    """
    taken: list[Value] = []
    for step in steps:
        zeros = Signal(name=f"{name}_by{step}")
        shifted = Signal(len(value), name=f"{name}_s{step}")
        m.d.comb += [
            zeros.eq(~value[len(value) - step :].any()),
            shifted.eq(Mux(zeros, value << step, value)),
        ]
        value = shifted
        taken.insert(0, zeros)
    # Steps are consecutive powers of two, so the flags are the bits of the distance.
    low = steps[-1].bit_length() - 1
    return value, Cat(Const(0, low), *taken) if low else Cat(*taken)


class Fp32Round(wiring.Component):
    """Normalised fraction to float32 pattern, round to nearest even.

    Members:
        sign, zero: of the result; ``zero`` forces +0.
        exponent: biased exponent of the leading one, signed; below 1 gives +0.
        fraction: ``width`` bits whose top bit is the leading one.
        y: float32 pattern.

    Latency 2 cycles, one value a cycle. The carry chain of the increment and the packing are a
    stage each.
    """

    LATENCY = 2

    def __init__(self, width: int) -> None:
        if width < MANTISSA + 3:
            raise ValueError(
                f"fraction of {width} bits; at least {MANTISSA + 3} are needed to round"
            )
        self.width = width
        super().__init__(
            {
                "sign": In(1),
                "zero": In(1),
                "exponent": In(11),
                "fraction": In(width),
                "y": Out(32),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        below = self.width - (MANTISSA + 1)
        kept = self.fraction[below:]
        guard, sticky = self.fraction[below - 1], self.fraction[: below - 1].any()
        up = Signal()
        m.d.comb += up.eq(guard & (sticky | kept[0]))
        # 25 bits: a carry out of an all-ones fraction leaves 1.000, one exponent higher.
        rounded = register(m, (kept + up)[: MANTISSA + 2], "rounded")
        exponent = register(m, self.exponent.as_signed(), "exponent_r")
        sign, zero = register(m, self.sign, "sign_r"), register(m, self.zero, "zero_r")
        final = Signal(11)
        m.d.comb += final.eq(exponent + rounded[MANTISSA + 1])
        tiny = final[10] | ~final.any()
        packed = Cat(rounded[:MANTISSA], final[:8], sign)
        # On a carry the low bits are all zero, so the fraction needs no shift.
        m.d.sync += self.y.eq(Mux(zero | tiny, 0, packed))
        return m


class Fp32Add(wiring.Component):
    """``y = RNE(a + b)`` of float32 patterns, ``LATENCY`` cycles later; one addition a cycle.

    Members: a, b: In; y: Out. ``x + (-x)`` is +0, ``-0 + -0`` is +0 here (the contract never adds
    two
    negative zeros: a bias of -0 is sent as +0).

    Pipeline: compare | swap | align coarse | align fine | add | normalise coarse | normalise fine
    | round | pack.
    About 400 LUT (Yosys xcup), no DSP; at most six LUT levels in a stage.
    """

    LATENCY = 7 + Fp32Round.LATENCY

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "y": Out(32)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        a, b = self.a, self.b
        # 1: compare magnitudes, both exponent differences.
        swap = register(m, a[:31] < b[:31], "swap")
        a1, b1 = register(m, a, "a1"), register(m, b, "b1")
        a_less_b = register(m, (b[23:31] - a[23:31])[:8], "exp_b_minus_a")
        b_less_a = register(m, (a[23:31] - b[23:31])[:8], "exp_a_minus_b")
        # 2: order by magnitude.
        big = register(m, Mux(swap, b1, a1), "big")
        small = register(m, Mux(swap, a1, b1), "small")
        distance = register(m, Mux(swap, a_less_b, b_less_a), "distance")
        # 3, 4: align the smaller one; what falls out is remembered in the sticky bit.
        hidden = small[23:31].any()
        width = MANTISSA + 1 + _GUARD
        mantissa = Mux(
            hidden, Cat(Const(0, _GUARD), small[:MANTISSA], Const(1, 1)), Const(0, width)
        )
        far = distance[5:].any()
        coarse, sticky = self._align(m, mantissa, distance, (16, 8), "coarse")
        coarse3 = register(m, Mux(far, 0, coarse)[:width], "coarse3")
        # Shifting everything out leaves a sticky bit only if there was something.
        sticky3 = register(m, Mux(far, hidden, sticky), "sticky3")
        distance3 = register(m, distance[:3], "distance3")
        big3 = register(m, big, "big3")
        subtract3 = register(m, big[31] ^ small[31], "subtract3")
        fine, sticky = self._align(m, coarse3, distance3, (4, 2, 1), "fine")
        aligned = register(m, fine | (sticky | sticky3), "aligned")
        big4, subtract4 = register(m, big3, "big4"), register(m, subtract3, "subtract4")
        # 5: add or subtract. The larger operand is first, so the result is never negative.
        larger = Cat(Const(0, _GUARD), big4[:MANTISSA], big4[23:31].any(), Const(0, 1))
        total = register(
            m,
            (larger + (aligned ^ subtract4.replicate(width + 1)) + subtract4)[: width + 1],
            "total",
        )
        sign, exponent = register(m, big4[31], "sign5"), register(m, big4[23:31], "exp5")
        # 6, 7: leading one to the top. The top bit is the carry, hence the exponent starts one
        # higher.
        wide, coarse_by = shift_left_steps(m, total, (16, 8), "norm")
        wide6 = register(m, wide, "norm6")
        exponent6 = register(m, (exponent + 1 - coarse_by).as_signed(), "exp6")
        sign6 = register(m, sign, "sign6")
        narrow, fine_by = shift_left_steps(m, wide6, (4, 2, 1), "norm_fine")
        m.submodules.round = finish = Fp32Round(width + 1)
        fraction7 = register(m, narrow, "norm7")
        m.d.comb += [
            finish.fraction.eq(fraction7),
            finish.exponent.eq(register(m, (exponent6 - fine_by).as_signed(), "exp7")),
            finish.sign.eq(register(m, sign6, "sign7")),
            finish.zero.eq(~fraction7[-1]),
            self.y.eq(finish.y),
        ]
        return m

    @staticmethod
    def _align(
        m: Module, value: Value, distance: Value, steps: tuple[int, ...], name: str
    ) -> tuple[Value, Value]:
        """Shift right by the bits of ``distance`` named in ``steps``; returns value and OR of
        lost bits."""
        lost: Value = Const(0, 1)
        for step in steps:
            bit = distance[step.bit_length() - 1]
            shifted = Signal(len(value), name=f"{name}_{step}")
            fallen = Signal(name=f"{name}_{step}_lost")
            m.d.comb += [
                shifted.eq(Mux(bit, value >> step, value)),
                fallen.eq(lost | (bit & value[:step].any())),
            ]
            value, lost = shifted, fallen
        return value, lost
