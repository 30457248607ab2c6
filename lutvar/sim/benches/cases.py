# SPDX-License-Identifier: Apache-2.0
"""Random small jobs with the packets to send and the packet that must come back."""

from dataclasses import dataclass

import numpy as np

from lutvar.contract.config import GROUP
from lutvar.contract.registers import BY_NAME
from lutvar.host.packing import pack_activations, pack_weights, unpack_dump, unpack_results
from lutvar.quant.golden import GoldenLinear
from lutvar.quant.ptq.linear import QuantizedLinear
from lutvar.quant.var.sites import LinearSite

from .common import Bench


@dataclass(frozen=True)
class Case:
    """One job.

    Attributes:
        arguments: argument registers and their values.
        act, wgt: packets for the inputs; `wgt` is empty for a dump.
        out_bytes: length of the result packet.
        groups: K / 128; rows: token rows.
        layer: what is computed; rows_RK: float32 activations.
    """

    arguments: dict[str, int]
    act: bytes
    wgt: bytes
    out_bytes: int
    rows: int
    groups: int
    layer: QuantizedLinear
    rows_RK: np.ndarray

    @property
    def dump(self) -> bool:
        return not self.wgt

    def check(self, bench: Bench, packet: bytes) -> None:
        """Compare a result packet with the golden model, bit by bit."""
        assert len(packet) == self.out_bytes, f"{len(packet)} bytes came, not {self.out_bytes}"
        data = np.frombuffer(packet, np.uint8)
        golden = GoldenLinear(self.layer)
        if not self.dump:
            found = unpack_results(data, bench.layout, self.rows, self.layer.outputs)
            _same("result", found.view(np.uint32), golden(self.rows_RK).y.view(np.uint32))
            return
        dumped = unpack_dump(data, bench.layout, self.rows, self.groups)
        _, expected = golden.quantize(self.rows_RK)
        _same("scale", dumped.scale, expected.scale)
        _same("negative scale", dumped.scale_neg, expected.scale_neg)
        _same("code", dumped.codes, expected.codes)


def _same(what: str, found: np.ndarray, expected: np.ndarray) -> None:
    wrong = np.argwhere(found != expected)
    assert not len(wrong), (
        f"{len(wrong)} of {found.size} {what}s differ; first at {tuple(wrong[0])}: "
        f"{found[tuple(wrong[0])]:#x}, expected {expected[tuple(wrong[0])]:#x}"
    )


def activations(rng: np.random.Generator, rows: int, groups: int) -> np.ndarray:
    """Float32 rows [R, K] with groups of zeros, of one sign, of subnormal and of huge values."""
    x = rng.standard_normal((rows, groups, GROUP)).astype(np.float32)
    x *= np.exp2(rng.integers(-8, 8, (rows, groups, 1))).astype(np.float32)
    kinds = rng.integers(0, 8, (rows, groups))
    x[kinds == 0] = 0
    x[kinds == 1] *= np.float32(2.0**-18)
    x[kinds == 2] = np.abs(x[kinds == 2])
    x[kinds == 3] = -np.abs(x[kinds == 3])
    x[kinds == 4] *= 2000
    return np.clip(x, -65504, 65504).reshape(rows, groups * GROUP)


def make_case(
    bench: Bench,
    seed: int,
    *,
    vectors: int = 1,
    groups: int = 1,
    tiles: int = 1,
    site: str = "proj",
    dump: bool = False,
) -> Case:
    """A random job of a site of the preset: its format, its rotation, its tie rule."""
    rng = np.random.default_rng(seed)
    treatment, weight = bench.quant.sites[site], bench.quant.weight_format
    rows = vectors * bench.hardware.token_rows
    outputs, inputs = tiles * bench.hardware.outputs, groups * GROUP
    scales = rng.integers(0x0400, 0x6800, (outputs, groups), dtype=np.uint16)
    scales[rng.random(scales.shape) < 0.1] = 0
    layer = QuantizedLinear(
        site=LinearSite(0, site),
        codes=rng.choice(weight.codes_used, (outputs, inputs)).astype(np.uint8),
        scales=scales,
        exponent=int(rng.integers(-24, 8)),
        bias=rng.standard_normal(outputs).astype(np.float32),
        weight_format=weight,
        activation_format=treatment.format,
        rotate=treatment.rotate,
        ties=bench.quant.ties,
        hadamard_seed=bench.quant.hadamard_seed,
    )
    x = activations(rng, rows, groups)
    flags = {"rotate": layer.rotate, "dual": layer.dual, "dump": dump}
    word = sum(int(flags[f.name]) << f.low for f in BY_NAME["FLAGS"].fields)
    wgt = b"" if dump else pack_weights(layer.codes, layer.scales, layer.bias, bench.layout)
    return Case(
        arguments={
            "ROWS": rows, "GROUPS": groups, "TILES": 0 if dump else tiles, "FLAGS": word,
            "SCALE_EXP": layer.exponent & 0xFF,
        },
        act=pack_activations(x.astype(np.float16), bench.layout).tobytes(),
        wgt=bytes(wgt),
        out_bytes=bench.layout.out_beats(rows, groups, tiles, dump=dump) * bench.size,
        rows=rows, groups=groups, layer=layer, rows_RK=x,
    )  # fmt: skip


async def run_case(bench: Bench, case: Case) -> None:
    """Queue, feed, collect and check one job."""
    await bench.start_job(case.arguments)
    await bench.feed(case.act, case.wgt)
    case.check(bench, await bench.collect())
