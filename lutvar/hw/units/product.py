# SPDX-License-Identifier: Apache-2.0
"""One lane of the array: exact product of a weight code and an activation code, in LUT tables.

The formats decide the form; `make_product` compares both by the number of LUTs.

* *Tables*: each bit of the product's magnitude is a table of the two operands (4-bit formats).
* *Significands*: both magnitudes are `significand << shift`. The weight's significand is cut into
  radix-4 digits, each digit times the activation's significand is a table, and one multiplexer
  shifts the sum (6-bit formats).

Operands are recoded once at the array's edge so that most tables read at most six wires, and the
tables of the two ends of the product share dual-output LUTs. The recoded activation is one number
whichever half of a dual format it comes from, so a lane knows nothing of passes. Products are sign
and magnitude; a zero may carry either sign. Many lanes are described at once, as bit planes.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product as pairs

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.formats import NumberFormat

from .lane_tables import TableSet
from .pipeline import data_register, register
from .planes import PlaneLogic, chunks, from_planes, to_planes
from .product_design import ProductDesign
from .recode import OperandCode, bits_for


def _register_planes(m: Module, planes: Sequence[Value], name: str) -> list[Value]:
    return [register(m, plane, f"{name}{k}") for k, plane in enumerate(planes)]


class TableProduct(ProductDesign):
    """Each product bit straight from a table: latency 1, one LUT level."""

    def __init__(
        self, weight: NumberFormat, plain: NumberFormat, dual: NumberFormat | None
    ) -> None:
        super().__init__(weight, plain, dual)
        self.tables = TableSet(self.activation_magnitudes, self.weight_magnitudes)
        self.activation_width = self.tables.activation_code.width
        self.weight_width = self.tables.weight_code.width
        self.latency = 1
        self.estimate = self.tables.luts

    def encode_activation(self, magnitude: int) -> int:
        """Operand bits of an activation's magnitude."""
        return _encode(self.tables.activation_code, self.activation_magnitudes, magnitude)

    def encode_weight(self, magnitude: int) -> int:
        """Operand bits of a weight's magnitude."""
        return _encode(self.tables.weight_code, self.weight_magnitudes, magnitude)

    def terms(
        self,
        m: Module,
        activation: Sequence[Value],
        weight: Sequence[Value],
        signs: Value,
        name: str,
    ) -> tuple[list[Value], Value]:
        """See `ProductDesign.terms`: products come out of the tables."""
        logic = PlaneLogic(m, len(signs), f"{name}_table")
        products = self.tables.multiply(logic, activation, weight)
        *products, signs = _register_planes(m, [*products, signs], f"{name}_product")
        return from_planes(m, [plane ^ signs for plane in products], f"{name}_lanes"), signs


def _encode(code: OperandCode, values: tuple[int, ...], value: int) -> int:
    try:
        return code.codes[values.index(value)]
    except ValueError:
        raise ValueError(f"magnitude {value} is not among the operand's values {values}") from None


def _split(value: int, width: int) -> tuple[int, int]:
    """`value` as (significand of at most `width` bits, shift), with the smallest shift."""
    shift = max(0, value.bit_length() - width)
    return value >> shift, shift


def _significand_width(values: Sequence[int], max_shift: int) -> int:
    """Bits that hold the significand of each value when it may be shifted by 0..max_shift."""
    width = 1
    for value in values:
        shift = max_shift
        while value & ((1 << shift) - 1):
            shift -= 1
        width = max(width, (value >> shift).bit_length())
    return width


