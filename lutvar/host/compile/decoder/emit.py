# SPDX-License-Identifier: Apache-2.0
"""The decoder's instructions, without their waits: NORM, the products of a tile, its results.

Every tile takes all columns of its rows in one accumulator bank. Rows become instructions in runs
of equal distance in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

from lutvar.contract.accelerator import BEAT_BYTES, LANES, ROW_GROUP
from lutvar.contract.column_sums import COLUMN_BYTES, SumMode
from lutvar.contract.decoder import Conv, Norm
from lutvar.contract.decoder_memory import shortcut_place, source_place, target_place
from lutvar.contract.isa import Opcode, PostOp, Region, Unit, address
from lutvar.contract.memory import panel_shares
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.terms import Terms
from lutvar.host.compile.draft import Draft, Operation
from lutvar.host.compile.emit import CHUNK_CYCLES
from lutvar.host.compile.emit_post import ONE
from lutvar.host.compile.hazards import Access, Cells
from lutvar.host.compile.steps import Rows

from .banks import Use, Window, hold, uses
from .layout import ConvPlan
from .pack import PackedDecoder
from .plan import DecoderPlan, Map
from .tiling import Tiling

#: Bytes of memory that are waited for together.
BLOCK = 4096
#: Tiles that NORM is ahead of the one that is multiplied: at least 1, for a window runs on into the
#: line that follows.
AHEAD = 2
_STRIDES = 1 << 24  #: strides are below
_QUIET = {
    "row_group": 0, "row_first": 0, "acc_bank": 0, "sections": 0, "heads": 0, "block_first": 0,
    "values": 0, "head_stride": 0, "keys": 0, "shift": 0, "gate": 0, "sums": int(SumMode.NONE),
    "vector": 0, "scalar": ONE, "vector_address": 0, "input": 0, "input_stride": 0,
    "output_stride": 0,
}  # fmt: skip


class Run(NamedTuple):
    """Rows at equal distances: the first one's index, their number, their distance in bytes of
    each of the places where they lie."""

    first: int
    rows: int
    strides: tuple[int, ...]


def runs(places: Sequence[tuple[int, ...]], most: int) -> Iterator[Run]:
    """Cut rows into runs of at most `most`, each the longest there is.

    Args:
        places: of each row, where it lies in one memory or several; offsets of bytes.
        most: rows of a run.
    """
    at = 0
    while at < len(places):
        end, strides = at + 1, (0,) * len(places[at])
        while end < len(places) and end - at < most:
            found = tuple(b - a for a, b in zip(places[end - 1], places[end], strict=True))
            if end == at + 1 and all(0 <= s < _STRIDES for s in found):
                strides = found
            elif found != strides:
                break
            end += 1
        yield Run(at, end - at, strides)
        at = end


class Memory:
    """Cells of WORK and IO in blocks of 4 KiB, as far as POST writes them."""

    def __init__(self, plan: DecoderPlan) -> None:
        self._base = plan.base
        sizes = {Region.WORK: plan.work_size - plan.base, Region.IO: plan.io_size}
        self._cells = {
            region: Cells(-(-size // BLOCK), 1, Unit.POST, (Unit.FRONT, Unit.POST))
            for region, size in sizes.items()
        }

    def access(self, region: Region, offset: int, stride: int, rows: int, size: int) -> Access:
        """Rows of `size` bytes, and what lies between them."""
        first = offset - (self._base if region is Region.WORK else 0)
        end = first + (rows - 1) * stride + size
        return Access(self._cells[region], first // BLOCK, -(-end // BLOCK))


class DecoderEmitter:
    """Makes the drafts of a stage.

    Args:
        packed: weights.
        plan: maps.
    """

    def __init__(self, packed: PackedDecoder, plan: DecoderPlan) -> None:
        self.packed, self.plan, self.config = packed, plan, plan.config
        self.memory = Memory(plan)
        config = self.config
        self.banks = Cells(config.rows, config.act_banks, Unit.FRONT, (Unit.MATRIX,))
        self.accumulators = Cells(1, config.acc_banks, Unit.MATRIX, (Unit.POST,))
        self._accumulator = -1

    # NORM and SUMS ---------------------------------------------------------------------------
    def norm(self, number: int, norm: Norm, lines: Sequence[int]) -> Iterator[Draft]:
        """Some lines of a raw map to an activated one."""
        plan = self.plan
        source = plan.raw(norm.source, norm.side, norm.channels)
        target = plan.activated(target_place(norm))
        share, columns = plan.norm_pixels(norm), plan.norm_columns(norm)
        pieces = norm.side // share
        spots = [(y, x * share) for y in lines for x in range(pieces)]
        if pieces < ROW_GROUP:  # runs go down, else along a line
            spots.sort(key=lambda spot: spot[1])
        places = [(source.at(*spot), target.at(*spot)) for spot in spots]
        fixed = {**_QUIET, "op": int(PostOp.NORM), "blocks": columns // GROUP,
                 "gate": int(norm.gate)}  # fmt: skip
        vectors: tuple[Access, ...] = ()
        if norm.name:
            fixed |= {
                "vector": 1, "vector_address": address(Region.IO, plan.scale),
                "shift": 1, "keys": address(Region.IO, plan.shift),
            }  # fmt: skip
            vectors = tuple(
                self.memory.access(Region.IO, at, 0, 1, 2 * columns)
                for at in (plan.scale, plan.shift)
            )
        op = Operation(0, number, norm.name or f"copy of {norm.source}")
        for run in runs(places, ROW_GROUP):
            come, go = places[run.first]
            operands = {
                **fixed, "rows": run.rows, "input": address(source.region, come),
                "input_stride": run.strides[0], "output": address(target.region, go),
                "output_stride": run.strides[1],
            }  # fmt: skip
            yield Draft(
                Opcode.POST, operands, op, Rows(0, spots[run.first][0], run.rows),
                (self._rows(source, come, run.strides[0], run.rows, columns), *vectors),
                (self._rows(target, go, run.strides[1], run.rows, columns),),
            )  # fmt: skip

    def sums(self, number: int, conv: Conv) -> Draft:
        """The sums of a convolution's results to IO."""
        operands = {
            **_QUIET, "op": int(PostOp.SUMS), "rows": 1, "blocks": conv.columns // GROUP,
            "output": address(Region.IO, self.plan.sums),
        }  # fmt: skip
        size = conv.columns * COLUMN_BYTES
        written = self.memory.access(Region.IO, self.plan.sums, 0, 1, size)
        op = Operation(0, number, f"sums of {conv.target}")
        return Draft(Opcode.POST, operands, op, Rows(0, 0, 1), (), (written,))

    def _rows(self, of: Map, offset: int, stride: int, rows: int, values: int) -> Access:
        return self.memory.access(of.region, offset, stride, rows, values * of.value)

    # Convolutions ----------------------------------------------------------------------------
    def conv(
        self,
        number: int,
        plan: ConvPlan,
        tiling: Tiling,
        norms: Sequence[tuple[int, Norm]],
        summed: bool,
    ) -> Iterator[Draft]:
        """A convolution, tile by tile.

        Args:
            number: of the step.
            plan: its weights.
            tiling: of its map.
            norms: steps, with their numbers, that make its inputs: each line is normed a little
                before it is needed, so that POST does it while the array multiplies, unless the
                results overwrite the source.
            summed: with the sums of its columns.
        """
        conv, terms = plan.conv, self._terms(plan)
        mode = SumMode.BEGIN if summed else SumMode.NONE
        normed: list[set[int]] = [set() for _ in norms]
        for (index, norm), done in zip(norms, normed, strict=True):
            if norm.source == conv.target:  # which the results overwrite: all of it first
                done |= set(range(conv.side))
                yield from self.norm(index, norm, range(conv.side))
        for across in range(tiling.across):
            products = list(uses(conv, terms, self.config, across, tiling.lines))
            held = hold([use.window for use in products], self.config.act_banks)
            for use, (bank, load) in zip(products, held, strict=True):
                for (index, norm), done in zip(norms, normed, strict=True):
                    lines = _lines_before(tiling, use.tile + 1 + AHEAD, conv.side) - done
                    if lines:
                        yield from self.norm(index, norm, sorted(lines))
                        done |= lines
                op = Operation(across * tiling.lines + use.tile, number, conv.name)
                if load:
                    yield from self._front(op, plan, tiling, use.window, bank)
                if use.first:
                    self._accumulator = (self._accumulator + 1) % self.config.acc_banks
                yield from self._matrix(op, plan, tiling, use, bank)
                if use.last:
                    for draft in self._post(op, plan, tiling, use, across):
                        draft.operands["sums"] = int(mode)
                        mode = SumMode.ON if summed else mode
                        yield draft

    @staticmethod
    def _terms(plan: ConvPlan) -> Terms:
        return plan.parts[0].terms

    def _front(
        self, op: Operation, plan: ConvPlan, tiling: Tiling, window: Window, bank: int
    ) -> Iterator[Draft]:
        """Fill a bank with the windows of a tile's lines."""
        conv, terms = plan.conv, self._terms(plan)
        place = shortcut_place(conv) if window.shortcut else source_place(conv)
        source = self.plan.activated(place)
        straight = window.shortcut or conv.taps == 1
        groups, first = window.part.groups, window.part.first * GROUP * source.value
        left = 0 if straight else -1
        bottom = conv.side - (1 if straight else 0)
        places = [
            (source.at(y, x * conv.span + left) + first,)
            for y, x in _rows_of(tiling, window.line, window.across, bottom)
        ]
        chunk = max(ROW_GROUP, CHUNK_CYCLES // (groups * GROUP // LANES) // ROW_GROUP * ROW_GROUP)
        for run in runs(places, chunk):
            at, (stride,) = places[run.first][0], run.strides
            yield Draft(
                Opcode.FRONT,
                {
                    "address": address(source.region, at), "stride": stride, "rows": run.rows,
                    "row_first": run.first, "bank": bank, "groups": groups, "norm": 0,
                    "rotate": int(plan.parts[0].rotate), "dual": 0, "scale": 0, "shift": 0,
                    "inverse_width": 0, "epsilon": 0, "sections": 0, "terms": terms.inputs - 1,
                },
                op, Rows(op.tile, run.first, run.rows),
                (self._rows(source, at, stride, run.rows, groups * GROUP),),
                (Access(self.banks, run.first, run.first + run.rows, bank, bank + 1),),
            )  # fmt: skip

    def _matrix(
        self, op: Operation, plan: ConvPlan, tiling: Tiling, use: Use, bank: int
    ) -> Iterator[Draft]:
        """Multiply a window with a set of weights, which FETCH brings."""
        conv, layer, part = plan.conv, plan.parts[use.layer], use.window.part
        count = len(_rows_of(tiling, use.tile, use.window.across, conv.side - 1))
        rows = Rows(op.tile, 0, count)
        accumulator = self._accumulator
        sums = (Access(self.accumulators, 0, 1, accumulator, accumulator + 1),)
        yield Draft(
            Opcode.MATRIX,
            {
                "bank": bank, "acc_bank": accumulator, "groups": part.groups,
                "blocks": layer.tiles[0].blocks, "dual": 0,
                "exponent": self.packed.exponents[plan.sets[use.layer] + use.number],
                "rows": count, "more": int(not use.first), "sections": 0,
                "terms": layer.terms.inputs - 1,
            },
            op, rows, (Access(self.banks, 0, count, bank, bank + 1),),
            sums if use.first else (), () if use.first else sums,
        )  # fmt: skip
        tile, bits = layer.tiles[0], self.config.quant_config.code_bits
        start = address(Region.MODEL, layer.slice_offset(tile, part, use.number))
        # The first panel has biases and so another length: an instruction of its own.
        for at, biased, panels in (
            (start, True, 1),
            (start + tile.first_beats * BEAT_BYTES, False, part.groups - 1),
        ):
            if panels:
                shares = panel_shares(tile.outputs, bits, biased, self.config.weight_ports)
                yield Draft(
                    Opcode.FETCH,
                    {"address": at, **asdict(shares), "panels": panels, "repeat": layer.passes},
                    op, rows,
                )  # fmt: skip

    def _post(
        self, op: Operation, plan: ConvPlan, tiling: Tiling, use: Use, across: int
    ) -> Iterator[Draft]:
        """Write the results of a tile, 16 rows at a time."""
        conv = plan.conv
        double = 2 if conv.double else 1
        side = conv.side * double
        target = self.plan.raw(conv.target, side, conv.outputs)
        other = self.plan.raw(conv.residual, side, conv.outputs) if conv.residual else target
        spots = [
            (double * y + use.half, x * conv.span * double)
            for y, x in _rows_of(tiling, use.tile, across, conv.side - 1)
        ]
        fixed = {
            **_QUIET, "acc_bank": self._accumulator, "blocks": conv.columns // GROUP,
            "op": int(PostOp.ADD if conv.residual else PostOp.STORE),
        }  # fmt: skip
        sums = Access(self.accumulators, 0, 1, self._accumulator, self._accumulator + 1)
        for group in range(-(-len(spots) // ROW_GROUP)):
            start = group * ROW_GROUP
            places = [
                (other.at(*spot), target.at(*spot)) for spot in spots[start : start + ROW_GROUP]
            ]
            for run in runs(places, ROW_GROUP):
                (come, go), (near, far) = places[run.first], run.strides
                more = {
                    "rows": run.rows, "row_group": group, "row_first": run.first,
                    "output": address(target.region, go), "output_stride": far,
                }  # fmt: skip
                reads: tuple[Access, ...] = (sums,)
                if conv.residual:
                    more |= {"input": address(other.region, come), "input_stride": near}
                    reads += (self._rows(other, come, near, run.rows, conv.columns),)
                yield Draft(
                    Opcode.POST, {**fixed, **more}, op,
                    Rows(op.tile, start + run.first, run.rows), reads,
                    (self._rows(target, go, far, run.rows, conv.columns),),
                )  # fmt: skip


def _lines_before(tiling: Tiling, last: int, side: int) -> set[int]:
    """The lines of a map in all bands, for band 0 from -1 to `last`."""
    firsts = range(0, tiling.bands * tiling.lines, tiling.lines)
    return {
        first + line for first in firsts for line in range(-1, last + 1) if 0 <= first + line < side
    }


def _rows_of(tiling: Tiling, line: int, across: int, bottom: int) -> list[tuple[int, int]]:
    """Line and place in the line of each row of a tile.

    Args:
        tiling: of the map.
        line: of band 0.
        across: which piece of the lines.
        bottom: the last line that there is.
    """
    return [
        (line + band * tiling.lines, across * tiling.width + i)
        for band in range(tiling.bands)
        if line + band * tiling.lines <= bottom
        for i in range(tiling.width)
    ]
