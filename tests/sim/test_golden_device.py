# SPDX-License-Identifier: Apache-2.0
"""The golden device: registers as documented, programs as the simulated gateware runs them."""

from __future__ import annotations

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import (
    PAYLOAD_FIELDS,
    UNITS,
    Instruction,
    Opcode,
    Region,
)
from lutvar.contract.register_map import (
    BY_NAME,
    REGISTERS,
    DeviceError,
    HeaderRule,
)
from lutvar.contract.register_types import Access
from lutvar.host import AcceleratorError, BadInput, BusError, Device, ProgramTimeout
from lutvar.host.compile.program import Program, accelerator_hash
from lutvar.hw.accelerator.words import constants as built_constants
from lutvar.hw.axi.register_file import writable_bits
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.sim.golden_device import GoldenDevice
from lutvar.sim.golden_registers import constants
from lutvar.yaml_files import shipped
from support.sim.device_rig import image_step, packed, random_transformer, same

CONFIG = load_accelerator("small-fp4")
END = Program((Instruction(Opcode.END),), accelerator_hash(CONFIG)).encode()


def ready() -> GoldenDevice:
    device = GoldenDevice(CONFIG, base=0, size=1 << 20)
    device.wait(2000)
    return device


def read(device: GoldenDevice, name: str) -> int:
    return device.read32(BY_NAME[name].offset)


def write(device: GoldenDevice, name: str, value: int) -> None:
    device.write32(BY_NAME[name].offset, value)


@pytest.mark.parametrize("name", shipped("accelerator"))
def test_identity_is_the_gatewares(name: str) -> None:
    config = load_accelerator(name)
    assert constants(config) == built_constants(config)
    device = GoldenDevice(config, size=1 << 12)
    assert {n: read(device, n) for n in constants(config)} == constants(config)


def test_every_register_after_power_up() -> None:
    device, fixed = ready(), constants(CONFIG)
    live = {"CTRL": 0b1100, "STATE": BY_NAME["STATE"].fields and read(device, "STATE")}
    for register in REGISTERS:
        expected = live.get(register.name, fixed.get(register.name, register.reset))
        assert read(device, register.name) == expected, register.name
    fields = BY_NAME["STATE"].field_value
    state = read(device, "STATE")
    assert fields(state, "quiet") and not fields(state, "settling")
    assert all(fields(state, f"empty_{u.name.lower()}") for u in UNITS)
    assert not state & ~sum(
        1 << f.low for f in BY_NAME["STATE"].fields if f.name.startswith(("empty_", "quiet"))
    )


def test_it_settles_after_power_up() -> None:
    device = GoldenDevice(CONFIG, size=1 << 12)
    assert not read(device, "CTRL") >> 3 and read(device, "STATE") >> 30 & 1
    assert not device.wait(1100)
    assert read(device, "CTRL") == 0b1100


def test_writes() -> None:
    """Each register keeps what the gateware keeps of a write, and no write reaches another."""
    device = ready()
    stored = [r for r in REGISTERS if r.access is Access.RW and r.name != "CTRL"]
    values = {r.name: (r.offset * 0x9E3779B1 + 1) & 0xFFFF_FFFF for r in stored}
    for name, value in values.items():
        write(device, name, value)
    for register in stored:
        expected = values[register.name] & writable_bits(register)
        assert read(device, register.name) == expected, register.name
    for register in REGISTERS:
        if register.access is Access.RO:
            with pytest.raises(BusError, match="SLVERR"):
                device.write32(register.offset, 1)
    assert read(device, "SOFT_RESET") == 0  # write only


@pytest.mark.parametrize("offset", [0x01, 0x5C, 0x128, 0xFFC, 0x1000])
def test_there_is_no_such_register(offset: int) -> None:
    device = ready()
    with pytest.raises(BusError, match="SLVERR"):
        device.read32(offset)
    with pytest.raises(BusError, match="SLVERR"):
        device.write32(offset, 0)


def test_memory_has_an_end() -> None:
    device = GoldenDevice(CONFIG, base=64, size=4096)
    device.write(4090, np.arange(6, dtype=np.uint8))
    assert device.read(4094, 2).tolist() == [4, 5]
    for offset, count in ((-1, 1), (4096, 1), (0, 4097)):
        with pytest.raises(BadInput, match="outside the device's memory of 4096 bytes"):
            device.read(offset, count)


def started(device: GoldenDevice, program: bytes, at: int = 0) -> None:
    device.write(at, np.frombuffer(program, np.uint8))
    for region in Region:
        write(device, f"LIMIT{int(region)}_LO", 1 << 20)
    write(device, "PROGRAM_LO", at)
    write(device, "CTRL", 1)


