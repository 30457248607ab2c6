# SPDX-License-Identifier: Apache-2.0
"""A backend that runs every layer on the device and on the golden model, and compares all of it.

Each call runs two jobs on the device: one dumps the quantizer's codes and scales, one multiplies.
Both models get the same input, so a difference is found in the layer that makes it.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lutvar.quant.golden.linear import GoldenResult
from lutvar.quant.var.sites import LinearSite

from .backend import AcceleratorBackend, from_rows, rows_of
from .record import DivergenceError, JobRecord, Recorder

OnMismatch = Literal["stop", "continue"]


class Reference(Protocol):
    """The golden side: everything a layer computes for rows [R, K] float32."""

    def compute(self, site: LinearSite, rows: NDArray[np.float32]) -> GoldenResult: ...


class ComparingBackend:
    """Runs both, compares bits, records, and returns the device's result.

    Args:
        reference: the golden model.
        accelerator: the device.
        recorder: collects counts, counters and divergences.
        on_mismatch: ``stop`` raises DivergenceError at the first difference; ``continue`` goes on
            with the device's result.
    """

    def __init__(
        self,
        reference: Reference,
        accelerator: AcceleratorBackend,
        recorder: Recorder,
        on_mismatch: OnMismatch = "continue",
    ) -> None:
        if on_mismatch not in ("stop", "continue"):
            raise ValueError(f"on_mismatch is {on_mismatch!r}; it must be 'stop' or 'continue'")
        self.reference, self.accelerator = reference, accelerator
        self.recorder, self.on_mismatch = recorder, on_mismatch

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        layer, device = self.accelerator.layer(site, weight_OI), self.accelerator.device
        rows = rows_of(x_BLC)
        before = device.counters()
        dumped = device.dump_codes(layer, rows)
        between = device.counters()
        y = device.run(layer, rows)
        after = device.counters()

        golden = self.reference.compute(site, rows)
        expected: dict[str, NDArray[Any]] = {"scale": golden.activations.scale}
        got: dict[str, NDArray[Any]] = {"scale": dumped.scale}
        if layer.args.dual:  # the negative scale of a single-scale format has no meaning
            expected["scale_neg"], got["scale_neg"] = golden.activations.scale_neg, dumped.scale_neg
        expected |= {"codes": golden.activations.codes, "result": golden.y}
        got |= {"codes": dumped.codes, "result": y}
        compared, wrong = self.recorder.compare(str(site), x_BLC.shape[1], expected, got)
        self.recorder.add(
            JobRecord(
                self.recorder.step,
                site.block,
                site.name,
                len(rows),
                len(rows) * layer.args.in_features * layer.args.out_features,
                compared,
                wrong,
                run=after.since(between),
                dump=between.since(before),
            )
        )
        if self.on_mismatch == "stop" and any(wrong.values()):
            raise DivergenceError(self.recorder.divergences[0])
        return from_rows(y, x_BLC)
