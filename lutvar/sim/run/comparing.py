# SPDX-License-Identifier: Apache-2.0
"""A transformer that runs every pass on the device and on the golden model, and compares them.

What each pass leaves in memory is compared bit by bit: guided logits, and the K and V records of
every block, head and token (codes and scales).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import Region, split_address
from lutvar.contract.memory import RECORD_BYTES, pack_records
from lutvar.contract.passes import ImageStep
from lutvar.host.transformer import DeviceTransformer
from lutvar.quant.golden.transformer import GoldenTransformer


@dataclass(frozen=True)
class Difference:
    """The first differing element of a tensor.

    Attributes:
        passed: number of the pass.
        tensor: "logits", "keys" or "values", and which.
        index: of the element. expected, actual: bit patterns.
    """

    passed: int
    tensor: str
    index: tuple[int, ...]
    expected: int
    actual: int

    def __str__(self) -> str:
        return (
            f"pass {self.passed}: {self.tensor}{list(self.index)}: expected 0x{self.expected:X}, "
            f"got 0x{self.actual:X}"
        )


@dataclass
class Comparison:
    """Elements compared and different, by kind of tensor, and the first differences."""

    compared: dict[str, int] = field(default_factory=dict)
    different: dict[str, int] = field(default_factory=dict)
    first: list[Difference] = field(default_factory=list)
    passes: int = 0

    @property
    def mismatches(self) -> int:
        """Values that differ."""
        return sum(self.different.values())

    @property
    def total(self) -> int:
        """Values compared."""
        return sum(self.compared.values())

    def add(self, kind: str, name: str, expected: NDArray[Any], actual: NDArray[Any]) -> None:
        """Compare two arrays of unsigned integers."""
        if expected.shape != actual.shape:
            raise ValueError(f"{name}: shapes {expected.shape} and {actual.shape}")
        wrong = expected != actual
        count = int(np.count_nonzero(wrong))
        self.compared[kind] = self.compared.get(kind, 0) + expected.size
        self.different[kind] = self.different.get(kind, 0) + count
        if count:
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            self.first.append(
                Difference(self.passes, name, index, int(expected[index]), int(actual[index]))
            )


class ComparingTransformer:
    """Runs both, compares, and returns the device's logits.

    Args:
        golden: the golden model.
        device: the device.
        comparison: collects counts and differences.
    """

    def __init__(
        self, golden: GoldenTransformer, device: DeviceTransformer, comparison: Comparison
    ) -> None:
        self.golden, self.device, self.comparison = golden, device, comparison

    def run(self, steps: Sequence[ImageStep]) -> list[NDArray[np.float32]]:
        """See `Transformer.run`: runs both and compares; returns the device's logits."""
        expected = self.golden.run(steps)
        actual = self.device.run(steps)
        for k, (a, b) in enumerate(zip(expected, actual, strict=True)):
            self.comparison.add("logits", f"logits.{k}", a.view(np.uint32), b.view(np.uint32))
        for step in steps:
            for conditional in (True, False) if step.x_uncond is not None else (True,):
                self._compare_cache(steps, step, conditional)
        self.comparison.passes += 1
        return actual

    def _compare_cache(
        self, steps: Sequence[ImageStep], step: ImageStep, conditional: bool
    ) -> None:
        """The records that this step has written: position .. position + tokens - 1."""
        keys, values = self.golden.cached(step.slot, conditional)
        new = slice(step.position, step.position + step.tokens)
        fmt = self.golden.model.kv_format
        v = pack_records(values.codes[:, :, new], values.scales[:, :, new], fmt)
        k = pack_records(
            keys.codes[:, :, new], keys.scales[:, :, new], fmt, values.scales[:, :, new]
        )
        plan = self.device.compile(steps).plan
        half = "cond" if conditional else "uncond"
        for kind, expected in (("keys", k), ("values", v)):
            locate = plan.keys if kind == "keys" else plan.values
            for block in range(expected.shape[0]):
                actual = np.stack(
                    [
                        self._read(
                            locate(step.slot, conditional, block, step.position)
                            + head * plan.head_stride,
                            step.tokens * RECORD_BYTES,
                        ).reshape(step.tokens, RECORD_BYTES)
                        for head in range(expected.shape[1])
                    ]
                )
                name = f"slot{step.slot}.{half}.block{block}.{kind}"
                self.comparison.add(kind, name, expected[block], actual)

    def _read(self, address: int, count: int) -> NDArray[np.uint8]:
        region, offset = split_address(address)
        assert region == Region.CACHE
        return self.device.device.read(region, offset, count)
