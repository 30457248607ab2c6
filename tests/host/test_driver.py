# SPDX-License-Identifier: Apache-2.0
"""The driver against a device double: results, splitting, queueing, and every failure."""

from __future__ import annotations

import host_oracle
import numpy as np
import pytest
from host_cases import packed, random_layer, random_rows, tiny
from host_device import MockTransport

from lutvar.contract.registers import MAGIC, VERSION, ErrorCode
from lutvar.host import (
    Accelerator,
    BadInput,
    BusError,
    Counters,
    DeviceError,
    DeviceTimeout,
    IncompatibleDevice,
)


def _open(quant: str = "fp4", **sizes: int) -> tuple[MockTransport, Accelerator]:
    hardware, preset = tiny(quant, **sizes)
    transport = MockTransport(hardware, preset)
    device = Accelerator(transport, hardware, preset)
    device.open()
    return transport, device


@pytest.mark.parametrize("quant", ["fp4", "fp6"])
@pytest.mark.parametrize("site", ["plain", "rotate", "dual"])
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_results_and_codes(quant: str, site: str, rows: int) -> None:
    _, device = _open(quant)
    rng = np.random.default_rng(rows)
    flags = {site: True} if site != "plain" else {}
    layer = random_layer(rng, device.quant, 10, 3, **flags)
    x = random_rows(rng, rows, 3)
    linear = packed(layer, device.hardware, device.quant)

    wide = np.clip(x, -65504, 65504).astype(np.float16).astype(np.float64)
    if site == "rotate":
        wide = host_oracle.rotate(wide, device.quant.hadamard_seed)
    fmt = device.quant.dual_format if site == "dual" else device.quant.plain_format
    codes, scale, scale_neg = host_oracle.quantize(wide, fmt)
    weight = (layer.codes, layer.scales, layer.bias)
    expected = host_oracle.multiply(
        codes, scale, scale_neg, fmt, weight, device.quant.weight_format, layer.exponent
    )
    assert np.array_equal(device.run(linear, x).view(np.uint32), expected.view(np.uint32))
    dumped = device.dump_codes(linear, x)
    assert np.array_equal(dumped.codes, codes)
    assert np.array_equal(dumped.scale, scale)
    assert np.array_equal(dumped.scale_neg, scale_neg)


