# SPDX-License-Identifier: Apache-2.0
"""Images that the simulated accelerator decodes: every map is the golden model's in every bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.decoder_memory import source_place
from lutvar.contract.isa import INSTRUCTION_BYTES, Opcode, Region
from lutvar.contract.register_map import DeviceError
from lutvar.host import AcceleratorError
from lutvar.host.device import Device
from lutvar.host.device_decoder import DecodeReport
from lutvar.host.stopped import bases
from lutvar.host.transformer import DeviceTransformer
from lutvar.hw.accelerator.export import export
from lutvar.quant.eval.decoder import sampled
from lutvar.quant.golden.decoder import GoldenDecoder, QuantizedDecoder, decoder_for
from lutvar.sim.device import MemoryTiming, VerilatedDevice
from lutvar.sim.run.comparing import Comparison
from lutvar.sim.run.comparing_decoder import ComparingDecoder
from lutvar.sim.transport import SimulatedMemory
from support.host.decoder_cases import accelerator, latents, packed, quantized, vqvae
from support.sim.device_rig import BUILD, CONFIG, FAST, digits, image_step

pytestmark = pytest.mark.verilator


@contextmanager
def decoding(
    verilog: Path,
    config: AcceleratorConfig,
    decoder: QuantizedDecoder,
    timing: MemoryTiming = FAST,
) -> Iterator[tuple[ComparingDecoder, DeviceTransformer, VerilatedDevice]]:
    """A simulated accelerator with a decoder behind a small transformer."""
    BUILD.mkdir(parents=True, exist_ok=True)
    simulation = VerilatedDevice.from_verilog(verilog, 1 << 24, build_dir=BUILD, timing=timing)
    with simulation:
        device = Device(SimulatedMemory(simulation), config, watchdog=200_000)
        device.open()
        transformer = DeviceTransformer(device, packed(config, decoder), 2, check=True)
        assert transformer.decoder is not None
        comparing = ComparingDecoder(GoldenDecoder(decoder), transformer.decoder, Comparison())
        yield comparing, transformer, simulation
        comparison = comparing.comparison
        assert comparison.total and not comparison.mismatches, comparison.first[:3]
        assert not simulation.violations


def test_digits_one_after_the_other(verilog: Path) -> None:
    """Two of the shipped model, a pass of a transformer between them; no reset."""
    model = digits().loaded
    maps = sampled(model, 2, 5).numpy()
    reports: list[DecodeReport] = []
    with decoding(verilog, CONFIG, decoder_for(model.vqvae, CONFIG)) as (both, transformer, _):
        both.device.on_image = reports.append
        first = both.image(maps[0])
        transformer.run([image_step(np.random.default_rng(0), 0, 1, 0, 1)])
        second = both.image(maps[1])
    assert (first != second).any() and len(reports) == 2
    for report in reports:
        # The cost model's schedule and the simulation are within a sixth of each other.
        assert abs(report.cycles / report.modelled - 1) < 1 / 6
    assert both.comparison.compared["pixels"] == 2 * 64


def test_colours_shortcuts_and_a_slow_memory(verilog: Path) -> None:
    decoder = quantized(CONFIG, "graded")
    with decoding(verilog, CONFIG, decoder, MemoryTiming((25, 75), 0.1, seed=3)) as (both, _, _):
        both.image(latents(decoder, 1)[0])


def test_errors_while_decoding_are_named(verilog: Path) -> None:
    """A refused burst of each port, and a wait that never ends: step, convolution, instruction."""
    decoder = quantized(CONFIG, "straight")
    latent = latents(decoder, 1)[0]
    with decoding(verilog, CONFIG, decoder) as (both, _, simulation):
        device, made = both.device.device, both.device
        start = bases(device.register)
        conv = made.packed.decoder.layout.convolutions["decoder.conv_in"]  # type: ignore[union-attr]
        raw = made.plan.raw("x", 4, 64)
        weights = conv.parts[1].tiles[0].offset
        source = made.plan.activated(source_place(conv.conv))
        cases: list[tuple[Literal["wgt", "front", "post"], bool, int]] = [
            ("wgt", False, start[Region.MODEL] + weights),
            ("front", False, start[Region.WORK] + source.at(1, 1)),
            ("post", True, start[Region.WORK] + raw.at(2, 0)),
        ]
        for port, write, line in cases:
            simulation.inject_error(port, line, line, write=write)
            try:
                with pytest.raises(AcceleratorError) as caught:
                    made.raw_image(latent)
            finally:
                simulation.clear_error(port, write=write)
                device.soft_reset()
            text = str(caught.value)
            unit = {"wgt": "FETCH"}.get(port, port.upper())
            assert text.startswith(
                "decoder, program 1 of 20, up to decoder.conv_in, at step 3 of 44 "
                "(decoder.conv_in), instruction "
            ), text
            assert f"({unit}): device error" in text and "\n" not in text
        stage, program = made.programs[1]
        index = next(i for i, item in enumerate(stage.program.instructions)
                     if item.opcode == Opcode.MATRIX)  # fmt: skip
        bit = (index + 1) * INSTRUCTION_BYTES * 8 + 32 + 16 * 3  # its wait for POST
        word = int.from_bytes(program, "little") & ~(0xFFFF << bit) | 30_000 << bit
        made.programs[1] = stage, word.to_bytes(len(program), "little")
        device._watchdog = 3000
        device.soft_reset()
        with pytest.raises(AcceleratorError) as caught:
            both.image(latent)
        assert caught.value.code == DeviceError.WATCHDOG
        assert caught.value.where == (
            "decoder, program 2 of 20, up to decoder.mid.block_1.conv1, at step 5 of 44 "
            f"(decoder.mid.block_1.conv1), instruction {index} (MATRIX)"
        )
        made.programs[1] = stage, program
        device._watchdog = 200_000
        device.soft_reset()
        both.image(latent)


SIZES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fp6": ("small-fp6", "graded", {}),
    "two-banks": ("small-fp4", "two", {"act_banks": 2, "acc_banks": 2}),
    "three-banks": ("small-fp4", "two-rotated", {"act_banks": 3}),
    "slices": ("small-fp4", "two", {"bank_groups": 2, "max_width": 256}),
    "da": ("small-dsp-fp4", "straight", {}),
    "bands": ("small-sections-fp4", "one", {"rows": 48}),
}


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("LUTVAR_SLOW"), reason="LUTVAR_SLOW is not set")
@pytest.mark.parametrize("name", SIZES)
def test_other_accelerators(name: str, tmp_path: Path) -> None:
    preset, form, changes = SIZES[name]
    config = accelerator(preset, **changes)
    if changes:
        config = config.model_copy(update={"name": f"decode-{name}"})
    decoder = quantized(config, form, vqvae(side=8) if name == "bands" else None)
    verilog = export(config, tmp_path).verilog
    with decoding(verilog, config, decoder) as (both, _, _):
        both.image(latents(decoder, 1)[0])
