# SPDX-License-Identifier: Apache-2.0
"""What the driver must do on real gateware, whatever the transport: under ctypes and cocotb.

Each scenario takes a `Rig`, blocks, and asserts. The answers come from the tests' own oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import host_oracle
import numpy as np
import pytest
from host_cases import Layer, packed, random_layer, random_rows

from lutvar.contract.config import HardwareConfig, QuantConfig
from lutvar.contract.registers import BY_NAME, ErrorCode
from lutvar.host import (
    Accelerator,
    BusError,
    DeviceError,
    DeviceTimeout,
    IncompatibleDevice,
    Stream,
    Transport,
)

#: Stops a stream for good.
BLOCKED = 1 - 2**-30


@dataclass(frozen=True)
class Rig:
    """A device to drive: its transport, its configuration, and how to slow a stream down."""

    transport: Transport
    hardware: HardwareConfig
    quant: QuantConfig
    pauses: Callable[[Stream, float], None]

    def open(self, **options: int) -> Accelerator:
        device = Accelerator(self.transport, self.hardware, self.quant, **options)
        device.open()
        return device

    def pause_all(self, probability: float) -> None:
        for stream in Stream:
            self.pauses(stream, probability)


def expected(layer: Layer, x: np.ndarray, quant: QuantConfig) -> tuple[np.ndarray, ...]:
    """Codes, scale, negative scale and results by the oracle."""
    wide = np.clip(x, -65504, 65504).astype(np.float16).astype(np.float64)
    if layer.rotate:
        wide = host_oracle.rotate(wide, quant.hadamard_seed)
    fmt = quant.dual_format if layer.dual else quant.plain_format
    assert fmt is not None
    codes = host_oracle.quantize(wide, fmt)
    weight = (layer.codes, layer.scales, layer.bias)
    y = host_oracle.multiply(*codes, fmt, weight, quant.weight_format, layer.exponent)
    return *codes, y


def check(device: Accelerator, layer: Layer, x: np.ndarray) -> None:
    """Run and dump one layer, and compare every bit."""
    linear = packed(layer, device.hardware, device.quant)
    codes, scale, scale_neg, y = expected(layer, x, device.quant)
    assert np.array_equal(device.run(linear, x).view(np.uint32), y.view(np.uint32))
    dumped = device.dump_codes(linear, x)
    assert np.array_equal(dumped.codes, codes)
    assert np.array_equal(dumped.scale, scale)
    if layer.dual:
        assert np.array_equal(dumped.scale_neg, scale_neg)


def layers_of_every_kind(rig: Rig) -> None:
    """Plain, rotated and dual layers, sizes that need padding, with and without pauses."""
    rng = np.random.default_rng(1)
    device = rig.open()
    n, t = rig.hardware.outputs, rig.hardware.token_rows
    for pause in (0.0, 0.4):
        rig.pause_all(pause)
        for rows, outputs, groups, flags in (
            (1, 1, 1, {}),
            (2 * t + 1, 2 * n + 1, 2, {"rotate": True}),
            (5, n, 3, {"dual": True}),
            (18 * t, 2 * n, 1, {}),
        ):
            layer = random_layer(rng, rig.quant, outputs, groups, **flags)
            check(device, layer, random_rows(rng, rows, groups))
    rig.pause_all(0.0)


def rows_split_over_queued_jobs(rig: Rig) -> None:
    """More rows than a bank holds: several jobs, the next one queued while one runs."""
    rng = np.random.default_rng(2)
    device = rig.open()
    limit = device.rows_per_job(2)
    layer = random_layer(rng, rig.quant, rig.hardware.outputs + 1, 2, dual=True)
    x = random_rows(rng, 3 * limit + 1, 2)
    linear = packed(layer, rig.hardware, rig.quant)
    before = device.counters()
    y = device.run(linear, x)
    used = device.counters().since(before)
    assert np.array_equal(y.view(np.uint32), expected(layer, x, rig.quant)[3].view(np.uint32))
    assert used.jobs == 4
    t, size = rig.hardware.token_rows, rig.hardware.stream_bytes
    rows = -(-len(x) // t) * t
    assert used.beats_act == device.layout.act_beats(rows, 2)
    assert used.beats_wgt * size == 4 * linear.stream.nbytes
    assert used.beats_out == device.layout.out_beats(rows, 2, 2)
    # Every (row vector, group, pass, tile) is one issue.
    assert used.busy == rows // t * 2 * 2 * 2
    assert used.cycles >= used.busy + used.stall_act + used.stall_wgt + used.stall_gap


def errors_and_recovery(rig: Rig) -> None:
    """A refused argument, a blocked stream, a wrong identity: named, then all works again."""
    rng = np.random.default_rng(3)
    device = rig.open(watchdog=3000)
    layer = random_layer(rng, rig.quant, rig.hardware.outputs, 1)
    x = random_rows(rng, 3, 1)
    linear = packed(layer, rig.hardware, rig.quant)
    wrong = replace(linear, args=replace(linear.args, scale_exp=99))
    with pytest.raises(DeviceError, match="BAD_ARGUMENT") as refused:
        device.run(wrong, x)
    assert refused.value.info == BY_NAME["SCALE_EXP"].offset
    with pytest.raises(DeviceError):  # halted until reset
        device.run(linear, x)
    device.soft_reset()
    assert device.counters().jobs == 0
    check(device, layer, x)

    rig.pauses(Stream.WGT, BLOCKED)
    with pytest.raises(DeviceError, match="STALL") as stalled:
        device.run(linear, x)
    assert stalled.value.code is ErrorCode.STALL
    rig.pauses(Stream.WGT, 0.0)
    device.soft_reset()
    check(device, layer, x)

    impatient = rig.open(watchdog=0, patience=1, grace=2000)
    rig.pauses(Stream.OUT, BLOCKED)
    with pytest.raises(DeviceTimeout, match=r"out_valid=1 out_ready=0") as late:
        impatient.run(linear, x)
    assert late.value.snapshot.counters.beats_out == 0
    rig.pauses(Stream.OUT, 0.0)
    device = rig.open()
    check(device, layer, x)

    with pytest.raises(BusError, match="SLVERR"):
        rig.transport.read32(0x800)
    other = rig.hardware.model_copy(update={"max_groups": 9})
    with pytest.raises(IncompatibleDevice, match=r"CAPS1\.max_groups is 0x3, expected 0x9"):
        Accelerator(rig.transport, other, rig.quant).open()
    ties = rig.quant.model_copy(update={"ties": "up"})
    with pytest.raises(IncompatibleDevice, match="HASH_LO"):
        Accelerator(rig.transport, rig.hardware, ties).open()
    check(device, layer, x)


SCENARIOS = (layers_of_every_kind, rows_split_over_queued_jobs, errors_and_recovery)
