# SPDX-License-Identifier: Apache-2.0
"""Jobs for the matrix engine: random operands, their streams, and the golden result.

Packing is written out here bit by bit from the stream layout, without the packer of the product,
so that the two can disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lutvar.contract.config import GROUP, HardwareConfig, QuantConfig, load_hardware, load_quant
from lutvar.contract.hadamard import sign_vector
from lutvar.contract.layout import StreamLayout
from lutvar.contract.registers import BY_NAME
from lutvar.hw.top.export import export
from lutvar.quant.golden.activations import ActivationCodes, hadamard_fp16, quantize_activations
from lutvar.quant.golden.linear import GoldenLinear
from lutvar.quant.ptq.linear import QuantizedLinear
from lutvar.quant.var.sites import LinearSite
from lutvar.sim.runner import tiny_hardware
from lutvar.sim.verilated import VerilatedTop

#: Shipped and bench sizes, so that the compiled models are shared with other tests: two token rows
#: by four outputs, one by eight.
CORES = {"fp4": load_hardware("small-fp4"), "fp6": tiny_hardware("fp6")}


def open_core(hardware: HardwareConfig, build_dir: Path | str = "build/sim") -> VerilatedTop:
    """Export a core and open its compiled model; the model is cached by the Verilog's content."""
    manifest = export(hardware, load_quant(hardware.quant), Path(build_dir) / hardware.name)
    return VerilatedTop.from_verilog(manifest.verilog, hardware.stream_bytes, build_dir=build_dir)


