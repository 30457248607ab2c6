# SPDX-License-Identifier: Apache-2.0
"""Runs programs on the golden model's functions, instruction by instruction: a device in software.

It knows nothing of passes or models, only of memory, banks and instructions. So it proves that a
program means what the golden transformer computes, and gives the memory contents that a
simulation must show after any instruction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lutvar.contract import column_sums
from lutvar.contract import memory as packed_memory
from lutvar.contract.accelerator import (
    BEAT_BYTES,
    HEAD_DIM,
    ROW_GROUP,
    STRIPE,
    WEIGHT_BLOCK,
    AcceleratorConfig,
)
from lutvar.contract.column_sums import SumMode
from lutvar.contract.hadamard import sign_vector
from lutvar.contract.isa import (
    UNITS,
    Instruction,
    Opcode,
    PostOp,
    ProgramError,
    Region,
    Unit,
    check_readings,
    readings,
    split_address,
)
from lutvar.contract.memory import port_beats
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.sections import SECTIONS, section_heads
from lutvar.host.compile.program import Program
from lutvar.host.compile.schedule import unit_of
from lutvar.quant.golden import pointwise
from lutvar.quant.golden.activations import ActivationCodes, hadamard_fp16, quantize_activations
from lutvar.quant.golden.attention import attend
from lutvar.quant.golden.linear import GoldenLinear
from lutvar.quant.golden.norm import layer_norm
from lutvar.quant.ptq.linear import QuantizedLinear
from lutvar.quant.var.sites import LinearSite

Bytes = NDArray[np.uint8]
Operands = Mapping[str, int]


def _rows(head: int, first: int, count: int) -> slice:
    """Rows of the array that hold rows of a section's tile."""
    start = head * ROW_GROUP + first
    return slice(start, start + count)


def _groups(o: Operands) -> slice:
    """Groups of a bank that an instruction fills or reads."""
    return slice(0, o["groups"] * (1 + o["terms"]))


