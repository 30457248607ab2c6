# SPDX-License-Identifier: Apache-2.0
"""Many lanes at once: bit planes, and logic functions on them.

Bit `p` of *plane* `k` is bit `k` of the lane at position `p`. The same function of every
lane is then a few word-wide operations: one line of Verilog and one machine instruction for 64
lanes, while synthesis still sees one small function for each lane and bit. Written lane by lane,
the array would be ten times the text, slower to simulate and much slower to compile.

Planes are at most `CHUNK` lanes wide. Which lane sits at which position is up to
`to_planes`; both operands of a dot product go through it, and a sum does not care about the
order.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Signal, Value

CHUNK = 64  #: lanes of a plane: a machine word of the simulator


def chunks(lanes: int) -> list[tuple[int, int]]:
    """Split lanes into planes' worth: (first lane, number of lanes)."""
    return [(start, min(CHUNK, lanes - start)) for start in range(0, lanes, CHUNK)]


def _named(m: Module, value: Value, name: str) -> Signal:
    signal = Signal(len(value), name=name)
    m.d.comb += signal.eq(value)
    return signal


def _strided(count: int, stride: int) -> int:
    """A mask of `count` ones, `stride` bits apart."""
    return sum(1 << i * stride for i in range(count))


def _moved(value: Value, up: int, width: int) -> Value:
    """`value << up`, in `width` bits."""
    return Cat(Const(0, up), value)[:width]


def _merge(parts: Sequence[Value]) -> Value:
    total = parts[0]
    for part in parts[1:]:
        total = total | part
    return total


def to_planes(m: Module, codes: Value, bits: int, name: str) -> list[Signal]:
    """Bit planes of adjacent codes of `bits` bits. Wires only.

    Lane `offset(r) + i` comes to position `bits * i + r`, so that each plane is made of
    `bits` masked words instead of single bits.
    """
    lanes = len(codes) // bits
    slices: list[tuple[Signal, int]] = []
    start = 0
    for r in range(min(bits, lanes)):
        count = -(-(lanes - r) // bits)
        part = codes[start * bits : (start + count) * bits]
        slices.append((_named(m, part, f"{name}_slice{r}"), count))
        start += count
    return [
        _named(
            m,
            _merge(
                [
                    _moved(part[k:] & _strided(count, bits), r, lanes)
                    for r, (part, count) in enumerate(slices)
                ]
            ),
            f"{name}_plane{k}",
        )
        for k in range(bits)
    ]


def from_planes(m: Module, planes: Sequence[Value], name: str) -> list[Value]:
    """The lanes of a set of planes, by position: bit `k` from plane `k`. Wires only."""
    lanes = len(planes[0])
    stride = 8
    while stride < len(planes):
        stride *= 2
    result: list[Value] = [Const(0)] * lanes
    for c in range(min(stride, lanes)):
        count = -(-(lanes - c) // stride)
        mask = _strided(count, stride)
        word = _named(
            m,
            _merge([_moved(plane[c:] & mask, k, count * stride) for k, plane in enumerate(planes)]),
            f"{name}_word{c}",
        )
        for i in range(count):
            result[c + stride * i] = word[stride * i : stride * i + len(planes)]
    return result


class PlaneLogic:
    """Logic functions of planes, given as truth tables; common parts are built once.

    Args:
        m: module that gets the logic (combinational).
        lanes: width of the planes.
        name: prefix of the signals made.
    """

    def __init__(self, m: Module, lanes: int, name: str) -> None:
        self.m, self.lanes, self.name = m, lanes, name
        self._known: dict[tuple[int, tuple[int, ...]], Value] = {}
        self._variables: list[Value] = []  # keeps them alive, so that an id means one plane

    def function(self, truth: int, variables: Sequence[Value]) -> Value:
        """The function whose value at `sum(variable[i] << i)` is that bit of `truth`.

        The last variable is split off first. Functions of few inputs become one LUT each in any
        order; the order decides which parts of several functions are found to be common.
        """
        self._variables += variables
        return self._build(truth, tuple(variables))

    def functions(
        self, entries: Sequence[int], width: int, variables: Sequence[Value]
    ) -> list[Value]:
        """`width` functions from a table: bit `k` of `entries[address]` is plane `k`."""
        if len(entries) != 1 << len(variables):
            raise ValueError(
                f"{len(entries)} entries for {len(variables)} variables; "
                f"{1 << len(variables)} are needed"
            )
        return [
            self.function(sum((word >> k & 1) << i for i, word in enumerate(entries)), variables)
            for k in range(width)
        ]

    def _build(self, truth: int, variables: tuple[Value, ...]) -> Value:
        size = 1 << len(variables)
        if truth == 0:
            return Const(0, self.lanes)
        if truth == (1 << size) - 1:
            return Const((1 << self.lanes) - 1, self.lanes)
        half = size // 2
        ones = (1 << half) - 1
        low, high = truth & ones, truth >> half
        if low == high:
            return self._build(low, variables[:-1])
        key = (truth, tuple(map(id, variables)))
        if key not in self._known:
            node = Signal(self.lanes, name=f"{self.name}_{len(self._known)}")
            self._known[key] = node
            self.m.d.comb += node.eq(self._split(low, high, ones, variables[:-1], variables[-1]))
        return self._known[key]

    def _split(self, low: int, high: int, ones: int, rest: tuple[Value, ...], by: Value) -> Value:
        """`by ? high : low` in as few operations as the halves allow."""
        if low == 0:
            return by & self._build(high, rest)
        if high == 0:
            return ~by & self._build(low, rest)
        if high == ones:
            return by | self._build(low, rest)
        if low == ones:
            return ~by | self._build(high, rest)
        if low == high ^ ones:
            return by ^ self._build(low, rest)
        if_low, if_high = self._build(low, rest), self._build(high, rest)
        return if_low ^ by & (if_low ^ if_high)
