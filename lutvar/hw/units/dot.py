# SPDX-License-Identifier: Apache-2.0
"""Exact dot product of one group: the body of the array, and the interface for other forms of it.

The form built here is *product tables and an adder tree*. A lane whose product is negative enters
the tree as the one's complement of its magnitude, `u = p ^ s`: then `-p = u + 1 - 2**k` for
`k` magnitude bits, the tree adds unsigned numbers, and the number of negative lanes, counted on
the side, corrects the sum once: `sum = U + count - (count << k)`. The exclusive OR goes into the
LUT of the first adder, so a sign costs one LUT a lane and its share of the counter.
"""

from typing import Protocol

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .product import operand_planes
from .product_design import ProductDesign


class DotUnit(Protocol):
    """What the array expects of a dot product, whatever is inside.

    No handshake: new operands in every cycle, the sum `latency` cycles later.

    Attributes:
        activations: In, recoded row operand (see `ActivationRecode`).
        weights: In, recoded column operand (see `WeightRecode`).
        sum: Out, signed exact sum of `design.sum_bits(lanes)` bits.
        latency: cycles from operands to sum.
    """

    activations: Signal
    weights: Signal
    sum: Signal
    latency: int


def _compress(columns: list[list[Value]]) -> list[list[Value]]:
    """One LUT level of a bit counter: six bits of a weight become three, three become two.

    Columns hold vectors; column `i` counts `2**i` for each of their bits. Working on vectors
    instead of bits gives the same LUTs and a much faster simulation.
    """
    result: list[list[Value]] = [[] for _ in range(len(columns) + 2)]
    for weight, vectors in enumerate(columns):
        bits = Cat(*vectors)
        n = len(bits) // 6
        if n:
            a, b, c, d, e, f = (bits[i * n : (i + 1) * n] for i in range(6))
            low1, low2 = a ^ b ^ c, d ^ e ^ f
            carry1, carry2 = a & b | c & (a ^ b), d & e | f & (d ^ e)
            carry3 = low1 & low2
            result[weight].append(low1 ^ low2)
            result[weight + 1].append(carry1 ^ carry2 ^ carry3)
            result[weight + 2].append(carry1 & carry2 | carry3 & (carry1 ^ carry2))
        rest = bits[6 * n :]
        if len(rest) >= 3:
            a, b, c = rest[0], rest[1], rest[2]
            result[weight].append(a ^ b ^ c)
            result[weight + 1].append(a & b | c & (a ^ b))
            rest = rest[3:]
        if len(rest):
            result[weight].append(rest)
    while result and not result[-1]:
        result.pop()
    return result


def _height(column: list[Value]) -> int:
    return sum(len(vector) for vector in column)


class TableDot(wiring.Component):
    """Products from tables, a binary adder tree, one correction for the signs. A `DotUnit`.

    A register follows each adder; the counter of negative lanes does one compressor level in the
    same time. Throughput: one group a cycle.

    Args:
        design: the product; decides operand widths.
        lanes: products in the sum, at least 2.
    """

    activations: Signal  #: in: recoded activations (`ActivationRecode.operand`)
    weights: Signal  #: in: recoded weights (`WeightRecode.operand`)
    sum: Signal  #: out: exact sum of the products, `latency` cycles later

    def __init__(self, design: ProductDesign, lanes: int = 128) -> None:
        if lanes < 2:
            raise ValueError(f"a dot product of {lanes} lanes; at least 2 are needed")
        self.design, self.lanes = design, lanes
        self.levels = (lanes - 1).bit_length()
        self.latency = design.latency + self.levels + 1
        super().__init__(
            {
                "activations": In(lanes * (design.activation_width + 1)),
                "weights": In(lanes * (design.weight_width + 1)),
                "sum": Out(signed(design.sum_bits(lanes))),
            }
        )

    def _terms(self, m: Module) -> tuple[list[Value], list[Value]]:
        """`magnitude ^ sign` of each lane, and the sign planes, in the same cycle."""
        design, terms, planes = self.design, [], []
        activations = operand_planes(self.activations, design.activation_width, self.lanes)
        weights = operand_planes(self.weights, design.weight_width, self.lanes)
        for index, ((a, a_sign), (w, w_sign)) in enumerate(zip(activations, weights, strict=True)):
            lanes, signs = design.terms(m, a, w, a_sign ^ w_sign, f"chunk{index}")
            terms += lanes
            planes.append(signs)
        return terms, planes

    def elaborate(self, platform: object) -> Module:
        m = Module()
        terms, signs = self._terms(m)
        counters: list[list[Value]] = [signs]
        for level in range(self.levels):
            sums: list[Value] = []
            for i in range(0, len(terms) - 1, 2):
                total = terms[i] + terms[i + 1]
                stage = Signal(total.shape(), name=f"sum{level}_{i // 2}", reset_less=True)
                m.d.sync += stage.eq(total)
                sums.append(stage)
            if len(terms) % 2:
                odd = Signal(terms[-1].shape(), name=f"sum{level}_odd", reset_less=True)
                m.d.sync += odd.eq(terms[-1])
                sums.append(odd)
            terms = sums
            counters = self._count(m, counters, level)
        (unsigned,) = terms
        count = Signal(range(self.lanes + 1))
        m.d.comb += count.eq(self._finish(counters))
        k = self.design.magnitude_bits
        high = (unsigned[k:] - count)[: len(self.sum) - k]
        m.d.sync += self.sum.eq(Cat(unsigned[:k], high) + count)
        return m

    def _count(self, m: Module, counters: list[list[Value]], level: int) -> list[list[Value]]:
        """One register stage of the counter of negative lanes."""
        if level == self.levels - 1:
            total = self._finish(counters)
            stage = Signal(range(self.lanes + 1), name="negative_lanes", reset_less=True)
            m.d.sync += stage.eq(total)
            return [[stage[i]] for i in range(len(stage))]
        if max(map(_height, counters)) > 2:
            counters = _compress(counters)
        staged: list[list[Value]] = []
        for weight, vectors in enumerate(counters):
            if not vectors:
                staged.append([])
                continue
            stage = Signal(_height(vectors), name=f"count{level}_{weight}", reset_less=True)
            m.d.sync += stage.eq(Cat(*vectors))
            staged.append([stage])
        return staged

    def _finish(self, counters: list[list[Value]]) -> Value:
        """Add up what is left of the counter: two rows once the compressors are done."""
        while max(map(_height, counters)) > 2:
            counters = _compress(counters)
        rows = [
            Cat(
                *(
                    Cat(*column)[row] if _height(column) > row else Const(0, 1)
                    for column in counters
                )
            )
            for row in range(2)
        ]
        return rows[0] + rows[1] if max(map(_height, counters)) == 2 else rows[0]


#: Forms of the dot product by name; called with (design, lanes), each makes a `DotUnit`.
DOT_FORMS = {"table": TableDot}


def make_dot(design: ProductDesign, lanes: int = 128, form: str = "table") -> DotUnit:
    """A dot product of the named form."""
    try:
        return DOT_FORMS[form](design, lanes)
    except KeyError:
        raise ValueError(
            f"unknown dot product form {form!r}; known: {', '.join(DOT_FORMS)}"
        ) from None
