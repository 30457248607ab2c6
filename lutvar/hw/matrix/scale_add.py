# SPDX-License-Identifier: Apache-2.0
"""Scaling and addition behind one row, in two forms: `RNE(stored + RNE(D * m * ws * 2**e))`.

Form `portable` multiplies integers and rounds in LUTs. Form `dsp58` has two DSP58 in float32
mode and next to no LUTs; it needs a Versal device. Both give the same sums (contract, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.hw.units.dspfp32 import DspFp32
from lutvar.hw.units.float_steps import FRACTION
from lutvar.hw.units.fp16_to_fp32 import OFFSET
from lutvar.hw.units.fp32_add import Fp32Add
from lutvar.hw.units.pipeline import delay
from lutvar.hw.units.scale import MAX_SUM_BITS, ScaleMultiply
from lutvar.hw.units.scale_to_fp32 import ScaleToFp32
from lutvar.hw.verilog import place

from .dot_form import sum_bits

#: 1.5 * 2**23 as float32: its fraction plus a signed integer is the float of their sum.
INTEGER = 0x4B400000


@dataclass(frozen=True)
class ScaleAddTiming:
    """Cycles from `d`, `m` and `scale` to `stored`, and to the sum `s`."""

    stored: int
    total: int


def scale_add_timing(config: AcceleratorConfig) -> ScaleAddTiming:
    """The cycles of a configuration's form (`config.float32`)."""
    form = DspScaleAdd if config.float32 == "dsp58" else PortableScaleAdd
    return ScaleAddTiming(form.STORED, form.LATENCY)


def make_scale_add(config: AcceleratorConfig) -> Any:
    """One row of the configuration's form; members are those of `PortableScaleAdd`."""
    form = DspScaleAdd if config.float32 == "dsp58" else PortableScaleAdd
    return form(sum_bits(config))


def scale_bits(config: AcceleratorConfig) -> int:
    """Bits of what `weight_scale` gives."""
    return DspScaleAdd.SCALE if config.float32 == "dsp58" else PortableScaleAdd.SCALE


def weight_scale(m: Module, config: AcceleratorConfig, ws: Value, e: Value, cycles: int) -> Value:
    """`ws` and `e` as all rows take them (`scale`), `cycles` later; once for many rows.

    Raises ValueError for fewer cycles than the conversion takes.
    """
    if config.float32 == "portable":
        return delay(m, Cat(ws, e), cycles, "scale_line")
    if cycles < ScaleToFp32.LATENCY:
        raise ValueError(f"{cycles} cycles; the conversion takes {ScaleToFp32.LATENCY}")
    m.submodules.scale_convert = convert = ScaleToFp32()
    m.d.comb += [convert.ws.eq(ws), convert.e.eq(e)]
    significant = convert.y[31 - DspScaleAdd.SCALE : 31]
    return delay(m, significant, cycles - ScaleToFp32.LATENCY, "scale_line")


class ScaleAdd(wiring.Component):
    """Base: one row's scaling and addition. The signature is `_members`."""

    SCALE: int  #: bits of `scale`
    STORED: int  #: cycles from `d` to `stored`
    LATENCY: int  #: cycles from `d` to `s`

    d: Signal  #: in: exact sum
    m: Signal  #: in: FP16 pattern of the row's scale
    scale: Signal  #: in: what `weight_scale` gives
    stored: Signal  #: in: the float32 sum so far, `STORED` cycles after these
    s: Signal  #: out: the new sum, `LATENCY` cycles after `d`


def _members(bits: int, scale: int) -> dict[str, Any]:
    return {
        "d": In(signed(bits)),
        "m": In(16),
        "scale": In(scale),
        "stored": In(32),
        "s": Out(32),
    }


class PortableScaleAdd(ScaleAdd):
    """One row in integer DSPs and LUTs.

    Throughput: one each cycle. Cost: 2 DSP, about 500 LUTs.
    """

    SCALE = 22  #: `ws`, then `e`
    STORED = ScaleMultiply.LATENCY + 1
    LATENCY = STORED + Fp32Add.LATENCY

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(_members(bits, self.SCALE))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        scale, adder = ScaleMultiply(self.bits), Fp32Add()
        place(m, platform, "multiply", scale, "rows_scale")
        place(m, platform, "adder", adder, "rows_adder")
        m.d.comb += [
            scale.d.eq(self.d),
            scale.m.eq(self.m),
            scale.ws.eq(self.scale[:16]),
            scale.e.eq(self.scale[16:].as_signed()),
            adder.x.eq(self.stored),
            adder.y.eq(delay(m, scale.p, 1, "added")),
            self.s.eq(adder.s),
        ]
        return m


class DspScaleAdd(ScaleAdd):
    """One row in two DSP58 in float32 mode.

    The first multiplies `m` by `ws * 2**e`, which is exact, and makes a float of `d`: with
    `d` added to the fraction of 1.5 * 2**23, its adder takes that number away, exactly. The
    second multiplies the two, which is the one rounding, and adds. No factor leaves the normal
    range: `m` is 0 or at least `2**-14` (contract, section 4: a subnormal `m` does not occur
    and would count as 0). A product of -0 changes no sum.

    Throughput: one each cycle. Cost: 2 DSP58, 1 or 2 LUTs.
    """

    SCALE = 18  #: the upper bits of a positive float32: exponent and ten bits of the fraction
    _PRODUCT = DspFp32.PRODUCT_LATENCY
    STORED = 2 * _PRODUCT - 1
    LATENCY = 2 * _PRODUCT + 1

    def __init__(self, bits: int) -> None:
        if bits > MAX_SUM_BITS - 2:
            raise ValueError(f"a sum of {bits} bits; {MAX_SUM_BITS - 2} fit the fraction")
        self.bits = bits
        super().__init__(_members(bits, self.SCALE))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # Two registers at C, so that the float of d comes with the product of the scales.
        m.submodules.scales = scales = DspFp32(from_d=True, c_regs=self._PRODUCT - 1)
        m.submodules.sums = sums = DspFp32(from_d=False, c_regs=1)
        field = self.m[10:15]
        exponent = Mux(field.any(), field + OFFSET, 0)[:8]
        d = Signal(signed(FRACTION))
        m.d.comb += [
            d.eq(self.d),
            scales.a.eq(Cat(Const(0, FRACTION - 10), self.m[:10], exponent)),
            scales.b.eq(Cat(Const(0, 31 - self.SCALE), self.scale)),
            # 1.5 * 2**23 has one bit of the fraction, the highest: adding d only inverts it.
            scales.c.eq(Cat(d[:-1], ~d[-1], Const(INTEGER >> FRACTION, 9))),
            scales.d.eq(INTEGER | 1 << 31),
            sums.a.eq(scales.m),
            sums.b.eq(scales.s),
            sums.c.eq(self.stored),
            self.s.eq(sums.s),
        ]
        return m
