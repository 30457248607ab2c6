# SPDX-License-Identifier: Apache-2.0
"""The driver on a transport that answers as told: identity, regions, programs, errors."""

from __future__ import annotations

import numpy as np
import pytest

from lutvar.contract.isa import INSTRUCTION_BYTES, Region
from lutvar.host import (
    BadInput,
    BusError,
    Device,
    DeviceBusy,
    IncompatibleDevice,
    MissedInterrupt,
    ProgramTimeout,
)
from support.host.transport_double import CONFIG, MODEL, PROGRAM, TransportDouble, placed


def interrupt(_amount: float) -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize("register", ["MAGIC", "VERSION", "HASH_LO", "HASH_HI"])
def test_another_device_is_refused(double: TransportDouble, register: str) -> None:
    right = double.registers[register]
    double.registers[register] ^= 0x10
    with pytest.raises(IncompatibleDevice) as caught:
        Device(double, CONFIG).open()
    error = caught.value
    assert (error.register, error.expected, error.found) == (register, right, right ^ 0x10)
    assert register in str(error) and f"0x{right:X}" in str(error)
    if register.startswith("HASH"):
        assert "; no accelerator that ships has " in str(error)
    assert not double.log  # nothing was written to a stranger


def test_open_resets_and_sets_up(double: TransportDouble) -> None:
    double.reset_takes = 3
    with Device(double, CONFIG, watchdog=777) as device:
        assert double.log == [("SOFT_RESET", 1), ("WATCHDOG", 777), ("GIE", 1), ("IER", 3)]
        assert double.cycles == 3 * 64
        device.set_serial(True)
        device.set_serial(False)
    assert double.written("MODE") == [1, 0]
    assert double.log[-1] == ("GIE", 0)


def test_leaving_ends_what_runs(double: TransportDouble) -> None:
    """Ctrl-C in the middle of a program: the next user finds an idle device."""
    double.started = lambda _double: None
    with pytest.raises(KeyboardInterrupt), Device(double, CONFIG) as device:
        device.place(MODEL, 100, 4096, 8192)
        double.wait = interrupt  # type: ignore[assignment]
        device.run(PROGRAM, 1000)
    assert double.log[-5:] == [
        ("CTRL", 1), ("SOFT_RESET", 1), ("GIE", 1), ("IER", 3), ("GIE", 0),
    ]  # fmt: skip
    assert not double.running


def test_leaving_a_device_that_is_gone(double: TransportDouble) -> None:
    def gone(_offset: int) -> int:
        raise BusError("read", 0, None)

    with Device(double, CONFIG):
        double.read32 = gone  # type: ignore[assignment]


def test_a_start_arms_the_interrupt_first(double: TransportDouble) -> None:
    device = placed(double)

    def start(double: TransportDouble) -> None:
        assert double.armed == 1
        double.finish(100)

    double.started = start
    device.run(PROGRAM, 1000)
    assert double.armed == 1


def test_time_in_seconds(double: TransportDouble) -> None:
    """A board's clock: deadlines come from the transport, and errors say seconds."""
    double.clock, now = "seconds", 0.0
    waits: list[float] = []

    def wait(amount: float) -> bool:
        nonlocal now
        waits.append(amount)
        now += amount
        return False

    double.now = lambda: now  # type: ignore[method-assign]
    double.wait = wait  # type: ignore[method-assign]
    double.deadline = lambda cycles: max(1.0, cycles / 2e8)  # type: ignore[method-assign]
    device = placed(double)
    double.started = lambda _double: None
    with pytest.raises(
        ProgramTimeout, match=r"not finished after 2\.5 s; the device still"
    ) as late:
        device.run(PROGRAM, 500_000_000)
    assert (late.value.seconds, late.value.cycles) == (2.5, 500_000_000)
    assert 2.5 <= now < 2.7 and max(waits) == 0.1
    device.soft_reset()
    now = 0.0

    def finished(double: TransportDouble) -> None:
        double.running, double.done = False, True

    double.started = finished
    with pytest.warns(MissedInterrupt):
        device.run(PROGRAM, 500_000_000)
    assert device.missed_interrupts == 1 and now < 0.2


def test_the_default_watchdog_is_kept(double: TransportDouble) -> None:
    Device(double, CONFIG).open()
    assert not double.written("WATCHDOG")


