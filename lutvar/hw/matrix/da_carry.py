# SPDX-License-Identifier: Apache-2.0
"""Adders of many lanes whose bits lie plane by plane."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.verilog import ExportPlatform, instantiate

#: Synthesis is to see one addition for each lane, which becomes a carry chain; a simulator is
#: faster with the same full adders for all lanes at once.
_ADDER = """\
// Sums of LANES pairs of numbers and a carry each. Bit k of lane n is bit LANES * k + n.
module lutvar_da_adder #(
  parameter LANES = 1, parameter WIDTH = 1
) (
  input clk,
  input [LANES*WIDTH-1:0] a,
  input [LANES*WIDTH-1:0] b,
  input [LANES-1:0] carry,
  output [LANES*(WIDTH+1)-1:0] sum
);
`ifdef SYNTHESIS
  genvar n, k;
  generate
    for (n = 0; n < LANES; n = n + 1) begin : lane
      wire [WIDTH-1:0] x, y;
      wire [WIDTH:0] total = x + y + carry[n];
      for (k = 0; k < WIDTH; k = k + 1) begin : place
        assign x[k] = a[LANES*k+n];
        assign y[k] = b[LANES*k+n];
      end
      for (k = 0; k <= WIDTH; k = k + 1) begin : result
        assign sum[LANES*k+n] = total[k];
      end
    end
  endgenerate
`else
  genvar k;
  generate
    for (k = 0; k < WIDTH; k = k + 1) begin : place
      wire [LANES-1:0] x = a[LANES*k +: LANES];
      wire [LANES-1:0] y = b[LANES*k +: LANES];
      wire [LANES-1:0] below, above;
      if (k == 0) begin : first
        assign below = carry;
      end else begin : later
        assign below = place[k-1].above;
      end
      assign above = x & y | below & (x ^ y);
      assign sum[LANES*k +: LANES] = x ^ y ^ below;
    end
  endgenerate
  assign sum[LANES*WIDTH +: LANES] = place[WIDTH-1].above;
`endif
endmodule
"""


def full_add(a: Value, b: Value, c: Value) -> tuple[Value, Value]:
    """Sum and carry of three bits (of each position)."""
    return a ^ b ^ c, a & b | c & (a ^ b)


class PlaneAdder(wiring.Component):
    """Adds two numbers and a carry in each of many lanes. Combinational.

    Cost: a carry chain for each lane, a LUT site for each bit; logic in front of `a` and `b`
    is free as long as a bit of both depends on no more than four signals.
    """

    a: Signal  #: in: `width` planes of `lanes` bits, the lowest plane first
    b: Signal  #: in: the same
    carry: Signal  #: in: a bit for each lane
    sum: Signal  #: out: `width + 1` planes

    def __init__(self, lanes: int, width: int) -> None:
        if lanes < 1 or width < 1:
            raise ValueError(f"{lanes} lanes of {width} bits: at least 1 each")
        self.lanes, self.width = lanes, width
        super().__init__(
            {
                "a": In(lanes * width),
                "b": In(lanes * width),
                "carry": In(lanes),
                "sum": Out(lanes * (width + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        lanes = self.lanes
        if isinstance(platform, ExportPlatform):
            instantiate(
                m, platform, "adder", "da_adder", _ADDER,
                parameters={"LANES": lanes, "WIDTH": self.width},
                inputs={"a": self.a, "b": self.b, "carry": self.carry},
                outputs={"sum": self.sum},
            )  # fmt: skip
            return m
        carry: Value = self.carry
        planes: list[Value] = []
        for k in range(self.width):
            total, carry = full_add(self.a[lanes * k :][:lanes], self.b[lanes * k :][:lanes], carry)
            planes.append(total)
        m.d.comb += self.sum.eq(Cat(*planes, carry))
        return m


def add_planes(
    m: Module, name: str, a: list[Value], b: list[Value], carry: Value | None = None
) -> list[Value]:
    """Planes of a sum, one more than `a` and `b` have."""
    lanes = len(a[0])
    m.submodules[name] = adder = PlaneAdder(lanes, len(a))
    m.d.comb += [
        adder.a.eq(Cat(*a)),
        adder.b.eq(Cat(*b)),
        adder.carry.eq(Const(0, lanes) if carry is None else carry),
    ]
    return [adder.sum[lanes * k :][:lanes] for k in range(len(a) + 1)]
