# SPDX-License-Identifier: Apache-2.0
"""What lies in memory before a program runs: a background and pieces, each from its own seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import HEAD_DIM, AcceleratorConfig
from lutvar.contract.isa import ALIGN, Region
from lutvar.contract.memory import RECORD_BYTES, pack_panel, pack_records
from lutvar.contract.quant_preset import GROUP
from lutvar.quant.golden.pointwise import records

Bytes = NDArray[np.uint8]
Bases = Mapping[Region, int]
#: Bytes of the regions. All are small, so that all of memory can be compared after each program.
SIZES = {
    Region.MODEL: 0x40000, Region.WORK: 0x14000, Region.IO: 0x24000, Region.CACHE: 0x14000,
}  # fmt: skip
#: Where the regions start: no two share a bit, so that a region taken for another is not missed.
BASES: Bases = {
    Region.MODEL: 0x0001_0000_0000, Region.WORK: 0x0022_0040_0000,
    Region.IO: 0x0333_0008_0000, Region.CACHE: 0x4444_0000_C000,
}  # fmt: skip
#: The same with all the bits above, and sums with an offset that carry far.
HIGH_BASES: Bases = {
    Region.MODEL: 0x1111_1111_1100_0000, Region.WORK: 0x2222_2222_21FF_0000,
    Region.IO: 0x4444_4444_4440_8000, Region.CACHE: 0x8888_8888_87FF_C000,
}  # fmt: skip
#: Programs lie at the end of IO, where nothing else is put.
PROGRAM_OFFSET, PROGRAM_BYTES = 0x20000, 0x4000
#: Memory before and after each region that no program may touch.
GUARD = 0x1000
_BACKGROUND = 0x5EED


@dataclass(frozen=True)
class Fill:
    """A piece of memory.

    Attributes:
        kind: "panel" (outputs, 1 for a slice's first), "half", "float", "grid" or "kappa" (values),
            "queries" (rows, heads, stride), "cache" (heads, keys, bytes from head to head, bytes
            from K to V).
        region, offset: where it starts.
        seed: of its values.
        sizes: see `kind`.
    """

    kind: str
    region: Region
    offset: int
    seed: int
    sizes: tuple[int, ...]

    def as_json(self) -> list[Any]:
        """Plain data."""
        return [self.kind, self.region.name, self.offset, self.seed, list(self.sizes)]

    @classmethod
    def from_json(cls, row: Sequence[Any]) -> Fill:
        """The inverse of `as_json`."""
        kind, region, offset, seed, sizes = row
        if kind not in _KINDS:
            raise ValueError(f"a piece of memory of kind {kind!r}; one of {', '.join(_KINDS)}")
        return cls(kind, Region[region], int(offset), int(seed), tuple(map(int, sizes)))


def _wide(rng: np.random.Generator, count: int, low: int, high: int) -> NDArray[np.float64]:
    """Values of very different sizes, with exact zeros among them."""
    values = rng.standard_normal(count) * np.exp2(rng.integers(low, high + 1))
    style = rng.integers(7)
    if style == 1:
        values *= np.exp2(rng.integers(-8, 9, count))
    elif style == 2:
        values[rng.random(count) < 0.5] = 0.0
    elif style == 3:
        values = np.round(values)
    elif style == 4:  # sums as large as can be
        values = np.abs(values)
    elif style == 5:
        values = np.full(count, values[0])
    elif style == 6 and not rng.integers(3):
        values = np.zeros(count)
    return values


def _range(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """Exponents of values: around 1, or anything down to subnormal FP16 and up to the largest."""
    return (-6, 6) if rng.integers(2) else (-low, high)


def _half(rng: np.random.Generator, count: int) -> Bytes:
    values = np.clip(_wide(rng, count, *_range(rng, 24, 10)), -60000, 60000).astype(np.float16)
    return values.view(np.uint8)


def _float(rng: np.random.Generator, count: int) -> Bytes:
    values = np.clip(_wide(rng, count, *_range(rng, 30, 20)), -(2.0**24), 2.0**24).astype(
        np.float32
    )
    values[np.abs(values) < 2.0**-40] = 0.0
    return values.view(np.uint8)


def _panel(rng: np.random.Generator, config: AcceleratorConfig, outputs: int, first: int) -> bytes:
    codes = np.array(config.quant_config.weight_format.codes_used, np.uint8)
    style = rng.integers(6)
    if style < 2:  # few codes or only one, so that sums are large or even
        codes = rng.choice(codes, 1 + style)
    bias = None
    if first:
        bias = np.clip(_wide(rng, outputs, -10, 6), -(2.0**20), 2.0**20).astype(np.float32)
        bias[np.abs(bias) < 2.0**-60] = 0.0
    low = int(rng.integers(1, 8)) << 10
    scales = rng.integers(low, 0x6800, outputs, dtype=np.uint16)
    return pack_panel(
        rng.choice(codes, (outputs, GROUP)), scales, bias, config.quant_config.code_bits,
        config.weight_ports,
    )  # fmt: skip


def _made(rng: np.random.Generator, config: AcceleratorConfig, count: int, kind: str) -> Any:
    values = _wide(rng, count * HEAD_DIM, -4, 4).reshape(count, HEAD_DIM)
    if rng.integers(2):  # scales of v that are far apart
        values *= np.exp2(rng.integers(-10, 11, (count, 1)))
    rows = values.astype(np.float32)
    kappa = np.float16(rng.choice([0.05, 0.2, 1.0, 3.0, 20.0, 140.0, 2000.0]))
    if kind == "q":
        return records(rows, config.kv, "q", kappa)
    return records(rows, config.kv, kind)  # type: ignore[arg-type]


def _put_panel(space: Bytes, rng: Any, config: AcceleratorConfig, sizes: Sequence[int]) -> None:
    raw = _panel(rng, config, *sizes)
    space[: len(raw)] = np.frombuffer(raw, np.uint8)


def _put_half(space: Bytes, rng: Any, config: AcceleratorConfig, sizes: Sequence[int]) -> None:
    space[: 2 * sizes[0]] = _half(rng, sizes[0])


def _put_grid(space: Bytes, rng: Any, config: AcceleratorConfig, sizes: Sequence[int]) -> None:
    """FP16 values that one term of each group nearly gives: codes' values, and a small rest."""
    levels = np.array(config.quant_config.plain_format.positive.magnitudes, np.float64)
    values = rng.choice(levels, (-(-sizes[0] // GROUP), GROUP))  # rows may start between groups
    values[:, int(rng.integers(GROUP))] = levels[-1]
    rest = np.exp2(-rng.integers(0, 8, (len(values), 1)).astype(np.float64))
    some = rng.random(values.shape) < rng.choice([0.02, 0.5])
    values = np.where((values < levels[-1]) & some, values + rest, values)
    signed = values * rng.choice([-1.0, 1.0], values.shape) * np.exp2(int(rng.integers(-8, 6)))
    space[: 2 * sizes[0]] = signed.astype(np.float16).reshape(-1)[: sizes[0]].view(np.uint8)


def _put_kappa(space: Bytes, rng: Any, config: AcceleratorConfig, sizes: Sequence[int]) -> None:
    """A positive factor for each head, as often as it has columns."""
    heads = np.exp2(rng.uniform(-6, 7, sizes[0] // HEAD_DIM)).astype(np.float16)
    space[: 2 * sizes[0]] = np.repeat(heads, HEAD_DIM).view(np.uint8)


def _put_float(space: Bytes, rng: Any, config: AcceleratorConfig, sizes: Sequence[int]) -> None:
    space[: 4 * sizes[0]] = _float(rng, sizes[0])


def _put_queries(space: Bytes, rng: Any, config: AcceleratorConfig, sizes: Sequence[int]) -> None:
    rows, heads, stride = sizes
    q = _made(rng, config, rows * heads, "q")
    raw = pack_records(q.codes, q.scales, config.kv).reshape(rows, heads * RECORD_BYTES)
    for row in range(rows):
        space[row * stride : row * stride + heads * RECORD_BYTES] = raw[row]


def _put_cache(space: Bytes, rng: Any, config: AcceleratorConfig, sizes: Sequence[int]) -> None:
    heads, keys, stride, values = sizes
    for head in range(heads):
        k, v = (_made(rng, config, keys, kind) for kind in "kv")
        at = head * stride
        if not rng.integers(4):  # no keys of the device's: scores that saturate
            k = k._replace(scales=rng.integers(0, 0x7C00, k.scales.shape, np.uint16))
        if not rng.integers(6):  # as large as can be: results that saturate
            v = v._replace(scales=np.full(v.scales.shape, 0x7FFF, np.uint16))
        raw = pack_records(k.codes, k.scales, config.kv, v.scales).reshape(-1)
        space[at : at + len(raw)] = raw
        raw = pack_records(v.codes, v.scales, config.kv).reshape(-1)
        space[values + at : values + at + len(raw)] = raw


_Put = Callable[[Bytes, Any, AcceleratorConfig, Sequence[int]], None]
_KINDS: dict[str, _Put] = {
    "panel": _put_panel, "half": _put_half, "float": _put_float, "queries": _put_queries,
    "cache": _put_cache, "kappa": _put_kappa, "grid": _put_grid,
}  # fmt: skip


@cache
def background() -> dict[Region, Bytes]:
    """The same random bytes in every case, so that a read of the wrong place is seen."""
    rng = np.random.default_rng(_BACKGROUND)
    result = {}
    for region, size in SIZES.items():
        content = rng.integers(0, 256, size, dtype=np.uint8)
        content.flags.writeable = False
        result[region] = content
    return result


def regions(config: AcceleratorConfig, fills: Sequence[Fill]) -> dict[Region, Bytes]:
    """Contents of the regions."""
    return {region: content.copy() for region, content in _filled(config, tuple(fills)).items()}


@lru_cache(maxsize=64)
def _filled(config: AcceleratorConfig, fills: tuple[Fill, ...]) -> dict[Region, Bytes]:
    result = {region: content.copy() for region, content in background().items()}
    for fill in fills:
        space = result[fill.region][fill.offset :]
        if fill.offset % ALIGN or not space.size:
            raise ValueError(f"a piece of memory at {fill.region.name}+{fill.offset:#x}")
        _KINDS[fill.kind](space, np.random.default_rng(fill.seed), config, fill.sizes)
    return result
