# SPDX-License-Identifier: Apache-2.0
"""Proof of a program's order: no interleaving that the waits allow can change its result.

Program order is the reference. For every two instructions that touch the same line of memory or
the same bank, one of them writing, the later one must start after the earlier one is complete in
every run; vector clocks decide that (`clocks`). Besides: nothing is read that nobody wrote, banks
and accumulators hold what their readers expect, weights come in the order in which they are used,
all operands are within the accelerator's limits, and the program cannot get stuck.

It works from the encoded operands (`footprint`), independently of the compiler.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import ROW_GROUP, STRIPE, WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.column_sums import MAX_BLOCKS, SumMode
from lutvar.contract.isa import (
    UNITS,
    Instruction,
    Opcode,
    PostOp,
    ProgramError,
    Region,
    Unit,
    check_readings,
    split_address,
)
from lutvar.contract.memory import panel_shares
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.sections import SECTIONS, tile_rows

from .clocks import WRAP, Clocks
from .errors import OrderError
from .footprint import Footprint, Lines, footprint, row_range
from .program import Program
from .schedule import unit_of

#: Regions that any program may read without having written.
_INPUTS = (Region.MODEL, Region.IO, Region.CACHE)


class _Shared:
    """Last write and last read of each cell by each unit, as counts; grows when needed."""

    def __init__(self, cells: int = 1 << 12) -> None:
        self.written = np.zeros((len(UNITS), cells), np.int32)
        self.read = np.zeros((len(UNITS), cells), np.int32)

    def reach(self, cells: int) -> None:
        have = self.written.shape[1]
        if cells > have:
            more = ((0, 0), (0, max(cells, 2 * have) - have))
            self.written, self.read = np.pad(self.written, more), np.pad(self.read, more)


class _Checker:
    def __init__(self, config: AcceleratorConfig, begun: Collection[Region]) -> None:
        self.config, self._inputs = config, {*_INPUTS, *begun}
        self.clocks = Clocks()
        self.memory = {region: _Shared() for region in Region}
        self.banks = _Shared(config.act_banks * config.rows)
        self.accumulators = _Shared(config.acc_banks)
        #: Of each row: groups of inputs, and 1 where each is in two terms.
        self.bank_contents = np.zeros((config.act_banks * config.rows, 2), np.int64)
        self.accumulated = [(0, 0, 0)] * config.acc_banks  # blocks of 32, rows, sections

    def add(self, index: int, item: Instruction) -> None:
        where = f"instruction {index} ({item.opcode.name})"
        unit = unit_of(item.opcode)
        try:
            clock = np.array(self.clocks.add(unit, item.waits), np.int64)
        except ValueError as error:
            raise OrderError(f"{where}: {error}") from None
        count = self.clocks.count(unit)
        self._limits(where, item)
        touched = footprint(item, self.config)
        self._regions(where, touched)
        accesses = self._accesses(touched)
        extending = unit if item.operands.get("more") else None
        for what, shared, cells, write in accesses:
            after = clock
            if shared is self.accumulators and extending is not None:
                # Sums that go on: MATRIX keeps its own order of passes over an accumulator.
                after = clock.copy()
                after[extending] = self.clocks.count(extending) - 1
            self._ordered(f"{where} {'writes' if write else 'reads'} {what}", shared, cells, after,
                          write)  # fmt: skip
        for region, lines in touched.reads:
            if (
                region not in self._inputs
                and not self.memory[region].written[:, lines].any(axis=0).all()
            ):
                raise OrderError(f"{where} reads lines of {region.name} that nobody wrote")
        for _, shared, cells, write in accesses:
            (shared.written if write else shared.read)[unit, cells] = count
        self._contents(where, item, touched)

    def _accesses(self, touched: Footprint) -> list[tuple[str, _Shared, Lines, bool]]:
        """(name, cells' owner, cells, written) of everything that an instruction touches."""
        result: list[tuple[str, _Shared, Lines, bool]] = []
        for part, write in ((touched.reads, False), (touched.writes, True)):
            result += [(r.name, self.memory[r], lines, write) for r, lines in part]
        for ranges, write in ((touched.bank_reads, False), (touched.bank_writes, True)):
            for bank, first, n in ranges:
                result.append((f"bank {bank}", self.banks, self._cells(bank, first, n), write))
        for banks, write in (
            (touched.accumulator_reads, False),
            (touched.accumulator_writes, True),
        ):
            for bank in banks:
                name = f"accumulator bank {bank}"
                result.append((name, self.accumulators, np.array([bank]), write))
        return result

    def _cells(self, bank: int, first: int, count: int) -> Lines:
        start = bank * self.config.rows + first
        return np.arange(start, start + count)

    @staticmethod
    def _ordered(
        what: str, shared: _Shared, cells: Lines, clock: NDArray[np.int64], write: bool
    ) -> None:
        shared.reach(int(cells.max()) + 1)
        for verb, counts in (("written", shared.written), ("read", shared.read)):
            if verb == "read" and not write:
                continue
            last = counts[:, cells].max(axis=1)
            late = np.flatnonzero(last > clock)
            if late.size:
                unit, need = UNITS[late[0]], int(last[late[0]])
                raise OrderError(
                    f"{what}, {verb} by {unit.name} {need - 1}; it waits for {clock[unit]} "
                    f"instructions of {unit.name}, at least {need} are needed"
                )

    def _contents(self, where: str, item: Instruction, touched: Footprint) -> None:
        """Banks hold what their readers expect."""
        o = item.operands
        for bank, first, n in touched.bank_writes:
            self.bank_contents[self._cells(bank, first, n)] = o["groups"], o["terms"]
        for bank, first, n in touched.bank_reads:
            groups, terms = self.bank_contents[self._cells(bank, first, n)].T
            if (groups != o["groups"]).any() or (terms != o["terms"]).any():
                raise OrderError(
                    f"{where} multiplies {o['groups']} groups in {1 + o['terms']} terms; the rows "
                    f"of bank {bank} hold {sorted(set(groups.tolist()))} in "
                    f"{sorted(set((terms + 1).tolist()))}"
                )
        if item.opcode == Opcode.MATRIX:
            sums = o["blocks"], o["rows"], SECTIONS[o["sections"]]
            if o["more"] and self.accumulated[o["acc_bank"]] != sums:
                blocks, rows, sections = self.accumulated[o["acc_bank"]]
                raise OrderError(
                    f"{where} goes on with {o['blocks']} blocks of 32, {o['rows']} rows and "
                    f"{sums[2]} sections; bank {o['acc_bank']} holds {blocks}, {rows} and "
                    f"{sections}"
                )
            self.accumulated[o["acc_bank"]] = sums
        elif item.opcode == Opcode.POST and touched.accumulator_reads:
            blocks, rows, sections = self.accumulated[o["acc_bank"]]
            first, count = row_range(o)
            if o["blocks"] * GROUP != blocks * WEIGHT_BLOCK or first + count > rows:
                raise OrderError(
                    f"{where} takes {o['blocks']} blocks of 128 and rows {first} to "
                    f"{first + count - 1}; bank {o['acc_bank']} holds {blocks} blocks of 32 and "
                    f"{rows} rows"
                )
            if SECTIONS[o["sections"]] != sections:
                raise OrderError(
                    f"{where} drains {SECTIONS[o['sections']]} sections; bank {o['acc_bank']} "
                    f"holds the sums of {sections}"
                )

    def _limits(self, where: str, item: Instruction) -> None:
        c, o = self.config, item.operands
        bad: list[str] = []
        rows, depth = c.rows, c.acc_depth
        if "sections" in o:
            if o["sections"] >= len(SECTIONS) or SECTIONS[o["sections"]] > c.max_sections:
                raise OrderError(f"{where}: sections is {o['sections']}, out of limits")
            rows = tile_rows(c, SECTIONS[o["sections"]])
            depth = c.acc_depth // STRIPE * SECTIONS[o["sections"]] * STRIPE
        if o.get("terms") and (c.input_terms < 2 or o["dual"]):
            bad.append("terms")
        groups = c.bank_groups // (1 + o.get("terms", 0))
        if item.opcode == Opcode.FRONT:
            limits = {"bank": c.act_banks - 1, "groups": groups}
            if o["row_first"] + o["rows"] > rows:
                bad.append("rows")
            if o["norm"] and o["groups"] * GROUP > c.max_width:
                bad.append("groups")
        elif item.opcode == Opcode.MATRIX:
            limits = {
                "bank": c.act_banks - 1, "acc_bank": c.acc_banks - 1, "groups": groups,
                "blocks": depth // WEIGHT_BLOCK, "rows": rows,
            }  # fmt: skip
            if o["blocks"] * WEIGHT_BLOCK % STRIPE:
                bad.append("blocks")
        elif item.opcode == Opcode.POST:
            limits = {"acc_bank": c.acc_banks - 1, "row_group": rows // ROW_GROUP - 1,
                      "blocks": depth // GROUP}  # fmt: skip
            if o["row_first"] + o["rows"] > ROW_GROUP:
                bad.append("rows")
            self._operation(where, o)
        else:
            limits = {"keys": c.max_keys, "heads": c.max_width // 64} if "keys" in o else {}
        bad += [name for name, limit in limits.items() if o[name] > limit]
        counted = ["rows", "groups", "blocks", "beats", "panels"]
        counted += ["keys"] if item.opcode == Opcode.ATTEND else []
        zero = [name for name in counted if name in o and not o[name]]
        if bad or zero:
            raise OrderError(f"{where}: {(bad + zero)[0]} is {o[(bad + zero)[0]]}, out of limits")

    def _operation(self, where: str, o: Mapping[str, int]) -> None:
        """POST's operation, and its sums."""
        kept = o["op"] == PostOp.SUMS or o["sums"] != SumMode.NONE
        if (kept or o["op"] == PostOp.NORM) and not self.config.decoder:
            raise OrderError(
                f"{where}: {self.config.name} is built without NORM, sums and SUMS; use an "
                "accelerator with `decoder: true`"
            )
        if kept and o["blocks"] > MAX_BLOCKS:
            raise OrderError(f"{where}: sums of {o['blocks']} blocks; there are {MAX_BLOCKS}")
        if o["sums"] != SumMode.NONE and o["op"] not in (PostOp.STORE, PostOp.ADD):
            raise OrderError(f"{where}: sums is {o['sums']}; only STORE and ADD have sums")

    @staticmethod
    def _regions(where: str, touched: Footprint) -> None:
        """Weights and vectors lie in MODEL, and nobody writes there."""
        for address, _ in touched.model:
            if split_address(address)[0] != Region.MODEL:
                raise OrderError(f"{where}: {address:#x} is not in MODEL")
        if any(region == Region.MODEL for region, _ in touched.writes):
            raise OrderError(f"{where} writes to MODEL")


def check_program(
    program: Program, config: AcceleratorConfig, begun: Collection[Region] = ()
) -> None:
    """Raise OrderError, naming instruction and rule, unless a program's result is determined.

    Takes time and memory in proportion to the memory that the program touches.

    Args:
        program: compiled, or decoded with exact waits.
        config: of the accelerator.
        begun: regions that it may read without having written: earlier programs have.
    """
    checker = _Checker(config, begun)
    if not program.instructions or program.instructions[-1].opcode != Opcode.END:
        raise OrderError("the last instruction is not END")
    for index, item in enumerate(program.instructions[:-1]):
        if item.opcode == Opcode.END:
            raise OrderError(f"instruction {index} is END, before the last")
        checker.add(index, item)
    for unit in UNITS:
        for other in UNITS:
            if checker.clocks.lead(unit, other) >= WRAP // 2:
                raise OrderError(f"{other.name} may be 2**15 ahead of what {unit.name} waits for")
    _check_weights(program, config)
    _check_progress(program, config)


def _check_weights(program: Program, config: AcceleratorConfig) -> None:
    """FETCH delivers the panels in the order in which MATRIX uses them, and is dispatched first."""
    bits, ports = config.quant_config.code_bits, config.weight_ports
    panels = [
        (tuple(item.operands[name] for name in ("beats", "full", "rest")), item.operands["repeat"])
        for item in program.instructions
        if item.opcode == Opcode.FETCH
        for _ in range(item.operands["panels"])
    ]
    at = 0
    for index, item in enumerate(program.instructions):
        if item.opcode != Opcode.MATRIX:
            continue
        o = item.operands
        for group in range(o["groups"]):
            shares = panel_shares(o["blocks"] * WEIGHT_BLOCK, bits, not group, ports)
            want = (astuple(shares), 1 + o["dual"] + o["terms"])
            if at >= len(panels) or panels[at] != want:
                delivery = panels[at] if at < len(panels) else "nothing"
                raise OrderError(
                    f"instruction {index} (MATRIX): group {group} needs beats, full, rest and "
                    f"repeats {want}; FETCH brings {delivery}"
                )
            at += 1
    if at != len(panels):
        raise OrderError(f"{len(panels) - at} panels are fetched that no MATRIX uses")
    try:
        check_readings(program.instructions, ports)
    except ProgramError as error:
        raise OrderError(str(error)) from None


def _check_progress(program: Program, config: AcceleratorConfig) -> None:
    """Run the program without times, as if the weight FIFO held nothing: it must end.

    A FETCH is complete when the MATRIX that uses its last panel runs. If this run ends, every run
    does: being faster anywhere never takes away another instruction's chance.
    """
    items = program.instructions[:-1]
    queues: list[list[int]] = [[] for _ in UNITS]
    done = [0] * len(UNITS)
    credit = 0  # groups that the started MATRIX may take
    at = 0
    moved = True
    while moved:
        moved = False
        while at < len(items):
            queue = queues[unit_of(items[at].opcode)]
            if len(queue) >= config.queue:
                break
            queue.append(at)
            at, moved = at + 1, True
        for unit in UNITS:
            queue = queues[unit]
            while queue:
                item = items[queue[0]]
                if any(d < w for d, w in zip(done, item.waits, strict=True)):
                    break
                if unit == Unit.FETCH:
                    if credit < item.operands["panels"]:
                        break
                    credit -= item.operands["panels"]
                elif unit == Unit.MATRIX:
                    if credit:
                        break
                    credit = item.operands["groups"]
                queue.pop(0)
                done[unit] += 1
                moved = True
    if at < len(items) or any(queues):
        stuck = min([q[0] for q in queues if q], default=at)
        raise OrderError(f"the program gets stuck; instruction {stuck} can never run")
