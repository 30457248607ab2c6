# SPDX-License-Identifier: Apache-2.0
"""The decoder's programs make the golden model's maps, in any order that their waits allow."""

from __future__ import annotations

import os
from typing import Any, cast

import numpy as np
import pytest

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.decoder import Attend, Conv, DecoderShape, Norm
from lutvar.contract.decoder_form import get_form
from lutvar.contract.isa import Opcode, PostOp, Region
from lutvar.host.compile.decoder import emit
from lutvar.host.compile.decoder.compiler import DecoderCompiler
from lutvar.host.compile.decoder.emit import Run, runs
from lutvar.host.compile.decoder.layout import DecoderLayout
from lutvar.host.compile.decoder.pack import PackedDecoder
from lutvar.host.compile.decoder.stages import stages
from lutvar.host.compile.footprint import footprint
from lutvar.host.device import Device
from lutvar.host.device_decoder import DecodeReport, DeviceDecoder
from lutvar.quant.eval.decoder import official
from lutvar.quant.golden.decoder import GoldenDecoder, QuantizedDecoder, decoder_for
from lutvar.sim.run.comparing import Comparison
from lutvar.sim.run.comparing_decoder import ComparingDecoder
from support.host.decoder_cases import accelerator, latents, packed, quantized, vqvae
from support.host.interpreted import Driver

BASE = 3 << 12


