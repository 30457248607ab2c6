# SPDX-License-Identifier: Apache-2.0
"""Compares everything that a pass leaves in memory with the golden model.

`ComparingTransformer` compares logits and the records of keys and values of all blocks. Here come
the tensors in WORK as the last block leaves them: residual stream, q records, results of attention
and of GELU (earlier blocks' are overwritten, and these depend on all of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import Region, split_address
from lutvar.contract.memory import pack_records
from lutvar.contract.passes import ImageStep
from lutvar.host.compile.compiler import CompiledPass
from lutvar.host.transformer import DeviceTransformer
from lutvar.quant.golden.pointwise import Records
from lutvar.quant.golden.transformer import GoldenTransformer, spans_of
from lutvar.quant.ptq.transformer import QuantizedTransformer
from lutvar.sim.run.comparing import ComparingTransformer, Comparison


class WrittenTransformer(ComparingTransformer):
    """Runs passes on the golden model and on the device, and compares all that they write.

    Args:
        model: what both run.
        device: the device.
        comparison: collects counts and differences.
    """

    def __init__(
        self, model: QuantizedTransformer, device: DeviceTransformer, comparison: Comparison
    ) -> None:
        last = model.shape.depth - 1
        names = ("attention", "gelu", "q.codes", "q.scales")
        self._kept = {"x": "x"} | {f"block{last}.{name}": name for name in names}
        self._tensors: dict[str, NDArray[Any]] = {}
        super().__init__(GoldenTransformer(model, self._keep), device, comparison)

    def _keep(self, name: str, value: NDArray[Any]) -> None:
        if name in self._kept:
            self._tensors[self._kept[name]] = value

    def run(self, steps: Sequence[ImageStep]) -> list[NDArray[np.float32]]:
        """See `ComparingTransformer.run`."""
        logits = super().run(steps)
        self._compare_work(steps, self.device.compile(steps))
        return logits

    def prefill(self, step: ImageStep, keys: Records, values: Records) -> None:
        """Give both caches of a step's image the same records of the tokens before it.

        Args:
            step: unconditional and conditional half get the same records.
            keys, values: [depth, heads, step.position, ...].
        """
        plan, fmt = self.device.compile([step]).plan, self.golden.model.kv_format
        packed = {
            "keys": pack_records(keys.codes, keys.scales, fmt, values.scales),
            "values": pack_records(values.codes, values.scales, fmt),
        }
        for conditional in (True, False):
            self.golden.fill(step.slot, conditional, keys, values)
            for kind, raw in packed.items():
                for block in range(raw.shape[0]):
                    at = getattr(plan, kind)(step.slot, conditional, block, 0)
                    for head in range(raw.shape[1]):
                        region, offset = split_address(at + head * plan.head_stride)
                        self.device.device.write(region, offset, raw[block, head].reshape(-1))

    def _compare_work(self, steps: Sequence[ImageStep], compiled: CompiledPass) -> None:
        plan, model = compiled.plan, self.golden.model
        spans = {
            (span.slot, span.conditional): span.rows
            for span in spans_of(steps, model.null_label)
        }  # fmt: skip
        kept = self._tensors
        q = pack_records(kept["q.codes"], kept["q.scales"], model.kv_format)
        work = self.device.device.read(Region.WORK, 0, plan.work_size)
        for name, tensor, address, stride, word in (
            ("x", kept["x"], plan.x, plan.x_stride, np.uint32),
            ("q", q.reshape(len(q), -1), plan.q, plan.q_stride, np.uint8),
            ("attention", kept["attention"], plan.o, plan.o_stride, np.uint16),
            ("gelu", kept["gelu"], plan.h, plan.h_stride, np.uint16),
        ):
            for seq in compiled.rows.sequences:
                at = split_address(address(seq.first))[1]
                raw = work[at : at + seq.tokens * stride].reshape(seq.tokens, stride)
                want = np.ascontiguousarray(tensor[spans[seq.slot, seq.conditional]])
                half = "cond" if seq.conditional else "uncond"
                self.comparison.add(
                    name, f"{name}.slot{seq.slot}.{half}", want.view(word), raw.view(word)
                )