@dataclass(frozen=True)
class Spec:
    """Arguments of a job; ``vectors`` counts row vectors."""

    vectors: int
    groups: int
    tiles: int = 1
    rotate: bool = False
    dual: bool = False
    dump: bool = False
    exponent: int = -3

    def fit(self, hardware: HardwareConfig) -> Spec:
        """The same kind of job, made smaller where it exceeds a core."""
        groups = min(self.groups, hardware.max_groups)
        vectors = min(self.vectors, hardware.buffer_vectors // groups)
        return replace(self, groups=groups, vectors=vectors)


def pack_bits(values: Sequence[int] | np.ndarray, bits: int, stream_bytes: int) -> bytes:
    """Fields of ``bits`` bits, first in the least significant place, padded to whole beats."""
    flat = np.asarray(values, np.uint64).reshape(-1)
    planes = (flat[:, None] >> np.arange(bits, dtype=np.uint64) & 1).astype(np.uint8)
    data = np.packbits(planes.reshape(-1), bitorder="little").tobytes()
    return data + bytes(-len(data) % stream_bytes)


def random_patterns(rng: np.random.Generator, rows: int, inputs: int) -> np.ndarray:
    """FP16 patterns with everything that matters in a group: all signs, zeros, subnormals,
    outliers."""
    values = rng.normal(size=(rows, inputs)) * 10.0 ** rng.uniform(-4, 4, size=(rows, 1))
    patterns = np.clip(values, -65504, 65504).astype(np.float16).view(np.uint16)
    for row in patterns:
        for group in range(inputs // GROUP):
            part = row[group * GROUP : (group + 1) * GROUP]
            kind = rng.integers(8)
            if kind == 0:
                part[:] = 0x8000
            elif kind == 1:
                part &= 0x7FFF
            elif kind == 2:
                part |= 0x8000
            elif kind == 3:
                part &= 0x83FF
            elif kind == 4:
                part[rng.integers(GROUP)] = 0xFBFF
    return patterns


class Job:
    """One job with operands, streams and the bytes that must come back."""

    def __init__(
        self, hardware: HardwareConfig, spec: Spec, rng: np.random.Generator,
        patterns: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.hardware, self.spec = hardware, (spec := spec.fit(hardware))
        self.quant: QuantConfig = load_quant(hardware.quant)
        self.layout = StreamLayout.of(hardware, self.quant)
        self.rows = spec.vectors * hardware.token_rows
        inputs, outputs = spec.groups * GROUP, spec.tiles * hardware.outputs
        if patterns is None:
            patterns = random_patterns(rng, self.rows, inputs)
        self.patterns = patterns
        fmt = self.quant.dual_format if spec.dual else self.quant.plain_format
        assert fmt is not None
        quantized = patterns
        if spec.rotate:
            quantized = hadamard_fp16(patterns, sign_vector(self.quant.hadamard_seed))
        self.codes = quantize_activations(quantized, fmt, self.quant.ties)
        weight = self.quant.weight_format
        self.layer = QuantizedLinear(
            site=LinearSite(0, "fc2" if spec.dual else "proj"),
            codes=rng.choice(np.array(weight.codes_used, np.uint8), size=(outputs, inputs)),
            scales=self._scales(rng, outputs),
            exponent=spec.exponent,
            bias=rng.normal(size=outputs).astype(np.float32) * 10,
            weight_format=weight,
            activation_format=fmt,
            rotate=spec.rotate,
            ties=self.quant.ties,
        )
        self.layer.bias[:: max(1, outputs // 3)] = 0

    def _scales(self, rng: np.random.Generator, outputs: int) -> np.ndarray:
        scales = rng.integers(0x0400, 0x6800, size=(outputs, self.spec.groups))
        special = rng.random(scales.shape)
        scales[special < 0.05] = 0
        scales[special > 0.95] = 0x0155  # subnormal
        return scales.astype(np.uint16)

    @property
    def act(self) -> bytes:
        return pack_bits(self.patterns, 16, self.layout.stream_bytes)

    @property
    def wgt(self) -> bytes:
        if self.spec.dump:
            return b""
        layer, size, n = self.layer, self.layout.stream_bytes, self.hardware.outputs
        parts = []
        for tile in range(self.spec.tiles):
            own = slice(tile * n, (tile + 1) * n)
            parts.append(pack_bits(layer.bias[own].view(np.uint32), 32, size))
            for g in range(self.spec.groups):
                parts.append(pack_bits(layer.scales[own, g], 16, size))
                codes = layer.codes[own, g * GROUP : (g + 1) * GROUP]
                parts.append(pack_bits(codes, self.quant.code_bits, size))
        return b"".join(parts)

    @property
    def out(self) -> bytes:
        return self._dumped(self.codes) if self.spec.dump else self._multiplied()

    def _multiplied(self) -> bytes:
        y, _ = GoldenLinear(self.layer).multiply(self.codes)
        t, n = self.hardware.token_rows, self.hardware.outputs
        vectors = y.reshape(self.spec.vectors, t, self.spec.tiles, n).transpose(2, 0, 1, 3)
        return np.ascontiguousarray(vectors).tobytes()

    def _dumped(self, codes: ActivationCodes) -> bytes:
        t, size, parts = self.hardware.token_rows, self.layout.stream_bytes, []
        for v in range(self.spec.vectors):
            for g in range(self.spec.groups):
                rows = slice(v * t, (v + 1) * t)
                pairs = np.stack([codes.scale[rows, g], codes.scale_neg[rows, g]], axis=1)
                parts.append(pack_bits(pairs, 16, size))
                part = codes.codes[rows, g * GROUP : (g + 1) * GROUP]
                parts.append(pack_bits(part, self.quant.code_bits, size))
        return b"".join(parts)

    @property
    def issues(self) -> int:
        """Cycles in which the array has work."""
        s = self.spec
        return 0 if s.dump else s.tiles * s.vectors * s.groups * (2 if s.dual else 1)


def read(core: VerilatedTop, name: str) -> int:
    value, response = core.reg_read(BY_NAME[name].offset)
    assert response == 0
    return value


def write(core: VerilatedTop, name: str, value: int) -> None:
    assert core.reg_write(BY_NAME[name].offset, value) == 0


def soft_reset(core: VerilatedTop) -> None:
    """Drop what is queued and reset the core.

    The read is answered when the reset is over; beats that are offered before may be lost.
    """
    core.clear_streams()
    write(core, "SOFT_RESET", 1)
    read(core, "CTRL")


def start(core: VerilatedTop, job: Job) -> None:
    """Queue a job as soon as the core takes one."""
    spec = job.spec
    for _ in range(10_000):
        if BY_NAME["CTRL"].field_value(read(core, "CTRL"), "ready"):
            break
    else:
        raise AssertionError("the core is not ready for a job")
    write(core, "ROWS", job.rows)
    write(core, "GROUPS", spec.groups)
    write(core, "TILES", spec.tiles)
    write(core, "FLAGS", spec.rotate | spec.dual << 1 | spec.dump << 2)
    write(core, "SCALE_EXP", spec.exponent)
    write(core, "CTRL", 1)


def run_jobs(core: VerilatedTop, jobs: Sequence[Job], max_cycles: int = 200_000) -> list[bytes]:
    """Queue all jobs back to back, stream everything, and return what each produced."""
    sizes = [len(job.out) for job in jobs]
    core.clear_streams()
    core.want(sum(sizes))
    for job in jobs:
        core.send("act", job.act)
        if job.wgt:
            core.send("wgt", job.wgt)
    for job in jobs:
        start(core, job)
    assert core.run(max_cycles), (
        f"not complete after {max_cycles} cycles: ERROR {read(core, 'ERROR')}, "
        f"STATE {read(core, 'STATE'):#x}, {core.pending('out')} bytes missing"
    )
    data = core.take().tobytes()
    ends = np.cumsum(sizes)
    lasts = [int(end) // core.stream_bytes - 1 for end in ends]
    assert list(core.lasts()) == lasts, "TLAST is not exactly on the last beat of each job"
    return [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def assert_equal(job: Job, got: bytes) -> None:
    """Compare a job's output with the golden one; the message names the first difference."""
    want = job.out
    if got == want:
        return
    kind = np.uint8 if job.spec.dump else np.uint32
    a, b = np.frombuffer(got, kind), np.frombuffer(want, kind)
    index = int(np.flatnonzero(a != b)[0])
    raise AssertionError(
        f"{job.spec}: {int((a != b).sum())} of {a.size} words differ, first at {index}: "
        f"got {a[index]:#x}, golden {b[index]:#x}"
    )