def decode(
    config: AcceleratorConfig,
    decoder: QuantizedDecoder,
    rng: Any,
    images: int = 1,
    check: bool = True,
) -> tuple[Comparison, list[DecodeReport], np.ndarray]:
    """Decode one image after the other, and compare all maps."""
    model = packed(config, decoder)
    assert model.decoder is not None
    plan = DecoderCompiler(model.decoder, BASE).plan
    driver = Driver(model, plan.work_size, plan.io_size, rng)
    reports: list[DecodeReport] = []
    device = DeviceDecoder(cast(Device, driver), model, BASE, check=check, on_image=reports.append)
    comparison = Comparison()
    comparing = ComparingDecoder(GoldenDecoder(decoder), device, comparison)
    made = [comparing.image(latent) for latent in latents(decoder, images)]
    assert (driver.machine.memory[Region.WORK][:BASE] == 0xFF).all()
    return comparison, reports, np.stack(made)


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "two-rotated": ("small-fp4", "two-rotated", {}),
    "graded": ("small-fp6", "graded", {}),
    "two-banks": ("small-fp4", "two", {"act_banks": 2, "acc_banks": 2, "queue": 2}),
    "three-banks": ("small-fp4", "graded", {"act_banks": 3, "acc_banks": 3}),
    "slices": ("small-fp4", "two", {"bank_groups": 2, "max_width": 256, "act_banks": 3}),
    "bands": ("small-fp6", "one", {"rows": 48, "weight_ports": 4}),
    "single": ("small-fp4", "weights", {"bank_groups": 2, "max_width": 256, "input_terms": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_map_is_the_golden_models(name: str) -> None:
    preset, form, changes = CASES[name]
    config = accelerator(preset, **changes)
    comparison, reports, _ = decode(config, quantized(config, form), np.random.default_rng(1))
    assert comparison.total > 60_000 and not comparison.mismatches, comparison.first[:3]
    assert set(comparison.compared) == {"maps", "pixels"}
    (report,) = reports
    assert report.programs == len(stages(vqvae_shape())) and report.modelled > 0


def vqvae_shape() -> DecoderShape:
    return quantized(accelerator(), "one").shape


def test_wide_rows_and_doubled_maps_of_many_channels() -> None:
    """160 and 320 channels: rows of 640 and more, windows of several banks."""
    config = accelerator(acc_depth=2048, bank_groups=8, max_width=1024, act_banks=3, rows=32)
    decoder = quantized(config, "straight", vqvae(ch=160, ch_mult=(1, 2)))
    comparison, _, _ = decode(config, decoder, None)
    assert not comparison.mismatches, comparison.first[:3]


def test_windows_that_run_on_into_a_line_normed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of several tiles, with the least lead of NORM that there may be."""
    monkeypatch.setattr(emit, "AHEAD", 1)
    config = accelerator()
    decoder = quantized(config, "one", vqvae(side=8))
    comparison, _, _ = decode(config, decoder, np.random.default_rng(2))
    assert not comparison.mismatches, comparison.first[:3]


def test_no_map_is_overwritten_before_it_is_copied() -> None:
    """A doubled map, and one with a shortcut, write over what their inputs are copied from.

    In every program POST reads what earlier steps wrote before later steps write over it.
    """
    config = accelerator(acc_depth=2048, max_width=512)
    layout = DecoderLayout.of(DecoderShape.official((1, 4)), get_form("one"), config, 0)
    packed = PackedDecoder(layout, (0,) * layout.sets, (1e-6,) * len(layout.norms))
    compiler, overwritten = DecoderCompiler(packed), 0
    for stage in compiler.stages:
        if not any(isinstance(step, Norm) and not step.name for step in stage.steps):
            continue
        program = compiler.compile(stage).program
        last_write: dict[int, int] = {}  # line of WORK: the step that wrote it last
        for item, note in zip(program.instructions, program.notes, strict=True):
            if item.opcode != Opcode.POST:
                continue
            touched = footprint(item, config)
            for region, lines in touched.reads:
                if region == Region.WORK and item.operands["op"] == PostOp.NORM:
                    assert max(last_write.get(n, -1) for n in lines.tolist()) < note.block
            for region, lines in touched.writes:
                if region == Region.WORK:
                    overwritten += sum(n in last_write for n in lines.tolist())
                    last_write |= dict.fromkeys(lines.tolist(), note.block)
    assert overwritten


@pytest.mark.slow
@pytest.mark.parametrize(
    "side",
    [
        4,
        pytest.param(
            16,
            marks=pytest.mark.skipif(
                not os.environ.get("LUTVAR_SLOW"), reason="LUTVAR_SLOW is not set"
            ),
        ),
    ],
)
def test_the_released_architecture_on_the_large_accelerator(side: int) -> None:
    """64 pixels to a side, or 256: some 33,000 instructions and 219 million values of maps."""
    config = accelerator("vck190-fp4")
    decoder = decoder_for(official(side, 1, 0).vqvae, config)
    comparison, reports, _ = decode(config, decoder, None, check=side < 16)
    assert not comparison.mismatches, comparison.first[:3]
    assert comparison.compared["pixels"] == 3 * (16 * side) ** 2
    assert reports[0].programs == 44


def test_one_image_after_the_other() -> None:
    """What an image leaves in memory changes nothing in the next."""
    config = accelerator()
    decoder = quantized(config, "one")
    comparison, reports, both = decode(config, decoder, None, images=2)
    assert not comparison.mismatches and len(reports) == 2
    assert (both[0] != both[1]).any()


def test_stages_begin_where_the_host_has_acted() -> None:
    shape = DecoderShape.official()
    found = stages(shape)
    steps = [step for stage in found for step in stage.steps]
    assert steps == [step for step in shape.steps if not isinstance(step, Attend)]
    named = [step for step in shape.steps if isinstance(step, Norm) and step.name]
    assert [stage.norm for stage in found if stage.norm is not None] == named
    assert len([stage for stage in found if stage.attend]) == 4
    fresh: dict[str, Conv] = {}
    for stage in found:
        if stage.norm is not None:
            assert fresh.pop(stage.norm.source).target == stage.norm.source
        for step in stage.steps:
            assert step is stage.steps[0] or not (isinstance(step, Norm) and step.name)
            if isinstance(step, Conv):
                fresh.pop(step.target, None)
        if stage.sums is not None:
            fresh[stage.sums.target] = stage.sums
    assert not fresh


def test_rows_at_equal_distances_are_one_run() -> None:
    def cut(offsets: list[int], most: int = 16) -> list[Run]:
        return list(runs([(offset,) for offset in offsets], most))

    assert cut([]) == [] and cut([5]) == [Run(0, 1, (0,))]
    assert cut([0, 64, 128]) == [Run(0, 3, (64,))]
    assert cut([0, 64, 128], 2) == [Run(0, 2, (64,)), Run(2, 1, (0,))]
    assert cut([0, 64, 640, 704]) == [Run(0, 2, (64,)), Run(2, 2, (64,))]
    assert cut([128, 64]) == [Run(0, 1, (0,)), Run(1, 1, (0,))]  # no strides below 0
    assert cut([0, 1 << 24, 1 << 25]) == [Run(i, 1, (0,)) for i in range(3)]
    both = list(runs([(0, 0), (64, 32), (128, 96)], 16))
    assert both == [Run(0, 2, (64, 32)), Run(2, 1, (0, 0))]
