# SPDX-License-Identifier: Apache-2.0
"""The self-test finds what it is for: each fault in its own check, and none on a sound device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lutvar.cli.errors import EXTRAS, FAILED, OK
from lutvar.cli.main import run
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import Instruction, Opcode, Region
from lutvar.contract.register_map import BY_NAME
from lutvar.host import BadInput, IncompatibleDevice
from lutvar.host.board.memory_map import BANKS, parts, probes
from lutvar.host.board.references import References
from lutvar.host.board.selftest import SelfTest, identify
from lutvar.host.board.selftest_memory import row_at, words_at
from lutvar.host.transport import Bytes
from lutvar.sim.device import MemoryTiming, VerilatedDevice
from lutvar.sim.golden_device import GoldenDevice
from lutvar.sim.interpret import Machine
from lutvar.sim.transport import SimulatedMemory
from support.sim.device_rig import BUILD, exported, packed, random_transformer

CONFIG = load_accelerator("small-fp4")
#: A process in which modules of the extras cannot be imported.
BLOCK = (
    "import sys\n"
    "for name in {names!r}: sys.modules[name] = None\n"
    "from lutvar.cli.main import main\n"
    "main()"
)
SIZE = 1 << 20


class Faulty(GoldenDevice):
    """A golden device with a fault.

    Attributes:
        read_fault: of a register's name and value, what is read.
        memory_fault: of an offset, where the host's access goes.
        cached: what the host writes to these offsets stays in its cache.
        deaf: the interrupt is not connected.
        step_fault: called after each instruction.
    """

    def __init__(self, size: int = SIZE) -> None:
        super().__init__(CONFIG, size=size)
        self.read_fault: Callable[[str, int], int] = lambda _name, value: value
        self.memory_fault: Callable[[int], int] = lambda offset: offset
        self.cached, self.deaf = range(0), False
        self.cache = np.zeros(size, np.uint8)
        self.step_fault: Callable[[Instruction, Machine], None] = lambda _item, _machine: None

    def read32(self, offset: int) -> int:
        name = next(n for n, r in BY_NAME.items() if r.offset == offset)
        return self.read_fault(name, super().read32(offset))

    def read(self, offset: int, count: int) -> Bytes:
        if offset in self.cached:
            return self.cache[offset : offset + count].copy()
        return super().read(self.memory_fault(offset), count)

    def write(self, offset: int, data: Bytes) -> None:
        if offset in self.cached:
            self.cache[offset : offset + len(data)] = data
        else:
            super().write(self.memory_fault(offset), data)

    def wait(self, amount: float) -> bool:
        return super().wait(amount) and not self.deaf

    def _execute(self, verdict: Any) -> None:
        order, machine = verdict.order, None
        for item in order:
            verdict.order = [item]
            super()._execute(verdict)
            machine = self._machine
            assert machine is not None
            self.step_fault(item, machine)
        verdict.order = order


def failures(device: GoldenDevice, rounds: int = 1, **more: Any) -> dict[str, str]:
    verdict = SelfTest(device, CONFIG, **more).run(rounds)
    data = json.loads(json.dumps(verdict.as_dict()))
    assert data["passed"] is verdict.passed and len(data["outcomes"]) == len(verdict.outcomes)
    return {o.check: o.what for o in verdict.outcomes if o.result == "failed"}


def recorded(**more: Any) -> References:
    test = SelfTest(GoldenDevice(CONFIG, size=1 << 23), CONFIG, **more)
    assert test.run(1).passed
    return test.recorded


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


def test_references_belong_to_an_accelerator_and_a_model(tmp_path: Path) -> None:
    references, path = recorded(), tmp_path / "r.safetensors"
    references.save(path)
    again = References.load(path)
    assert again.results.keys() == references.results.keys()
    assert (again.accelerator, again.source) == (references.accelerator, "golden:small-fp4")
    other = load_accelerator("small-fp6")
    with pytest.raises(BadInput, match="references of accelerator"):
        SelfTest(GoldenDevice(other, size=SIZE), other, references=again)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BadInput, match="not that of its SHA-256"):
        References.load(path)
    path.write_bytes(b"no file")
    with pytest.raises(BadInput, match="record references with"):
        References.load(path)
    with pytest.raises(BadInput, match=r"x: no such file; record"):
        References.load(tmp_path / "x")


def test_a_device_says_what_it_is() -> None:
    assert identify(GoldenDevice(load_accelerator("medium-fp4"), size=64)).name == "medium-fp4"
    for name, said in (("HASH_LO", "no accelerator that ships"), ("MAGIC", "no lutvar")):
        device = Faulty()

        def fault(register: str, value: int, wrong: str = name) -> int:
            return value ^ (register == wrong)

        device.read_fault = fault
        with pytest.raises(IncompatibleDevice, match=said):
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


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict, record = tmp_path / "v.json", tmp_path / "r.safetensors"
    url = "golden:small-fp4?memory=1"
    assert run(["selftest", url, "--rounds", "2", "--record", str(record)]) == OK
    out = capsys.readouterr().out
    assert "golden:small-fp4: passed, 10 checks in 2 rounds" in out
    assert "not checked: an image: no packed model was given" in out
    again = ["selftest", url, "--rounds", "1", "--reference", str(record), "-o", str(verdict)]
    assert run([*again, "--json"]) == OK
    data = json.loads(verdict.read_text())
    assert data == json.loads(capsys.readouterr().out) and data["passed"]
    assert data["accelerator"] == "small-fp4" and data["memory"][0]["bank"].startswith("LPDDR4")
    assert run(["selftest", url, "--config", "small-fp6", "--rounds", "1"]) == FAILED
    assert "HASH_LO" in capsys.readouterr().out
    for path, kind in ((verdict, "verdict of"), (record, "references of")):
        assert run(["inspect", str(path), "--json"]) == OK
        assert json.loads(capsys.readouterr().out)["kind"].startswith(kind)


def test_a_host_without_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As on a board: a recorded run is the device, references come from elsewhere or not at all."""
    common = ["--config", "small-fp4", "--rounds", "1"]
    url = f"golden:small-fp4?memory=1&record={tmp_path / 'run.rec'}"
    record = tmp_path / "r.safetensors"
    assert run(["selftest", url, *common, "--record", str(record)]) == OK
    capsys.readouterr()
    replay = ["selftest", f"replay:{tmp_path / 'run.rec'}", *common, "--json"]
    for more, checked in (("--reference", str(record)), True), ((), False):
        done = subprocess.run(
            [sys.executable, "-c", BLOCK.format(names=sorted(EXTRAS)), *replay, *more],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        data = json.loads(done.stdout)
        assert data["passed"] and len(data["outcomes"]) == 5
        assert any("no reference" in what for what in data["not_checked"]) is not checked


@pytest.mark.verilator
@pytest.mark.slow
def test_the_simulated_device_passes(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = packed(random_transformer())
    verilog = exported(tmp_path_factory.getbasetemp().parent / "verilog").verilog
    simulated = VerilatedDevice.from_verilog(
        verilog, 1 << 23, build_dir=BUILD, timing=MemoryTiming((4, 12))
    )
    with simulated:
        test = SelfTest(
            SimulatedMemory(simulated), CONFIG, packed=model, references=recorded(packed=model)
        )
        verdict = test.run(1)
        assert verdict.passed, verdict.outcomes
        assert not verdict.missed_interrupts and not simulated.violations
