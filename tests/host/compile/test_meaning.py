# SPDX-License-Identifier: Apache-2.0
"""Compiled programs compute what the golden transformer computes, in any order they allow."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.isa import Opcode, Region
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.compile.steps import StepShape
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.sim.interpret import Machine
from support.host.compile_cases import transformer
from support.host.interpreted import Device, step


@cache
def packed(preset: str, changes: tuple[tuple[str, int], ...] = ()) -> PackedTransformer:
    config = AcceleratorConfig(**{**load_accelerator(preset).model_dump(), **dict(changes)})
    return pack_transformer(transformer(preset), config)


PASSES = [
    [(0, 1, 0, 1), (3, 2, 0, 1)],
    [(0, 1, 1, 4), (3, 2, 1, 4), (1, 0, 0, 1)],
    [(3, 2, 5, 9), (0, 1, 5, 9), (1, 0, 1, 4)],
    [(0, 1, 14, 16), (1, 0, 5, 9)],
]


SMALLER = (("acc_depth", 128), ("act_banks", 2), ("acc_banks", 2), ("queue", 2))
TALLER = (("rows", 48), ("acc_depth", 256))
PORTS = (("weight_ports", 4), ("acc_depth", 256))
HALVES = (("rows", 48), ("weight_ports", 2), ("max_sections", 2), ("acc_depth", 256))
#: Seven row groups: sections of unequal size.
QUARTERS = (("rows", 112), ("weight_ports", 4), ("max_sections", 4), ("acc_depth", 128))


@pytest.mark.parametrize("changes", [(), SMALLER, TALLER, PORTS, HALVES, QUARTERS])
def test_programs_compute_what_the_golden_transformer_does(changes: Any) -> None:
    rng = np.random.default_rng(3)
    model = packed("small-fp4", changes)
    golden = GoldenTransformer(transformer("small-fp4"))
    devices = [Device(model, np.random.default_rng(7))]
    if ("weight_ports", 4) not in changes:  # slow
        devices.append(Device(model, None))
    for number, shapes in enumerate(PASSES):
        steps = [step(rng, *s, guidance=number * 0.25) for s in shapes]
        expected = golden.run(steps)
        for device in devices:
            for k, (a, b) in enumerate(zip(device.run(steps), expected, strict=True)):
                np.testing.assert_array_equal(a, b, err_msg=f"pass {number}, step {k}")


def test_every_way_to_cut_the_rows_computes_the_same() -> None:
    rng = np.random.default_rng(4)
    model = packed("small-fp4", HALVES)
    steps = [step(rng, 0, 1, 0, 16), step(rng, 2, 2, 0, 9)]
    expected = GoldenTransformer(transformer("small-fp4")).run(steps)
    device = Device(model, None)
    shapes = [StepShape.of(s) for s in steps]
    found = device.compiler.tilings(shapes)
    assert len(found) > 2
    for tiling, rows in found:
        device.compiler._tilings[model.layout.shape.depth, tuple(shapes)] = tiling
        for a, b in zip(device.run(steps), expected, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=str(tiling))
        assert device.compiled is not None and device.compiled.rows == rows


def test_fp6_and_unguided_steps() -> None:
    rng = np.random.default_rng(5)
    golden = GoldenTransformer(transformer("small-fp6"))
    device = Device(packed("small-fp6"), np.random.default_rng(1))
    for shapes in PASSES[:2]:
        steps = [step(rng, *s, guided=s[0] != 3) for s in shapes]
        for a, b in zip(device.run(steps), golden.run(steps), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("hidden", [(), ("shift",), ("factor", "shift"), ("factor",)])
@pytest.mark.parametrize("build", ["small-fp4", "small-fp6"])
def test_one_pass_through_fc2(build: str, hidden: tuple[str, ...]) -> None:
    """A model with one scale everywhere runs on the build that also has the dual format."""
    rng, config = np.random.default_rng(6), load_accelerator(build)
    quantized = transformer(f"{config.quant}-single", hidden=hidden)
    device = Device(pack_transformer(quantized, config), np.random.default_rng(1))
    golden = GoldenTransformer(quantized)
    for shapes in PASSES[:2]:
        steps = [step(rng, *s) for s in shapes]
        for a, b in zip(device.run(steps), golden.run(steps), strict=True):
            np.testing.assert_array_equal(a, b)
    assert device.compiled is not None
    ran = [i for i in device.compiled.program.instructions if i.opcode == Opcode.MATRIX]
    assert not any(i.operands["dual"] for i in ran)


def test_a_lost_wait_changes_the_result() -> None:
    """The comparison above can fail: without waits, some order gives something else."""
    rng = np.random.default_rng(3)
    steps = [step(rng, *s) for s in PASSES[0]]
    device = Device(packed("small-fp4"), None)
    expected = device.run(steps)
    assert device.compiled is not None
    program = device.compiled.program
    loose = dataclasses.replace(
        program,
        instructions=tuple(
            i if i.opcode == Opcode.END else dataclasses.replace(i, waits=(0,) * 5)
            for i in program.instructions
        ),
    )
    plan = device.compiled.plan
    machine = Machine(device.model.layout.config, {Region.WORK: plan.work_size,
                                                   Region.IO: plan.io_size,
                                                   Region.CACHE: plan.cache_size})  # fmt: skip
    machine.memory[Region.MODEL] = device.model.image
    raw = device.compiled.embeddings(steps).view(np.uint8).reshape(-1)
    machine.memory[Region.IO][: raw.size] = raw
    try:
        machine.run(loose, np.random.default_rng(2))
    except (AssertionError, ValueError):
        return
    first = device.compiled.logits_first
    found = device.compiled.logits(machine.memory[Region.IO][first:])
    assert any(not np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
