# SPDX-License-Identifier: Apache-2.0
"""The one description of a low-bit number format.

A format is two *half grids*, one for each value of the sign bit, and a code is
`sign << (bits - 1) | index`. That covers sign-magnitude floats (both halves equal),
two's-complement integers (the negative half counts down) and dual formats (a different
grid, with its own scale, for each sign; FPQVAR, "dual format quantization").

Everything else (decision thresholds, lookup tables, product tables, register fields) is
derived from this object, so that gateware, golden model and host cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property


@dataclass(frozen=True)
class HalfGrid:
    """The representable magnitudes behind one value of the sign bit.

    Attributes:
        magnitudes: magnitude of each code index, in multiples of `unit`. The position is
            the index (the code without its sign bit); indices past the end are reserved.
        unit: value of one step of the integer grid.
    """

    magnitudes: tuple[int, ...]
    unit: Fraction

    def __post_init__(self) -> None:
        if not self.magnitudes or min(self.magnitudes) < 0:
            raise ValueError(
                f"magnitudes are {self.magnitudes!r}; a half grid needs at least one and none "
                "below 0"
            )
        if len(set(self.magnitudes)) != len(self.magnitudes):
            raise ValueError(
                f"magnitudes {self.magnitudes!r} repeat a value; each code must differ"
            )
        if self.unit <= 0:
            raise ValueError(f"unit is {self.unit!r}; it must be positive")

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """All magnitudes, zero included, ascending.

        The position is the *rank* that ties-to-even uses.
        """
        return tuple(sorted({0, *self.magnitudes}))

    @property
    def top(self) -> int:
        """Largest magnitude, in units."""
        return self.levels[-1]


@dataclass(frozen=True)
class NumberFormat:
    """A low-bit number format with one code for each representable value.

    Attributes:
        name: catalogue name, for example `"E2M1"`.
        bits: code width, sign bit included.
        positive: half grid of codes whose top bit is 0; its index 0 is zero.
        negative: half grid of codes whose top bit is 1.
        dual: True when each sign has a scale of its own (FPQVAR section on dual formats).
    """

    name: str
    bits: int
    positive: HalfGrid
    negative: HalfGrid
    dual: bool = False

    def __post_init__(self) -> None:
        half = 1 << (self.bits - 1)
        for sign, grid in (("positive", self.positive), ("negative", self.negative)):
            if len(grid.magnitudes) > half:
                raise ValueError(
                    f"{self.name}: the {sign} half has {len(grid.magnitudes)} codes; "
                    f"{self.bits} bits leave room for {half}"
                )
        if self.positive.magnitudes[0] != 0:
            raise ValueError(f"{self.name}: code 0 must be zero, not {self.positive.magnitudes[0]}")
        if not self.dual and self.positive.unit != self.negative.unit:
            raise ValueError(f"{self.name}: two units need dual=True, one scale cannot serve both")

    @property
    def code_count(self) -> int:
        """Number of codes, reserved ones included."""
        return 1 << self.bits

    @property
    def sign_bit(self) -> int:
        """Mask of a code's sign bit, its highest."""
        return 1 << (self.bits - 1)

    def half(self, negative: bool) -> HalfGrid:
        """Grid of the magnitudes of one sign."""
        return self.negative if negative else self.positive

    def scale_top(self, negative: bool = False) -> int:
        """Grid integer that the group's absolute maximum maps to.

        A single-scale format uses the positive half for both signs, so that INT formats are
        symmetric (-7..7 for INT4) although their code space reaches -8.
        """
        return self.negative.top if self.dual and negative else self.positive.top

    def max_value(self, negative: bool = False) -> Fraction:
        """Value that the group's absolute maximum maps to (6 for E2M1)."""
        return self.scale_top(negative) * self.half(negative).unit

    def decode_int(self, code: int) -> int | None:
        """Signed grid integer of a code, in units of its half; None for a reserved code."""
        if not 0 <= code < self.code_count:
            raise ValueError(f"{self.name}: code {code} is outside 0..{self.code_count - 1}")
        negative, index = bool(code & self.sign_bit), code & (self.sign_bit - 1)
        magnitudes = self.half(negative).magnitudes
        if index >= len(magnitudes):
            return None
        return -magnitudes[index] if negative else magnitudes[index]

    def decode(self, code: int) -> Fraction | None:
        """Exact value of a code before scaling; None for a reserved code (NaN, infinity)."""
        integer = self.decode_int(code)
        unit = self.half(bool(code & self.sign_bit)).unit
        return None if integer is None else integer * unit

    def encode_int(self, magnitude: int, negative: bool) -> int:
        """Code of a signed grid magnitude. Zero is always code 0, whatever the sign."""
        if magnitude == 0:
            return 0
        try:
            index = self.half(negative).magnitudes.index(magnitude)
        except ValueError:
            sign = "negative" if negative else "positive"
            raise ValueError(
                f"{self.name}: magnitude {magnitude} is not on the {sign} grid "
                f"{self.half(negative).levels}"
            ) from None
        return (self.sign_bit if negative else 0) | index

    @cached_property
    def codes_used(self) -> tuple[int, ...]:
        """Codes that the encoder can produce.

        One per value; negative zero and reserved codes are left out.
        """
        codes = {0}
        for negative in (False, True):
            codes |= {self.encode_int(m, negative) for m in self.half(negative).levels if m}
        return tuple(sorted(codes))

    def as_dict(self) -> dict[str, object]:
        """Plain data for hashing and for the manifest."""
        return {
            "name": self.name,
            "bits": self.bits,
            "dual": self.dual,
            "positive": {
                "magnitudes": list(self.positive.magnitudes),
                "unit": str(self.positive.unit),
            },
            "negative": {
                "magnitudes": list(self.negative.magnitudes),
                "unit": str(self.negative.unit),
            },
        }


