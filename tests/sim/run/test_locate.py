# SPDX-License-Identifier: Apache-2.0
"""Finding the first instruction that computed something else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lutvar.contract.isa import Instruction, Opcode, PostOp, Region, split_address
from lutvar.contract.passes import ImageStep
from lutvar.host.compile.check import check_program
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.errors import HostError
from lutvar.host.transformer import DeviceTransformer
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.sim.interpret import Machine
from lutvar.sim.run import demo, demo_device
from lutvar.sim.run.comparing import Comparison
from lutvar.sim.run.locate import Located, locate
from lutvar.sim.run.locate_tensors import part_of_model
from lutvar.sim.run.search import beginning
from support.host.compile_cases import DIGITS, accelerator
from support.sim.device_rig import digits, image_step, open_rig, packed, random_transformer
from support.sim.software_device import SoftwareDevice

FIRST = [(0, 1, 0, 1), (1, 2, 0, 1)]
SECOND = [(0, 1, 1, 4), (1, 2, 1, 4)]


class Case:
    """A random model in software after its second pass; the fault is there in the second only."""

    def __init__(self, fault: Any = None) -> None:
        self.device = SoftwareDevice()
        self.transformer = DeviceTransformer(self.device, packed(random_transformer()), 2)  # type: ignore[arg-type]
        rng = np.random.default_rng(1)
        golden = GoldenTransformer(random_transformer())
        first, self.steps = ([image_step(rng, *s) for s in p] for p in (FIRST, SECOND))
        golden.run(first)
        self.expected = golden.run(self.steps)
        self.transformer.run(first)
        if fault is not None:
            self.device.fault = fault
        self.found = self.transformer.run(self.steps)
        self.program = self.transformer.compile(self.steps).program
        self.plan = self.transformer.compile(self.steps).plan

    def index(self, opcode: Opcode, what: str, block: int, nth: int = 0) -> int:
        """Of the n-th such instruction."""
        items = zip(self.program.instructions, self.program.notes, strict=True)
        return [i for i, (item, note) in enumerate(items) if item.opcode == opcode
                and (note.block, note.what) == (block, what)][nth]  # fmt: skip

    def locate(self) -> Located:
        return locate(self.transformer, self.steps, self.expected)


def after(index: int, change: Callable[[Instruction, Machine], None]) -> Any:
    """A fault after the instruction that has the operands of instruction `index` of the pass."""
    target = pristine().program.instructions[index]

    def fault(item: Instruction, machine: Machine) -> None:
        if item.opcode == target.opcode and item.operands == target.operands:
            change(item, machine)

    return fault


@cache
def pristine() -> Case:
    return Case()


@pytest.fixture
def sound() -> Case:
    return pristine()


def test_nothing_differs(sound: Case) -> None:
    before = {r: m.copy() for r, m in sound.device.machine.memory.items()}
    found = sound.locate()
    assert found.divergence is None and found.runs == 1 and not found.model and not found.program
    assert "nothing differed" in str(found)
    for region, contents in before.items():
        np.testing.assert_array_equal(sound.device.machine.memory[region], contents)


def test_beginnings_are_programs(sound: Case) -> None:
    """Each keeps the rules of order and multiplies all weights that it fetches."""
    for cut, item in enumerate(sound.program.instructions):
        if item.opcode not in (Opcode.POST, Opcode.ATTEND):
            continue
        part = beginning(sound.program, cut)
        check_program(part, sound.transformer.packed.layout.config)
        assert part.instructions[-1].opcode == Opcode.END
        own = [i for i in part.instructions if i.opcode != Opcode.FETCH][:-1]
        whole = [i for i in sound.program.instructions[: cut + 1] if i.opcode != Opcode.FETCH]
        assert [i.operands for i in own] == [i.operands for i in whole]


def test_post_writes_a_wrong_value(sound: Case) -> None:
    index = sound.index(Opcode.POST, "fc1", 1, nth=-1)
    item = sound.program.instructions[index]

    def change(item: Instruction, machine: Machine) -> None:
        region, at = split_address(item.operands["output"])
        machine.memory[region][at + 2 * item.operands["output_stride"] + 11] ^= 0x40

    case = Case(after(index, change))
    found = case.locate()
    where = found.divergence
    assert where is not None and not found.model and not found.program
    assert (where.index, where.unit, where.what) == (index, "POST", "block1.fc1")
    # Byte 11 is in the sixth FP16 value of the third row; the second tile of outputs.
    note = sound.program.notes[index]
    first = split_address(item.operands["output"])[1] - split_address(case.plan.h(0))[1]
    first = first % case.plan.h_stride // 2
    assert first == 512
    assert (where.tensor, where.element) == ("block1.gelu", (note.first + 2, first + 5))
    assert where.expected ^ where.actual == 0x4000 and where.wrong == 1
    kinds = [text.split()[0] for text in where.fed_by]
    assert kinds == ["FRONT"] * (len(kinds) - 3) + ["FETCH", "FETCH", "MATRIX"]
    assert "block1.gelu" in str(where) and "expected 0x" in str(where)
    assert found.runs < 12


@pytest.mark.parametrize("what,tensor", [("qkv", "block0.q"), ("proj", "block0.x1"),
                                         ("fc2", "block1.x"), ("head", "logits")])  # fmt: skip
def test_matrix_and_front(sound: Case, what: str, tensor: str) -> None:
    """A wrong accumulator or a wrong code shows in what POST makes of it."""
    block = 2 if what == "head" else 0
    matrix, front = sound.index(Opcode.MATRIX, what, block), sound.index(Opcode.FRONT, what, block)

    def sums(item: Instruction, machine: Machine) -> None:
        machine._accumulators[item.operands["acc_bank"], 1, 3] += np.float32(1e3)

    def codes(item: Instruction, machine: Machine) -> None:
        machine._codes[item.operands["bank"], item.operands["row_first"], 0, :16] ^= 4

    for index, change in ((matrix, sums), (front, codes)):
        where = Case(after(index, change)).locate().divergence
        assert where is not None and where.unit == "POST", what
        assert where.what == (what if what == "head" else f"block0.{what}")
        assert where.tensor == tensor
        name = sound.program.instructions[index].opcode.name
        assert f"{name} {index}" in where.fed_by


def test_attend_records_and_stray_writes(sound: Case) -> None:
    index = sound.index(Opcode.ATTEND, "attention", 1)

    def last(item: Instruction, machine: Machine) -> None:
        region, at = split_address(item.operands["output"])
        machine.memory[region][at + 1] ^= 1

    where = Case(after(index, last)).locate().divergence
    assert where is not None and (where.index, where.unit) == (index, "ATTEND")
    row = sound.program.notes[index].first
    assert (where.tensor, where.element, where.fed_by) == ("block1.attention", (row, 0), ())

    keyed = next(i for i, item in enumerate(sound.program.instructions)
                 if item.opcode == Opcode.POST and item.operands["op"] == PostOp.QKV
                 and item.operands["block_first"] + item.operands["blocks"] > 4)  # fmt: skip

    def record(item: Instruction, machine: Machine) -> None:
        region, at = split_address(item.operands["values"])
        machine.memory[region][at + 3 * item.operands["head_stride"] + 9] ^= 1

    where = Case(after(keyed, record)).locate().divergence
    assert where is not None and where.index == keyed
    row = sound.program.notes[keyed].first
    assert (where.tensor, where.element) == (f"block{sound.program.notes[keyed].block}.v",
                                             (row, 3, 9))  # fmt: skip

    def stray(_item: Instruction, machine: Machine) -> None:
        machine.memory[Region.IO][5] ^= 1  # an embedding

    where = Case(after(index, stray)).locate().divergence
    assert where is not None and where.index >= index
    assert "outside" in where.tensor and where.element == (5,)


def test_a_device_that_stops(sound: Case) -> None:
    case = Case()
    case.device.fails = 60
    where = case.locate().divergence
    assert where is not None and where.error == "the device stopped"
    kept = len(beginning(case.program, where.index).instructions)
    assert kept > 60 and "the device stopped" in str(where)
    ends = [i for i in range(where.index)
            if case.program.instructions[i].opcode in (Opcode.POST, Opcode.ATTEND)]  # fmt: skip
    assert len(beginning(case.program, ends[-1]).instructions) <= 60


def test_the_program_itself(sound: Case) -> None:
    wrong = [x.copy() for x in sound.expected]
    wrong[1][2, 7] += 1
    found = locate(sound.transformer, sound.steps, wrong)
    assert "logits.1[2, 7]" in found.program and found.divergence is None


def test_parts_of_the_model(sound: Case) -> None:
    layout = sound.transformer.packed.layout
    tile = layout.layer(1, "fc2").tiles[0]
    beat, first = 64, tile.offset + tile.first_beats * 64
    per_block = tile.beats // tile.blocks
    for offset, text in (
        (tile.offset, "block1.fc2, group 0, outputs 0 to 31"),
        (first - 1, "block1.fc2, group 0, outputs 224 to 255"),
        (first, "block1.fc2, group 1, outputs 0 to 31"),
        (first + 2 * tile.beats * beat + 3 * per_block * beat, "group 3, outputs 96 to 127"),
        (layout.layer(0, "qkv").tiles[1].offset, "block0.qkv, group 0, outputs 384 to 415"),
        (layout.kappa_base + 600, "kappa of block 1"),
        (layout.class_offset(2) + 8, "AdaLN vectors of class 2"),
        (layout.size - 1, "unused"),
    ):
        assert text in part_of_model(layout, offset), offset


def test_parts_of_a_panel_in_shares() -> None:
    """Two weight ports: the second share of a panel has every other stripe of outputs."""
    layout = ModelLayout.of(DIGITS, accelerator("small-fp6"), range(3))
    tile = layout.layer(1, "fc1").tiles[0]
    half = tile.first_beats // 2 * 64
    narrow = layout.layer(1, "fc2").tiles[0]  # one stripe: the second port has none
    for offset, text in (
        (tile.offset, "block1.fc1, group 0, outputs 0 to 31"),
        (tile.offset + half - 64, "block1.fc1, group 0, outputs 352 to 383"),
        (tile.offset + half, "block1.fc1, group 0, outputs 128 to 159"),
        # Scales, biases and 48 beats of codes, then the next block.
        (tile.offset + half + 50 * 64, "block1.fc1, group 0, outputs 128 to 159"),
        (tile.offset + half + 51 * 64, "block1.fc1, group 0, outputs 160 to 191"),
        (narrow.offset + narrow.first_beats * 64 - 64, "block1.fc2, group 0, outputs 96 to 127"),
        (narrow.offset + narrow.first_beats * 64, "block1.fc2, group 1, outputs 0 to 31"),
    ):
        assert text in part_of_model(layout, offset), offset


@pytest.mark.verilator
def test_a_flipped_bit_of_a_weight_on_the_simulated_device(verilog: Path) -> None:
    """One bit of one panel in device memory: its layer is named, by what it does and by place."""
    rng = np.random.default_rng(4)
    with open_rig(verilog, digits().transformer) as rig:
        layout = rig.transformer.packed.layout
        tile = layout.layer(2, "fc2").tiles[0]
        # The scale of output 5 in the panel of group 2.
        at = tile.offset + (tile.first_beats + tile.beats) * 64 + 5 * 2 + 1
        rig.device.write(Region.MODEL, at, rig.device.read(Region.MODEL, at, 1) ^ np.uint8(1))
        steps = [image_step(rng, 0, 3, 0, 1, width=128), image_step(rng, 1, 4, 0, 1, width=128)]
        expected = rig.golden.run(steps)
        rig.transformer.run(steps)
        found = locate(rig.transformer, steps, expected)
        where = found.divergence
        assert where is not None and not found.program
        assert (where.unit, where.what, where.tensor) == ("POST", "block2.fc2", "block3.x")
        assert where.element[1] == 5
        assert "block2.fc2, group 2, outputs 0 to 31" in found.model
        assert found.model in str(found) and str(where) in str(found)
        # Memory is as it was; the repaired model computes the right thing.
        rig.device.write(Region.MODEL, at, rig.device.read(Region.MODEL, at, 1) ^ np.uint8(1))
        rig.comparing.run(steps)
        rig.check()


@pytest.mark.verilator
def test_the_demo_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first differing pass or image is looked into, later ones not; a dead device is told."""
    lines: list[str] = []
    file = tmp_path / demo.DIVERGENCE
    file.write_text("old")
    comparison = Comparison()
    wrong = iter([0, 3, 1])

    def run(_steps: list[ImageStep]) -> list[Any]:
        comparison.passes += 1
        if count := next(wrong):
            zeros = np.zeros(count, np.uint32)
            comparison.add("logits", "logits.0", zeros, zeros + 1)
        return []

    device = SimpleNamespace(decoder=object())
    comparing = SimpleNamespace(run=run, comparison=comparison, device=device)
    restarted: list[int] = []
    watched = demo_device.Locating(comparing, file, lines.append, lambda: restarted.append(1))  # type: ignore[arg-type]
    monkeypatch.setattr(demo_device, "locate", lambda _device, _steps: "block7.fc1")
    assert not file.exists()
    watched.run([])
    assert not lines and not file.exists()
    watched.run([])
    assert "block7.fc1" in file.read_text() and len(lines) == 2 and restarted == [1]
    watched.run([])
    assert len(lines) == 2

    def dead(_device: object, _steps: object) -> str:
        raise HostError("no answer")

    comparison.different.clear()
    wrong = iter([1])
    monkeypatch.setattr(demo_device, "locate", dead)
    watched.run([])
    assert "no answer" in file.read_text()

    latents: list[Any] = []

    def found(decoder: object, latent: object) -> str:
        assert decoder is device.decoder
        latents.append(latent)
        return "program 3 of 20"

    monkeypatch.setattr(demo_device, "locate_decoder", found)
    watched.decoded(np.zeros((8, 4, 4), np.float32))
    assert "program 3 of 20" in file.read_text() and len(latents) == 1
    assert lines[-2].endswith("repeating the decoding of the image to find its cause")