def test_a_reset_that_never_ends(double: TransportDouble) -> None:
    double.reset_takes = 1 << 60
    with pytest.raises(ProgramTimeout, match="soft reset not finished after 1000 cycles") as caught:
        Device(double, CONFIG, grace=1000).open()
    assert "resetting" in str(caught.value) and caught.value.cycles == 1000
    assert 1000 <= double.cycles <= 1128


def test_place_divides_the_memory(double: TransportDouble) -> None:
    device = placed(double)
    starts = {Region.MODEL: 0, Region.WORK: 8192, Region.IO: 12288, Region.CACHE: 16384}
    for region, start in starts.items():
        low, high = (double.registers[f"BASE{int(region)}_{half}"] for half in ("LO", "HI"))
        assert low | high << 32 == double.base + start
    np.testing.assert_array_equal(device.read(Region.MODEL, 0, 5000), MODEL)
    device.write(Region.IO, 4092, np.array([1.5], np.float32).view(np.uint8))
    assert device.read_float32(Region.IO, 4092, 1)[0] == 1.5
    assert double.memory[12288 + 4092 : 16384].any()


def test_a_memory_that_is_too_small() -> None:
    # Two pages, one each, and one for the program: five pages and not a byte less.
    for size, fits in ((6 * 4096, True), (6 * 4096 - 1, False)):
        device = Device(TransportDouble(CONFIG, size=size), CONFIG)
        if fits:
            device.place(MODEL, 1, 1, 4096)
            continue
        with pytest.raises(BadInput, match=r"20,480 bytes are needed \(MODEL 5,000, .*24,575"):
            device.place(MODEL, 1, 1, 4096)
        assert not device.transport.log  # type: ignore[attr-defined]


def test_access_outside_a_region(double: TransportDouble) -> None:
    with pytest.raises(BadInput, match="call place"):
        Device(double, CONFIG).read(Region.WORK, 0, 1)
    device = placed(double)
    device.read(Region.WORK, 100, 0)
    for offset, count in ((-1, 4), (97, 4), (100, 1), (1 << 40, 1)):
        with pytest.raises(BadInput, match="of region WORK, which has 100"):
            device.read(Region.WORK, offset, count)
        with pytest.raises(BadInput, match="of region WORK, which has 100"):
            device.write(Region.WORK, offset, np.zeros(count, np.uint8))


def test_a_program(double: TransportDouble) -> None:
    device = placed(double)

    def start(double: TransportDouble) -> None:
        double.registers |= {"CYCLES_LO": 90, "MATRIX_ISSUE": 45, "INSTRUCTIONS_POST": 7,
                             "READ_BEATS_WGT": 12, "WRITE_BEATS_POST": 3}  # fmt: skip
        double.finish(100)

    double.started = start
    counters = device.run(PROGRAM, 1000)
    at = double.registers["PROGRAM_LO"] | double.registers["PROGRAM_HI"] << 32
    assert at - double.base == 24576
    assert double.memory[24576 : 24576 + len(PROGRAM)].tobytes() == PROGRAM
    assert (counters.cycles, counters.utilisation, counters.traffic) == (90, 0.5, 15 * 64)
    assert counters.instructions == (0, 0, 0, 7, 0)
    assert double.cycles == 100
    # Start comes last, after the interrupt is cleared.
    names = [name for name, _ in double.log]
    assert names[-5:] == ["PROGRAM_LO", "PROGRAM_HI", "ISR", "CTRL", "ISR"]
    assert device.run(PROGRAM, 1000).cycles == 0  # only what this program took


def test_programs_that_are_none(double: TransportDouble) -> None:
    with pytest.raises(BadInput, match="call place"):
        Device(double, CONFIG).run(PROGRAM, 10)
    device = placed(double)
    for size in (0, INSTRUCTION_BYTES, 3 * INSTRUCTION_BYTES - 1):
        with pytest.raises(BadInput, match=f"a program of {size} bytes"):
            device.run(bytes(size), 10)
    assert not double.written("CTRL")


