# SPDX-License-Identifier: Apache-2.0
"""Every code pair of every pass through the recoders and one lane; and that a wrong table shows."""

import gc
import itertools
from dataclasses import replace
from typing import Any

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.formats import get_format
from lutvar.hw.units import product
from lutvar.hw.units.lane_tables import TableSet
from lutvar.hw.units.planes import PlaneLogic, chunks, from_planes, to_planes
from lutvar.hw.units.product import ActivationRecode, WeightRecode, make_product, operand_planes
from lutvar.hw.units.product_design import ProductDesign
from lutvar.hw.units.recode import Demand, classes, share_bits
from support.hw.pipeline import run_pipeline
from support.hw.product_cases import CASES, Case, activation_value, pack, weight_value


class Row(wiring.Component):
    """All activation codes against one weight code: a lane for each activation code."""

    weight: Signal
    dual: Signal
    neg: Signal
    terms: Signal
    signs: Signal

    def __init__(self, design: ProductDesign) -> None:
        self.design, self.lanes = design, design.plain.code_count
        self.latency = ActivationRecode.LATENCY + design.latency
        bits = design.magnitude_bits
        super().__init__(
            {
                "weight": In(design.weight.bits),
                "dual": In(1),
                "neg": In(1),
                "terms": Out(self.lanes * bits),
                "signs": Out(self.lanes),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        design, lanes = self.design, self.lanes
        m.submodules.row = row = ActivationRecode(design, lanes)
        m.submodules.column = column = WeightRecode(design, lanes)
        m.d.comb += [
            row.codes.eq(pack(range(lanes), design.plain.bits)),
            row.dual.eq(self.dual),
            row.neg.eq(self.neg),
            column.codes.eq(self.weight.replicate(lanes)),
        ]
        terms, signs = [], []
        for (a, a_sign), (w, w_sign) in zip(
            operand_planes(row.operand, design.activation_width, lanes),
            operand_planes(column.operand, design.weight_width, lanes),
            strict=True,
        ):
            found, sign = design.terms(m, a, w, a_sign ^ w_sign, f"chunk{len(signs)}")
            terms += found
            signs.append(sign)
        m.d.comb += [self.terms.eq(Cat(*terms)), self.signs.eq(Cat(*signs))]
        return m


def positions(lanes: int, bits: int) -> list[int]:
    """Lane at each position of the planes."""
    order = []
    for start, count in chunks(lanes):
        starts = list(
            itertools.accumulate((-(-(count - r) // bits) for r in range(bits)), initial=0)
        )
        order += [start + starts[p % bits] + p // bits for p in range(count)]
    return order


def wrong_products(case: Case) -> list[tuple[int, int, int, int, int, int]]:
    """(dual, neg, activation code, weight code, got, expected) for each product that is wrong."""
    design = case.design
    row = Row(design)
    inputs = [
        {"weight": w, "dual": dual, "neg": neg}
        for dual, neg in case.passes
        for w in range(design.weight.code_count)
    ]
    results = run_pipeline(row, inputs, ("terms", "signs"), row.latency)
    order, bits = positions(row.lanes, design.plain.bits), design.magnitude_bits
    mask = (1 << bits) - 1
    wrong = []
    for given, (terms, signs) in zip(inputs, results, strict=True):
        dual, neg, w = given["dual"], given["neg"], given["weight"]
        for p, code in enumerate(order):
            sign = signs >> p & 1
            magnitude = terms >> p * bits & mask ^ (mask if sign else 0)
            got = -magnitude if sign else magnitude
            want = activation_value(case, code, dual, neg) * weight_value(case, w)
            if got != want:
                wrong.append((dual, neg, code, w, got, want))
    return wrong


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_product(case: Case) -> None:
    assert wrong_products(case) == []


def test_a_wrong_table_entry_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of one table changed: exactly the products that read this entry are wrong."""
    case = CASES[0]
    design = make_product.__wrapped__(*case.formats)
    assert isinstance(design, product.TableProduct)
    index = next(i for i, t in enumerate(design.tables.tables) if (t.low, t.high) == (4, 5))
    table = design.tables.tables[index]
    a, w = design.activation_magnitudes.index(6), design.weight_magnitudes.index(3)
    address = design.tables.activation_code.view(index, a) | (
        design.tables.weight_code.view(index, w) << len(design.tables.activation_code.picks[index])
    )
    entries = [*table.entries]
    entries[address] ^= 1
    tables = [*design.tables.tables]
    tables[index] = replace(table, entries=tuple(entries))
    design.tables.tables = tuple(tables)
    monkeypatch.setattr(Case, "design", property(lambda self: design))
    wrong = wrong_products(case)
    assert {(abs(want), abs(got)) for *_, got, want in wrong} == {(18, 18 - 16)}
    assert len(wrong) == 2 * 4  # both values of neg, four combinations of signs


def test_forms_and_cost() -> None:
    """What the search is for: LUTs of a lane, and weights that need no more bits than codes."""
    plain, dual, six = (make_product(*CASES[i].formats) for i in (0, 2, 5))
    assert isinstance(plain, product.TableProduct)
    assert (plain.estimate, plain.activation_width, plain.weight_width) == (6, 7, 3)
    assert (dual.estimate, dual.weight_width) == (7, 3)
    assert isinstance(six, product.SignificandProduct)
    assert six.estimate == make_product(*CASES[4].formats).estimate


def test_product_refuses() -> None:
    e2m1, dual4, dual6 = (get_format(name) for name in ("E2M1", "DUAL4", "DUAL6"))
    with pytest.raises(ValueError, match="single scale"):
        make_product(dual4, e2m1)
    with pytest.raises(ValueError, match="single scale"):
        make_product(e2m1, dual4)
    with pytest.raises(ValueError, match="not a dual format"):
        make_product(e2m1, e2m1, e2m1)
    with pytest.raises(ValueError, match="one width"):
        make_product(e2m1, e2m1, dual6)
    with pytest.raises(ValueError, match="magnitude 5"):
        make_product(e2m1, e2m1).encode_weight(5)
    six = make_product(get_format("E2M3"), get_format("E2M3"))
    for encode in (six.encode_weight, six.encode_activation):
        with pytest.raises(ValueError, match="magnitude 17"):
            encode(17)


# -- the parts -----------------------------------------------------------------------------


def test_share_bits_tells_classes_apart() -> None:
    values = range(10)
    parities = classes(values, lambda v: v % 2)
    thirds = classes(values, lambda v: v // 3)
    code = share_bits([Demand(parities, 1), Demand(thirds, 2), Demand(tuple(values), 4)])
    for index, partition in enumerate((parities, thirds, tuple(values))):
        seen: dict[int, int] = {}
        for value in values:
            assert seen.setdefault(code.view(index, value), partition[value]) == partition[value]
    assert code.width < 1 + 2 + 4
    assert share_bits([Demand(parities, 1), Demand(thirds, 2), Demand(tuple(values), 4)]) == code


def test_demands_are_checked() -> None:
    with pytest.raises(ValueError, match="3 classes in 1 bits"):
        Demand((0, 1, 2), 1)
    with pytest.raises(ValueError, match="same number"):
        share_bits([Demand((0, 1), 1), Demand((0, 1, 0), 1)])


def test_table_set_covers_its_values() -> None:
    tables = TableSet((0, 1, 5, 7), (0, 2, 3))
    for (ia, a), (iw, w) in itertools.product(enumerate((0, 1, 5, 7)), enumerate((0, 2, 3))):
        product_bits = 0
        for index, table in enumerate(tables.tables):
            low = len(tables.activation_code.picks[index])
            address = tables.activation_code.view(index, ia)
            address |= tables.weight_code.view(index, iw) << low
            product_bits |= table.entries[address] << table.low
        assert product_bits == a * w


TRUTHS = (0x00, 0xFF, 0xCA, 0x96, 0x80, 0x5A, 0x0D, 0xF1)


class _Planes(wiring.Component):
    """Codes to planes and back, and some functions of three planes."""

    codes: Signal
    back: Signal
    f: Signal

    def __init__(self, lanes: int, bits: int) -> None:
        self.lanes, self.bits = lanes, bits
        functions = Out(lanes * len(TRUTHS))
        super().__init__({"codes": In(lanes * bits), "back": Out(lanes * bits), "f": functions})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        planes = to_planes(m, self.codes, self.bits, "to")
        logic = PlaneLogic(m, self.lanes, "logic")
        m.d.sync += [
            self.back.eq(Cat(*from_planes(m, planes, "from"))),
            self.f.eq(Cat(*(logic.function(truth, planes[:3]) for truth in TRUTHS))),
        ]
        return m


@pytest.mark.parametrize(("lanes", "bits"), [(64, 4), (64, 6), (7, 3), (2, 9), (33, 12)])
def test_planes(lanes: int, bits: int) -> None:
    codes = [(j * 37 + 11) % (1 << bits) for j in range(lanes)]
    inputs = [{"codes": pack(codes, bits)}]
    ((back, f),) = run_pipeline(_Planes(lanes, bits), inputs, ("back", "f"), latency=1)
    order = [codes[lane] for lane in positions(lanes, bits)]
    assert back == pack(order, bits)
    assert f == pack([truth >> (code & 7) & 1 for truth in TRUTHS for code in order], 1)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_plane_functions_check_their_table() -> None:
    with pytest.raises(ValueError, match="3 entries for 1 variables"):
        PlaneLogic(Module(), 1, "x").functions([0, 1, 1], 1, [Signal()])
    gc.collect()  # what was refused must not be reported as unused later
