# SPDX-License-Identifier: Apache-2.0
"""The self-test finds what it is for: each fault in its own check, and none on a sound device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import Instruction, Opcode, Region
from lutvar.contract.register_map import BY_NAME
from lutvar.host import IncompatibleDevice
from lutvar.host.board.memory_map import BANKS, parts, probes
from lutvar.host.board.selftest import SelfTest, identify
from lutvar.host.board.selftest_memory import row_at, words_at
from lutvar.host.errors import HostError, UnknownAccelerator
from lutvar.host.transport import Bytes
from lutvar.sim.golden_device import GoldenDevice
from lutvar.sim.interpret import Machine
from support.board.faulty_device import CONFIG, SIZE, Faulty, failures, recorded
from support.sim.device_rig import packed, random_transformer


def test_a_sound_device_passes() -> None:
    verdict = SelfTest(Faulty(), CONFIG, references=recorded()).run(2)
    assert verdict.passed and len(verdict.outcomes) == 10
    # The references have one round: the verdict says what nobody has compared.
    assert verdict.not_checked == [
        "an image: no packed model was given", "every byte of memory: sampled only",
        "units beyond what the references hold",
    ]  # fmt: skip
    assert verdict.memory == [{"bank": "LPDDR4 controller 0", "first": 0, "size": SIZE}]
    assert SelfTest(Faulty(), CONFIG, full=True).run(1).passed


def test_what_was_left_out_is_told() -> None:
    verdict = SelfTest(Faulty(), CONFIG, references=recorded()).run(1, only=("units", "image"))
    assert [o.check for o in verdict.outcomes] == ["units"] and verdict.passed
    assert verdict.not_checked == [
        "an image: no packed model was given", "every byte of memory: sampled only",
        "registers: left out", "interrupt: left out", "memory, host: left out",
        "memory, device: left out",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("SCRATCH", lambda value: value | 1 << 5, "SCRATCH reads"),
        ("BASE1_HI", lambda value: value & 0xFFFF, "BASE1_HI reads"),
        ("CTRL", lambda value: value & ~8, ""),
        ("ISR", lambda value: value | 2, "ISR reads 0x00000002, right is 0x00000000"),
    ],
)
def test_registers(name: str, change: Callable[[int], int], said: str) -> None:
    device = Faulty()
    device.read_fault = lambda n, value: change(value) if n == name else value
    found = failures(device)
    if name == "CTRL":  # never ready: it does not even open
        assert set(found) == {"open"} and "soft reset not finished" in found["open"]
    else:
        assert said in found["registers"]


def test_two_registers_that_are_one() -> None:
    device = Faulty()
    write32 = device.write32
    same = {BY_NAME["LIMIT0_LO"].offset: BY_NAME["LIMIT1_LO"].offset}

    def both(offset: int, value: int) -> None:
        write32(offset, value)
        if offset in same:
            write32(same[offset], value)
        elif offset in same.values():
            write32(next(iter(same)), value)

    device.write32 = both  # type: ignore[method-assign]
    assert "LIMIT0_LO reads" in failures(device)["registers"]


def test_an_address_bit_that_goes_nowhere() -> None:
    for bit in (12, 15, 19):
        device = Faulty()
        device.memory_fault = partial(int.__and__, ~(1 << bit))
        assert "written and read by the host" in failures(device)["memory, host"]


def test_one_bad_byte_is_found_when_every_byte_is_tested() -> None:
    device, bad = Faulty(), 0x3_4567
    read = device.read

    def worn(offset: int, count: int) -> Bytes:
        data = read(offset, count)
        if offset <= bad < offset + count:
            data[bad - offset] |= 0x10
            data[bad - offset] &= 0xFE
        return data

    device.read = worn  # type: ignore[method-assign]
    found = failures(device, rounds=4, full=True)
    assert f"the first word at 0x{device.base + (bad & ~3):X}" in found["memory, host"]


def test_writes_that_stay_in_the_cache() -> None:
    """The host reads back what it wrote, so only the device can tell."""
    device = Faulty()
    device.cached = range(SIZE // 2, SIZE * 3 // 4)
    found = failures(device)
    assert set(found) == {"memory, device"} and "from host to device" in found["memory, device"]


def test_an_interrupt_that_is_not_connected() -> None:
    device = Faulty()
    device.deaf = True
    assert "no interrupt came" in failures(device)["interrupt"]


def test_results_that_depend_on_what_overlaps() -> None:
    device = Faulty()

    def fault(item: Instruction, machine: Machine) -> None:
        if item.opcode is Opcode.ATTEND and not device._stored["MODE"]:
            machine.memory[Region.CACHE][5] ^= 1

    device.step_fault = fault
    found = failures(device)
    assert set(found) == {"units"}
    assert "cache: not what it is one instruction at a time" in found["units"]


def test_results_that_are_always_wrong() -> None:
    """Only a reference can tell."""

    def fault(item: Instruction, machine: Machine) -> None:
        if item.opcode is Opcode.ATTEND:
            machine.memory[Region.WORK][7] ^= 4

    device = Faulty()
    device.step_fault = fault
    assert not failures(device)
    found = failures(device, references=recorded())
    assert set(found) == {"units"} and "units/0/queries: not what the golden" in found["units"]


def test_an_image() -> None:
    model = packed(random_transformer())
    references = recorded(packed=model)
    assert {name for name in references.results if name.startswith("image")} == {
        "image/0", "image/1", "image/2"
    }  # fmt: skip
    device = Faulty(1 << 23)
    assert not failures(device, packed=model, references=references)
    passes = []

    def fault(item: Instruction, machine: Machine) -> None:
        if item.opcode is Opcode.ATTEND and item.operands["keys"] > 5:
            passes.append(item)
            machine.memory[Region.CACHE][64] ^= 1

    device.step_fault = fault
    found = failures(device, packed=model, references=references)
    assert passes and "image/2" in found["image"]


def test_a_result_that_changes_from_round_to_round() -> None:
    model, device, rounds = packed(random_transformer()), Faulty(1 << 23), [0]

    def fault(item: Instruction, machine: Machine) -> None:
        if item.opcode is Opcode.ATTEND and item.operands["keys"] > 5:
            rounds[0] += 1
            machine.memory[Region.CACHE][64] ^= int(rounds[0] > 4)

    device.step_fault = fault
    found = failures(device, rounds=2, packed=model)
    assert "another result than in an earlier round" in found["image"]


def test_a_device_says_what_it_is() -> None:
    assert identify(GoldenDevice(load_accelerator("medium-fp4"), size=64)).name == "medium-fp4"
    other = f"no accelerator that ships has the device's hash {accelerator_hash(CONFIG) ^ 1:016x}; "
    errors: list[tuple[str, type[HostError], str]] = [
        ("HASH_LO", UnknownAccelerator, f"^{other}name the file of its configuration"),
        ("MAGIC", IncompatibleDevice, "this is no lutvar"),
    ]
    for name, error, said in errors:
        device = Faulty()

        def fault(register: str, value: int, wrong: str = name) -> int:
            return value ^ (register == wrong)

        device.read_fault = fault
        with pytest.raises(error, match=said):
            identify(device)


def test_banks_and_places() -> None:
    assert [p.bank for p in parts(0x7000_0000, 0x2000_0000)] == ["DDR4, low", "other memory"]
    assert [(p.bank, p.size) for p in parts(0x600_FFFF_0000, 0x2_0000)] == [
        ("LPDDR4 controller 1", 0x1_0000), ("other memory", 0x1_0000)
    ]  # fmt: skip
    for _, first, size in BANKS:
        assert len(parts(first, size)) == 1
    part = parts(0x500_0000_0000, 1 << 32)[0]
    places = probes(part, 512)
    assert places[0] == 0 and places[-1] == (1 << 32) - 512
    assert {1 << bit for bit in range(9, 32)} <= set(places)
    gaps = np.diff(places)
    assert gaps.min() >= 512
    rows = [row_at(part.first + at, 1).tobytes() for at in places]
    assert len(set(rows)) == len(rows) and rows[0] != row_at(0, 2).tobytes()
    assert len(np.unique(words_at(0x500_0000_0000, 1 << 16, 3))) > 65000
    assert not probes(parts(0, 256)[0], 512)