def test_a_deadline(double: TransportDouble) -> None:
    device = placed(double)
    double.registers |= {"STATE": 1 << 2 | 1 << 18, "PORTS": 1, "INSTRUCTIONS_MATRIX": 5}
    double.started = lambda double: double.finish(5_000_001)
    with pytest.raises(ProgramTimeout) as caught:
        device.run(PROGRAM, 5_000_000, "the pass")
    text = str(caught.value)
    assert text.startswith(
        "the pass not finished after 5000000 cycles; the device still runs it. Call soft_reset()"
    )
    for part in ("busy_matrix", "waits_post", "prog_arvalid", "MATRIX 5"):
        assert part in text
    assert double.cycles == 5_000_000 and max(double.waits) <= 1 << 20
    # The old program still runs: a new one would not start, and the old one's end prove nothing.
    starts = len(double.written("CTRL"))
    with pytest.raises(DeviceBusy, match="next cannot start while another program runs; call soft"):
        device.run(PROGRAM, 5_000_000, "next")
    assert len(double.written("CTRL")) == starts
    device.soft_reset()
    double.started = lambda double: double.finish(5_000_000)
    device.run(PROGRAM, 5_000_000)


def test_interrupts_that_come_too_early(double: TransportDouble) -> None:
    """A wake-up proves nothing: the results are read when the device says that it is done."""
    device = placed(double)
    for early in (1, 7):
        double.early, before = early, double.cycles

        def start(double: TransportDouble) -> None:
            double.registers["MATRIX_ISSUE"] = 0
            double.finish(3000)

        double.started = start
        device.run(PROGRAM, 5000)
        assert double.cycles - before == 3000 and not double.early


@pytest.mark.parametrize("length", [300, 2_500_000])
def test_an_interrupt_that_never_comes(double: TransportDouble, length: int) -> None:
    """The program is done all the same, and the driver says so."""
    device = placed(double)
    double.connected = False
    double.started = lambda double: double.finish(length)
    with pytest.warns(MissedInterrupt, match="the pass: the device has finished, but"):
        device.run(PROGRAM, length, "the pass")
    assert double.cycles < length + (1 << 20) + 200
    double.started = lambda double: double.finish(length + 1)
    with pytest.raises(ProgramTimeout, match=r"not finished after .*; the device still runs it"):
        device.run(PROGRAM, length)


def test_a_program_that_ends_just_after_the_wait(double: TransportDouble) -> None:
    """Between the end of a wait and the look at ISR; no warning, for the line is high by then."""
    device = placed(double)
    double.started = lambda double: double.finish((1 << 20) + 5)
    read32 = double.read32

    def slow(offset: int) -> int:
        double.cycles += 6
        return read32(offset)

    double.read32 = slow  # type: ignore[method-assign]
    device.run(PROGRAM, 5_000_000)


def test_a_start_that_was_lost(double: TransportDouble) -> None:
    device = placed(double)

    def lost(double: TransportDouble) -> None:
        double.running = False

    double.started = lost
    with pytest.raises(ProgramTimeout, match="the device is idle, it never started"):
        device.run(PROGRAM, 1000)


@pytest.mark.parametrize(("base", "fits"), [(0, True), (64, True), (32, False), (0x7004, False)])
def test_an_unaligned_memory(base: int, fits: bool) -> None:
    """The device's addresses are multiples of 64; the lower bits would be lost."""
    double = TransportDouble(CONFIG, base=base)
    device = Device(double, CONFIG)
    if fits:
        device.place(MODEL, 100, 100, 100)
        return
    with pytest.raises(BadInput, match=f"starts at 0x{base:X}, which is no multiple of 64; alloc"):
        device.place(MODEL, 100, 100, 100)
    assert not double.log and not double.memory.any()


def test_a_reset_under_a_stuck_interrupt(double: TransportDouble) -> None:
    """Waits that return at once do not use up the time that a reset may take."""
    double.early, double.reset_takes = 5000, 5010
    Device(double, CONFIG, grace=1000).open()
    assert double.cycles == 10 * 64


def test_regions_are_open_and_nothing_else(double: TransportDouble) -> None:
    """LIMITs end each region at its own size, and the last one with the program."""
    device = placed(double)

    def limits() -> list[int]:
        names = [f"LIMIT{i}" for i in range(4)]
        found = [double.registers[f"{n}_LO"] | double.registers[f"{n}_HI"] << 32 for n in names]
        return [limit - double.base for limit in found]

    assert limits() == [5056, 8192 + 128, 12288 + 4096, 16384 + 8192]
    device.run(PROGRAM, 1000)
    assert limits() == [5056, 8192 + 128, 12288 + 4096, 24576 + len(PROGRAM)]
