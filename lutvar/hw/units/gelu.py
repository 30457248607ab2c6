# SPDX-License-Identifier: Apache-2.0
"""The gates of GELU and SiLU, `gelu(y) = y * gate(y)`: tables of 512 segments, interpolated."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.functions import (
    GELU_FRACTION,
    GELU_INDEX,
    GELU_ONE,
    GELU_RANGE,
    GELU_STEP,
    SILU_FRACTION,
    SILU_RANGE,
    gelu_tables,
    silu_tables,
)

from .float_steps import BIAS, FRACTION, normalise_step
from .pipeline import delay, register

GATE_BITS = GELU_ONE + 1  #: significant bits of the gate
_FIXED = GELU_INDEX + GELU_STEP  #: bits of |y| in units of 2**-GELU_FRACTION
#: Exponent field of the values just below GELU_RANGE.
_TOP_FIELD = BIAS + GELU_RANGE.bit_length() - 2
assert 1 << _FIXED == GELU_RANGE << GELU_FRACTION == SILU_RANGE << SILU_FRACTION
assert SILU_RANGE == 2 * GELU_RANGE, "SiLU's argument is shifted by one place more"


class GeluGate(wiring.Component):
    """Gate of the contract, section 8, as a float32 pattern: from 0 to 1, units of 2**-16.

    Latency: `LATENCY` cycles. Throughput: one each cycle. Cost: one block memory of 512 x 28 bits
    (half a BRAM36), one DSP and about 150 LUTs; with SiLU's table a whole BRAM36.

    Args:
        silu: SiLU's gate, too, and a gate of 1, at choice for each value.
    """

    LATENCY = 11

    x: Signal  #: in: float32 pattern, any finite number
    #: out: float32 pattern with at most `GATE_BITS` significant bits; +0 when the gate is 0
    y: Signal
    other: Signal  #: in: SiLU's gate, with `x` (`silu` only)
    one: Signal  #: in: with `other`: a gate of 1 (`silu` only)

    def __init__(self, silu: bool = False) -> None:
        self.silu = silu
        ports = {"x": In(32), "y": Out(32)}
        if silu:
            ports |= {"other": In(1), "one": In(1)}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        starts, rises = gelu_tables()
        other: Value = Const(0, 1)
        one_asked: Value = Const(0, 1)
        if self.silu:
            starts, rises = (a + b for a, b in zip((starts, rises), silu_tables(), strict=True))
            other, one_asked = self.other, self.other & self.one
        start_bits, rise_bits = max(starts).bit_length(), max(rises).bit_length()
        m.submodules.table = table = memory.Memory(
            shape=unsigned(start_bits + rise_bits),
            depth=len(starts),
            init=[s | r << start_bits for s, r in zip(starts, rises, strict=True)],
            attrs={"rom_style": "block"},
        )

        # 1, 2, 3: |y| to fixed point, rounded down.
        field = self.x[FRACTION:31]
        distance = (Mux(other, _TOP_FIELD + 1, _TOP_FIELD) - field)[:9]
        far = distance[5:8].any()
        shift = register(m, distance[:5] | far.replicate(5), "shift")
        fixed: Value = register(
            m, Cat(self.x[FRACTION + 1 - _FIXED : FRACTION], Const(1, 1)), "top"
        )
        beyond = register(m, distance[8] | one_asked, "beyond")  # |y| >= 8, 16
        coarse = Signal(_FIXED)
        with m.Switch(shift[2:]):
            for fours in range(5):
                with m.Case(fours):
                    m.d.comb += coarse.eq(fixed >> 4 * fours)
        fixed = register(m, coarse, "fixed_2")
        shift = register(m, shift[:2], "shift_2")
        fixed = register(m, (fixed >> shift)[:_FIXED], "fixed_3")

        # 4, 5: the table and its output register.
        port = table.read_port(domain="sync")
        m.d.comb += port.addr.eq(Cat(fixed[GELU_STEP:], delay(m, other, 3, "table_line")))
        entry = register(m, port.data, "entry")
        step = delay(m, fixed[:GELU_STEP], 2, "step_line")

        # 6, 7: interpolate: multiply, add, as in a DSP.
        product = register(m, entry[start_bits:] * step, "product")
        base = Cat(Const(1 << GELU_STEP - 1, GELU_STEP), entry[:start_bits])
        total = register(m, register(m, base, "base") + product, "total")

        # 8: the ends; for negative y what is missing to 1.
        one = 1 << GELU_ONE
        beyond = delay(m, beyond, 6, "beyond_line")
        negative = delay(m, self.x[31] & ~one_asked, 7, "negative_line")
        inside = Mux(beyond, Const(one, GATE_BITS), total[GELU_STEP : GELU_STEP + GATE_BITS])
        flipped = inside ^ negative.replicate(GATE_BITS)
        value: Value = register(m, (flipped + Mux(negative, one + 1, 0))[:GATE_BITS], "value_8")

        # 9, 10, 11: normalise and pack.
        left: Value = Const(0, 1)
        for unit, ways, name in ((8, 4, "by8"), (2, 4, "by2"), (1, 2, "by1")):
            value, count = normalise_step(m, value, unit, ways, name)
            left = (left + count * unit)[:5]
            if name != "by1":
                value, left = register(m, value, f"value_{name}"), register(m, left, f"left_{name}")
        fraction = Cat(Const(0, FRACTION - GELU_ONE), value[:GELU_ONE])
        present = value[GELU_ONE]
        m.d.sync += self.y.eq(Mux(present, Cat(fraction, (BIAS - left)[:8]), 0))
        return m
