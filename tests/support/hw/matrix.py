# SPDX-License-Identifier: Apache-2.0
"""A Verilated matrix unit, jobs for it, and what must come out (contract, section 5)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from amaranth.lib import data

from lutvar.contract.accelerator import LANES, ROW_GROUP, STRIPE, WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.bits import pack_codes
from lutvar.contract.isa import Opcode
from lutvar.contract.memory import pack_panel, panel_shares, port_beats
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.sections import SECTIONS, section_heads, tile_rows
from lutvar.contract.widths import WORDS, drain_latency
from lutvar.hw.links import bank_write_layout, drain_layout, payload_layout
from lutvar.hw.matrix.unit import MatrixUnit
from lutvar.hw.verilog import export_verilog
from lutvar.quant.golden.activations import ActivationCodes
from lutvar.quant.golden.linear import GoldenLinear
from lutvar.quant.ptq.linear import QuantizedLinear
from lutvar.quant.var.sites import LinearSite
from lutvar.sim import verilator

TOP = "lutvar_matrix_unit"
RECORD = 32  #: bytes of a packed struct in the harness's queues
WRITES, COMMANDS, BEATS, DRAINS, PORT_0 = range(5)  #: BEATS: of all ports; PORT_0 + p: of one
BEAT = 65  #: bytes of a weight beat in the harness: data, then whether it is the last of its panel
COUNTS = ("cycle", "written", "taken", "done", "drained", "issues", "waits", "beats", "busy",
          "surplus", "missing", "index")  # fmt: skip


def small(quant: str = "fp4", dot: str = "table", **changes: object) -> AcceleratorConfig:
    sizes = {
        "name": "test", "quant": quant, "rows": 16, "dot": dot, "act_banks": 2, "bank_groups": 4,
        "acc_banks": 2, "acc_depth": 256, "max_width": 128, "attention_rows": 1, "max_keys": 16,
    }  # fmt: skip
    return AcceleratorConfig(**{**sizes, **changes})


def pack(layout: data.StructLayout, **fields: np.ndarray | int) -> np.ndarray:
    """Packed structs, [n, RECORD] bytes; a field is an integer, [n] integers or [n, bytes]."""
    count = max(len(v) for v in fields.values() if isinstance(v, np.ndarray))
    bits = np.zeros((count, RECORD * 8), np.uint8)
    for name, value in fields.items():
        low, width = layout[name].offset, layout[name].width
        if isinstance(value, np.ndarray) and value.ndim == 2:
            bits[:, low : low + width] = np.unpackbits(value, axis=1, bitorder="little")[:, :width]
        else:
            column = np.broadcast_to(np.asarray(value, np.int64), (count,))
            bits[:, low : low + width] = column[:, None] >> np.arange(width) & 1
    return np.packbits(bits, axis=1, bitorder="little")


class Unit:
    """The simulated unit. Queue writes, commands, beats and drains, then `run`."""

    def __init__(self, config: AcceleratorConfig, build_dir: Path | str = "build/sim") -> None:
        self.config = config
        self.unit = MatrixUnit(config)
        folder = Path(build_dir)
        folder.mkdir(parents=True, exist_ok=True)
        parts = ("rows", config.quant, config.dot, config.float32, config.rows, config.pipelined,
                 config.weight_ports, config.max_sections)  # fmt: skip
        name = "-".join(map(str, parts))
        source = folder / f"{name}.v"
        source.write_text(export_verilog(self.unit, TOP))
        # A model of a few thousand cycles: compiling costs more than running.
        with mock.patch.object(verilator, "FAST_FLAGS", "-O0"):
            library = verilator.build(
                source, top=TOP, wrapper=Path(__file__).with_name("matrix.cpp"),
                build_dir=folder, jobs=2,
            )  # fmt: skip
        self._library = ctypes.CDLL(str(library))
        self._library.harness_create.restype = ctypes.c_void_p
        for name in ("count", "cycles"):
            getattr(self._library, f"harness_{name}").restype = ctypes.c_uint64
        self.handle: ctypes.c_void_p | None = None
        self.reset()

    def reset(self) -> None:
        """A fresh unit with empty queues."""
        if self.handle is not None:
            self._library.harness_destroy(self.handle)
        latency = ctypes.c_uint64(drain_latency(self.config))
        self.handle = ctypes.c_void_p(self._library.harness_create(latency))

    def pauses(self, which: int, share: float, seed: int = 1) -> None:
        self._library.harness_pauses(
            self.handle, which, ctypes.c_double(share), ctypes.c_uint64(seed)
        )

    def queue(self, which: int, records: np.ndarray, gates: Sequence[int] = (0, 0, 0)) -> None:
        """`gates`: writes sent, instructions done, drains asked before the records may go."""
        records = np.ascontiguousarray(records)
        kind = {WRITES: 0, COMMANDS: 1, DRAINS: 2}[which]
        self._library.harness_queue(
            self.handle, kind, records.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_uint64(len(records)), (ctypes.c_uint64 * 3)(*gates),
        )  # fmt: skip

    def beats(self, ports: Sequence[bytes]) -> None:
        for port, raw in enumerate(ports):
            self._library.harness_beats(self.handle, port, raw, ctypes.c_uint64(len(raw) // BEAT))

    def run(self, done: int, drained: int, limit: int = 200_000) -> None:
        args = (ctypes.c_uint64(v) for v in (done, drained, limit))
        ok = self._library.harness_run(self.handle, *args)
        assert ok, {name: self.count(name) for name in COUNTS}

    def idle(self, cycles: int) -> None:
        args = (ctypes.c_uint64(v) for v in (1 << 60, 0, cycles))
        self._library.harness_run(self.handle, *args)

    def count(self, name: str) -> int:
        return int(self._library.harness_count(self.handle, COUNTS.index(name)))

    def values(self) -> np.ndarray:
        """All drained values so far, [n, 2, 16] float32: pair of columns, column, row."""
        values = np.empty((self.count("drained"), 2, ROW_GROUP), np.float32)
        self._library.harness_values(self.handle, values.ctypes.data_as(ctypes.c_void_p))
        return values

    def cycles(self, what: str) -> np.ndarray:
        """Cycles in which commands were taken, instructions done or vectors issued."""
        which = ("taken", "done", "issue").index(what)
        count = int(self._library.harness_cycles(self.handle, which, None))
        cycles = np.empty(count, np.uint64)
        self._library.harness_cycles(self.handle, which, cycles.ctypes.data_as(ctypes.c_void_p))
        return cycles.astype(np.int64)


class Work:
    """One instruction: random operands, and the accumulators that must result.

    `after`: the one whose sums it goes on with, in the same bank. `sections`: of the array.
    `terms`: two of each group.
    """

    index = 0  #: in the program

    def __init__(
        self, config: AcceleratorConfig, rng: np.random.Generator, *, groups: int, outputs: int,
        dual: bool, bank: int, acc_bank: int, exponent: int = -3, after: Work | None = None,
        sections: int = 1, terms: bool = False,
    ) -> None:  # fmt: skip
        self.config, self.dual, self.bank, self.acc_bank = config, dual, bank, acc_bank
        self.terms, self.passes = terms, 1 + dual + terms
        self.sections, self.rows = sections, tile_rows(config, sections)
        quant = config.quant_config
        self.bits = quant.code_bits
        fmt = quant.dual_format if dual else quant.plain_format
        assert fmt is not None
        weight, inputs, rows = quant.weight_format, groups * GROUP, self.rows
        twice = 1 + terms
        codes = rng.choice(np.array(fmt.codes_used, np.uint8), size=(rows, twice * inputs))
        weights = rng.choice(np.array(weight.codes_used, np.uint8), size=(outputs, inputs))
        # Rows and outputs of the largest magnitudes, and of nothing.
        codes[0] = max(fmt.codes_used, key=lambda c: fmt.decode_int(c) or 0)
        codes[1] = min(fmt.codes_used, key=lambda c: fmt.decode_int(c) or 0)
        codes[2] = 0
        weights[0] = max(weight.codes_used, key=lambda c: weight.decode_int(c) or 0)
        weights[1] = min(weight.codes_used, key=lambda c: weight.decode_int(c) or 0)
        scale = patterns(rng, (rows, twice * groups))
        negative = patterns(rng, (rows, groups), extended=True) if dual else np.zeros_like(scale)
        if config.float32 == "dsp58":
            # It counts a subnormal scale of a row as zero, and the quantizer never gives one.
            for scales in (scale, negative):
                scales[scales < 0x0400] = 0
        self.activations = ActivationCodes(codes, scale, negative)
        bias = (rng.normal(size=outputs) * 10.0 ** rng.integers(-4, 5, outputs)).astype(np.float32)
        bias[::5] = 0
        self.layer = QuantizedLinear(
            site=LinearSite(0, "fc2" if dual else "proj"), codes=weights,
            scales=patterns(rng, (outputs, groups)), exponent=exponent, bias=bias,
            weight_format=weight, activation_format=fmt, rotate=False, ties=quant.ties,
        )  # fmt: skip
        self.more, self.drained = after is not None, True
        start = None
        if after is not None:
            start, after.drained = after.expected, False
        self.expected: np.ndarray
        self.expected, _ = GoldenLinear(self.layer).multiply(self.activations, start=start)

    @property
    def command(self) -> np.ndarray:
        outputs, inputs = self.layer.codes.shape
        fields = {
            "bank": self.bank, "acc_bank": self.acc_bank, "groups": inputs // GROUP,
            "blocks": outputs // WEIGHT_BLOCK, "dual": self.dual, "rows": self.rows,
            "exponent": np.array([self.layer.exponent]), "more": self.more,
            "sections": SECTIONS.index(self.sections), "terms": self.terms, "index": self.index,
        }  # fmt: skip
        return pack(payload_layout(Opcode.MATRIX), **fields)

    @property
    def writes(self) -> np.ndarray:
        """All words of the bank, in an order of their own."""
        rows, inputs = self.activations.codes.shape
        words = inputs // LANES
        row, word = (axis.reshape(-1) for axis in np.mgrid[:rows, :words])
        codes = pack_codes(self.activations.codes.reshape(-1, LANES), self.bits)
        both = np.stack([self.activations.scale, self.activations.scale_neg], -1)
        scale = both.astype("<u2").view(np.uint8)  # [rows, groups, 4]
        k = word % WORDS
        scales = np.where(k < 4, scale[row, word // WORDS, k % 4], 0)
        records = pack(
            bank_write_layout(self.config), valid=1, bank=self.bank, row=row, word=word,
            codes=codes, scales=scales, sections=SECTIONS.index(self.sections),
        )  # fmt: skip
        return np.random.default_rng(len(records)).permutation(records)

    @property
    def beats(self) -> list[bytes]:
        """What each weight port brings: beats as the harness takes them."""
        layer, ports = self.layer, self.config.weight_ports
        raw = [b""] * ports
        for g in range(layer.groups):
            codes = layer.codes[:, g * GROUP : (g + 1) * GROUP]
            bias = None if g else layer.bias
            panel = pack_panel(codes, layer.scales[:, g], bias, self.bits, ports)
            for port, share in enumerate(shares(panel, layer.outputs, self.bits, not g, ports)):
                raw[port] += with_last(share) * self.passes
        return raw

    @property
    def drains(self) -> np.ndarray:
        """Every accumulator of the tile, row group by row group; none if others go on."""
        pairs = self.layer.outputs // 2 if self.drained else 0
        group, pair = (axis.reshape(-1) for axis in np.mgrid[: self.rows // ROW_GROUP, :pairs])
        stripe, within = np.divmod(pair, STRIPE // 2)
        heads = np.array(section_heads(self.config.row_groups, self.sections))
        return pack(
            drain_layout(self.config), valid=1, bank=self.acc_bank,
            row_group=group + heads[stripe % self.sections],
            column=stripe // self.sections * (STRIPE // 2) + within,
        )  # fmt: skip

    def check(self, values: np.ndarray) -> None:
        """`values` [row groups of the tile * outputs / 2, 2, 16] as drained; zeros have no sign."""
        got = values.reshape(self.rows // ROW_GROUP, -1, ROW_GROUP).transpose(0, 2, 1)
        got = got.reshape(self.rows, -1) + np.float32(0)
        want = self.expected + np.float32(0)
        wrong = np.argwhere(got.view(np.uint32) != want.view(np.uint32))
        assert not len(wrong), (len(wrong), wrong[:4], got[tuple(wrong[0])], want[tuple(wrong[0])])


def shares(panel: bytes, outputs: int, bits: int, first: bool, ports: int) -> list[bytes]:
    """What each weight port has of a panel; nothing if it has no stripe."""
    share = panel_shares(outputs, bits, first, ports)
    ends = np.cumsum(port_beats(share.beats, share.full, share.rest, ports)) * (BEAT - 1)
    assert ends[-1] == len(panel)
    return [panel[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def with_last(panel: bytes) -> bytes:
    """Beats of one reading of a panel, each with its mark."""
    if not panel:
        return b""
    beats = np.frombuffer(panel, np.uint8).reshape(-1, BEAT - 1)
    marks = np.zeros((len(beats), 1), np.uint8)
    marks[-1] = 1
    return np.concatenate([beats, marks], axis=1).tobytes()


def patterns(
    rng: np.random.Generator, shape: tuple[int, ...], extended: bool = False
) -> np.ndarray:
    """FP16 scales of all kinds."""
    scales = rng.integers(0x0400, 0x6800, size=shape)
    special = rng.random(shape)
    scales[special < 0.05] = 0
    scales[special > 0.95] = 0x0155  # subnormal
    if extended:
        scales[(special > 0.5) & (special < 0.53)] = 0x7C01
    return scales.astype(np.uint16)


def run_works(unit: Unit, works: Sequence[Work]) -> list[np.ndarray]:
    """Run instructions back to back and drain each while the next ones run.

    A bank is written again once the instruction that read it is done; an accumulator bank is used
    again once it has been asked for.
    """
    written, asked = [], []
    start, drained, sent = unit.count("done"), unit.count("drained"), unit.count("written")
    first = drained
    for i, work in enumerate(works):
        before = max((j + 1 for j in range(i) if works[j].bank == work.bank), default=0)
        writes, drains = work.writes, work.drains
        unit.queue(WRITES, writes, (0, start + before, 0))
        sent += len(writes)
        written.append(sent)
        previous = [j for j in range(i) if works[j].acc_bank == work.acc_bank]
        gate = asked[previous[-1]] if previous and not work.more else 0
        unit.queue(COMMANDS, work.command, (written[i], 0, gate))
        unit.beats(work.beats)
        unit.queue(DRAINS, drains, (0, start + i + 1, 0))
        drained += len(drains)
        asked.append(drained)
    unit.run(start + len(works), drained)
    values = unit.values()[first:]
    ends = np.cumsum([len(work.drains) for work in works])
    return np.split(values, ends[:-1])