@pytest.mark.parametrize("rows", [15, 16, 17, 32, 33, 81])
def test_rows_beyond_the_bank_are_split_and_queued(rows: int) -> None:
    transport, device = _open(buffer_vectors=16)
    assert device.rows_per_job(2) == 16
    rng = np.random.default_rng(5)
    linear = packed(random_layer(rng, device.quant, 4, 2), device.hardware, device.quant)
    x = random_rows(rng, rows, 2)
    y = device.run(linear, x)
    jobs = -(-rows // 16)
    assert transport.log["CTRL"] == jobs
    assert transport.most_queued == min(jobs, 2)
    single = np.concatenate([device.run(linear, x[i : i + 1]) for i in range(rows)])
    assert np.array_equal(y.view(np.uint32), single.view(np.uint32))
    assert np.array_equal(
        device.dump_codes(linear, x).codes,
        np.concatenate([device.dump_codes(linear, x[i : i + 1]).codes for i in range(rows)]),
    )


@pytest.mark.parametrize(
    ("register", "word", "text"),
    [
        ("MAGIC", 0xDEADBEEF, rf"MAGIC is 0xDEADBEEF, expected 0x{MAGIC:X}.*base address"),
        ("VERSION", 0x20000, rf"VERSION is 0x20000, expected 0x{VERSION:X}.*releases"),
        ("HASH_LO", 1, "HASH_LO is 0x1, expected .*bitstream of tiny with fp4"),
        ("HASH_HI", 1, "HASH_HI is 0x1"),
        ("CAPS0", 0x04200402 + 1, r"CAPS0.token_rows is 0x3, expected 0x2"),
        ("CAPS0", 0x04200402 + (1 << 8), r"CAPS0.outputs is 0x5, expected 0x4"),
        ("CAPS0", 0x04400402, r"CAPS0.stream_bytes is 0x40, expected 0x20"),
        ("CAPS0", 0x06200402, r"CAPS0.code_bits is 0x6, expected 0x4"),
        ("CAPS1", 0x100005, r"CAPS1.max_groups is 0x5, expected 0x4"),
        ("CAPS2", 32, "CAPS2 is 0x20, expected 0x10"),
    ],
)
def test_another_device_is_refused(register: str, word: int, text: str) -> None:
    hardware, preset = tiny()
    transport = MockTransport(hardware, preset)
    transport.faults.words[register] = word
    with pytest.raises(IncompatibleDevice, match=text), Accelerator(transport, hardware, preset):
        pass
    assert not transport.log["CTRL"]


def test_bus_error_names_the_address() -> None:
    hardware, preset = tiny()
    transport = MockTransport(hardware, preset)
    transport.faults.refused.add("MAGIC")
    with pytest.raises(BusError, match=r"read .*0x040.*SLVERR") as caught:
        Accelerator(transport, hardware, preset).open()
    assert (caught.value.address, caught.value.resp) == (0x40, 2)


def test_device_error_is_decoded_and_reset_recovers() -> None:
    transport, device = _open()
    rng = np.random.default_rng(6)
    linear = packed(random_layer(rng, device.quant, 4, 1), device.hardware, device.quant)
    x = random_rows(rng, 2, 1)
    transport.faults.error = (ErrorCode.FRAME_WGT, 17)
    with pytest.raises(DeviceError, match=r"FRAME_WGT.*0x11.*soft_reset.*front_busy=") as caught:
        device.run(linear, x)
    assert caught.value.code is ErrorCode.FRAME_WGT
    assert caught.value.info == 17
    transport.faults.error = (99, 0)
    device.soft_reset()
    with pytest.raises(DeviceError, match=r"99 \(unknown"):
        device.run(linear, x)
    transport.faults.error = None
    with pytest.raises(DeviceError):  # halted until reset
        device.run(linear, x)
    device.soft_reset()
    assert device.run(linear, x).shape == (2, 4)


def test_a_hanging_device_times_out_with_its_state() -> None:
    transport, device = _open()
    rng = np.random.default_rng(7)
    linear = packed(random_layer(rng, device.quant, 4, 1), device.hardware, device.quant)
    transport.faults.hang = True
    transport.words["STATE"] = 0x100
    transport.words["BUSY"] = 12
    with pytest.raises(
        DeviceTimeout, match=r"block0.test, rows 0 to 2.*front_busy=1.*busy=12"
    ) as c:
        device.run(linear, random_rows(rng, 3, 1))
    assert transport.log["cycles waited"] == c.value.cycles
    assert c.value.snapshot.counters.busy == 12


def test_a_full_queue_times_out() -> None:
    transport, device = _open()
    rng = np.random.default_rng(8)
    linear = packed(random_layer(rng, device.quant, 4, 1), device.hardware, device.quant)
    transport.faults.words["CTRL"] = 0
    with pytest.raises(DeviceTimeout, match=r"CTRL\.ready"):
        device.run(linear, random_rows(rng, 3, 1))


def test_wrong_input_is_refused_before_anything_is_sent() -> None:
    transport, device = _open()
    rng = np.random.default_rng(9)
    linear = packed(random_layer(rng, device.quant, 4, 2), device.hardware, device.quant)
    bad = random_rows(rng, 3, 2)
    bad[2, 200] = np.nan
    with pytest.raises(BadInput, match=r"block0.test: activation \(2, 200\) is nan"):
        device.run(linear, bad)
    for shape in ((2, 255), (0, 256), (256,)):
        with pytest.raises(BadInput, match="rows of shape"):
            device.run(linear, np.zeros(shape, np.float32))
    large = packed(random_layer(rng, device.quant, 4, 5), device.hardware, device.quant)
    with pytest.raises(BadInput, match="5 groups, tiny has max_groups 4"):
        device.run(large, np.zeros((1, 640), np.float32))
    other, _ = tiny(outputs=8)
    foreign = packed(random_layer(rng, device.quant, 4, 2), other, device.quant)
    with pytest.raises(BadInput, match="pack the layer for this"):
        device.run(foreign, np.zeros((1, 256), np.float32))
    assert not transport.log["CTRL"]


def test_counters_subtract_across_a_wrap() -> None:
    early = Counters(cycles=(1 << 32) - 5, busy=(1 << 32) - 5, jobs=1)
    late = Counters(cycles=(1 << 32) + 5, busy=5, jobs=3)
    assert late.since(early) == Counters(cycles=10, busy=10, jobs=2)
    assert early + late == Counters(cycles=1 << 33, busy=1 << 32, jobs=4)
