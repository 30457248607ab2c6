# SPDX-License-Identifier: Apache-2.0
"""Whole images on the simulated accelerator, equal to the golden model in every bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lutvar.contract.isa import UNITS
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.var import GenerationResult
from lutvar.quant.var.passes import generate_passes
from lutvar.sim.device import MemoryTiming
from lutvar.sim.run.compare import compare_generations
from lutvar.sim.run.comparing import ComparingTransformer, Comparison
from lutvar.sim.run.demo_edits import demo_edits
from lutvar.sim.run.session import Quantized, Session, quantize
from support.sim.device_rig import Rig, digits, image_step, open_rig, random_transformer

pytestmark = pytest.mark.verilator

TOKENS, BLOCKS, HEADS, VOCAB = 30, 4, 2, 96  # of an image of the shipped model


@pytest.fixture(scope="module")
def rig(verilog: Path) -> Iterator[Rig]:
    """One accelerator for the file: its tests run one after the other without a reset."""
    with open_rig(verilog, digits().transformer) as opened:
        yield opened


def generate(quantized: Quantized, transformer: Any, labels: list[int], **more: Any) -> Any:
    info, loaded = quantized.loaded.info, quantized.loaded
    more = {"cfg": info.cfg, **more}
    return generate_passes(
        loaded.var, loaded.vqvae, transformer, labels, [1 + n for n in labels],
        top_k=info.top_k, top_p=info.top_p, **more,
    )  # fmt: skip


def both(rig: Rig, labels: list[int], **more: Any) -> GenerationResult:
    """Generate on both; compare all that they leave."""
    expected = generate(digits(), GoldenTransformer(digits().transformer), labels)
    found = generate(digits(), rig.comparing, labels, **more)
    if "cfg" not in more:
        assert compare_generations(expected, found).equal
    rig.check()
    return found


def test_an_image(rig: Rig) -> None:
    both(rig, [7])
    # Everything was compared: logits of each token, both halves' records of each token and block.
    records = 2 * BLOCKS * HEADS * TOKENS * 64
    assert rig.comparison.compared == {
        "logits": TOKENS * VOCAB, "keys": records, "values": records,
    }  # fmt: skip
    assert len(rig.reports) == 4
    for report in rig.reports:
        counters = report.counters
        assert 0 < counters.issue < counters.cycles and counters.utilisation < 1
        assert sum(counters.instructions) == report.instructions - 1
        assert all(counters.active[u] <= counters.busy[u] <= counters.cycles for u in UNITS)


def test_images_that_share_passes(rig: Rig) -> None:
    """Three images in two slots: scales mix in a pass, slots are used again."""
    both(rig, [0, 4, 9], slots=2, stagger=1)


def test_edited_images(rig: Rig) -> None:
    """In-painting, out-painting and editing with smooth sampling; the given tokens stay."""
    edited = demo_edits(digits().loaded, [3, 8, 0], [0, 1, 2])
    golden = GoldenTransformer(digits().transformer)
    how: dict[str, Any] = {"edits": edited.edits, "smooth": True, "slots": 2}
    expected = generate(digits(), golden, list(edited.labels), **how)
    found = generate(digits(), rig.comparing, list(edited.labels), **how)
    assert compare_generations(expected, found).equal
    rig.check()
    for i, edit in enumerate(edited.edits):
        for scale, tokens in enumerate(found.tokens):
            keep = edit.keep[scale]
            np.testing.assert_array_equal(tokens[i].numpy()[keep], edit.tokens[scale][keep])


def test_an_image_without_guidance(rig: Rig) -> None:
    both(rig, [2], cfg=0.0)


def test_slow_memory_and_serial_mode_give_the_same_bits(rig: Rig) -> None:
    """Latency of 100 to 300 ns at random; every channel rests in one cycle of five."""
    cycles = []
    for timing, serial in (
        (MemoryTiming((25, 75), seed=3), False),
        (MemoryTiming((25, 75), 0.2, seed=4), False),
        (MemoryTiming((0, 0), bandwidth=48), True),
    ):
        rig.simulation.set_timing(timing)
        rig.device.set_serial(serial)
        before = len(rig.reports)
        both(rig, [5])
        cycles.append(sum(r.counters.cycles for r in rig.reports[before:]))
    rig.device.set_serial(False)
    assert cycles[0] < cycles[1] and cycles[0] < cycles[2]  # the settings did something


PASSES = [
    [(0, 1, 0, 1), (1, 2, 0, 1)],
    [(1, 2, 1, 4)],
    [(0, 1, 1, 4), (1, 2, 5, 9)],
    [(0, 0, 0, 1)],
    [(1, 1, 0, 1), (0, 0, 1, 4)],
]


def test_a_wider_model(verilog: Path) -> None:
    """Four heads, 256 columns: several groups in a row, several tiles of outputs in a layer.

    Passes of different size follow each other; guided and unguided steps share a pass.
    """
    rng = np.random.default_rng(2)
    with open_rig(verilog, random_transformer(), timing=MemoryTiming((2, 40), 0.05)) as rig:
        layout = rig.transformer.packed.layout
        tiles = [len(layout.layer(0, s).tiles) for s in ("qkv", "proj", "fc1", "fc2")]
        assert tiles == [2, 1, 2, 1]
        for number, shapes in enumerate(PASSES):
            rig.comparing.run(
                [image_step(rng, *s, guidance=number / 128, guided=s[0] == 0) for s in shapes]
            )
        rig.check()
        assert rig.comparison.passes == len(PASSES)


@pytest.mark.skipif(not os.environ.get("LUTVAR_SLOW"), reason="LUTVAR_SLOW is not set")
@pytest.mark.parametrize("config", ["small-fp6", "small-da-fp4", "small-dsp-fp4"])
def test_an_image_on_another_accelerator(config: str, tmp_path: Path) -> None:
    quantized, comparison = quantize("digits", config), Comparison()
    golden = GoldenTransformer(quantized.transformer)
    with Session(quantized, tmp_path, build_dir="build/sim") as session:
        device = ComparingTransformer(golden, session.transformer, comparison)
        found = generate(quantized, device, [3])
        assert not session.simulation.violations
    expected = generate(quantized, GoldenTransformer(quantized.transformer), [3])
    assert comparison.total and not comparison.mismatches, comparison.first[:3]
    assert compare_generations(expected, found).equal
