# SPDX-License-Identifier: Apache-2.0
"""Formats that the product and the dot product are tested with, and codes put to the lanes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.formats import NumberFormat, get_format
from lutvar.hw.units.dot import make_dot
from lutvar.hw.units.product import ActivationRecode, WeightRecode, make_product
from lutvar.hw.units.product_design import ProductDesign


@dataclass(frozen=True)
class Case:
    """Weight, plain activation and dual activation format, by name."""

    weight: str
    plain: str
    dual: str | None = None

    @property
    def formats(self) -> tuple[NumberFormat, NumberFormat, NumberFormat | None]:
        dual = get_format(self.dual) if self.dual else None
        return get_format(self.weight), get_format(self.plain), dual

    @property
    def design(self) -> ProductDesign:
        return make_product(*self.formats)

    @property
    def passes(self) -> list[tuple[int, int]]:
        """Values of (dual, neg) that occur; a plain format ignores `neg`."""
        return [(0, 0), (0, 1), *([(1, 1), (1, 0)] if self.dual else [])]

    def __str__(self) -> str:
        return "-".join(name for name in (self.weight, self.plain, self.dual) if name)


CASES = [
    Case("E2M1", "E2M1"),
    Case("E2M1", "E1M2"),
    Case("E2M1", "E2M1", "DUAL4"),
    Case("INT4", "INT4"),
    Case("E2M3", "E2M3"),
    Case("E2M3", "E2M3", "DUAL6"),
    Case("INT6", "E2M3"),
]


def activation_value(case: Case, code: int, dual: int, neg: int) -> int:
    """Grid integer with which a code takes part in a pass (contract, sections 2 and 5)."""
    _, plain, dual_format = case.formats
    if not dual:
        return plain.decode_int(code) or 0
    assert dual_format is not None
    in_pass = bool(code & dual_format.sign_bit) == bool(neg)
    return (dual_format.decode_int(code) or 0) if in_pass else 0


def weight_value(case: Case, code: int) -> int:
    return case.formats[0].decode_int(code) or 0


def pack(codes: Sequence[int], bits: int) -> int:
    return sum(code << j * bits for j, code in enumerate(codes))


class CodedDot(wiring.Component):
    """Recoders and dot product as the array connects them: codes in, sum out."""

    activations: Signal
    weights: Signal
    dual: Signal
    neg: Signal
    sum: Signal

    def __init__(self, design: ProductDesign, lanes: int) -> None:
        self.design, self.lanes = design, lanes
        self.dot = make_dot(design, lanes)
        self.latency = ActivationRecode.LATENCY + self.dot.latency
        super().__init__(
            {
                "activations": In(lanes * design.plain.bits),
                "weights": In(lanes * design.weight.bits),
                "dual": In(1),
                "neg": In(1),
                "sum": Out(self.dot.sum.shape()),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.row = row = ActivationRecode(self.design, self.lanes)
        m.submodules.column = column = WeightRecode(self.design, self.lanes)
        m.submodules.dot = self.dot
        m.d.comb += [
            row.codes.eq(self.activations),
            row.dual.eq(self.dual),
            row.neg.eq(self.neg),
            column.codes.eq(self.weights),
            self.dot.activations.eq(row.operand),
            self.dot.weights.eq(column.operand),
            self.sum.eq(self.dot.sum),
        ]
        return m