class SignificandProduct(ProductDesign):
    """Significands by radix-4 digits, then a shift of 0..3: latency 2, three LUT levels."""

    MAX_SHIFT = 3  #: one LUT6 a bit is a four-way multiplexer

    def __init__(
        self, weight: NumberFormat, plain: NumberFormat, dual: NumberFormat | None
    ) -> None:
        super().__init__(weight, plain, dual)
        options = []
        for shift_a, shift_w in pairs(range(self.MAX_SHIFT + 1), repeat=2):
            if shift_a + shift_w > self.MAX_SHIFT:
                continue
            width_a = _significand_width(self.activation_magnitudes, shift_a)
            width_w = _significand_width(self.weight_magnitudes, shift_w)
            digits = (width_w + 1) // 2
            cost = digits * width_a + (digits - 1) * (width_a + 2)
            cost += self.magnitude_bits if shift_a + shift_w else 0
            options.append((cost, shift_a, shift_w, width_a, width_w))
        self.estimate, self.shift_a, self.shift_w, self.width_a, self.width_w = min(options)
        self.digits = (self.width_w + 1) // 2
        significands = {_split(v, self.width_a)[0] for v in self.activation_magnitudes}
        self.significands = tuple(sorted(significands))
        self.tables = TableSet(self.significands, range(4))
        self.code_bits = self.tables.activation_code.width
        self.digit_bits = self.tables.weight_code.width
        self.activation_width = self.code_bits + bits_for(self.shift_a + 1)
        self.weight_width = self.digits * self.digit_bits + bits_for(self.shift_w + 1)
        self.latency = 2

    def encode_activation(self, magnitude: int) -> int:
        """Operand bits of an activation's magnitude: significand and shift. Raises ValueError."""
        significand, shift = _split(magnitude, self.width_a)
        if magnitude not in self.activation_magnitudes:
            raise ValueError(f"magnitude {magnitude} is not an activation value of this product")
        code = _encode(self.tables.activation_code, self.significands, significand)
        return code | shift << self.code_bits

    def encode_weight(self, magnitude: int) -> int:
        """Operand bits of a weight's magnitude: significand and shift. Raises ValueError."""
        significand, shift = _split(magnitude, self.width_w)
        if magnitude not in self.weight_magnitudes:
            raise ValueError(f"magnitude {magnitude} is not a weight value of this product")
        code = 0
        for digit in range(self.digits):
            value = self.tables.weight_code.codes[significand >> 2 * digit & 3]
            code |= value << digit * self.digit_bits
        return code | shift << self.digits * self.digit_bits

    def terms(
        self,
        m: Module,
        activation: Sequence[Value],
        weight: Sequence[Value],
        signs: Value,
        name: str,
    ) -> tuple[list[Value], Value]:
        """See `ProductDesign.terms`: significands are multiplied, then shifted."""
        logic = PlaneLogic(m, len(signs), f"{name}_table")
        significand, shift_a = activation[: self.code_bits], activation[self.code_bits :]
        shift_w = weight[self.digits * self.digit_bits :]
        # First stage: a partial product for each digit, and how far to shift.
        partials: list[list[Value]] = []
        for digit in range(self.digits):
            at = digit * self.digit_bits
            planes = self.tables.multiply(logic, significand, weight[at : at + self.digit_bits])
            planes = _register_planes(m, planes, f"{name}_digit{digit}_")
            partials.append(from_planes(m, planes, f"{name}_digit{digit}"))
        (signs,) = _register_planes(m, [signs], f"{name}_sign")
        variables = [*shift_a, *shift_w]
        mask = (1 << len(shift_a)) - 1
        sums = [(i & mask) + (i >> len(shift_a)) for i in range(1 << len(variables))]
        shift_bits = bits_for(self.shift_a + self.shift_w + 1)
        shift_planes = logic.functions(
            [s & (1 << shift_bits) - 1 for s in sums], shift_bits, variables
        )
        shifts: list[Value] = []
        if shift_planes:
            shift_planes = _register_planes(m, shift_planes, f"{name}_shift")
            shifts = from_planes(m, shift_planes, f"{name}_shift")
        # Second stage: add the digits, shift.
        (late_signs,) = _register_planes(m, [signs], f"{name}_late_sign")
        terms: list[Value] = []
        for j in range(len(signs)):
            total = partials[0][j]
            for digit in range(1, self.digits):
                low = 2 * digit  # bits below the new digit pass by the adder
                total = Cat(total[:low], total[low:] + partials[digit][j])
            if shifts:
                total = total << shifts[j]
            term = Signal(self.magnitude_bits, name=f"{name}_product{j}", reset_less=True)
            m.d.sync += term.eq(total)
            terms.append(term ^ late_signs[j].replicate(self.magnitude_bits))
        return terms, late_signs


