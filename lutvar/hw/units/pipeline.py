# SPDX-License-Identifier: Apache-2.0
"""Registers and delay lines: what every pipeline is made of."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value


def register(m: Module, value: Value, name: str) -> Value:
    """`value` one cycle later, as an unsigned value, without reset."""
    result = Signal(len(value), name=name, reset_less=True)
    m.d.sync += result.eq(value)
    return result


def data_register(m: Module, port: Any, name: str) -> Any:
    """A register without reset behind an output of data; the port shows what it holds.

    A port that is assigned in `sync` itself would get a reset, as every signal that does not ask
    for none.
    """
    held: Any = Signal(port.shape(), name=name, reset_less=True)
    m.d.comb += Value.cast(port).eq(Value.cast(held))
    return held


def delay(m: Module, value: Value, cycles: int, name: str, *, reset: bool = False) -> Value:
    """`value` after some cycles, as an unsigned value.

    The line is one wide shift register: simulators then move a few machine words in each cycle
    instead of one variable for each stage. Synthesis sees the same flip-flops or shift-register
    LUTs.

    Args:
        reset: zeros from reset on, which valid bits need; data does without.
    """
    if cycles == 0:
        return value
    width = len(value)
    line = Signal(width * cycles, name=name, reset_less=not reset)
    m.d.sync += line.eq(Cat(value, line))
    return line[width * (cycles - 1) :]


def delay_stages(
    m: Module, value: Value, cycles: int, name: str, *, shift_lut: bool = True
) -> Value:
    """As `delay` without reset, with a register of the value's own shape for each stage.

    Args:
        shift_lut: let synthesis use a shift-register LUT for each bit; False asks for flip-flops,
            which are the cheaper ones where LUTs are scarce and the delay is short.
    """
    attrs = {} if shift_lut else {"shreg_extract": "no"}
    for cycle in range(cycles):
        stage = Signal.like(value, name=f"{name}_{cycle + 1}", reset_less=True, attrs=attrs)
        m.d.sync += stage.eq(value)
        value = stage
    return value


def valid_line(m: Module, valid: Value, cycles: int, name: str) -> Signal:
    """A bit on its way through a pipeline: bit t is `valid` t + 1 cycles ago; 0 from reset on."""
    line = Signal(cycles, name=name)
    m.d.sync += line.eq(Cat(valid, line))
    return line
