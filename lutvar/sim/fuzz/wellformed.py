# SPDX-License-Identifier: Apache-2.0
"""Random programs that keep every rule, so that the interpreter says what they must leave.

Operands come from the instruction table: a field that has no meaning in an instruction (the AdaLN
vectors of a FRONT without `norm`, the records of a POST that is no QKV) gets random bits, and so
does a field that is new and unknown here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lutvar.contract.accelerator import BEAT_BYTES, ROW_GROUP, WEIGHT_BLOCK
from lutvar.contract.column_sums import COLUMN_BYTES, MAX_BLOCKS, SumMode
from lutvar.contract.isa import UNITS, Instruction, Opcode, PostOp, Region, Unit
from lutvar.contract.memory import panel_beats, panel_shares
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.sections import SECTIONS, tile_rows
from lutvar.host.compile.check import check_program
from lutvar.host.compile.errors import OrderError
from lutvar.host.compile.program import Program
from lutvar.host.compile.schedule import unit_of

from .attention import Attention
from .contents import Fill
from .draft import Full, Pieces
from .order import needed_waits

#: Stripes of 128 outputs of a program's layer, at most: memory is small.
MOST_STRIPES = 8
#: How a bank's groups are quantized.
PLAIN, DUAL, TERMS = range(3)


@dataclass(frozen=True)
class Wellformed:
    """A program and what lies in memory before it."""

    program: Program
    fills: tuple[Fill, ...]


class Generator(Attention):
    """Makes right programs for one accelerator."""

    def make(self, length: int) -> Wellformed:
        """A program of about `length` instructions, END not counted."""
        self.pieces = draft = Pieces()
        if self.small:
            self._chain(int(PostOp.ADD))
            self._attend()
        while len(draft.instructions) < length:
            before = copy.deepcopy(draft)
            try:
                if self.one_in(5):
                    self._attend()
                else:
                    self._chain()
            except Full:
                self.pieces = draft = before if before.instructions else Pieces()
                if before.instructions:
                    break
        return Wellformed(self._ordered(draft.instructions), tuple(draft.fills))

    # Instructions ----------------------------------------------------------------------------
    def _chain(self, op: int | None = None) -> None:
        """FRONT, FETCH, MATRIX, perhaps a second part, and POST."""
        config, draft = self.config, self.pieces
        bank = int(self.rng.integers(config.act_banks))
        if bank not in draft.banks or not self.one_in(4):
            self._front(bank)
        rows, groups, treatment, sections = draft.banks[bank]
        acc = int(self.rng.integers(config.acc_banks))
        step = 4  # outputs that POST takes are multiples of 128
        most = SECTIONS[sections] * config.acc_depth // WEIGHT_BLOCK // step
        blocks = step * self.upto(1, min(most, MOST_STRIPES))
        used = rows if self.one_in(3) else self.upto(1, rows)
        self._matrix(bank, acc, groups, blocks, treatment, used, sections, more=0)
        while self.one_in(4):
            if self.one_in(2):
                bank = int(self.rng.integers(config.act_banks))
                self._front(bank, used, sections)
            rows, groups, treatment, others = draft.banks[bank]
            if rows >= used and others == sections:
                self._matrix(bank, acc, groups, blocks, treatment, used, sections, more=1)
        for _ in range(1 if self.small else self.upto(1, 3)):
            self._post(acc, blocks // step, used, sections, op)

    def _front(self, bank: int, least: int = 1, sections: int | None = None) -> None:
        config, draft = self.config, self.pieces
        if sections is None:
            sections = int(self.rng.integers(SECTIONS.index(config.max_sections) + 1))
        total = max(least, self.upto(1, tile_rows(config, SECTIONS[sections])))
        norm = int(self.rng.integers(2))
        limit = min(config.max_width // GROUP, config.bank_groups) if norm else config.bank_groups
        treatment = PLAIN
        if config.quant_config.dual_format is not None and self.one_in(3):
            treatment = DUAL
        elif config.input_terms > 1 and config.bank_groups > 1 and self.one_in(2):
            treatment, limit = TERMS, min(limit, config.bank_groups // 2)
        kind = "float" if norm else "half"
        old = [
            r for r in draft.rows
            if r.kind == kind and r.size // GROUP <= limit and r.rows >= least
        ]  # fmt: skip
        source = old[int(self.rng.integers(len(old)))] if old and self.one_in(2) else None
        groups = self.upto(1, limit) if source is None else source.size // GROUP
        if source is not None:
            total = max(least, min(total, source.rows))
        first = 0
        while first < total:
            count = total - first
            if source is None and count > 1 and self.one_in(3):
                count = self.upto(1, count - 1)
            exact = treatment == TERMS and not norm and self.one_in(2)
            content = "grid" if exact else kind
            rows = source or self.input(kind, count, groups * GROUP, content)
            operands = {
                "address": rows.at, "stride": rows.stride, "rows": count, "row_first": first,
                "bank": bank, "groups": groups, "norm": norm, "dual": int(treatment == DUAL),
                "rotate": int(self.rng.integers(2)), "sections": sections,
                "terms": int(treatment == TERMS),
            }  # fmt: skip
            if norm:
                for name in ("scale", "shift"):
                    operands[name] = self.space(Region.MODEL, 2 * groups * GROUP)
                    self.fill("half", operands[name], groups * GROUP)
                inverse = np.float32(1.0 / (groups * GROUP)).view(np.uint32)
                epsilon = np.float32(10.0 ** -int(self.rng.integers(4, 8))).view(np.uint32)
                operands |= {"inverse_width": int(inverse), "epsilon": int(epsilon)}
            self.emit(Opcode.FRONT, **operands)
            first += count
        draft.banks[bank] = (total, groups, treatment, sections)

    def _matrix(
        self, bank: int, acc: int, groups: int, blocks: int, treatment: int, rows: int,
        sections: int, more: int,
    ) -> None:  # fmt: skip
        bits, twice = self.config.quant_config.code_bits, treatment != PLAIN
        left = groups
        while left:
            first = left == groups
            beats = panel_beats(blocks * WEIGHT_BLOCK, bits, first)
            ports = self.config.weight_ports
            shares = asdict(panel_shares(blocks * WEIGHT_BLOCK, bits, first, ports))
            panels = 1 if first else self.upto(1, left)
            where = self.space(Region.MODEL, panels * beats * BEAT_BYTES)
            for panel in range(panels):
                self.fill("panel", where + panel * beats * BEAT_BYTES, blocks * WEIGHT_BLOCK,
                           int(first))  # fmt: skip
            self.emit(Opcode.FETCH, address=where, **shares, panels=panels, repeat=1 + twice)
            left -= panels
        exponent = -int(self.rng.integers(3, 12))
        if self.one_in(6):
            exponent = int(self.rng.choice([-32, 31, int(self.rng.integers(-32, 32))]))
        self.emit(
            Opcode.MATRIX, bank=bank, acc_bank=acc, groups=groups, blocks=blocks,
            dual=int(treatment == DUAL), exponent=exponent, rows=rows, more=more,
            sections=sections, terms=int(treatment == TERMS),
        )  # fmt: skip

    def _post(self, acc: int, blocks: int, rows: int, sections: int, op: int | None) -> None:
        """Rows of the accumulators to memory; a QKV where the widths allow it."""
        group = int(self.rng.integers(-(-rows // ROW_GROUP)))
        limit = min(ROW_GROUP, rows - group * ROW_GROUP)
        first = self.upto(0, limit - 1) if self.one_in(2) else 0
        count = self.upto(1, limit - first)
        choices = 1 + (PostOp.SUMS if self.config.decoder else PostOp.QKV)
        op = int(self.rng.integers(choices)) if op is None else op
        if op == PostOp.SUMS and not self.pieces.summed:
            op = int(PostOp.STORE)
        if op in (PostOp.NORM, PostOp.SUMS):
            self._alone(op, blocks, count)
            return
        operands = {
            "acc_bank": acc, "row_group": group, "row_first": first, "rows": count,
            "sections": sections,
            "blocks": blocks, "op": op, "sums": self._sums(op, blocks), "scalar": self._scalar(4),
        }  # fmt: skip
        if op == PostOp.QKV:
            self._qkv(operands, blocks, count)
            return
        columns = blocks * GROUP
        kind = "half" if op == PostOp.GELU else "float"
        vector = int(self.rng.integers(2))
        operands["vector"] = vector
        if vector:
            operands["vector_address"] = self.space(Region.MODEL, 2 * columns)
            self.fill("half", operands["vector_address"], columns)
        if op == PostOp.ADD:
            old = [r for r in self.pieces.rows
                   if r.kind == "float" and r.size == columns and r.rows >= count]  # fmt: skip
            rows_in = self.input("float", count, columns)
            if old and self.one_in(2):
                rows_in = old[int(self.rng.integers(len(old)))]
            operands |= {"input": rows_in.at, "input_stride": rows_in.stride}
        if op == PostOp.GELU:
            operands["shift"] = int(self.rng.integers(2))
            if operands["shift"]:
                operands["input"] = self.space(Region.MODEL, 2 * columns)
                self.fill("half", operands["input"], columns)
        result = self.output(kind, count, columns)
        operands |= {"output": result.at, "output_stride": result.stride}
        self.emit(Opcode.POST, **operands)
        self.pieces.rows.append(result)

    def _alone(self, op: int, blocks: int, count: int) -> None:
        """NORM of rows in memory, or SUMS; fields of the accumulators keep their rules."""
        operands = {
            "acc_bank": 0, "row_group": 0, "row_first": 0, "rows": count, "sections": 0, "op": op,
            "sums": 0, "blocks": min(blocks, self.config.acc_depth // GROUP),
        }  # fmt: skip
        columns = operands["blocks"] * GROUP
        if op == PostOp.SUMS:
            operands["blocks"] = self.upto(1, min(self.pieces.summed, operands["blocks"]))
            size = operands["blocks"] * GROUP * COLUMN_BYTES
            where = self.space(Region.WORK, size, Region.IO, Region.CACHE)
            self.emit(Opcode.POST, **operands, output=where)
            return
        old = [r for r in self.pieces.rows
               if r.kind == "float" and r.size == columns and r.rows >= count]  # fmt: skip
        source = self.input("float", count, columns)
        if old and self.one_in(2):
            source = old[int(self.rng.integers(len(old)))]
        operands |= {
            "input": source.at, "input_stride": source.stride, "scalar": self._scalar(1),
        }  # fmt: skip
        for flag, field in (("vector", "vector_address"), ("shift", "keys")):
            operands[flag] = int(self.rng.integers(2))
            if operands[flag]:
                operands[field] = self._wide_vector(columns)
        result = self.output("half", count, columns)
        self.emit(Opcode.POST, **operands, output=result.at, output_stride=result.stride)
        self.pieces.rows.append(result)

    def _wide_vector(self, columns: int) -> int:
        """Where a vector for NORM lies: anywhere, or what an earlier instruction has written."""
        old = [r for r in self.pieces.rows if r.kind == "half" and r.size >= columns]
        if old and self.one_in(3):
            return old[int(self.rng.integers(len(old)))].at
        where = self.space(Region.MODEL, 2 * columns, Region.IO, Region.CACHE)
        self.fill("half", where, columns)
        return where

    def _scalar(self, size: float) -> int:
        """A factor as FP16, now and then 0."""
        value = 0.0 if self.one_in(8) else np.clip(self.rng.standard_normal() * size, -50, 50)
        return int(np.float16(value).view(np.uint16))

    def _sums(self, op: int, blocks: int) -> int:
        """Whether the columns of an instruction are summed."""
        draft = self.pieces
        if not self.config.decoder or op not in (PostOp.STORE, PostOp.ADD) or blocks > MAX_BLOCKS:
            return SumMode.NONE
        if blocks <= draft.summed and self.one_in(2):
            return SumMode.ON
        if not self.one_in(2):
            return SumMode.NONE
        draft.summed = max(draft.summed, blocks)
        return SumMode.BEGIN

    # Order -----------------------------------------------------------------------------------
    def _early(self, items: Sequence[Instruction]) -> list[Instruction]:
        """FETCH instructions some places earlier, in their own order."""
        result: list[Instruction] = []
        newest = 0
        for item in items:
            if item.opcode is Opcode.FETCH:
                at = int(self.rng.integers(newest, len(result) + 1))
                if self.one_in(2):
                    at = len(result)
                result.insert(at, item)
                newest = at + 1
            else:
                result.append(item)
        return result

    def _ordered(self, items: Sequence[Instruction]) -> Program:
        """The program, with the waits that it needs and perhaps some more.

        FETCH instructions far ahead, and waits that nobody needs, can make a program stick.
        """
        early = self._early(items)
        for choice, extra in ((early, True), (early, False), (items, False)):
            program = self._with_waits(choice, extra=extra and self.one_in(2))
            try:
                check_program(program, self.config)
            except OrderError:
                if choice is items:
                    raise
            else:
                break
        return program

    def _with_waits(self, items: Sequence[Instruction], *, extra: bool) -> Program:
        result, counts = [], [0] * len(UNITS)
        for item, need in zip(items, needed_waits(items, self.config), strict=True):
            waits = list(need)
            for unit in UNITS:
                if extra and unit is not Unit.FETCH and self.one_in(2):
                    waits[unit] = int(self.rng.integers(need[unit], counts[unit] + 1))
            result.append(Instruction(item.opcode, item.operands, tuple(waits)))
            counts[unit_of(item.opcode)] += 1
        result.append(Instruction(Opcode.END, {}, tuple(counts)))
        return Program(tuple(result), self.hash)