@lru_cache(maxsize=32)
def make_product(
    weight: NumberFormat, plain: NumberFormat, dual: NumberFormat | None = None
) -> ProductDesign:
    """The cheapest product for a set of formats.

    Args:
        weight: weight format, single scale.
        plain: single-scale activation format.
        dual: dual activation format that the same lanes also serve, or None.

    Raises:
        ValueError: a dual weight format, a dual plain format, or formats of different width.
    """
    if weight.dual or plain.dual:
        raise ValueError(
            f"weight {weight.name} and plain activation {plain.name} must have a single scale"
        )
    if dual is not None and not dual.dual:
        raise ValueError(f"{dual.name} is not a dual format; pass it as `plain`")
    if dual is not None and dual.bits != plain.bits:
        raise ValueError(
            f"{plain.name} has {plain.bits} bits and {dual.name} {dual.bits}; one width is needed"
        )
    significand = SignificandProduct(weight, plain, dual)
    if weight.bits > 4 or plain.bits > 4:
        return significand  # tables of ten or more inputs lose by far
    table = TableProduct(weight, plain, dual)
    return table if table.estimate <= significand.estimate else significand


def _recode_chunks(
    m: Module,
    codes: Value,
    bits: int,
    recode: Callable[[list[Value], str], tuple[list[Value], Value]],
) -> Value:
    """Operand of all lanes: for each chunk its planes, then its signs."""
    parts: list[Value] = []
    for index, (start, count) in enumerate(chunks(len(codes) // bits)):
        part = codes[start * bits : (start + count) * bits]
        planes = to_planes(m, part, bits, f"codes{index}")
        magnitude, sign = recode(list(planes), f"recoded{index}")
        parts += [*magnitude, sign]
    return Cat(*parts)


def operand_planes(operand: Value, width: int, lanes: int) -> list[tuple[list[Value], Value]]:
    """Cut an operand into (magnitude planes, sign plane) for each chunk of lanes.

    Args:
        width: bits of a recoded magnitude.
    """
    result = []
    for start, count in chunks(lanes):
        base = start * (width + 1)
        planes = [operand[base + k * count : base + (k + 1) * count] for k in range(width + 1)]
        result.append((planes[:-1], planes[-1]))
    return result


class WeightRecode(wiring.Component):
    """Recodes the weights of one output feature for the lanes. Latency 1, one each cycle."""

    LATENCY = 1

    codes: Signal  #: in: `lanes` codes, lane 0 lowest
    #: out: what the dot product takes (see `operand_planes`), one cycle later; lanes in the order
    #: of `lutvar.hw.units.planes.to_planes`
    operand: Signal

    def __init__(self, design: ProductDesign, lanes: int = 128) -> None:
        self.design, self.lanes = design, lanes
        super().__init__(
            {
                "codes": In(lanes * design.weight.bits),
                "operand": Out(lanes * (design.weight_width + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        design = self.design
        operand = _recode_chunks(
            m,
            self.codes,
            design.weight.bits,
            lambda code, name: design.recode_weight(m, code, name),
        )
        m.d.sync += data_register(m, self.operand, "recoded_operand").eq(operand)
        return m


class ActivationRecode(wiring.Component):
    """Recodes the activations of one token row for the lanes. Latency 1, one each cycle."""

    LATENCY = 1

    codes: Signal  #: in: `lanes` codes, lane 0 lowest
    dual: Signal  #: in: the codes are of the dual format
    #: in: the pass over its negative half. In each pass of a dual format the lanes that belong to
    #: the other pass become zero
    neg: Signal
    operand: Signal  #: out: what the dot product takes, one cycle later, as in `WeightRecode`

    def __init__(self, design: ProductDesign, lanes: int = 128) -> None:
        self.design, self.lanes = design, lanes
        super().__init__(
            {
                "codes": In(lanes * design.plain.bits),
                "dual": In(1),
                "neg": In(1),
                "operand": Out(lanes * (design.activation_width + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        design = self.design

        def recode(code: list[Value], name: str) -> tuple[list[Value], Value]:
            return design.recode_activation(m, code, self.dual, self.neg, name)

        operand = _recode_chunks(m, self.codes, design.plain.bits, recode)
        m.d.sync += data_register(m, self.operand, "recoded_operand").eq(operand)
        return m
