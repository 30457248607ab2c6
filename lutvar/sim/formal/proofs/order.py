# SPDX-License-Identifier: Apache-2.0
"""Nothing lost, doubled or reordered: one item, any item, is followed through a queue.

The solver marks an item that goes in. The checker counts how many items are ahead of it and
compares when its turn comes. Since every item may be the marked one, the n-th item out is the n-th
item in, for all n.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Signal, Value

from lutvar.sim.formal.harness import Check, implies


class Follow:
    """Adds the bookkeeping and the requirements of a queue to a check.

    Attributes:
        inside: items that went in and did not come out, up to `capacity`.
        waits: the marked item is inside.
        ahead: items that come out before it.
        word: the item.
        enters: it goes in, in this cycle.

    Args:
        put, data: an item goes in, and what it is.
        get, result: an item comes out, and what it is.
        capacity: items that the queue can hold.
        after: items that come out in the cycle in which they go in count (a queue of latency 0).
    """

    def __init__(
        self, c: Check[Any], name: str, put: Any, data: Any, get: Any, result: Any, capacity: int
    ) -> None:
        m = c.m
        self.put, self.get = c.wire(f"{name}_put", put), c.wire(f"{name}_get", get)
        data, result = Value.cast(data), Value.cast(result)
        shape = range(capacity + 2)
        self.inside = Signal(shape, name=f"{name}_inside")
        self.ahead = Signal(shape, name=f"{name}_ahead")
        self.waits = Signal(name=f"{name}_waits")
        self.word = Signal(len(data), name=f"{name}_word")
        mark = c.free(f"{name}_mark")
        self.enters = c.wire(f"{name}_enters", self.put & mark & ~self.waits)
        self.is_next = c.wire(f"{name}_is_next", self.waits & (self.ahead == 0))
        m.d.sync += self.inside.eq(self.inside + self.put - self.get)
        with m.If(self.enters):
            m.d.sync += [
                self.waits.eq(1),
                self.ahead.eq(self.inside - self.get),
                self.word.eq(data),
            ]
        with m.Elif(self.waits & self.get):
            m.d.sync += [self.ahead.eq(self.ahead - 1), self.waits.eq(self.ahead != 0)]
        c.require(f"{name} order", implies(self.get & self.is_next, result == self.word))
        c.require(f"{name} invents nothing", implies(self.get, self.inside != 0))
        c.require(f"{name} holds no more than {capacity}", self.inside <= capacity)
        c.lemma(f"{name} marked item is inside", implies(self.waits, self.ahead < self.inside))


def prompt(c: Check[Any], name: str, waiting: Any, served: Any, cycles: int) -> Signal:
    """Require that `waiting` is never true for `cycles` cycles in a row without `served`."""
    age = Signal(range(cycles + 1), name=f"{name}_age")
    waits = c.wire(f"{name}_unserved", waiting & ~served)
    with c.m.If(~waits):
        c.m.d.sync += age.eq(0)
    with c.m.Elif(age != cycles):
        c.m.d.sync += age.eq(age + 1)
    c.require(f"{name} within {cycles} cycles", implies(waits, age < cycles))
    return age
