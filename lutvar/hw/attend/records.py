# SPDX-License-Identifier: Apache-2.0
"""Fields of records, and codes as two's-complement integers."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.formats import NumberFormat
from lutvar.contract.memory import SCALE_BYTE, VALUE_SCALE_BYTE
from lutvar.hw.units.fp16 import exponent, significand


def record_codes(record: Value, fmt: NumberFormat) -> Value:
    """The 64 codes of a record, element 0 lowest."""
    return record[: HEAD_DIM * fmt.bits]


def record_scale(record: Value) -> Value:
    """FP16 pattern of the record's own scale."""
    return record[8 * SCALE_BYTE : 8 * SCALE_BYTE + 16]


def record_value_scale(record: Value) -> Value:
    """FP16 pattern of the scale of V that a K record repeats."""
    return record[8 * VALUE_SCALE_BYTE : 8 * VALUE_SCALE_BYTE + 16]


def scale_parts(pattern: Value) -> tuple[Value, Value]:
    """11-bit significand and exponent field, at least 1, of an FP16 pattern."""
    field = exponent(pattern)
    return significand(pattern), Cat(field[0] | ~field.any(), field[1:])


def decode_codes(m: Module, codes: Value, fmt: NumberFormat, bits: int) -> Signal:
    """Grid integers of 64 codes, `bits` bits each, two's complement; combinational, one LUT
    level.
    """
    table = [(fmt.decode_int(code) or 0) & ((1 << bits) - 1) for code in range(fmt.code_count)]
    lanes = []
    for lane in range(HEAD_DIM):
        code = codes[lane * fmt.bits : (lane + 1) * fmt.bits]
        value = Signal(bits, name=f"grid{lane}")
        with m.Switch(code):
            for number, integer in enumerate(table):
                with m.Case(number):
                    m.d.comb += value.eq(integer)
        lanes.append(value)
    grid = Signal(HEAD_DIM * bits)
    m.d.comb += grid.eq(Cat(*lanes))
    return grid
