# SPDX-License-Identifier: Apache-2.0
"""One lane of the array: exact product of a weight code and an activation code, in LUT tables.

The formats decide the form; :func:`make_product` compares both by the number of LUTs.

* *Tables*: each bit of the product's magnitude is a table of the two operands (4-bit formats).
* *Significands*: both magnitudes are ``significand << shift``. The weight's significand is cut into
  radix-4 digits, each digit times the activation's significand is a table, and one multiplexer shifts
  the sum (6-bit formats).

Operands are recoded once at the array's edge so that most tables read at most six wires, and the tables
of the two ends of the product share dual-output LUTs. The recoded activation is one number whichever
half of a dual format it comes from, so a lane knows nothing of passes. Products are sign and magnitude;
a zero may carry either sign.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product as pairs

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.quant.formats import HalfGrid, NumberFormat

from .recode import (
    DUAL_INPUTS,
    LUT_INPUTS,
    Demand,
    OperandCode,
    bits_for,
    classes,
    share_bits,
)
from .tables import lookup


def _pick(operand: Value, positions: Sequence[int]) -> Value:
    """The operand's bits at ascending positions, taken in as few slices as possible."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and runs[-1][1] == position:
            runs[-1][1] += 1
        else:
            runs.append([position, position + 1])
    return Cat(*(operand[low:high] for low, high in runs))


