# SPDX-License-Identifier: Apache-2.0
"""Programs for tests of a device, made with numpy alone: one tile through every unit, and copies.

What the tile's program leaves in memory is for the golden model to say (`lutvar.sim`); what the
copies leave needs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lutvar.contract.accelerator import HEAD_DIM, ROW_GROUP, WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.isa import (
    PAYLOAD_FIELDS,
    UNITS,
    Instruction,
    Opcode,
    PostOp,
    Region,
    Unit,
    address,
)
from lutvar.contract.memory import RECORD_BYTES, pack_panel, panel_shares
from lutvar.contract.quant_preset import GROUP
from lutvar.host.compile.program import Program, accelerator_hash
from lutvar.host.transport import Bytes, as_bytes

HEADS = GROUP // HEAD_DIM
ROW = 4 * GROUP  #: bytes of a row of 128 float32 values
_ONE = 0x3C00  #: 1.0 as FP16
_EPSILON = int(np.float32(1e-6).view(np.uint32))


@dataclass(frozen=True)
class UnitProgram:
    """A program, the memory before it, and where its results lie.

    Attributes:
        program: encoded.
        before: contents of the regions; they are as large as these.
        results: (region, offset, bytes) by name.
    """

    program: bytes
    before: dict[Region, Bytes]
    results: dict[str, tuple[Region, int, int]]


class _Builder:
    """Instructions, each of which waits for all earlier ones."""

    def __init__(self) -> None:
        self.items: list[Instruction] = []
        self._counts = [0] * len(UNITS)

    def add(self, opcode: Opcode, **operands: int) -> None:
        """Append one; operands that are not given are 0."""
        values = {f.name: 0 for f in PAYLOAD_FIELDS[opcode]} | operands
        waits = list(self._counts)
        waits[Unit.FETCH] = 0  # its beats leave only when MATRIX takes them
        if opcode == Opcode.FETCH:
            waits = [0] * len(UNITS)  # nobody writes weights
        self.items.append(Instruction(opcode, values, tuple(waits)))
        self._counts[opcode - 1] += 1

    def encode(self, config: AcceleratorConfig) -> bytes:
        """The program with END."""
        end = Instruction(Opcode.END, {}, tuple(self._counts))
        return Program((*self.items, end), accelerator_hash(config)).encode()


def tile_program(config: AcceleratorConfig, seed: int) -> UnitProgram:
    """A full tile of random rows through every unit and every operation of POST.

    Rows are normalised and rotated, multiplied, added to others; multiplied again for GELU, and for
    records of q, k and v, on which attention runs. In the dual format where there is one.
    """
    return _Tile(config, seed).make()


class _Tile:
    def __init__(self, config: AcceleratorConfig, seed: int) -> None:
        self.config, self.rng = config, np.random.default_rng(seed)
        self.rows = config.rows
        self.keys = min(self.rows, config.max_keys)
        self.build, self.model = _Builder(), bytearray()
        self.dual = int(config.quant_config.dual_format is not None)

    def make(self) -> UnitProgram:
        rows, rng = self.rows, self.rng
        wide, narrow = rows * ROW, rows * ROW // 2
        x = rng.standard_normal((rows, GROUP)).astype(np.float32)
        residual = rng.standard_normal((rows, GROUP)).astype(np.float32)
        scale = self._vector(1 + 0.1 * rng.standard_normal(GROUP))
        shift = self._vector(0.1 * rng.standard_normal(GROUP))
        gate, kappa = self._vector(rng.standard_normal(GROUP)), self._vector(np.full(GROUP, 0.2))
        # IO: x, rows to add, sums, GELU, attention; CACHE: K and V records of each head.
        at = {"x": 0, "residual": wide, "sums": 2 * wide, "gelu": 3 * wide}
        at["attended"] = at["gelu"] + narrow
        norm = {
            "norm": 1, "scale": scale, "shift": shift, "epsilon": _EPSILON,
            "inverse_width": int(np.float32(1 / GROUP).view(np.uint32)),
        }  # fmt: skip
        self._multiply(address(Region.IO, 0), ROW, norm)
        self._post(PostOp.ADD, address(Region.IO, at["sums"]), ROW, gate, at["residual"])
        self._multiply(address(Region.IO, at["sums"]), ROW, norm)
        factor = self._vector(1 + 0.5 * rng.standard_normal(GROUP))
        offset = self._vector(0.2 * rng.standard_normal(GROUP))
        self._post(PostOp.GELU, address(Region.IO, at["gelu"]), ROW // 2, factor, 0, offset)
        half = address(Region.IO, at["gelu"])
        for block in range(1 + HEADS):
            self._multiply(half, ROW // 2, {})
            self._records(block, kappa)
        query = {"query": address(Region.WORK, 0), "query_stride": HEADS * RECORD_BYTES}
        self.build.add(
            Opcode.ATTEND, rows=rows, heads=HEADS, keys=self.keys, **query,
            keys_address=address(Region.CACHE, 0), values_address=self._values,
            head_stride=rows * RECORD_BYTES, output=address(Region.IO, at["attended"]),
            output_stride=ROW // 2,
        )  # fmt: skip
        records = HEADS * rows * RECORD_BYTES
        io = np.zeros(at["attended"] + narrow, np.uint8)
        io[:wide], io[wide : 2 * wide] = as_bytes(x), as_bytes(residual)
        before = {
            Region.MODEL: np.frombuffer(bytes(self.model), np.uint8), Region.IO: io,
            Region.WORK: np.zeros(records, np.uint8), Region.CACHE: np.zeros(2 * records, np.uint8),
        }  # fmt: skip
        results = {
            "sums": (Region.IO, at["sums"], wide), "gelu": (Region.IO, at["gelu"], narrow),
            "queries": (Region.WORK, 0, records), "cache": (Region.CACHE, 0, 2 * records),
            "attended": (Region.IO, at["attended"], narrow),
        }  # fmt: skip
        return UnitProgram(self.build.encode(self.config), before, results)

    @property
    def _values(self) -> int:
        return address(Region.CACHE, HEADS * self.rows * RECORD_BYTES)

    def _put(self, raw: bytes) -> int:
        """Append to MODEL; its address."""
        where = address(Region.MODEL, len(self.model))
        self.model += raw
        return where

    def _vector(self, values: np.ndarray) -> int:
        return self._put(values.astype(np.float16).tobytes())

    def _multiply(self, source: int, stride: int, norm: dict[str, int]) -> None:
        """Rows through FRONT and MATRIX: 128 outputs, with weights of their own."""
        quant, rng = self.config.quant_config, self.rng
        panel = pack_panel(
            rng.choice(quant.weight_format.codes_used, (GROUP, GROUP)).astype(np.uint8),
            rng.integers(0x2C00, 0x3400, GROUP, dtype=np.uint16),
            rng.standard_normal(GROUP).astype(np.float32), quant.code_bits,
            self.config.weight_ports,
        )  # fmt: skip
        add, dual = self.build.add, self.dual
        add(
            Opcode.FETCH, address=self._put(panel), **_shares(self.config), panels=1,
            repeat=1 + dual,
        )  # fmt: skip
        add(
            Opcode.FRONT, address=source, stride=stride, rows=self.rows, groups=1, rotate=1,
            dual=dual, **norm,
        )  # fmt: skip
        add(
            Opcode.MATRIX, groups=1, blocks=GROUP // WEIGHT_BLOCK, dual=dual, exponent=-3,
            rows=self.rows,
        )  # fmt: skip

    def _post(
        self, op: PostOp, output: int, stride: int, gate: int, rows_at: int, shift: int = 0
    ) -> None:
        for group in range(self.config.row_groups):
            first = group * ROW_GROUP
            more = {"input": shift, "shift": 1} if op == PostOp.GELU else {}
            if op == PostOp.ADD:
                more = {"input": address(Region.IO, rows_at + first * ROW), "input_stride": ROW}
            self.build.add(
                Opcode.POST, row_group=group, rows=ROW_GROUP, blocks=1, op=int(op),
                output=output + first * stride, output_stride=stride, vector=1,
                vector_address=gate, **more,
            )  # fmt: skip

    def _records(self, block: int, kappa: int) -> None:
        for group in range(self.config.row_groups):
            first = group * ROW_GROUP
            self.build.add(
                Opcode.POST, row_group=group, rows=ROW_GROUP, blocks=1, op=int(PostOp.QKV),
                vector=1, vector_address=kappa, heads=HEADS, block_first=block,
                output=address(Region.WORK, first * HEADS * RECORD_BYTES),
                output_stride=HEADS * RECORD_BYTES,
                keys=address(Region.CACHE, first * RECORD_BYTES),
                values=self._values + first * RECORD_BYTES, head_stride=self.rows * RECORD_BYTES,
            )  # fmt: skip


def _shares(config: AcceleratorConfig) -> dict[str, int]:
    """Fields of FETCH for a first panel of 128 outputs."""
    bits = config.quant_config.code_bits
    return asdict(panel_shares(GROUP, bits, first=True, ports=config.weight_ports))


def copy_model(config: AcceleratorConfig) -> Bytes:
    """Region MODEL of `copy_program`: a panel of zeros, and a row of zeros."""
    codes = np.zeros((GROUP, GROUP), np.uint8)
    scales, bias = np.full(GROUP, _ONE, np.uint16), np.zeros(GROUP, np.float32)
    panel = pack_panel(codes, scales, bias, config.quant_config.code_bits, config.weight_ports)
    return np.frombuffer(panel + bytes(2 * GROUP), np.uint8)


def copy_program(config: AcceleratorConfig, moves: Sequence[tuple[int, int]]) -> bytes:
    """Copies rows of 128 float32 values: (from, to) as address fields, in this order.

    POST adds each row to products of nothing; values that are finite and not 0 come out unchanged.
    """
    build, size = _Builder(), len(copy_model(config)) - 2 * GROUP
    weights = {"address": address(Region.MODEL, 0), **_shares(config), "panels": 1, "repeat": 1}
    build.add(Opcode.FETCH, **weights)
    build.add(Opcode.FRONT, address=address(Region.MODEL, size), stride=2 * GROUP, rows=1, groups=1)
    build.add(Opcode.MATRIX, groups=1, blocks=GROUP // WEIGHT_BLOCK, rows=1)
    for source, target in moves:
        build.add(
            Opcode.POST, rows=1, blocks=1, op=int(PostOp.ADD), scalar=_ONE, input=source,
            input_stride=ROW, output=target, output_stride=ROW,
        )  # fmt: skip
    return build.encode(config)