def exmy(
    name: str,
    exponent_bits: int,
    mantissa_bits: int,
    *,
    bias: int | None = None,
    finite_codes: int | None = None,
) -> NumberFormat:
    """Sign-magnitude float with subnormals: `2**(E-bias) * (1 + M/2**m)`, `E = 0` subnormal.

    Args:
        bias: exponent bias; default `2**(e-1) - 1`, but at least 1 (E1M2 is then uniform).
        finite_codes: number of finite magnitudes, when the top codes mean NaN or infinity.
    """
    if exponent_bits < 1 or mantissa_bits < 0:
        raise ValueError(
            f"{name}: got {exponent_bits} exponent and {mantissa_bits} mantissa bits; "
            "at least one exponent bit is needed (use integer() for none)"
        )
    actual_bias = max(1, (1 << (exponent_bits - 1)) - 1) if bias is None else bias
    magnitudes = []
    for index in range(1 << (exponent_bits + mantissa_bits)):
        exponent, mantissa = index >> mantissa_bits, index & ((1 << mantissa_bits) - 1)
        if exponent == 0:
            magnitudes.append(mantissa)
        else:
            magnitudes.append(((1 << mantissa_bits) + mantissa) << (exponent - 1))
    half = HalfGrid(
        magnitudes=tuple(magnitudes[:finite_codes]),
        unit=Fraction(2) ** (1 - actual_bias - mantissa_bits),
    )
    return NumberFormat(
        name=name, bits=1 + exponent_bits + mantissa_bits, positive=half, negative=half
    )


def integer(name: str, bits: int) -> NumberFormat:
    """Two's-complement integer.

    Its scale is symmetric: the absolute maximum maps to `2**(bits-1)-1`.
    """
    half = 1 << (bits - 1)
    return NumberFormat(
        name=name,
        bits=bits,
        positive=HalfGrid(magnitudes=tuple(range(half)), unit=Fraction(1)),
        negative=HalfGrid(magnitudes=tuple(half - i for i in range(half)), unit=Fraction(1)),
    )


def dual(name: str, *, negative: NumberFormat, positive: NumberFormat) -> NumberFormat:
    """A format that takes its negative half from one format and its positive half from another."""
    if negative.bits != positive.bits:
        raise ValueError(
            f"{name}: halves have {negative.bits} and {positive.bits} bits; both need the same "
            "width"
        )
    return NumberFormat(
        name=name,
        bits=positive.bits,
        positive=positive.positive,
        negative=negative.negative,
        dual=True,
    )