def test_control_and_interrupt() -> None:
    """CTRL, ISR, IER, GIE and the counters over programs of END alone."""
    device = ready()
    started(device, END)
    assert read(device, "CTRL") == 0, "neither idle nor ready nor done while it runs"
    write(device, "CTRL", 1)  # ignored
    assert not device.wait(200)  # no interrupt is enabled
    assert read(device, "ISR") == 1
    assert read(device, "CTRL") == 0b1110
    assert read(device, "CTRL") == 0b1100, "reading clears done"
    assert read(device, "PROGRAMS") == 1
    write(device, "ISR", 2)
    assert read(device, "ISR") == 1, "writing 0 clears nothing"
    for gie, ier in ((1, 2), (0, 1), (0, 3)):
        write(device, "GIE", gie)
        write(device, "IER", ier)
        assert not device.wait(10)
    write(device, "GIE", 1)
    assert device.wait(10)
    write(device, "ISR", 1)
    assert not device.wait(10)
    cycles = read(device, "CYCLES_LO")
    assert 0 < cycles == read(device, "CYCLES_LO")
    write(device, "CTRL", 1)
    assert device.wait(10_000) and read(device, "PROGRAMS") == 2
    assert read(device, "CYCLES_LO") > cycles


def test_a_wait_ends_with_the_program() -> None:
    device = ready()
    write(device, "GIE", 1)
    write(device, "IER", 1)
    before = device.now()
    started(device, END)
    assert device.wait(1_000_000)
    assert device.now() - before < 500
    assert not GoldenDevice(CONFIG, size=64).wait(7)


def test_soft_reset_clears_what_it_should() -> None:
    device = ready()
    write(device, "SCRATCH", 5)
    started(device, bytes(64))
    device.wait(200)
    assert read(device, "ERROR") == DeviceError.BAD_HEADER
    assert read(device, "ERROR_INFO") == HeaderRule.MAGIC
    assert read(device, "ISR") == 2 and read(device, "CTRL") == 0
    device.write(0, np.frombuffer(END, np.uint8))
    write(device, "CTRL", 1)  # ignored: an error is kept
    assert read(device, "CTRL") == 0
    write(device, "SOFT_RESET", 1)
    assert read(device, "STATE") >> 28 & 1
    device.wait(100)
    for name in ("ERROR", "ERROR_INFO", "ISR", "PROGRAMS", "READ_BEATS_PROG", "CYCLES_LO"):
        assert read(device, name) == 0, name
    assert read(device, "CTRL") == 0b1100 and read(device, "SCRATCH") == 5
    write(device, "CTRL", 1)
    device.wait(200)
    assert read(device, "PROGRAMS") == 1
    write(device, "SOFT_RESET", 2)
    device.wait(100)
    assert not read(device, "CTRL") >> 3 & 1 and read(device, "STATE") >> 30 & 1


def test_a_program_that_waits_for_ever() -> None:
    """WATCHDOG ends it; switched off, the driver's deadline does."""
    front = dict.fromkeys((f.name for f in PAYLOAD_FIELDS[Opcode.FRONT]), 0)
    front |= {"rows": 1, "groups": 1, "stride": 256}
    items = (Instruction(Opcode.FRONT, front, (0, 0, 0, 1, 0)), Instruction(Opcode.END))
    program = Program(items, accelerator_hash(CONFIG)).encode()
    for watchdog in (5000, 0):
        with Device(GoldenDevice(CONFIG, size=1 << 20), CONFIG, watchdog=watchdog) as device:
            device.place(np.zeros(4096, np.uint8), 4096, 4096, 4096)
            if watchdog:
                with pytest.raises(AcceleratorError, match="WATCHDOG"):
                    device.run(program, 100_000)
            else:
                with pytest.raises(ProgramTimeout, match="still runs"):
                    device.run(program, 100_000)
            device.soft_reset()
            device.run(END, 1000)


def test_passes_are_the_golden_models() -> None:
    """The driver over a random transformer: logits and caches of three scales and two images."""
    from lutvar.host.transformer import DeviceTransformer

    model, rng = random_transformer(), np.random.default_rng(5)
    golden = GoldenTransformer(model)
    with Device(GoldenDevice(CONFIG, size=1 << 24), CONFIG) as device:
        transformer = DeviceTransformer(device, packed(model), 2)
        position = 0
        for tokens in (1, 4, 9):
            steps = [image_step(rng, s, s, position, tokens) for s in range(2)]
            assert same(transformer.run(steps), golden.run(steps))
            position += tokens
