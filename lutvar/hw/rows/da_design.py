# SPDX-License-Identifier: Apache-2.0
"""Distributed arithmetic: which lanes share a table, what tables hold, which engine fills them.

``sum_j a_j w_j`` with two's complement weights ``w = -2**(P-1) b_{P-1} + sum_p 2**p b_p`` is
``sum_p +-2**p sum_t T_t[b_p of the lanes of table t]``, where ``T_t`` holds the sums of all subsets
of the activations of its five lanes. A lookup with one bit of each of five weights replaces five
additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.contract.config import GROUP
from lutvar.hw.links import WORDS
from lutvar.quant.formats import NumberFormat

TABLE_LANES = 5  #: address bits of a LUTRAM with two output bits a LUT
DEPTH = 1 << TABLE_LANES
#: Fill engines of a row. Five fill 26 tables in six rounds, each engine's lanes fit one LUTRAM.
ENGINES = 5


@dataclass(frozen=True)
class Table:
    """One table of subset sums.

    Attributes:
        lanes: elements of the group, at most five; address bit j belongs to ``lanes[j]``.
        first: position of lane 0 in the order of :attr:`DaDesign.order`.
        engine, turn: which engine fills it, and as its how manieth table.
    """

    lanes: tuple[int, ...]
    first: int
    engine: int
    turn: int


@dataclass(frozen=True)
class Engine:
    """What a fill engine takes of each loaded word, and where it keeps it.

    Attributes:
        positions: in phase i after a word has come, element ``positions[i]`` of it is written at
            address ``phases * word + i`` of the engine's memory, needed or not.
        addresses: for each of its tables, where the codes of its lanes are.
    """

    positions: tuple[int, ...]
    addresses: tuple[tuple[int, ...], ...]


def _shares(tables: int, engines: int) -> list[int]:
    return [tables // engines + (e < tables % engines) for e in range(engines)]


def _positions(needs: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Give each engine its number of elements, as (word, element of the word).

    An engine prefers the same elements of each word: its multiplexer is then narrow.
    """
    engines = len(needs)
    base = LANES // engines
    left = list(needs)
    known: list[set[int]] = [set() for _ in needs]
    taken: list[list[tuple[int, int]]] = [[] for _ in needs]
    for word in range(WORDS):
        rest: list[int] = []
        for position in range(LANES):
            engine = position // base
            if engine < engines and left[engine]:
                known[engine].add(position)
                taken[engine].append((word, position))
                left[engine] -= 1
            else:
                rest.append(position)
        for position in rest:
            order = sorted(
                range(engines), key=lambda e: (not left[e], position not in known[e], -left[e])
            )
            known[order[0]].add(position)
            taken[order[0]].append((word, position))
            left[order[0]] -= 1
    return taken


class DaDesign:
    """Numbers of a distributed-arithmetic dot product of 128 lanes.

    Attributes:
        weight, plain, dual: formats; dual may be None.
        planes: bits of a weight in two's complement, the lookups of a table in each cycle.
        offset: added to every subset sum, so that entries are unsigned.
        entry_bits: bits of an entry.
        sum_bits: bits of the signed sum.
        constant: what to add to the sum of all lookups, modulo ``2**sum_bits``. The lookup of the
            top plane enters inverted, as ``2**entry_bits - 1 - T``.
        tables, engines: see :class:`Table` and :class:`Engine`.
        order: element of the group at each position; tables are consecutive positions.
        phases: cycles in which the engines take their elements of a word, a power of two.
        turns: tables that the busiest engine fills.
    """

    def __init__(
        self,
        weight: NumberFormat,
        plain: NumberFormat,
        dual: NumberFormat | None = None,
        engines: int = ENGINES,
    ) -> None:
        if weight.bits != plain.bits or (dual is not None and dual.bits != plain.bits):
            raise ValueError(
                f"formats {weight.name}, {plain.name} have {weight.bits} and {plain.bits} bits; "
                "both operands and the dual format need codes of the same width"
            )
        self.weight, self.plain, self.dual = weight, plain, dual
        weights = _values(weight)
        values = [v for f in (plain, dual) if f is not None for v in _values(f)]
        self.planes = max(max(weights).bit_length(), (-min(weights) - 1).bit_length()) + 1
        lowest = TABLE_LANES * min(0, *values)
        highest = TABLE_LANES * max(values)
        self.entry_bits = (highest - lowest).bit_length()
        top = max(map(abs, weights)) * max(map(abs, values))
        self.sum_bits = (GROUP * top).bit_length() + 1
        self._place(engines)
        ones = (1 << self.entry_bits) - 1
        choices = [(self._constant(o).bit_count(), o) for o in range(-lowest, ones - highest + 1)]
        self.offset = min(choices)[1]
        self.constant = self._constant(self.offset)

    @classmethod
    def of(cls, config: AcceleratorConfig) -> DaDesign:
        """The design for the formats of a configuration."""
        quant = config.quant_config
        return cls(quant.weight_format, quant.plain_format, quant.dual_format)

    def _constant(self, offset: int) -> int:
        upper = 1 << self.planes - 1
        of_table = (upper - 1) * offset + upper * ((1 << self.entry_bits) - 1 - offset)
        return -len(self.tables) * of_table % (1 << self.sum_bits)

    def _place(self, engines: int) -> None:
        count = -(-GROUP // TABLE_LANES)
        if not 1 <= engines <= LANES:
            raise ValueError(f"{engines} fill engines; 1 to {LANES} are possible")
        shares = _shares(count, engines)
        self.turns = max(shares)
        needs = [share * TABLE_LANES for share in shares]
        needs[0] -= sum(needs) - GROUP  # the first engine has the short table
        taken = _positions(needs)
        known = [sorted({position for _, position in mine}) for mine in taken]
        self.phases = 1 << (max(map(len, known)) - 1).bit_length()
        tables: list[Table] = []
        found: list[Engine] = []
        first = 0
        for engine, (mine, positions) in enumerate(zip(taken, known, strict=True)):
            addresses = []
            for turn in range(shares[engine]):
                part = mine[turn * TABLE_LANES : (turn + 1) * TABLE_LANES]
                lanes = tuple(word * LANES + position for word, position in part)
                tables.append(Table(lanes, first, engine, turn))
                first += len(lanes)
                addresses.append(tuple(word * self.phases + positions.index(p) for word, p in part))
            found.append(Engine(tuple(positions), tuple(addresses)))
        self.tables, self.engines = tuple(tables), tuple(found)
        self.order = tuple(lane for table in tables for lane in table.lanes)

    @property
    def sign_magnitude(self) -> bool:
        """Plain codes of both signs have the same magnitudes."""
        return self.plain.positive.magnitudes == self.plain.negative.magnitudes

    def activation(self, code: int, dual: int, negative: int) -> int:
        """Grid integer with which an activation code counts in a pass."""
        if not dual:
            return self.plain.decode_int(code) or 0
        assert self.dual is not None
        if bool(code & self.dual.sign_bit) != bool(negative):
            return 0
        return self.dual.decode_int(code) or 0


def _values(fmt: NumberFormat) -> list[int]:
    """Grid integers of all codes; a reserved code counts as zero."""
    return [fmt.decode_int(code) or 0 for code in range(fmt.code_count)]
