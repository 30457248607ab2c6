# SPDX-License-Identifier: Apache-2.0
"""What the driver says of a device's errors, in words, and its counters."""

from __future__ import annotations

import pytest

from lutvar.contract.isa import UNITS
from lutvar.contract.register_map import DeviceError, HeaderRule, InstructionRule, ReadRule
from lutvar.host import (
    AcceleratorError,
    BadInput,
    DeviceCounters,
    HostError,
)
from support.host.transport_double import PROGRAM, TransportDouble, placed


def explained(double: TransportDouble, error: int, info: int = 0, address: int = 0) -> str:
    """The driver's words for an error at the end of a program."""
    device = placed(double)

    def start(double: TransportDouble) -> None:
        double.registers |= {
            "ERROR": error, "ERROR_INFO": info, "ERROR_ADDRESS_LO": address & 0xFFFF_FFFF,
            "ERROR_ADDRESS_HI": address >> 32,
        }  # fmt: skip
        double.finish(10)

    double.started = start
    with pytest.raises(AcceleratorError) as caught:
        device.run(PROGRAM, 1000)
    assert caught.value.code == error and caught.value.snapshot.error_info == info
    starts = len(double.written("CTRL"))
    with pytest.raises(AcceleratorError):  # kept: no program starts before a soft reset
        device.run(PROGRAM, 1000)
    assert len(double.written("CTRL")) == starts
    device.soft_reset()
    double.started = lambda double: double.finish(10)
    device.run(PROGRAM, 1000)
    assert "Call soft_reset()" in str(caught.value)
    return str(caught.value)


BURST_ERRORS = [c for c in DeviceError if c.name.startswith(("READ_", "WRITE_"))]
OUTSIDE_ERRORS = [c for c in DeviceError if c.name.startswith("OUTSIDE_")]


@pytest.mark.parametrize("code", OUTSIDE_ERRORS)
def test_transfers_outside_in_words(double: TransportDouble, code: DeviceError) -> None:
    port = code.name.lower().removeprefix("outside_")
    for info, direction in enumerate(("read", "write")):
        text = explained(double, int(code), info, address=0x7_1234_5640)
        assert f"a {direction} of m_axi_{port} at 0x712345640 lies in no region" in text
        assert code.name in text and "BASE and LIMIT" in text


def test_a_wrong_last_beat_in_words(double: TransportDouble) -> None:
    text = explained(double, DeviceError.READ_KEYS, ReadRule.LAST, address=0x40)
    assert "RLAST does not end the burst of m_axi_keys at 0x40" in text and "refused" not in text


@pytest.mark.parametrize("code", BURST_ERRORS)
def test_refused_bursts_in_words(double: TransportDouble, code: DeviceError) -> None:
    direction, port = code.name.lower().split("_")
    text = explained(double, int(code), address=0x7_1234_5640)
    assert f"refused a {direction} of m_axi_{port} at 0x712345640" in text and code.name in text


def test_bad_programs_in_words(double: TransportDouble) -> None:
    for rule in HeaderRule:
        assert f"program header, {rule.name}" in explained(double, 1, int(rule))
    for number in InstructionRule:
        text = explained(double, 2, 70_000 | number << 24)
        assert f"instruction 70000 breaks rule {number.name}" in text
    assert "program header, 99" in explained(double, 1, 99)
    assert "instruction 5 breaks rule 200" in explained(double, 2, 5 | 200 << 24)


def test_other_errors_in_words(double: TransportDouble) -> None:
    text = explained(double, 3, 1 << 4 | 1 << 18)
    assert "no progress" in text and "busy_attend waits_post" in text
    for code in (9, 26, 77):
        text = explained(double, code)
        assert f"device error {code} (unknown)" in text and "does not know" in text
    assert issubclass(AcceleratorError, HostError) and issubclass(BadInput, ValueError)


def test_counters_that_wrap() -> None:
    def counters(n: int, cycles: int) -> DeviceCounters:
        many = (n,) * len(UNITS)
        ports = {"wgt": n}
        return DeviceCounters(cycles, many, many, many, n, n, ports, dict(ports))

    late, early = counters(5, 2**32 + 10), counters(2**32 - 3, 2**32 - 5)
    found = late.since(early)
    assert found.busy == found.active == (8,) * 5 and found.issue == found.wait_weights == 8
    assert found.read_beats == found.write_beats == {"wgt": 8}
    assert found.cycles == 15 and found.instructions == (5,) * 5
    assert found.traffic == 16 * 64
    assert counters(0, 0).utilisation == 0.0


def test_cycles_are_read_low_word_first(double: TransportDouble) -> None:
    double.registers |= {"CYCLES_LO": 7, "CYCLES_HI": 3}
    order: list[str] = []

    def read(name: str) -> int:
        order.append(name)
        return double.registers[name]

    assert DeviceCounters.read(read).cycles == 3 << 32 | 7
    assert order[:2] == ["CYCLES_LO", "CYCLES_HI"]  # the high word is latched by the low one
