# SPDX-License-Identifier: Apache-2.0
"""A small random transformer, its compiled passes, and the golden model to compare them with."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Region, split_address
from lutvar.contract.memory import RECORD_BYTES, pack_records
from lutvar.contract.passes import ImageStep
from lutvar.host.compile.compiler import CompiledPass
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.steps import StepShape
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.ptq.transformer import QuantizedTransformer, quantize_transformer
from lutvar.quant.var import Var, VarConfig

from .common import Testbench

CLASSES = 2
SHARED = 0x2_0000  #: bytes of regions WORK, IO and CACHE


def random_transformer(config: AcceleratorConfig) -> QuantizedTransformer:
    """Width 128, 2 heads, 14 tokens an image; logits of every row differ."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)
    sizes = VarConfig(
        depth=1, width=128, heads=2, patch_nums=(1, 2, 3), num_classes=CLASSES, vocab=96,
        z_channels=8,
    )  # fmt: skip
    var = Var(sizes)
    with torch.no_grad():
        for p in var.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return quantize_transformer(var, config.quant_config, config.kv_format, progress=False)


def make_step(
    rng: np.random.Generator, position: int, tokens: int, *, slot: int = 0, label: int = 0,
    guided: bool = True,
) -> ImageStep:  # fmt: skip
    """An image step with random embeddings."""
    x = [rng.standard_normal((tokens, 128)).astype(np.float32) for _ in range(2)]
    if not guided:
        return ImageStep(slot, label, position, x[0], None)
    return ImageStep(slot, label, position, x[0], x[1], 0.75)


class TransformerCase:
    """The transformer on a testbench's accelerator and on the golden model.

    Args:
        config: the accelerator.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.model = random_transformer(config)
        self.packed = pack_transformer(self.model, config)
        self.compiler = self.packed.compiler()
        self.golden = GoldenTransformer(self.model)

    async def open(self, tb: Testbench) -> None:
        """Give the regions memory; put the weights there."""
        sizes = dict.fromkeys((Region.WORK, Region.IO, Region.CACHE), SHARED)
        await tb.open({Region.MODEL: len(self.packed.image), **sizes})
        tb.put(Region.MODEL, self.packed.image.tobytes())

    def compile(self, steps: Sequence[ImageStep]) -> CompiledPass:
        """The program of a pass, checked to fit the shared regions."""
        compiled = self.compiler.compile([StepShape.of(step) for step in steps], check=True)
        plan = compiled.plan
        assert max(plan.work_size, plan.io_size, plan.cache_size) <= SHARED
        return compiled

    async def run(self, tb: Testbench, steps: Sequence[ImageStep]) -> CompiledPass:
        """Run a pass on both and compare logits and new cache records, bit by bit."""
        compiled = self.compile(steps)
        tb.put(Region.IO, compiled.embeddings(steps).tobytes())
        await tb.run(compiled.program.encode(), limit=20 * compiled.cycles + 20_000)
        raw = tb.get(Region.IO, compiled.logits_first, compiled.logits_bytes)
        got = compiled.logits(np.frombuffer(raw, np.uint8))
        for number, (a, b) in enumerate(zip(self.golden.run(steps), got, strict=True)):
            _same(f"logits of step {number}", b.view(np.uint32), a.view(np.uint32))
        for step in steps:
            for conditional in (True, False) if step.x_uncond is not None else (True,):
                self._compare_cache(tb, compiled, step, conditional)
        return compiled

    def _compare_cache(
        self, tb: Testbench, compiled: CompiledPass, step: ImageStep, conditional: bool
    ) -> None:
        keys, values = self.golden.cached(step.slot, conditional)
        new, plan = slice(step.position, step.position + step.tokens), compiled.plan
        fmt = self.model.kv_format
        v = pack_records(values.codes[:, :, new], values.scales[:, :, new], fmt)
        k = pack_records(
            keys.codes[:, :, new], keys.scales[:, :, new], fmt, values.scales[:, :, new]
        )
        for kind, locate, expected in (("K", plan.keys, k), ("V", plan.values, v)):
            for block in range(expected.shape[0]):
                first = locate(step.slot, conditional, block, step.position)
                for head in range(expected.shape[1]):
                    region, offset = split_address(first + head * plan.head_stride)
                    raw = tb.get(region, offset, step.tokens * RECORD_BYTES)
                    got = np.frombuffer(raw, np.uint8).reshape(step.tokens, RECORD_BYTES)
                    where = f"slot {step.slot}, conditional {conditional}, head {head}"
                    _same(f"{kind} records of {where}", got, expected[block, head])


def _same(what: str, got: Any, expected: Any) -> None:
    wrong = np.argwhere(got != expected)
    assert not len(wrong), (
        f"{len(wrong)} of {got.size} {what} differ; first at {tuple(wrong[0])}: "
        f"{got[tuple(wrong[0])]:#x}, expected {expected[tuple(wrong[0])]:#x}"
    )
