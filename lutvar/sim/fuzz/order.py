# SPDX-License-Identifier: Apache-2.0
"""Which completed instructions each instruction has to wait for, from what they touch."""

from __future__ import annotations

from collections.abc import Sequence

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import UNITS, Instruction, Unit
from lutvar.host.compile.footprint import footprint
from lutvar.host.compile.schedule import unit_of


def needed_waits(items: Sequence[Instruction], config: AcceleratorConfig) -> list[tuple[int, ...]]:
    """For each instruction the counts of all units whose results it touches or overwrites."""
    history: list[tuple[Unit, int, set[object], set[object]]] = []
    counts = [0] * len(UNITS)
    result = []
    for item in items:
        unit = unit_of(item.opcode)
        reads, writes = _cells(item, config)
        need = [0] * len(UNITS)
        for other, count, read, written in history:
            if need[other] >= count:
                continue
            if item.operands.get("more") and other is unit:
                continue  # MATRIX keeps its own order of passes over an accumulator
            if written & reads or written & writes or read & writes:
                need[other] = count
        counts[unit] += 1
        history.append((unit, counts[unit], reads, writes))
        result.append(tuple(need))
    return result


def _cells(item: Instruction, config: AcceleratorConfig) -> tuple[set[object], set[object]]:
    touched = footprint(item, config)
    reads: set[object] = {(r, int(n)) for r, lines in touched.reads for n in lines}
    writes: set[object] = {(r, int(n)) for r, lines in touched.writes for n in lines}
    for cells, banks in ((reads, touched.bank_reads), (writes, touched.bank_writes)):
        cells |= {("bank", bank, first + n) for bank, first, count in banks for n in range(count)}
    reads |= {("sums", bank) for bank in touched.accumulator_reads}
    writes |= {("sums", bank) for bank in touched.accumulator_writes}
    return reads, writes
