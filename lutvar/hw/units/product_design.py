# SPDX-License-Identifier: Apache-2.0
"""What every form of a lane's product has in common: formats, recoding, the interface."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property

from amaranth.hdl import Const, Module, Signal, Value

from lutvar.contract.formats import HalfGrid, NumberFormat

from .planes import PlaneLogic
from .recode import bits_for


def _magnitudes(grids: Iterable[HalfGrid]) -> tuple[int, ...]:
    return tuple(sorted({0}.union(*(grid.magnitudes for grid in grids))))


class ProductDesign(ABC):
    """How one lane multiplies, for one weight format and the activation formats of a preset.

    Attributes:
        weight, plain, dual: the formats.
        activation_magnitudes, weight_magnitudes: all grid integers that occur, ascending.
        activation_width, weight_width: bits of a recoded magnitude in one lane (the sign is extra).
        magnitude_bits: bits of the product's magnitude.
        latency: register stages of `lane`, its output register included.
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
        """Bits of the signed sum of `lanes` products."""
        return (lanes * self.top).bit_length() + 1

    @abstractmethod
    def encode_activation(self, magnitude: int) -> int:
        """Recoded form of an activation's magnitude."""

    @abstractmethod
    def encode_weight(self, magnitude: int) -> int:
        """Recoded form of a weight's magnitude."""

    @abstractmethod
    def terms(
        self,
        m: Module,
        activation: Sequence[Value],
        weight: Sequence[Value],
        signs: Value,
        name: str,
    ) -> tuple[list[Value], Value]:
        """Add lanes to a module.

        Args:
            activation, weight: planes of recoded magnitudes.
            signs: plane of the products' signs, in the same cycle.
            name: prefix of the signals made.

        Returns:
            For each lane `magnitude ^ sign` (one's complement if negative), and the plane of
            signs that belongs to them; both `latency` cycles after the operands. The exclusive OR
            comes after the last register, for the adder that follows to absorb.
        """

    def lane(self, m: Module, activation: Value, weight: Value, name: str) -> Value:
        """A single lane: magnitude of the product, `latency` cycles later."""
        terms, _ = self.terms(m, list(activation), list(weight), Const(0, 1), name)
        return terms[0]

    # -- recoding -------------------------------------------------------------------------------

    @cached_property
    def _grids(self) -> tuple[HalfGrid, ...]:
        """Different half grids of the activations; index 0 of the first one is zero."""
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

    def recode_activation(
        self, m: Module, code: Sequence[Value], dual: Value, neg: Value, name: str
    ) -> tuple[list[Value], Value]:
        """Planes of the recoded magnitude, and of the sign; combinational, at most three LUT
        levels.

        Args:
            code: planes of activation codes.
            dual: 1 when the codes are of the dual format.
            neg: 1 in the negative pass of a dual group; ignored for the plain format.
        """
        *index, sign = code
        lanes, half = len(sign), len(index)
        logic = PlaneLogic(m, lanes, name)
        control = [sign]
        if self.dual is not None:
            control += [dual.replicate(lanes), neg.replicate(lanes)]
        grids = [self._grid(i & 1, i >> 1 & 1, i >> 2 & 1) for i in range(1 << len(control))]
        (keep,) = logic.functions([int(g is not None) for g in grids], 1, control)
        # A lane outside the pass reads index 0 of the first grid, which is zero in every format.
        grid = logic.functions([g or 0 for g in grids], bits_for(len(self._grids)), control)
        words: list[int] = []
        for number in range(1 << len(grid)):
            values = self._grids[min(number, len(self._grids) - 1)].magnitudes
            values = (*values, *[0] * ((1 << half) - len(values)))  # reserved codes: zero
            words += [self.encode_activation(value) for value in values]
        live_index = []
        for bit, plane in enumerate(index):
            masked = Signal(lanes, name=f"{name}_index{bit}")
            m.d.comb += masked.eq(plane & keep)
            live_index.append(masked)
        return logic.functions(words, self.activation_width, [*live_index, *grid]), sign & keep

    def recode_weight(
        self, m: Module, code: Sequence[Value], name: str
    ) -> tuple[list[Value], Value]:
        """Planes of the recoded magnitude, and of the sign; combinational, one LUT level."""
        values = [abs(self.weight.decode_int(c) or 0) for c in range(self.weight.code_count)]
        logic = PlaneLogic(m, len(code[0]), name)
        words = [self.encode_weight(value) for value in values]
        return logic.functions(words, self.weight_width, code), code[-1]
