# SPDX-License-Identifier: Apache-2.0
"""Delay of valid bits."""

from amaranth.hdl import Cat, Module, Signal, Value


def valid_line(m: Module, value: Value, cycles: int, name: str) -> Value:
    """`value` after some cycles; zeros from reset on, unlike `float_steps.delay`."""
    if cycles == 0:
        return value
    width = len(value)
    line = Signal(width * cycles, name=name)
    m.d.sync += line.eq(Cat(value, line)[: width * cycles])
    return line[width * (cycles - 1) :]