class Machine:
    """An accelerator's memory, banks and units.

    Attributes:
        memory: contents of each region, uint8; the caller fills MODEL and IO.
    """

    def __init__(self, config: AcceleratorConfig, sizes: Mapping[Region, int]) -> None:
        self.config, self.quant = config, config.quant_config
        self.memory: dict[Region, Bytes] = {r: np.zeros(n, np.uint8) for r, n in sizes.items()}
        groups = config.bank_groups
        shape = (config.act_banks, config.rows, groups)
        self._codes = np.zeros((*shape, GROUP), np.uint8)
        self._scale, self._negative = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)
        self._dual = np.zeros(config.act_banks, bool)
        columns = column_sums.MAX_BLOCKS * GROUP
        self._values, self._squares = np.zeros(columns, np.int64), np.zeros(columns, np.uint64)
        self._begun = 0  #: blocks whose sums some instruction has begun
        size = (config.acc_banks, config.rows, config.acc_depth)
        self._accumulators = np.zeros(size, np.float32)
        #: Shares of panels by weight port, each as often as it is read.
        self._shares: list[deque[Bytes]] = [deque() for _ in range(config.weight_ports)]

    def run(self, program: Program, rng: np.random.Generator | None = None) -> None:
        """Run a program to its end: in program order, or in a random order that its waits allow.

        In a random order instructions are complete at once, but units run far ahead of each other.
        Raises ProgramError for weights that a device refuses: panels that are not what MATRIX needs
        in number or size.
        """
        check_readings(program.instructions, self.config.weight_ports)
        queues: dict[Unit, deque[Instruction]] = {unit: deque() for unit in UNITS}
        for item in program.instructions[:-1]:
            if rng is None:
                self.step(item)
            else:
                queues[unit_of(item.opcode)].append(item)
        done = [0] * len(UNITS)
        while any(queues.values()):
            ready = [
                unit for unit, queue in queues.items()
                if queue and all(d >= w for d, w in zip(done, queue[0].waits, strict=True))
                and (unit != Unit.MATRIX or self._weights_here(queue[0]))
            ]  # fmt: skip
            assert rng is not None and ready, "the program is stuck"
            unit = ready[int(rng.integers(len(ready)))]
            self.step(queues[unit].popleft())
            done[unit] += 1

    def _weights_here(self, item: Instruction) -> bool:
        """Whether the readings of a MATRIX are there."""
        need = readings(item, len(self._shares))
        return all(len(s) >= -n for s, n in zip(self._shares, need, strict=True))

    def step(self, item: Instruction) -> None:
        """Execute one instruction."""
        handlers = {
            Opcode.FETCH: self._fetch,
            Opcode.FRONT: self._front,
            Opcode.MATRIX: self._matrix,
            Opcode.POST: self._post,
            Opcode.ATTEND: self._attend,
        }
        handlers[item.opcode](item.operands)

    # Memory ----------------------------------------------------------------------------------
    def _view(self, address: int, stride: int, rows: int, size: int) -> Bytes:
        """Rows of bytes as a writable view, [rows, size]."""
        region, offset = split_address(address)
        raw = self.memory[region][offset : offset + (rows - 1) * stride + size]
        if raw.nbytes != (rows - 1) * stride + size:
            raise IndexError(f"{region.name}+{offset:#x}: {rows} rows of {size} bytes")
        return np.lib.stride_tricks.as_strided(raw, (rows, size), (stride, 1))

    def _half(self, address: int, count: int) -> NDArray[np.float16]:
        return np.ascontiguousarray(self._view(address, 0, 1, 2 * count)).view(np.float16)[0]

    # Units -----------------------------------------------------------------------------------
    def _fetch(self, o: Operands) -> None:
        shares = port_beats(o["beats"], o["full"], o["rest"], self.config.weight_ports)
        size = sum(shares) * BEAT_BYTES
        edges = np.cumsum(shares)[:-1] * BEAT_BYTES
        for panel in self._view(o["address"], size, o["panels"], size):
            for queue, share in zip(self._shares, np.split(panel, edges), strict=True):
                if share.size:
                    queue += o["repeat"] * [share]

    def _front(self, o: Operands) -> None:
        width, rows = o["groups"] * GROUP, o["rows"]
        raw = np.ascontiguousarray(
            self._view(o["address"], o["stride"], rows, width * (4 if o["norm"] else 2))
        )
        if o["norm"]:
            epsilon = float(np.uint32(o["epsilon"]).view(np.float32))
            vectors = self._half(o["scale"], width), self._half(o["shift"], width)
            x = layer_norm(raw.view(np.float32), *vectors, epsilon)
            inverse = np.float32(1.0 / width).view(np.uint32)
            assert o["inverse_width"] == inverse, "not the width's inverse"
        else:
            x = raw.view(np.float16)
        patterns = x.view(np.uint16)
        if o["rotate"]:
            patterns = hadamard_fp16(patterns, sign_vector(self.quant.hadamard_seed))
        fmt = self.quant.dual_format if o["dual"] else self.quant.plain_format
        assert fmt is not None
        codes = quantize_activations(patterns, fmt, self.quant.ties, 1 + o["terms"])
        for head in self._heads(o):
            at = o["bank"], _rows(head, o["row_first"], rows), _groups(o)
            self._codes[at] = codes.codes.reshape(rows, -1, GROUP)
            self._scale[at], self._negative[at] = codes.scale, codes.scale_neg
        self._dual[o["bank"]] = bool(o["dual"])

    def _heads(self, o: Operands) -> tuple[int, ...]:
        """First row group of each section of an instruction."""
        return section_heads(self.config.row_groups, SECTIONS[o["sections"]])

    def _matrix(self, o: Operands) -> None:
        outputs, ports = o["blocks"] * WEIGHT_BLOCK, self.config.weight_ports
        parts = []
        for group in range(o["groups"]):
            panel = self._panel(outputs, group)
            if (o["dual"] or o["terms"]) and not np.array_equal(panel, self._panel(outputs, group)):
                raise ProgramError(f"the two passes of group {group} get different weights")
            parts.append(
                packed_memory.unpack_panel(panel, outputs, self.quant.code_bits, group == 0, ports)
            )
        biases = parts[0][2]
        assert biases is not None
        heads = self._heads(o)
        for section, head in enumerate(heads):
            stripes = np.arange(outputs).reshape(-1, STRIPE)[section :: len(heads)]
            mine = stripes.reshape(-1)
            if len(mine):
                self._section(o, head, [(c[mine], s[mine]) for c, s, _ in parts], biases[mine])

    def _panel(self, outputs: int, group: int) -> Bytes:
        """The next reading of a panel: the shares of all ports."""
        ports = self.config.weight_ports
        need = packed_memory.panel_shares(outputs, self.quant.code_bits, group == 0, ports)
        shares = []
        for queue, beats in zip(
            self._shares, port_beats(need.beats, need.full, need.rest, ports), strict=True
        ):
            if beats:
                shares.append(queue.popleft())
                if len(shares[-1]) != beats * BEAT_BYTES:
                    raise ProgramError(
                        f"MATRIX needs {beats} beats for group {group}; FETCH brings "
                        f"{len(shares[-1]) // BEAT_BYTES}"
                    )
        return np.concatenate(shares)

    def _section(
        self,
        o: Operands,
        head: int,
        parts: list[tuple[NDArray[np.uint8], NDArray[np.uint16]]],
        biases: NDArray[np.float32],
    ) -> None:
        """One section's outputs: codes and scales of its weights group by group."""
        outputs, rows = len(biases), o["rows"]
        into = o["acc_bank"], _rows(head, 0, rows), slice(0, outputs)
        start = self._accumulators[into].copy() if o["more"] else biases
        fmt = self.quant.dual_format if o["dual"] else self.quant.plain_format
        assert fmt is not None
        layer = QuantizedLinear(
            LinearSite(0, "qkv"),
            np.concatenate([codes for codes, _ in parts], axis=1),
            np.stack([scales for _, scales in parts], axis=1),
            o["exponent"], np.zeros(outputs, np.float32), self.quant.weight_format, fmt, False,
            self.quant.ties,
        )  # fmt: skip
        at = o["bank"], _rows(head, 0, rows), _groups(o)
        codes = ActivationCodes(
            self._codes[at].reshape(rows, -1), self._scale[at].copy(), self._negative[at].copy()
        )
        self._accumulators[into], _ = GoldenLinear(layer).multiply(codes, start=start)

    def _post(self, o: Operands) -> None:
        rows, columns = o["rows"], o["blocks"] * GROUP
        if o["op"] == PostOp.SUMS:
            self._check_begun(o)
            raw = column_sums.pack(self._values[:columns], self._squares[:columns])
            self._view(o["output"], 0, 1, len(raw))[0] = raw
            return
        g: Any = np.uint16(o["scalar"]).view(np.float16)
        if o["vector"] and o["op"] != PostOp.QKV:
            g = self._half(o["vector_address"], columns)
        if o["op"] == PostOp.NORM:
            x = np.ascontiguousarray(self._view(o["input"], o["input_stride"], rows, columns * 4))
            shift = self._half(o["keys"], columns) if o["shift"] else None
            self._rows_out(
                o, pointwise.normalise(x.view(np.float32), g, shift, gate=bool(o["gate"]))
            )
            return
        first = o["row_group"] * ROW_GROUP + o["row_first"]
        y = np.empty((rows, columns), np.float32)
        heads = self._heads(o)
        for block in range(o["blocks"]):
            local, section = divmod(block, len(heads))
            at = _rows(heads[section], first, rows), slice(local * STRIPE, (local + 1) * STRIPE)
            y[:, block * STRIPE : (block + 1) * STRIPE] = self._accumulators[o["acc_bank"]][at]
        if o["op"] == PostOp.QKV:
            self._records(o, y)
            return
        result: Any
        if o["op"] == PostOp.GELU:
            shift = self._half(o["input"], columns) if o["shift"] else None
            result = pointwise.gelu(y, g, shift)
        elif o["op"] == PostOp.ADD:
            x = np.ascontiguousarray(self._view(o["input"], o["input_stride"], rows, columns * 4))
            result = pointwise.add(x.view(np.float32), y, g)
        else:
            result = pointwise.store(y, g)
        if o["sums"]:
            self._sum(o, result)
        self._rows_out(o, result)

    def _rows_out(self, o: Operands, result: NDArray[Any]) -> None:
        raw = np.ascontiguousarray(result).view(np.uint8)
        self._view(o["output"], o["output_stride"], o["rows"], raw.shape[1])[:] = raw

    def _check_begun(self, o: Operands) -> None:
        if o["blocks"] > self._begun:
            raise ProgramError(
                f"sums of {o['blocks']} blocks; instructions have begun those of {self._begun}"
            )

    def _sum(self, o: Operands, result: NDArray[np.float32]) -> None:
        """Add results [rows, columns] to the sums of their columns."""
        n, at = column_sums.integers(result), slice(0, result.shape[1])
        if o["sums"] == SumMode.BEGIN:
            self._values[at], self._squares[at] = 0, 0
            self._begun = max(self._begun, o["blocks"])
        self._check_begun(o)
        self._values[at] = column_sums.wrapped(self._values[at] + n.sum(0))
        self._squares[at] += (n * n).astype(np.uint64).sum(0)

    def _records(self, o: Operands, y: NDArray[np.float32]) -> None:
        rows, heads, fmt = o["rows"], o["heads"], self.config.kv
        scalar = np.full(GROUP, o["scalar"], np.uint16).view(np.float16)
        queries = heads * HEAD_DIM // GROUP  # blocks of q columns
        size = packed_memory.RECORD_BYTES
        for local in range(o["blocks"]):
            block = o["block_first"] + local
            left, right = np.split(y[:, local * GROUP : (local + 1) * GROUP], 2, axis=1)
            if block < queries:
                kappa = scalar
                if o["vector"]:
                    kappa = self._half(o["vector_address"] + local * 2 * GROUP, GROUP)
                at = o["output"] + block * 2 * size
                for half, part in enumerate((left, right)):
                    q = pointwise.records(part, fmt, "q", kappa[half * HEAD_DIM])
                    raw = packed_memory.pack_records(q.codes, q.scales, fmt)
                    self._view(at + half * size, o["output_stride"], rows, size)[:] = raw
                continue
            offset = (block - queries) * o["head_stride"]
            v, k = pointwise.records(left, fmt, "v"), pointwise.records(right, fmt, "k")
            raw = packed_memory.pack_records(v.codes, v.scales, fmt)
            self._view(o["values"] + offset, size, rows, size)[:] = raw
            raw = packed_memory.pack_records(k.codes, k.scales, fmt, v.scales)
            self._view(o["keys"] + offset, size, rows, size)[:] = raw

    def _attend(self, o: Operands) -> None:
        rows, fmt, size = o["rows"], self.config.kv, packed_memory.RECORD_BYTES
        for head in range(o["heads"]):
            q = self._view(o["query"] + head * size, o["query_stride"], rows, size)
            k = self._view(o["keys_address"] + head * o["head_stride"], size, o["keys"], size)
            v = self._view(o["values_address"] + head * o["head_stride"], size, o["keys"], size)
            parts = [packed_memory.unpack_records(r, fmt) for r in (q, k, v)]
            assert np.array_equal(parts[1][2], parts[2][1]), "K records repeat the scale of V"
            query, key, value = parts
            result = attend(*query[:2], *key[:2], *value[:2], fmt)
            raw = np.ascontiguousarray(result).view(np.uint8)
            at = o["output"] + head * HEAD_DIM * 2
            self._view(at, o["output_stride"], rows, HEAD_DIM * 2)[:] = raw
