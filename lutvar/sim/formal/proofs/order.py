# SPDX-License-Identifier: Apache-2.0
"""Nothing lost, doubled or reordered: one item, any item, is followed through a queue.

The solver marks an item that goes in. The checker counts how many items are ahead of it and
compares when its turn comes. Since every item may be the marked one, the n-th item out is the n-th
item in, for all n.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Const, Mux, Signal, Value

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
        through: an item may come out in the cycle in which it goes in.
    """

    def __init__(
        self, c: Check[Any], name: str, put: Any, data: Any, get: Any, result: Any, capacity: int,
        *, through: bool = False,
    ) -> None:  # fmt: skip
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
        empty = self.inside == 0
        passes = self.enters & self.get & empty if through else Const(0)
        m.d.sync += self.inside.eq(self.inside + self.put - self.get)
        with m.If(self.enters & ~passes):
            m.d.sync += [
                self.waits.eq(1), self.ahead.eq(self.inside - self.get), self.word.eq(data)
            ]  # fmt: skip
        with m.Elif(self.waits & self.get):
            m.d.sync += [self.ahead.eq(self.ahead - 1), self.waits.eq(self.ahead != 0)]
        c.require(f"{name} order", implies(self.get & self.is_next, result == self.word))
        if through:
            c.require(f"{name} pass through", implies(passes, result == data))
            empty = empty & ~self.put
        c.require(f"{name} none invented", implies(self.get, ~empty))
        c.require(f"{name} at most {capacity}", self.inside <= capacity)
        c.lemma(f"{name} marked item is inside", implies(self.waits, self.ahead < self.inside))

    def in_ram(
        self, c: Check[Any], name: str, *, places: int, write: Value, read: Value, level: Value,
        behind: Any, cells: str, width: int = 0, part: Callable[[Value], Value] = lambda cell: cell,
    ) -> None:  # fmt: skip
        """Lemmas of a queue in a circular buffer.

        Args:
            places: words of the buffer; write, read: addresses in it; level: words in it.
            behind: words that have left it and are still inside.
            cells: path of the buffer.
            width: bits of its words, if not the item's.
            part: the item in a word.
        """
        behind = c.wire(f"{name}_behind", behind)
        place = Signal(range(places), name=f"{name}_place")
        with c.m.If(self.enters):
            c.m.d.sync += place.eq(write)

        def after(number: Value) -> Value:
            total = read + number
            return Mux(total >= places, total - places, total)

        waits = c.wire(f"{name}_waits", self.waits & (self.ahead >= behind))
        depth = c.wire(f"{name}_depth", (self.ahead - behind)[: len(self.ahead)])
        c.lemma(f"{name} count", self.inside == level + behind)
        c.lemma(f"{name} level", level <= places)
        c.lemma(f"{name} addresses", (write == after(level)) & (read < places))
        c.lemma(f"{name} place", implies(waits, (place == after(depth)) & (place < places)))
        for number in range(places):
            cell = part(c.probe(f"{cells}[{number}]", width or len(self.word)))
            c.lemma(f"{name} cell {number}", implies(waits & (place == number), cell == self.word))


def stable(c: Check[Any], name: str, valid: Any, ready: Any, payload: Any) -> None:
    """Require of a stream that an item which is offered stays, with its payload, until taken."""
    payload = Value.cast(payload)
    held = c.previous(f"{name}_held", valid & ~ready)
    kept = c.previous(f"{name}_kept", payload)
    c.require(f"{name} is stable", implies(held, valid & (payload == kept)))


def prompt(c: Check[Any], name: str, waiting: Any, served: Any, cycles: int) -> Signal:
    """Require that `waiting` is never true for `cycles` cycles in a row without `served`."""
    signal = name.replace(" ", "_")
    age = Signal(range(cycles + 1), name=f"{signal}_age")
    waits = c.wire(f"{signal}_unserved", waiting & ~served)
    with c.m.If(~waits):
        c.m.d.sync += age.eq(0)
    with c.m.Elif(age != cycles):
        c.m.d.sync += age.eq(age + 1)
    c.require(f"{name} within {cycles} cycles", implies(waits, age < cycles))
    return age
