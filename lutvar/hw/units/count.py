# SPDX-License-Identifier: Apache-2.0
"""Levels of queues: counters that go up and down by one, and what is asked of them."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

#: Bits from which on a counter has a carry chain: as logic its levels grow with its width.
_WIDE = 11


def stepped(value: Signal, up: Value) -> Value:
    """`value` one higher if `up`, else one lower; a short one without an adder."""
    if len(value) >= _WIDE:
        return (value + Cat(Const(1, 1), (~up).replicate(len(value) - 1)))[: len(value)]
    following: list[Value] = []
    for k, bit in enumerate(value):
        ones, zeros = value[:k].all() if k else Const(1), ~value[:k].any() if k else Const(1)
        following.append(bit ^ Mux(up, ones, zeros))
    return Cat(*following)


class Level:
    """How many of `maximum` places are taken, with the answers of the next cycle in registers.

    `up` and `down` reach far in most units, so they meet no more than one LUT on their way to
    the counter: a short one has no adder, whose operand would have to be chosen first.

    Attributes:
        value: the count, a register.
        some: it is not 0; a register.
        room: it is not `maximum`; a register.

    Args:
        name: of the counter's signals.
        maximum: places.
        up: one place more in this cycle; together with `down` the count stays. Never alone when all
            places are taken.
        down: one place less in this cycle. Never alone when none is taken.
        init: count after reset.
    """

    def __init__(
        self, m: Module, name: str, maximum: int, up: Value, down: Value, init: int = 0
    ) -> None:
        self.value = value = Signal(range(maximum + 1), name=name, init=init)
        self.some = Signal(name=f"{name}_some", init=init != 0)
        self.room = Signal(name=f"{name}_room", init=init != maximum)
        with m.If(up ^ down):  # a clock enable
            m.d.sync += value.eq(stepped(value, up))
        # A single place is never one of two.
        more, less = (value > 1, value < maximum - 1) if maximum > 1 else (Const(0), Const(0))
        m.d.sync += [
            self.some.eq(Mux(self.some, more | up | ~down, up & ~down)),
            self.room.eq(Mux(self.room, less | down | ~up, down & ~up)),
        ]
