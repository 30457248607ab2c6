# SPDX-License-Identifier: Apache-2.0
"""The array: T token rows x N outputs, each a dot product of 128 lanes with scale and accumulator."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.config import GROUP, HardwareConfig, QuantConfig
from lutvar.hw.shared import place
from lutvar.hw.units.accumulate import MIN_INTERVAL, ScaleAccumulate
from lutvar.hw.units.dot import make_dot
from lutvar.hw.units.elastic import delayed
from lutvar.hw.units.product import ActivationRecode, WeightRecode, make_product

from .sequencer import issue_layout

FAN_OUT_LATENCY = 1  #: register between the recoders and the array they spread over


class Array(wiring.Component):
    """Multiplies a row vector's group with a tile's group, for all T x N results at once.

    Members:
        valid, issue: an issue, together with its operands.
        act_codes [T][128], act_scales [T] (scale, negative scale), wgt_codes [N][128], wgt_scales
            [N], bias [N]: words of the banks.
        results: float32 [T][N], with ``result_valid`` for issues with ``last``; ``result_final``
            copies ``issue.final``.

    Fixed latency (``self.latency``), no stall, one issue in each cycle. Codes are recoded once for
    each row and column. Valid bits are kept here, under this module's reset; the units inside carry data only.
    """

    def __init__(self, hardware: HardwareConfig, quant: QuantConfig) -> None:
        self.hardware, self.quant = hardware, quant
        self.design = make_product(quant.weight_format, quant.plain_format, quant.dual_format)
        rows, outputs, bits = hardware.token_rows, hardware.outputs, quant.code_bits
        super().__init__(
            {
                "valid": In(1),
                "issue": In(issue_layout(hardware)),
                "act_codes": In(rows * GROUP * bits),
                "act_scales": In(data.ArrayLayout(unsigned(32), rows)),
                "wgt_codes": In(outputs * GROUP * bits),
                "wgt_scales": In(data.ArrayLayout(unsigned(16), outputs)),
                "bias": In(data.ArrayLayout(unsigned(32), outputs)),
                "results": Out(data.ArrayLayout(unsigned(32), rows * outputs)),
                "result_valid": Out(1),
                "result_final": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        hardware, design = self.hardware, self.design
        rows, outputs, bits = hardware.token_rows, hardware.outputs, self.quant.code_bits
        span = GROUP * bits

        # The edge: operands of each row and column, in a register of their own before they fan out.
        row_operands, column_operands = [], []
        for t in range(rows):
            recode = ActivationRecode(design, GROUP)
            place(m, platform, f"row_{t}", recode, "activation_recode")
            m.d.comb += [
                recode.codes.eq(self.act_codes[t * span : (t + 1) * span]),
                recode.dual.eq(self.issue.dual),
                recode.neg.eq(self.issue.neg),
            ]
            row_operands.append(delayed(m, recode.operand, FAN_OUT_LATENCY, f"row_operand_{t}"))
        for n in range(outputs):
            recode = WeightRecode(design, GROUP)
            place(m, platform, f"column_{n}", recode, "weight_recode")
            m.d.comb += recode.codes.eq(self.wgt_codes[n * span : (n + 1) * span])
            column_operands.append(
                delayed(m, recode.operand, FAN_OUT_LATENCY, f"column_operand_{n}")
            )

        # Scales and biases take the way around the dot products.
        edge = ActivationRecode.LATENCY + FAN_OUT_LATENCY
        around = edge + make_dot(design, GROUP).latency
