# SPDX-License-Identifier: Apache-2.0
"""Multiplication tables of small magnitudes, and the operand codes that make them small."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as pairs

from amaranth.hdl import Value

from .planes import PlaneLogic
from .recode import DUAL_INPUTS, LUT_INPUTS, Demand, bits_for, classes, share_bits


def _complete(entries: dict[tuple[int, int], int], a_bits: int, w_bits: int) -> list[int]:
    """A full table: operand codes that never occur read the entry of the nearest code that does.

    Nearest means equal in as many upper bits as possible, so the table ignores lower bits there.
    """
    used_a, used_w = ({pair[side] for pair in entries} for side in (0, 1))
    near_a, near_w = (
        [min(used, key=lambda code: code ^ c) for c in range(1 << bits)]
        for used, bits in ((used_a, a_bits), (used_w, w_bits))
    )
    return [entries[a, w] for w in near_w for a in near_a]


@dataclass(frozen=True)
class LutTable:
    """A few product bits that are read through the same operand bits.

    Attributes:
        low: position of the lowest product bit.
        high: one past the highest.
        entries: product bits at index `activation bits | weight bits << n`.
        inputs: address bits.
    """

    low: int
    high: int
    entries: tuple[int, ...]
    inputs: int

    @property
    def luts(self) -> int:
        """LUT6 sites, two outputs of at most five shared inputs counted as one."""
        if self.inputs <= DUAL_INPUTS:
            return (self.high - self.low + 1) // 2
        return (self.high - self.low) << (self.inputs - LUT_INPUTS)


class TableSet:
    """Tables that multiply two small sets of magnitudes, and the operand codes that they want."""

    def __init__(self, activations: Sequence[int], weights: Sequence[int]) -> None:
        self.activations, self.weights = tuple(activations), tuple(weights)
        self.bits = (max(self.activations) * max(self.weights)).bit_length()
        spans, wants = self._plan()
        self.activation_code = share_bits([a for a, _ in wants])
        self.weight_code = share_bits([w for _, w in wants])
        self.tables = tuple(self._table(i, low, high) for i, (low, high) in enumerate(spans))

    def _demands(self, low: int, high: int) -> tuple[Demand, Demand, int]:
        """Operand classes for product bits low..high-1, and the least number of table inputs."""
        mask = (1 << high) - (1 << low)
        of_a = classes(self.activations, lambda a: tuple(a * w & mask for w in self.weights))
        of_w = classes(self.weights, lambda w: tuple(a * w & mask for a in self.activations))
        need_a, need_w = bits_for(len(set(of_a))), bits_for(len(set(of_w)))
        # Inputs that cost nothing go to the weight, which then often needs no recoding at all.
        limit = LUT_INPUTS if high - low == 1 else DUAL_INPUTS
        full_w = bits_for(len(self.weights))
        width_w = max(need_w, min(full_w, limit - need_a))
        return Demand(of_a, need_a), Demand(of_w, width_w), need_a + need_w

    def _plan(self) -> tuple[list[tuple[int, int]], list[tuple[Demand, Demand]]]:
        """Split the product's bits into single bits and neighbours that share a dual-output LUT."""
        spans, wants, low = [], [], 0
        while low < self.bits:
            high = min(low + 2, self.bits)
            a, w, inputs = self._demands(low, high)
            if high - low == 2 and inputs > DUAL_INPUTS:
                high = low + 1
                a, w, inputs = self._demands(low, high)
            spans.append((low, high))
            wants.append((a, w))
            low = high
        return spans, wants

    def _table(self, index: int, low: int, high: int) -> LutTable:
        a_code, w_code = self.activation_code, self.weight_code
        a_bits, w_bits = len(a_code.picks[index]), len(w_code.picks[index])
        entries: dict[tuple[int, int], int] = {}
        for (ia, a), (iw, w) in pairs(enumerate(self.activations), enumerate(self.weights)):
            address = a_code.view(index, ia), w_code.view(index, iw)
            entry = a * w >> low & (1 << high - low) - 1
            if entries.setdefault(address, entry) != entry:
                raise AssertionError(f"product bits {low}..{high - 1}: the operand codes clash")
        return LutTable(low, high, tuple(_complete(entries, a_bits, w_bits)), a_bits + w_bits)

    @property
    def luts(self) -> int:
        """LUTs of all tables."""
        return sum(table.luts for table in self.tables)

    def multiply(
        self, logic: PlaneLogic, activation: Sequence[Value], weight: Sequence[Value]
    ) -> list[Value]:
        """Planes of the product of two recoded magnitudes, combinational, one LUT level."""
        planes: list[Value] = []
        for table, a_picks, w_picks in zip(
            self.tables, self.activation_code.picks, self.weight_code.picks, strict=True
        ):
            a_planes, w_planes = [activation[i] for i in a_picks], [weight[i] for i in w_picks]
            # Activation bits beyond one LUT's inputs are split off first: the rest fills LUTs.
            spill = max(0, table.inputs - LUT_INPUTS)
            keep = len(a_planes) - spill
            order = [*range(keep), *range(len(a_planes), table.inputs), *range(keep, len(a_planes))]
            entries = [
                table.entries[sum((address >> i & 1) << bit for i, bit in enumerate(order))]
                for address in range(1 << table.inputs)
            ]
            variables = [(*a_planes, *w_planes)[bit] for bit in order]
            planes += logic.functions(entries, table.high - table.low, variables)
        return planes
