# SPDX-License-Identifier: Apache-2.0
"""Reciprocal square root of a float32: a table of 256 segments, interpolated."""

from amaranth.hdl import Cat, Const, Module, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.functions import RSQRT_ONE, RSQRT_STEP, rsqrt_tables

from .float_steps import FRACTION
from .pipeline import delay

_INDEX = FRACTION - RSQRT_STEP  #: bits of the segment within a binade


class Rsqrt(wiring.Component):
    """`y = Y * 2**(-18 - k)` of the contract, section 8.

    Latency: `LATENCY` cycles. Throughput: one each cycle. Cost: one block memory of 256 x 30 bits
    (half a BRAM36), one DSP and about 20 LUTs.
    """

    LATENCY = 5

    #: float32 pattern of a positive normal number (of anything else the result has no meaning; the
    #: sign is ignored)
    x: In(32)
    y: Out(32)  #: float32 pattern with at most 18 significant bits

    def elaborate(self, platform: object) -> Module:
        m = Module()
        starts, falls = rsqrt_tables()
        start_bits, fall_bits = RSQRT_ONE + 1, max(falls).bit_length()
        m.submodules.table = table = memory.Memory(
            shape=unsigned(start_bits + fall_bits),
            depth=len(starts),
            init=[s | f << start_bits for s, f in zip(starts, falls, strict=True)],
            attrs={"rom_style": "block"},
        )

        # 1, 2: the table and its output register. The exponent x is odd where its field is even.
        port = table.read_port(domain="sync")
        m.d.comb += port.addr.eq(Cat(self.x[RSQRT_STEP : RSQRT_STEP + _INDEX], ~self.x[FRACTION]))
        entry = Signal(start_bits + fall_bits, reset_less=True)
        m.d.sync += entry.eq(port.data)
        step = delay(m, self.x[:RSQRT_STEP], 2, "step_line")
        start, fall = entry[:start_bits], entry[start_bits:]

        # 3, 4: Y = ((start << 16) + 2**15 - 1 - fall * step) >> 16, which is the contract's
        # formula as one multiplication and one subtraction.
        product = Signal(fall_bits + RSQRT_STEP, reset_less=True)
        base = Signal(start_bits + RSQRT_STEP, reset_less=True)
        value = Signal(start_bits + RSQRT_STEP, reset_less=True)
        m.d.sync += [
            product.eq(fall * step),
            base.eq(Cat(Const((1 << RSQRT_STEP - 1) - 1, RSQRT_STEP), start)),
            value.eq(base - product),
        ]
        y = value[RSQRT_STEP:]

        # 5: pack. Y is from 2**17 to 2**18; its highest bit is that of 2**18 alone.
        field = delay(m, self.x[FRACTION:31], 4, "field_line")
        half = (190 - field[1:] - field[0])[:8]  # 126 - k, k = floor((field - 127) / 2)
        fraction = Cat(Const(0, FRACTION - RSQRT_ONE + 1), y[: RSQRT_ONE - 1])
        m.d.sync += self.y.eq(Cat(fraction, (half + y[RSQRT_ONE])[:8], Const(0, 1)))
        return m
