# SPDX-License-Identifier: Apache-2.0
"""The array: T x N dot products of 128 lanes, each with its scale and accumulator."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.config import GROUP, HardwareConfig, QuantConfig
from lutvar.hw.shared import place
from lutvar.hw.units.accumulate import ScaleAccumulate
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
    each row and column. Valid bits are kept here, under this module's reset; the units inside
    carry data only.
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

        dots = [make_dot(design, GROUP) for _ in range(rows * outputs)]

        # Scales and biases take the way around the dot products.
        edge = ActivationRecode.LATENCY + FAN_OUT_LATENCY
        around = edge + dots[0].latency
        issue = delayed(m, self.issue, around, "issue")
        around_valid = Signal(around)
        m.d.sync += around_valid.eq(Cat(self.valid, around_valid))
        row_scales = []
        for t in range(rows):
            pair = self.act_scales[t]
            scale = Mux(self.issue.dual & self.issue.neg, pair[16:], pair[:16])
            held = Signal(16, name=f"row_scale_{t}")
            m.d.comb += held.eq(scale)
            row_scales.append(delayed(m, held, around, f"row_scale_{t}"))
        column_scales = [
            delayed(m, self.wgt_scales[n], around, f"column_scale_{n}") for n in range(outputs)
        ]
        biases = [delayed(m, self.bias[n], around, f"bias_{n}") for n in range(outputs)]

        for t in range(rows):
            for n in range(outputs):
                dot = dots[t * outputs + n]
                place(m, platform, f"dot_{t}_{n}", dot, "dot")
                unit = ScaleAccumulate(design.sum_bits(GROUP), hardware.row_block)
                place(m, platform, f"accumulate_{t}_{n}", unit, "scale_accumulate")
                m.d.comb += [
                    dot.activations.eq(row_operands[t]),
                    dot.weights.eq(column_operands[n]),
                    unit.valid.eq(around_valid[-1]),
                    unit.d.eq(dot.sum),
                    unit.m.eq(row_scales[t]),
                    unit.ws.eq(column_scales[n]),
                    unit.e.eq(issue.scale_exp),
                    unit.slot.eq(issue.slot),
                    unit.first.eq(issue.first),
                    unit.bias.eq(biases[n]),
                    self.results[t * outputs + n].eq(unit.y),
                ]

        # What the results need: whether there is one, and whether it is the job's last.
        total = around + ScaleAccumulate.LATENCY
        present = Signal(total)
        final = delayed(m, self.issue.final, total, "final")
        m.d.sync += present.eq(Cat(self.valid & self.issue.last, present))
        m.d.comb += [self.result_valid.eq(present[-1]), self.result_final.eq(final)]
        return m