def _settle(entries: list[int | None]) -> list[int]:
    """Replace entries that are never reached so that the table ignores as many inputs as it can."""
    size = len(entries)
    stride = size // 2
    while stride:
        mates = [(entries[i], entries[i ^ stride]) for i in range(size)]
        if all(a is None or b is None or a == b for a, b in mates):
            entries = [b if a is None else a for a, b in mates]
        stride //= 2
    if size > 1 << LUT_INPUTS:  # each half is a LUT of its own
        return _settle(entries[: size // 2]) + _settle(entries[size // 2 :])
    return [entry or 0 for entry in entries]


@dataclass(frozen=True)
class LutTable:
    """A few product bits that are read through the same operand bits.

    Attributes:
        low: position of the lowest product bit.
        high: one past the highest.
        entries: product bits at index ``weight bits | activation bits << n``; 0 where never reached.
        inputs: address bits.
    """

    low: int
    high: int
    entries: tuple[int, ...]
    inputs: int

    @property
    def luts(self) -> int:
        """LUT6 sites, two outputs of at most five shared inputs counted as one."""
        if self.inputs <= DUAL_INPUTS:
            return (self.high - self.low + 1) // 2
        return (self.high - self.low) << (self.inputs - LUT_INPUTS)


class TableSet:
    """Tables that multiply two small sets of magnitudes, and the operand codes that they want."""

    def __init__(self, activations: Sequence[int], weights: Sequence[int]) -> None:
        self.activations, self.weights = tuple(activations), tuple(weights)
        self.bits = (max(self.activations) * max(self.weights)).bit_length()
        spans, wants = self._plan()
        self.activation_code = share_bits([a for a, _ in wants])
        self.weight_code = share_bits([w for _, w in wants])
        self.tables = tuple(self._table(i, low, high) for i, (low, high) in enumerate(spans))

    def _demands(self, low: int, high: int) -> tuple[Demand, Demand, int]:
        """Operand classes for product bits low..high-1, and the least number of table inputs."""
        mask = (1 << high) - (1 << low)
        of_a = classes(self.activations, lambda a: tuple(a * w & mask for w in self.weights))
        of_w = classes(self.weights, lambda w: tuple(a * w & mask for a in self.activations))
        need_a, need_w = bits_for(len(set(of_a))), bits_for(len(set(of_w)))
        # Inputs that cost nothing go to the weight, which then often needs no recoding at all.
        limit = LUT_INPUTS if high - low == 1 else DUAL_INPUTS
        full_w = bits_for(len(self.weights))
        width_w = max(need_w, min(full_w, limit - need_a))
        return Demand(of_a, need_a), Demand(of_w, width_w), need_a + need_w

    def _plan(self) -> tuple[list[tuple[int, int]], list[tuple[Demand, Demand]]]:
        """Split the product's bits into single bits and neighbours that share a dual-output LUT."""
        spans, wants, low = [], [], 0
        while low < self.bits:
            high = min(low + 2, self.bits)
            a, w, inputs = self._demands(low, high)
            if high - low == 2 and inputs > DUAL_INPUTS:
                high = low + 1
                a, w, inputs = self._demands(low, high)
            spans.append((low, high))
            wants.append((a, w))
            low = high
        return spans, wants

    def _table(self, index: int, low: int, high: int) -> LutTable:
        a_code, w_code = self.activation_code, self.weight_code
        w_bits = len(w_code.picks[index])
        inputs = w_bits + len(a_code.picks[index])
        entries: list[int | None] = [None] * (1 << inputs)
        for (ia, a), (iw, w) in pairs(enumerate(self.activations), enumerate(self.weights)):
            address = w_code.view(index, iw) | a_code.view(index, ia) << w_bits
            entry = a * w >> low & (1 << high - low) - 1
            if entries[address] not in (None, entry):
                raise AssertionError(f"product bits {low}..{high - 1}: the operand codes clash")
            entries[address] = entry
        return LutTable(low, high, tuple(_settle(entries)), inputs)

    @property
    def luts(self) -> int:
        return sum(table.luts for table in self.tables)

    def multiply(self, activation: Value, weight: Value) -> Value:
        """The product of two recoded magnitudes, combinational, one LUT level."""
        parts = []
        for table, a, w in zip(
            self.tables, self.activation_code.picks, self.weight_code.picks, strict=True
        ):
            address = Cat(_pick(weight, w), _pick(activation, a))
            parts.append(lookup(address, table.entries, table.high - table.low))
        return Cat(*parts)


def _magnitudes(grids: Iterable[HalfGrid]) -> tuple[int, ...]:
    return tuple(sorted({0}.union(*(grid.magnitudes for grid in grids))))


class ProductDesign(ABC):
    """How one lane multiplies, for one weight format and the activation formats of a preset.

    Attributes:
        weight, plain, dual: the formats.
        activation_magnitudes, weight_magnitudes: all grid integers that occur, ascending.
        activation_width, weight_width: bits of a recoded magnitude in one lane (the sign is extra).
        magnitude_bits: bits of the product's magnitude.
        latency: register stages of :meth:`lane`, its output register included.
        estimate: LUT6 sites of a lane, registers and sign excluded.
    """

    activation_width: int
    weight_width: int
    latency: int
    estimate: int

    def __init__(
        self, weight: NumberFormat, plain: NumberFormat, dual: NumberFormat | None
    ) -> None:
        self.weight, self.plain, self.dual = weight, plain, dual
        formats = (plain, dual) if dual is not None else (plain,)
        self.activation_magnitudes = _magnitudes(
            f.half(negative) for f in formats for negative in (False, True)
        )
        self.weight_magnitudes = _magnitudes((weight.positive, weight.negative))
        self.top = self.activation_magnitudes[-1] * self.weight_magnitudes[-1]
        self.magnitude_bits = self.top.bit_length()

    def sum_bits(self, lanes: int) -> int:
        """Bits of the signed sum of ``lanes`` products."""
        return (lanes * self.top).bit_length() + 1

    @abstractmethod
    def encode_activation(self, magnitude: int) -> int:
        """Recoded form of an activation's magnitude."""

    @abstractmethod
    def encode_weight(self, magnitude: int) -> int:
        """Recoded form of a weight's magnitude."""

    @abstractmethod
    def lane(self, m: Module, activation: Value, weight: Value, name: str) -> Signal:
        """Add one lane to a module: magnitude of the product, ``latency`` cycles later."""

    # -- recoding -------------------------------------------------------------------------------

    @cached_property
    def _grids(self) -> tuple[HalfGrid, ...]:
        """Different half grids of the activations; the first is the one that index 0 means zero in."""
        formats = [self.plain] + ([self.dual] if self.dual is not None else [])
        grids: list[HalfGrid] = []
        for fmt in formats:
            for negative in (False, True):
                if all(g.magnitudes != fmt.half(negative).magnitudes for g in grids):
                    grids.append(fmt.half(negative))
        return tuple(grids)

    def _grid(self, sign: int, dual: int, neg: int) -> int | None:
        """Which grid an activation is read on, or None when it does not take part in the pass."""
        if dual and self.dual is not None:
            if sign != neg:
                return None
            grid = self.dual.half(bool(sign))
        else:
            grid = self.plain.half(bool(sign))
        return [g.magnitudes for g in self._grids].index(grid.magnitudes)

    def recode_activation(self, code: Value, dual: Value, neg: Value) -> tuple[Value, Value]:
        """Recoded magnitude and sign of an activation code, combinational, at most two LUT levels.

        Args:
            code: activation code.
            dual: 1 when the code is of the dual format.
            neg: 1 in the negative pass of a dual group; ignored for the plain format.
        """
        half = self.plain.bits - 1
        sign, index = code[half], code[:half]
        control = Cat(sign, dual, neg) if self.dual is not None else Cat(sign)
        grids = [
            self._grid(i & 1, i >> 1 & 1, i >> 2 & 1) for i in range(1 << len(control))
        ]
        keep = lookup(control, [int(g is not None) for g in grids], 1)
        # A lane outside the pass reads index 0 of the first grid, which is zero in every format.
        grid = lookup(control, [g or 0 for g in grids], bits_for(len(self._grids)))
        entries = []
        for grid_values in (g.magnitudes for g in self._grids):
            values = [*grid_values, *[0] * ((1 << half) - len(grid_values))]  # reserved codes: zero
            entries += [self.encode_activation(v) for v in values]
        address = Cat(index & keep.replicate(half), grid)
        return lookup(address, entries, self.activation_width), sign & keep

    def recode_weight(self, code: Value) -> tuple[Value, Value]:
        """Recoded magnitude and sign of a weight code, combinational, one LUT level."""
        values = [abs(self.weight.decode_int(c) or 0) for c in range(self.weight.code_count)]
        magnitude = lookup(code, [self.encode_weight(v) for v in values], self.weight_width)
        return magnitude, code[-1]


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
        return _encode(self.tables.activation_code, self.activation_magnitudes, magnitude)

    def encode_weight(self, magnitude: int) -> int:
        return _encode(self.tables.weight_code, self.weight_magnitudes, magnitude)

    def lane(self, m: Module, activation: Value, weight: Value, name: str) -> Signal:
        result = Signal(self.magnitude_bits, name=name, reset_less=True)
        m.d.sync += result.eq(self.tables.multiply(activation, weight))
        return result


def _encode(code: OperandCode, values: tuple[int, ...], value: int) -> int:
    try:
        return code.codes[values.index(value)]
    except ValueError:
        raise ValueError(f"magnitude {value} is not among the operand's values {values}") from None


def _split(value: int, width: int) -> tuple[int, int]:
    """``value`` as (significand of at most ``width`` bits, shift), with the smallest shift."""
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
    """Significands by radix-4 digits, then a shift of 0..3: latency 2, at most two LUT levels a stage."""

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
        significand, shift = _split(magnitude, self.width_a)
        if magnitude not in self.activation_magnitudes:
            raise ValueError(f"magnitude {magnitude} is not an activation value of this product")
        code = _encode(self.tables.activation_code, self.significands, significand)
        return code | shift << self.code_bits

    def encode_weight(self, magnitude: int) -> int:
        significand, shift = _split(magnitude, self.width_w)
        if magnitude not in self.weight_magnitudes:
            raise ValueError(f"magnitude {magnitude} is not a weight value of this product")
        code = 0
        for digit in range(self.digits):
            value = self.tables.weight_code.codes[significand >> 2 * digit & 3]
            code |= value << digit * self.digit_bits
        return code | shift << self.digits * self.digit_bits

    def lane(self, m: Module, activation: Value, weight: Value, name: str) -> Signal:
        significand = activation[: self.code_bits]
        total: Value = Const(0, 1)
        for digit in range(self.digits):
            partial = Signal(self.tables.bits, name=f"{name}_digit{digit}", reset_less=True)
            at = digit * self.digit_bits
            m.d.sync += partial.eq(
                self.tables.multiply(significand, weight[at : at + self.digit_bits])
            )
            # Bits below the new digit pass by the adder.
            low = 2 * digit
            total = Cat(total[:low], total[low:] + partial) if digit else partial
        shift_a, shift_w = activation[self.code_bits :], weight[self.digits * self.digit_bits :]
        if self.shift_a + self.shift_w:
            width = bits_for(self.shift_a + self.shift_w + 1)
            shift = Signal(width, name=f"{name}_shift", reset_less=True)
            m.d.sync += shift.eq(shift_a + shift_w)
            total = total << shift
        result = Signal(self.magnitude_bits, name=name, reset_less=True)
        m.d.sync += result.eq(total)
        return result


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
        return significand  # tables of ten or more inputs lose by far; do not search for their codes
    table = TableProduct(weight, plain, dual)
    return table if table.estimate <= significand.estimate else significand


class ProductLane(wiring.Component):
    """One lane on its own, for exhaustive tests and for counting its LUTs.

    Ports: ``activation``, ``weight``: recoded magnitudes with the sign on top; ``magnitude`` and
    ``sign`` of the product ``design.latency`` cycles later.
    """

    def __init__(self, design: ProductDesign) -> None:
        self.design = design
        self.latency = design.latency
        super().__init__(
            {
                "activation": In(design.activation_width + 1),
                "weight": In(design.weight_width + 1),
                "magnitude": Out(design.magnitude_bits),
                "sign": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        result = self.design.lane(m, self.activation[:-1], self.weight[:-1], "product")
        m.d.comb += self.magnitude.eq(result)
        sign: Value = self.activation[-1] ^ self.weight[-1]
        for stage in range(self.latency):
            held = Signal(name=f"sign{stage}", reset_less=True)
            m.d.sync += held.eq(sign)
            sign = held
        m.d.comb += self.sign.eq(sign)
        return m


class WeightRecode(wiring.Component):
    """Recodes the weights of one output feature for the lanes. Latency 1, one each cycle.

    Ports: ``codes``: ``lanes`` codes, lane 0 lowest; ``operand``: all magnitudes, then all signs.
    """

    LATENCY = 1

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
        bits = self.design.weight.bits
        recoded = [
            self.design.recode_weight(self.codes[j * bits : (j + 1) * bits])
            for j in range(self.lanes)
        ]
        m.d.sync += self.operand.eq(Cat(*(r[0] for r in recoded), *(r[1] for r in recoded)))
        return m


class ActivationRecode(wiring.Component):
    """Recodes the activations of one token row for the lanes. Latency 1, one each cycle.

    Ports: ``codes`` and ``operand`` as in :class:`WeightRecode`; ``dual``: the codes are of the dual
    format; ``neg``: the pass over its negative half. In each pass of a dual format the lanes that
    belong to the other pass become zero.
    """

    LATENCY = 1

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
        bits = self.design.plain.bits
        recoded = [
            self.design.recode_activation(self.codes[j * bits : (j + 1) * bits], self.dual, self.neg)
            for j in range(self.lanes)
        ]
        m.d.sync += self.operand.eq(Cat(*(r[0] for r in recoded), *(r[1] for r in recoded)))
        return m
