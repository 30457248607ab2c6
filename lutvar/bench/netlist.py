# SPDX-License-Identifier: Apache-2.0
"""Figures from a mapped netlist: LUT sites after packing, and logic levels between registers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: Inputs that the two outputs of one LUT site may share.
DUAL_INPUTS = 5
#: Nets with more sinks than this offer only neighbours in netlist order as packing partners.
_WIDE_NET = 64
_NEIGHBOURS = 16

#: LUT sites of the primitives that use LUTs as memory, by the start of their names; the first that
#: fits counts.
_MEMORY_SITES = {
    "RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "RAM16X1D": 2, "RAM32X1D": 2,
    "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8, "RAM128X1S": 2, "RAM256X1S": 4, "RAM512X1S": 8,
    "RAM": 1, "SRL": 1,
}  # fmt: skip
#: Ports through which such a memory is read without a clock.
_ADDRESS_PORTS = ("ADDR", "A", "DPRA")

Net = int | str  #: Yosys numbers nets; constants are "0", "1", "x", "z"


@dataclass(frozen=True)
class Cell:
    """A cell of the flat netlist.

    Attributes:
        kind: primitive.
        bits: port -> nets, constants included, lowest bit first.
        outputs: names of the output ports.
    """

    kind: str
    bits: Mapping[str, tuple[Net, ...]]
    outputs: frozenset[str]

    def _nets(self, output: bool) -> frozenset[int]:
        return frozenset(
            net
            for port, nets in self.bits.items()
            if (port in self.outputs) == output
            for net in nets
            if isinstance(net, int)
        )

    @cached_property
    def input_nets(self) -> frozenset[int]:
        """Nets at the inputs."""
        return self._nets(False)

    @cached_property
    def output_nets(self) -> frozenset[int]:
        """Nets at the outputs."""
        return self._nets(True)

    @property
    def is_lut(self) -> bool:
        """A LUT or an inverter."""
        return self.kind == "INV" or (self.kind.startswith("LUT") and self.kind[3:].isdigit())

    @property
    def is_carry(self) -> bool:
        """Part of a carry chain."""
        return self.kind.startswith("CARRY")

    @property
    def is_mux(self) -> bool:
        """A wide multiplexer beside the LUTs."""
        return self.kind.startswith("MUXF")

    @property
    def is_lut_memory(self) -> bool:
        """A memory or shift register made of LUTs."""
        return self.kind.startswith(("RAM", "SRL")) and not self.kind.startswith("RAMB")

    @property
    def memory_sites(self) -> int:
        """LUT sites that it takes as a memory, 0 for other cells."""
        if not self.is_lut_memory:
            return 0
        return next(n for kind, n in _MEMORY_SITES.items() if self.kind.startswith(kind))

    @property
    def is_combinational(self) -> bool:
        """Outputs follow inputs without a clock."""
        return self.is_lut or self.is_carry or self.is_mux

    @cached_property
    def through_nets(self) -> frozenset[int]:
        """Inputs that reach the outputs without a clock: of a LUT memory, its read addresses."""
        if self.is_combinational:
            return self.input_nets
        if not self.is_lut_memory:
            return frozenset()
        return frozenset(
            net
            for port, nets in self.bits.items()
            if port not in self.outputs and port.startswith(_ADDRESS_PORTS)
            for net in nets
            if isinstance(net, int)
        )


def read_cells(netlist: Mapping[str, Any], top: str) -> list[Cell]:
    """Cells of module `top` in a Yosys JSON netlist.

    Raises:
        KeyError: the netlist has no such module.
    """
    return [
        Cell(
            raw["type"],
            {port: tuple(nets) for port, nets in raw["connections"].items()},
            frozenset(p for p, side in raw["port_directions"].items() if side == "output"),
        )
        for raw in netlist["modules"][top]["cells"].values()
        if not raw["type"].startswith("$")  # notes of Yosys, such as $scopeinfo
    ]


def _merged(a: int, b: int, luts: list[Cell]) -> frozenset[int] | None:
    """Inputs of a dual-output LUT that makes the outputs of both, or None when they share nothing.

    When one LUT feeds the other it can be repeated inside it, so its output is no input of the
    pair.
    """
    nets_a, nets_b = luts[a].input_nets, luts[b].input_nets
    out_a, out_b = luts[a].output_nets, luts[b].output_nets
    if out_a & nets_b:
        return nets_a | (nets_b - out_a)
    if out_b & nets_a:
        return nets_b | (nets_a - out_b)
    return nets_a | nets_b if nets_a & nets_b else None


def _partners(luts: list[Cell], busy: set[int]) -> list[set[int]]:
    """For each LUT, those that fit a site together with it: at most five inputs in all."""
    touch: dict[int, list[int]] = defaultdict(list)
    for index, lut in enumerate(luts):
        if index not in busy and 0 < len(lut.input_nets) <= DUAL_INPUTS:
            for net in lut.input_nets | lut.output_nets:
                touch[net].append(index)
    partners: list[set[int]] = [set() for _ in luts]
    for members in touch.values():
        reach = _NEIGHBOURS if len(members) > _WIDE_NET else len(members)
        for position, a in enumerate(members):
            for b in members[position + 1 : position + 1 + reach]:
                merged = _merged(a, b, luts)
                if merged is not None and len(merged) <= DUAL_INPUTS:
                    partners[a].add(b)
                    partners[b].add(a)
    return partners


def _carry_sites(cells: list[Cell], luts: list[Cell]) -> tuple[set[int], int, int]:
    """LUTs that a carry chain occupies, pairs among them, and sites that only pass a signal on.

    A bit of a chain owns a whole LUT site (on Versal both halves feed the carry logic). The LUT
    that makes the bit's propagate signal sits there, and with it, if it fits, the one that makes
    its other operand. A propagate signal that comes from elsewhere needs the site just to get in.
    """
    makes = {net: index for index, lut in enumerate(luts) for net in lut.output_nets}
    busy: set[int] = set()
    pairs = through = 0
    for cell in cells:
        if not cell.is_carry:
            continue
        for select, data in zip(cell.bits["S"], cell.bits["DI"], strict=True):
            if not isinstance(select, int):
                continue
            site = makes.get(select)
            if site is None or site in busy:
                through += 1
                continue
            busy.add(site)
            other = makes.get(data) if isinstance(data, int) else None
            if other is None or other in busy:
                continue
            merged = _merged(site, other, luts)
            if merged is not None and len(merged) <= DUAL_INPUTS:
                busy.add(other)
                pairs += 1
    return busy, pairs, through


def packed_sites(cells: list[Cell]) -> int:
    """LUT sites after packing two LUTs into a dual-output site wherever the inputs allow.

    Carry chains claim their sites first. The rest is a greedy matching: the LUT with fewest free
    partners chooses first and takes the partner with fewest others; that is a maximum matching in
    forests and nearly one elsewhere, and never claims a pair that does not exist.
    """
    luts = [cell for cell in cells if cell.is_lut]
    busy, pairs, through = _carry_sites(cells, luts)
    partners = _partners(luts, busy)
    buckets: dict[int, set[int]] = defaultdict(set)
    for index, mine in enumerate(partners):
        if mine:
            buckets[len(mine)].add(index)
    while buckets:
        degree = min(buckets)
        lut = min(buckets[degree])
        partner = min(partners[lut], key=lambda p: (len(partners[p]), p))
        pairs += 1
        for member in (lut, partner):
            _move(buckets, member, len(partners[member]), 0)
            for other in partners[member]:
                if other not in (lut, partner):
                    _move(buckets, other, len(partners[other]), len(partners[other]) - 1)
                    partners[other].discard(member)
            partners[member] = set()
    return len(luts) - pairs + through


def _move(buckets: dict[int, set[int]], index: int, old: int, new: int) -> None:
    if index in buckets.get(old, ()):
        buckets[old].discard(index)
        if not buckets[old]:
            del buckets[old]
    if new:
        buckets[new].add(index)


def _arrivals(cells: list[Cell]) -> dict[int, int]:
    """Logic levels at each net that a combinational cell drives.

    Raises:
        ValueError: a combinational loop.
    """
    driver = {net: cell for cell in cells if cell.through_nets for net in cell.output_nets}
    arrival: dict[int, int] = {}
    for start in driver:
        if start in arrival:
            continue
        path = [start]
        on_path = {id(driver[start])}
        while path:
            cell = driver[path[-1]]
            below = next((n for n in cell.through_nets if n in driver and n not in arrival), None)
            if below is None:
                level = _level(cell, arrival, driver)
                arrival.update(dict.fromkeys(cell.output_nets, level))
                on_path.discard(id(cell))
                path.pop()
            elif id(driver[below]) in on_path:
                raise ValueError(f"the netlist has a combinational loop through net {below}")
            else:
                path.append(below)
                on_path.add(id(driver[below]))
    return arrival


def _level(cell: Cell, arrival: Mapping[int, int], driver: Mapping[int, Cell]) -> int:
    """Levels after a cell: a LUT, the reading of one as memory, or a whole carry chain adds one, a
    slice multiplexer none.
    """
    step = 0 if cell.is_mux else 1
    level = step
    for net in cell.through_nets:
        chained = cell.is_carry and net in driver and driver[net].is_carry
        level = max(level, arrival.get(net, 0) + (0 if chained else step))
    return level


def level_histogram(cells: list[Cell], outputs: list[Net]) -> dict[int, int]:
    """How many register inputs and output ports lie behind how many logic levels.

    A cascade of carry primitives counts as one level, which is exact for one chain.
    """
    arrival = _arrivals(cells)
    ends = [net for net in outputs if isinstance(net, int)]
    for cell in cells:
        if not cell.is_combinational:
            for port, nets in cell.bits.items():
                if port not in cell.outputs and port not in ("C", "CLK", "WCLK"):
                    ends += [net for net in nets if isinstance(net, int)]
    return dict(sorted(Counter(arrival.get(net, 0) for net in ends).items()))
