# SPDX-License-Identifier: Apache-2.0
"""Steps that the float32 units share: constants of the format and normalising shifts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

BIAS = 127  #: of float32's exponent field
FRACTION = 23  #: bits of float32's fraction field


def normalise_step(m: Module, value: Value, unit: int, ways: int, name: str) -> tuple[Value, Value]:
    """Shift left by the largest of 0, unit .. (ways-1)*unit that loses no set bit.

    At most four LUT levels for `unit` up to 16 and `ways` of 2 or 4.

    Returns:
        The shifted value, of the same width, and the number of units that it was shifted.
    """
    width = len(value)
    count: Value = Const(ways - 1)
    for i in reversed(range(ways - 1)):
        block = value[max(0, width - unit * (i + 1)) : max(0, width - unit * i)]
        count = Mux(block.any(), i, count)
    shift = Signal(range(ways), name=f"{name}_count")
    m.d.comb += shift.eq(count)
    shifted = value
    for bit in range(len(shift)):
        moved = Cat(Const(0, unit << bit), shifted)[:width]
        shifted = Mux(shift[bit], moved, shifted)
    result = Signal(width, name=f"{name}_shifted")
    m.d.comb += result.eq(shifted)
    return result, shift
