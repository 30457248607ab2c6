# SPDX-License-Identifier: Apache-2.0
"""Distributed arithmetic: which lanes share a table, what tables hold, which engine fills them.

`sum_j a_j w_j` with two's complement weights `w = -2**(P-1) b_{P-1} + sum_p 2**p b_p` is
`sum_p +-2**p sum_t T_t[b_p of the lanes of table t]`, where `T_t` holds the sums of all subsets
of the activations of its five lanes. A lookup with one bit of each of five weights replaces five
additions.

A subset sum lies between the sum of the table's negative activations and that of its positive ones,
so with five activations of at most M the range is 5 M, not 10 M. A table holds `T_t + N_t` with
`N_t` the sum of the magnitudes of its negative activations: unsigned, and a bit shorter than with
one offset for all tables. What the offsets do to the sum is the same for each weight vector, and
weights of zero show how much it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.contract.formats import NumberFormat
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.widths import WORDS

TABLE_LANES = 5  #: address bits of a LUTRAM with two output bits a LUT
DEPTH = 1 << TABLE_LANES
#: Fill engines of a row: 13 fill 26 tables in two rounds. Six would take 111 cycles more for each
#: operand and save 0.6 LUT a lane; a layer of 1,920 outputs loses 5 % of its time to these cycles.
ENGINES = 13


@dataclass(frozen=True)
class Table:
    """One table of subset sums.

    Attributes:
        lanes: elements of the group, at most five; address bit j belongs to `lanes[j]`.
        first: position of lane 0 in the order of `DaDesign.order`.
        engine, turn: the engine that fills it, and its index in the engine's fill order.
    """

    lanes: tuple[int, ...]
    first: int
    engine: int
    turn: int


@dataclass(frozen=True)
class Engine:
    """What a fill engine takes of each loaded word, and where it keeps it.

    Attributes:
        positions: in phase i after a word has come, element `positions[i]` of it is written at
            address `phases * word + i` of the engine's memory, needed or not.
        addresses: for each of its tables, where the codes of its lanes are.
    """

    positions: tuple[int, ...]
    addresses: tuple[tuple[int, ...], ...]


def _shares(tables: int, engines: int) -> list[int]:
    return [tables // engines + (e < tables % engines) for e in range(engines)]


def _positions(needs: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Give each engine its number of elements, as (word, element of the word), in this order.

    An engine takes the same elements of all words as far as possible: its multiplexer is narrow.
    """
    every = [(word, position) for position in range(LANES) for word in range(WORDS)]
    ends = list(accumulate(needs))
    return [sorted(every[end - n : end]) for n, end in zip(needs, ends, strict=True)]


class DaDesign:
    """Numbers of a distributed-arithmetic dot product of 128 lanes.

    Attributes:
        weight, plain, dual: formats; dual may be None.
        planes: bits of a weight in two's complement, the lookups of a table in each cycle.
        entry_bits: bits of an entry, a subset sum plus the table's own offset.
        sum_bits: bits of the signed sum.
        tables, engines: see `Table` and `Engine`.
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
        self.entry_bits = (TABLE_LANES * max(map(abs, values))).bit_length()
        top = max(map(abs, weights)) * max(map(abs, values))
        self.sum_bits = (GROUP * top).bit_length() + 1
        self._place(engines)

    @classmethod
    def of(cls, config: AcceleratorConfig) -> DaDesign:
        """The design for the formats of a configuration."""
        quant = config.quant_config
        return cls(quant.weight_format, quant.plain_format, quant.dual_format)

    def _place(self, engines: int) -> None:
        count = -(-GROUP // TABLE_LANES)
        if not 1 <= engines <= LANES:
            raise ValueError(f"{engines} fill engines; 1 to {LANES} are possible")
        shares = _shares(count, engines)
        self.turns = max(shares)
        needs = [share * TABLE_LANES for share in shares]
        needs[0] -= sum(needs) - GROUP  # the first engine has the short table
        elements = _positions(needs)
        positions_of = [sorted({position for _, position in mine}) for mine in elements]
        self.phases = 1 << (max(map(len, positions_of)) - 1).bit_length()
        tables: list[Table] = []
        fill_engines: list[Engine] = []
        first = 0
        for engine, (mine, positions) in enumerate(zip(elements, positions_of, strict=True)):
            addresses = []
            for turn in range(shares[engine]):
                part = mine[turn * TABLE_LANES : (turn + 1) * TABLE_LANES]
                lanes = tuple(word * LANES + position for word, position in part)
                tables.append(Table(lanes, first, engine, turn))
                first += len(lanes)
                addresses.append(tuple(word * self.phases + positions.index(p) for word, p in part))
            fill_engines.append(Engine(tuple(positions), tuple(addresses)))
        self.tables, self.engines = tuple(tables), tuple(fill_engines)
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
