# SPDX-License-Identifier: Apache-2.0
"""Area of the units: which ones are synthesised, how, and what they may cost."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.hadamard import sign_vector
from lutvar.contract.quant_preset import GROUP, QuantConfig, load_quant
from lutvar.hw.matrix.scale_add import DspScaleAdd, PortableScaleAdd
from lutvar.hw.units.accumulate import Accumulator
from lutvar.hw.units.dot import make_dot
from lutvar.hw.units.fp32_add import Fp32Add
from lutvar.hw.units.hadamard import Hadamard
from lutvar.hw.units.product import make_product
from lutvar.hw.units.product_design import ProductDesign
from lutvar.hw.units.quantizer import QuantizerFormats, QuantizerLane
from lutvar.hw.units.scale import ScaleMultiply
from lutvar.hw.verilog import PREFIX, export_verilog

from .report import How, Measurement
from .synth import LOGIC_ONLY, SynthesisError, SynthReport, count_luts_verilog

#: As LOGIC_ONLY, but multiplications may go to DSPs: for units whose multiplier is one by design.
WITH_DSP = tuple(option for option in LOGIC_ONLY if option != "-nodsp")
#: As LOGIC_ONLY, but small memories may be LUTRAM: for units that hold one.
WITH_LUTRAM = tuple(option for option in LOGIC_ONLY if option != "-nolutram")
MAX_LEVELS = 6  #: LUT levels between registers, everywhere
_MODULE = f"{PREFIX}bench_unit"
#: Amaranth elaborates in one thread at a time; Yosys runs beside it.
EXPORTING = threading.Lock()
_HOW: How = "synthesised (Yosys xcup)"
#: Values in a beat of the 32-byte streams.
_STREAM_LANES = 16
#: Row vectors interleaved in the accumulator, the smallest number that the presets use.
_ROW_BLOCK = 16


class Lane(wiring.Component):
    """One product alone: operands in, magnitude and sign out.

    Args:
        design: the product.
        recoded: True takes operands as they come from the array's edge; False takes codes of the
            plain format, without sign, and recodes them on the way, in the same LUTs.
    """

    activation: Signal  #: in: operand, recoded or not
    weight: Signal  #: in: operand, recoded or not
    magnitude: Signal  #: out: magnitude of the product

    def __init__(self, design: ProductDesign, recoded: bool) -> None:
        self.design, self.recoded = design, recoded
        a, w = design.plain.bits - 1, design.weight.bits - 1
        super().__init__(
            {
                "activation": In(design.activation_width if recoded else a),
                "weight": In(design.weight_width if recoded else w),
                "magnitude": Out(design.magnitude_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        activation: Value = self.activation
        weight: Value = self.weight
        if not self.recoded:
            plus = Const(0, 1)  # a product's magnitude does not depend on the signs
            code = [*activation, plus]
            planes, _ = self.design.recode_activation(m, code, plus, plus, "activation")
            activation = Cat(*planes)
            planes, _ = self.design.recode_weight(m, [*weight, plus], "weight")
            weight = Cat(*planes)
        m.d.comb += self.magnitude.eq(self.design.lane(m, activation, weight, "product"))
        return m


@dataclass(frozen=True)
class AreaCase:
    """One unit to synthesise.

    Attributes:
        title: line of the report.
        make: builds the component.
        target: LUT sites after packing; None when there is no bound.
        lanes: when given, the details say LUTs for each lane.
        options: of `count_luts_verilog`.
        quick: synthesised in a quick run too.
    """

    title: str
    make: Callable[[], Any]
    target: int | None = None
    lanes: int | None = None
    options: tuple[str, ...] = LOGIC_ONLY
    quick: bool = True


def cases() -> list[AreaCase]:
    """The units of both presets. Imports of designs happen when a case is made, not here."""
    fp4, fp6 = load_quant("fp4"), load_quant("fp6")
    fp4_lane, fp6_lane = _product(fp4, dual=False), _product(fp6, dual=False)
    signs = sign_vector(fp4.hadamard_seed)
    return [
        AreaCase("product E2M1 x E2M1, plain", lambda: Lane(fp4_lane(), False), 8),
        AreaCase("product E2M1 x E2M1, recoded", lambda: Lane(fp4_lane(), True), 6),
        AreaCase("product E2M1 x DUAL4, recoded", lambda: Lane(_product(fp4)(), True)),
        AreaCase("product E2M3 x E2M3, recoded", lambda: Lane(fp6_lane(), True)),
        AreaCase("product E2M3 x DUAL6, recoded", lambda: Lane(_product(fp6)(), True)),
        _dot("dot product E2M1 x E2M1", fp4_lane, 2200),
        _dot("dot product E2M1 x E2M1 and DUAL4", _product(fp4), quick=False),
        _dot("dot product E2M3 x E2M3", fp6_lane, quick=False),
        _dot("dot product E2M3 x E2M3 and DUAL6", _product(fp6), quick=False),
        _quantizer("quantizer lane E2M1", fp4, 40, dual=False),
        _quantizer("quantizer lane E2M1 and DUAL4", fp4, 40),
        _quantizer("quantizer lane E2M3", fp6, 40, dual=False),
        _quantizer("quantizer lane E2M3 and DUAL6", fp6, 40),
        AreaCase(
            f"Hadamard, {_STREAM_LANES} lanes",
            lambda: Hadamard(_STREAM_LANES, signs),
            lanes=_STREAM_LANES,
            options=WITH_LUTRAM,
            quick=False,
        ),
        AreaCase("scale multiply", lambda: ScaleMultiply(_bits(fp4)), options=WITH_DSP),
        AreaCase("float32 add", Fp32Add),
        AreaCase("scale and add, portable", lambda: PortableScaleAdd(_bits(fp4)), options=WITH_DSP),
        AreaCase("scale and add, dsp58", lambda: DspScaleAdd(_bits(fp4)), 4),
        AreaCase("accumulator", lambda: Accumulator(_ROW_BLOCK), options=WITH_LUTRAM),
    ]


def measure(case: AreaCase) -> list[Measurement]:
    """Synthesise one unit: its LUT sites, and its levels against the common bound.

    May be called from several threads. A synthesis that fails gives a line without a value, so that
    it does not take the other lines with it.
    """
    with EXPORTING:
        verilog = export_verilog(case.make(), _MODULE)
    try:
        report = count_luts_verilog(verilog, _MODULE, options=case.options)
    except SynthesisError as error:
        detail = {"error": str(error).partition("\n")[0]}
        return [Measurement(case.title, None, "LUT", _HOW, case.target, detail=detail)]
    return [
        Measurement(
            case.title, report.luts_packed, "LUT", _HOW, case.target, detail=_detail(report, case)
        ),
        Measurement(f"{case.title}: levels", report.max_levels, "LUT", _HOW, MAX_LEVELS),
    ]


def _detail(report: SynthReport, case: AreaCase) -> dict[str, Any]:
    detail: dict[str, Any] = {"mapped": report.luts, "FF": report.ffs}
    for name in ("carry", "lutrams", "dsps", "brams"):
        if getattr(report, name):
            detail[name] = getattr(report, name)
    if case.lanes is not None:
        detail["LUT/lane"] = report.luts_packed / case.lanes
    return detail


def _product(quant: QuantConfig, dual: bool = True) -> Callable[[], ProductDesign]:
    return lambda: make_product(
        quant.weight_format, quant.plain_format, quant.dual_format if dual else None
    )


def _dot(
    title: str, design: Callable[[], ProductDesign], target: int | None = None, quick: bool = True
) -> AreaCase:
    return AreaCase(
        f"{title}, {GROUP} lanes", lambda: make_dot(design()), target, lanes=GROUP, quick=quick
    )


def _quantizer(
    title: str, quant: QuantConfig, target: int | None = None, dual: bool = True
) -> AreaCase:
    def make() -> QuantizerLane:
        second = quant.dual_format if dual else None
        return QuantizerLane(QuantizerFormats(quant.plain_format, second, quant.ties))

    return AreaCase(title, make, target, options=WITH_DSP)


def _bits(quant: QuantConfig) -> int:
    return _product(quant)().sum_bits(GROUP)
