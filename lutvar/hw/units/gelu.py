# SPDX-License-Identifier: Apache-2.0
"""The gate of GELU, `gelu(y) = y * gate(y)`: a table of 512 segments, interpolated."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.functions import (
    GELU_FRACTION,
    GELU_INDEX,
    GELU_ONE,
    GELU_RANGE,
    GELU_STEP,
    gelu_tables,
)

from .float_steps import BIAS, FRACTION, normalise_step
from .pipeline import delay, register

GATE_BITS = GELU_ONE + 1  #: significant bits of the gate
_FIXED = GELU_INDEX + GELU_STEP  #: bits of |y| in units of 2**-GELU_FRACTION
#: Exponent field of the values just below GELU_RANGE.
_TOP_FIELD = BIAS + GELU_RANGE.bit_length() - 2
assert 1 << _FIXED == GELU_RANGE << GELU_FRACTION


class GeluGate(wiring.Component):
    """Gate of the contract, section 8, as a float32 pattern: from 0 to 1, units of 2**-16.

    Latency: `LATENCY` cycles. Throughput: one each cycle. Cost: one block memory of 512 x 28 bits
    (half a BRAM36), one DSP and about 150 LUTs.
    """

    LATENCY = 11

    x: In(32)  #: float32 pattern, any finite number
    y: Out(32)  #: float32 pattern with at most `GATE_BITS` significant bits; +0 when the gate is 0

    def elaborate(self, platform: object) -> Module:
        m = Module()

        starts, rises = gelu_tables()
        start_bits, rise_bits = max(starts).bit_length(), max(rises).bit_length()
        m.submodules.table = table = memory.Memory(
            shape=unsigned(start_bits + rise_bits),
            depth=len(starts),
            init=[s | r << start_bits for s, r in zip(starts, rises, strict=True)],
            attrs={"rom_style": "block"},
        )

        # 1, 2, 3: |y| to fixed point, rounded down.
        field = self.x[FRACTION:31]
        distance = (Const(_TOP_FIELD, 9) - field)[:9]
        far = distance[5:8].any()
        shift = register(m, distance[:5] | far.replicate(5), "shift")
        fixed: Value = register(
            m, Cat(self.x[FRACTION + 1 - _FIXED : FRACTION], Const(1, 1)), "top"
        )
        beyond = register(m, distance[8], "beyond")  # |y| >= 8
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
        m.d.comb += port.addr.eq(fixed[GELU_STEP:])
        entry = register(m, port.data, "entry")
        step = delay(m, fixed[:GELU_STEP], 2, "step_line")

        # 6, 7: interpolate: multiply, add, as in a DSP.
        product = register(m, entry[start_bits:] * step, "product")
        base = Cat(Const(1 << GELU_STEP - 1, GELU_STEP), entry[:start_bits])
        total = register(m, register(m, base, "base") + product, "total")

        # 8: the ends; for negative y what is missing to 1.
        one = 1 << GELU_ONE
        beyond = delay(m, beyond, 6, "beyond_line")
        negative = delay(m, self.x[31], 7, "negative_line")
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
