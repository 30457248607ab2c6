# SPDX-License-Identifier: Apache-2.0
"""A DSP58 site of Versal in float32 mode (AM004, `DSPFP32`): one multiplier, one adder."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.inspection import for_inspection
from lutvar.hw.verilog import PREFIX, ExportPlatform, instantiate

from .dspfp32_model import Fp32Product, Fp32Sum
from .pipeline import delay

#: The site can be had by instantiation only. Synthesis for Versal takes the primitive, Yosys an
#: empty module of that name, so that it is counted, and simulators the model; the registers are
#: those that AM004 calls A/B, pipeline and M, C (1 to 3) and D, and P.
_SITE = """\
// A DSP58 in float32 mode: m = RNE(a * b) after 3 cycles; s = RNE(c + product) or RNE(c + d),
// one cycle after the product, d after 2 cycles, c after C_REGS + 1.
`ifdef SYNTHESIS
`ifndef LUTVAR_DSP58
`define LUTVAR_DSP58
`endif
`endif
`ifdef LUTVAR_DSP58
`ifdef YOSYS
(* blackbox *) module DSPFP32 #(
  parameter A_FPTYPE = "B32", parameter A_INPUT = "DIRECT", parameter BCASCSEL = "B",
  parameter B_D_FPTYPE = "B32", parameter B_INPUT = "DIRECT", parameter PCOUTSEL = "FPA",
  parameter USE_MULT = "MULTIPLY", parameter RESET_MODE = "SYNC", parameter ACASCREG = 1,
  parameter AREG = 1, parameter FPA_PREG = 1, parameter FPBREG = 1, parameter FPCREG = 3,
  parameter FPDREG = 1, parameter FPMPIPEREG = 1, parameter FPM_PREG = 1, parameter FPOPMREG = 3,
  parameter INMODEREG = 1
) (
  output [31:0] FPM_OUT, FPA_OUT, PCOUT, output [7:0] ACOUT_EXP, BCOUT_EXP,
  output [22:0] ACOUT_MAN, BCOUT_MAN, output ACOUT_SIGN, BCOUT_SIGN,
  output FPA_INVALID, FPA_OVERFLOW, FPA_UNDERFLOW, FPM_INVALID, FPM_OVERFLOW, FPM_UNDERFLOW,
  input CLK, ASYNC_RST, input [31:0] C, PCIN, input [7:0] A_EXP, B_EXP, D_EXP, ACIN_EXP, BCIN_EXP,
  input [22:0] A_MAN, B_MAN, D_MAN, ACIN_MAN, BCIN_MAN,
  input A_SIGN, B_SIGN, D_SIGN, ACIN_SIGN, BCIN_SIGN, FPINMODE, input [6:0] FPOPMODE,
  input CEA1, CEA2, CEB, CEC, CED, CEFPA, CEFPINMODE, CEFPM, CEFPMPIPE, CEFPOPMODE,
  input RSTA, RSTB, RSTC, RSTD, RSTFPA, RSTFPINMODE, RSTFPM, RSTFPMPIPE, RSTFPOPMODE
);
endmodule
`endif
`endif
module lutvar_dspfp32 #(parameter FROM_D = 0, parameter C_REGS = 1) (
  input clk, input [31:0] a, input [31:0] b, input [31:0] c, input [31:0] d,
  output [31:0] m, output [31:0] s
);
`ifdef LUTVAR_DSP58
  // FPOPMODE: no sign changes; the adder's second operand is C, its first D or the product.
  localparam [6:0] MODE = FROM_D ? 7'b0011011 : 7'b0011001;
  DSPFP32 #(
    .A_FPTYPE("B32"), .A_INPUT("DIRECT"), .BCASCSEL("B"), .B_D_FPTYPE("B32"),
    .B_INPUT("DIRECT"), .PCOUTSEL("FPA"), .USE_MULT("MULTIPLY"), .RESET_MODE("SYNC"),
    .ACASCREG(1), .AREG(1), .FPBREG(1), .FPDREG(1), .FPCREG(C_REGS), .FPMPIPEREG(1),
    .FPM_PREG(1), .FPA_PREG(1), .FPOPMREG(1), .INMODEREG(1)
  ) site (
    .CLK(clk), .FPINMODE(1'b1), .FPOPMODE(MODE), .FPM_OUT(m), .FPA_OUT(s),
    .A_SIGN(a[31]), .A_EXP(a[30:23]), .A_MAN(a[22:0]),
    .B_SIGN(b[31]), .B_EXP(b[30:23]), .B_MAN(b[22:0]),
    .D_SIGN(d[31]), .D_EXP(d[30:23]), .D_MAN(d[22:0]), .C(c),
    .CEA1(1'b0), .CEA2(1'b1), .CEB(1'b1), .CEC(1'b1), .CED(1'b1), .CEFPA(1'b1),
    .CEFPINMODE(1'b1), .CEFPM(1'b1), .CEFPMPIPE(1'b1), .CEFPOPMODE(1'b1),
    .ASYNC_RST(1'b0), .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTFPA(1'b0),
    .RSTFPINMODE(1'b0), .RSTFPM(1'b0), .RSTFPMPIPE(1'b0), .RSTFPOPMODE(1'b0),
    .PCIN(32'b0), .ACIN_SIGN(1'b0), .ACIN_EXP(8'b0), .ACIN_MAN(23'b0),
    .BCIN_SIGN(1'b0), .BCIN_EXP(8'b0), .BCIN_MAN(23'b0),
    .PCOUT(), .ACOUT_SIGN(), .ACOUT_EXP(), .ACOUT_MAN(), .BCOUT_SIGN(), .BCOUT_EXP(),
    .BCOUT_MAN(), .FPA_INVALID(), .FPA_OVERFLOW(), .FPA_UNDERFLOW(), .FPM_INVALID(),
    .FPM_OVERFLOW(), .FPM_UNDERFLOW()
  );
`else
  reg [31:0] a_1 = 0, b_1 = 0, product_2 = 0, product_3 = 0, d_1 = 0, sum_1 = 0;
  reg [32*C_REGS-1:0] c_line = 0;
  wire [31:0] product, sum;
  wire [31:0] other = FROM_D ? d_1 : product_3;
  wire [31:0] addend = c_line[32*C_REGS-1 -: 32];
  lutvar_fp32_product multiplier (.clk(clk), .rst(1'b0), .x(a_1), .y(b_1), .z(product));
  lutvar_fp32_sum adder (.clk(clk), .rst(1'b0), .x(addend), .y(other), .z(sum));
  always @(posedge clk) begin
    a_1 <= a;
    b_1 <= b;
    product_2 <= product;
    product_3 <= product_2;
    d_1 <= d;
    c_line <= {c_line, c};
    sum_1 <= sum;
  end
  assign m = product_3;
  assign s = sum_1;
`endif
endmodule
"""


class DspFp32(wiring.Component):
    """Multiplier and adder of one DSP58, with all registers.

    Args:
        from_d: the adder adds `c` and `d`; otherwise `c` and the product.
        c_regs: registers before the adder's input `c`, 1 to 3.

    float32 patterns; subnormals count as zero, and neither infinities nor NaNs may arise.
    Throughput: one each cycle. Cost: one DSP58. Only a Versal device has it: elsewhere use
    `Fp32Multiply` and `Fp32Add`.

    Raises ValueError for other numbers of registers.
    """

    PRODUCT_LATENCY = 3

    a: In(32)  #: float32 factor
    b: In(32)  #: float32 factor
    c: In(32)  #: float32 summand
    d: In(32)  #: float32 summand, when `from_d`
    m: Out(32)  #: `RNE(a * b)`, `PRODUCT_LATENCY` cycles later
    #: `RNE(c + d)` or `RNE(c + m)`: `c_regs + 1` cycles after `c`, 2 after `d`, 1 after `m`
    s: Out(32)

    def __init__(self, *, from_d: bool, c_regs: int) -> None:
        if not 1 <= c_regs <= 3:
            raise ValueError(f"c_regs is {c_regs}; a DSP58 has 1 to 3 registers at C")
        self.from_d, self.c_regs = from_d, c_regs
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        product, adder = Fp32Product(), Fp32Sum()
        if isinstance(platform, ExportPlatform):
            # The Verilog names the models; only the first of each name is elaborated.
            for name, model in (("fp32_product", product), ("fp32_sum", adder)):
                for_inspection(model)
                platform.register(PREFIX + name, model)
            instantiate(
                m, platform, "dsp", "dspfp32", _SITE,
                parameters={"FROM_D": int(self.from_d), "C_REGS": self.c_regs},
                inputs={name: getattr(self, name) for name in "abcd"},
                outputs={name: getattr(self, name) for name in "ms"},
            )  # fmt: skip
            return m
        m.submodules.product, m.submodules.adder = product, adder
        added = delay(m, self.d, 1, "d_1")
        addend = Signal(32)
        m.d.comb += [
            product.x.eq(delay(m, self.a, 1, "a_1")),
            product.y.eq(delay(m, self.b, 1, "b_1")),
            self.m.eq(delay(m, product.z, 2, "product_line")),
            addend.eq(delay(m, self.c, self.c_regs, "c_line")),
            adder.x.eq(addend),
            adder.y.eq(added if self.from_d else self.m),
            self.s.eq(delay(m, adder.z, 1, "sum_1")),
        ]
        return m
