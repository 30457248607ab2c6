# SPDX-License-Identifier: Apache-2.0
"""Traffic recorded on a fake board and replayed without one; and dumps of what a device says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lutvar.cli.inspecting import inspect
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import Region
from lutvar.host import BusError, Device
from lutvar.host.device_errors import ProgramTimeout
from lutvar.host.dump import dump, dump_data
from lutvar.host.errors import BadInput
from lutvar.host.open import open_transport
from lutvar.host.record import KEPT, Replay, ReplayMismatch
from lutvar.host.transport import MemoryTransport
from lutvar.sim.fakeboard.board import FakeBoard
from support.host.transport_double import TransportDouble
from support.sim.double_chip import IO, PROGRAM, DoubleChip, invert

CONFIG = load_accelerator("small-fp4")
LARGE = (np.arange(KEPT + 4096) * 31 % 253).astype(np.uint8)


def script(transport: MemoryTransport, seeds: tuple[int, ...] = (1, 2), large: bool = True) -> None:
    """What is recorded: an access that is refused, a model placed and kept, some programs."""
    with Device(transport, CONFIG) as device:
        with pytest.raises(BusError, match="SLVERR"):
            transport.read32(0x800)
        with pytest.raises(BusError, match="DECERR"):
            transport.write32(0x7C, 5)
        device.place(LARGE if large else ~LARGE, 64, IO, 64, digest="ab" * 32)
        for seed in seeds:
            assert invert(device, seed)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    chip = DoubleChip(CONFIG, 1 << 21)
    chip.answers["SCRATCH"] = 3
    path = tmp_path / "run.rec"
    with FakeBoard(chip, tmp_path / "board") as board:
        transport = open_transport(f"uio:lutvar?root={board.root}&record={path}")
        script(transport)
        transport.close()
        transport.close()
    return path


def test_a_record_stands_in_for_the_board(record: Path) -> None:
    transport = open_transport(f"replay:{record}")
    assert transport.name.startswith(f"replay:{record} of uio:lutvar (")
    assert (transport.base, transport.size, transport.clock) == (
        0x500_0000_0000,
        1 << 21,
        "seconds",
    )
    script(transport)
    transport.close()
    assert record.stat().st_size < KEPT // 2  # the model went by, and only its hash is kept


@pytest.mark.parametrize(
    ("seeds", "large", "recorded", "found"),
    [
        ((1, 3), True, "put 2048 bytes", "the same with other contents, from byte 0"),
        ((1,), True, "put 2048 bytes", "read CTRL"),
        ((1, 2, 3), True, "read CTRL", "put 2048 bytes"),
        ((1, 2), False, "put 1052672 bytes at 0x0", "the same with other contents, somewhere"),
    ],
)
def test_the_first_difference_is_told(
    record: Path, seeds: tuple[int, ...], large: bool, recorded: str, found: str
) -> None:
    transport = open_transport(f"replay:{record}")
    with pytest.raises(ReplayMismatch, match=rf"has ({recorded}).*, the driver does ({found})"):
        script(transport, seeds, large)
        transport.close()  # leaving a device raises nothing: it is told here
    with pytest.raises(ReplayMismatch) as again:
        transport.close()
    with pytest.raises(ReplayMismatch, match=f"event {again.value.index} of "):
        transport.read32(0)


def test_another_value_in_a_register(record: Path) -> None:
    lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith('["write",4,1]'))
    lines[at] = '["write",4,0]\n'
    record.write_text("".join(lines), encoding="utf-8")
    transport = open_transport(f"replay:{record}")
    with pytest.raises(ReplayMismatch, match=f"event {at - 1} .* has write GIE = 0x0, .*0x1"):
        script(transport)


def test_a_record_that_is_cut_off(record: Path) -> None:
    text = record.read_text(encoding="utf-8")
    record.write_text(text[: len(text) * 2 // 3], encoding="utf-8")
    with pytest.raises(ReplayMismatch, match="the record has its end"):
        script(open_transport(f"replay:{record}"))


def test_a_record_that_goes_on(record: Path) -> None:
    transport = Replay(record)
    with pytest.raises(ReplayMismatch, match="has read MAGIC, the driver does nothing more"):
        transport.close()


def test_files_that_are_no_record(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such file"):
        open_transport(f"replay:{tmp_path}/none")
    path = tmp_path / "other"
    for text in ("", "{}\n", '{"format": "other"}\n', "[]\n"):
        path.write_text(text)
        with pytest.raises(BadInput, match="is no lutvar-record-1 file"):
            open_transport(f"replay:{path}")
    path.write_text("rubbish\n")
    with pytest.raises(BadInput, match="a line that is no JSON"):
        open_transport(f"replay:{path}")


def test_a_dump_says_everything(tmp_path: Path) -> None:
    double = TransportDouble(CONFIG)
    device = Device(double, CONFIG)
    device.open()
    device.place(np.zeros(64, np.uint8), 64, 64, 64)
    double.registers |= {"STATE": 1 << 2 | 1 << 18, "INSTRUCTIONS_MATRIX": 5, "PORTS": 1}
    double.started = lambda _double: None
    with pytest.raises(ProgramTimeout) as late:
        device.run(PROGRAM, 1000)
    dump(device, tmp_path / "dump.json", late.value)
    data = json.loads((tmp_path / "dump.json").read_text(encoding="utf-8"))
    assert data["error"] == {"type": "ProgramTimeout", "text": str(late.value)}
    assert data["accelerator"]["name"] == "small-fp4" and data["format"] == "lutvar-dump-1"
    assert data["program"]["complete"]["MATRIX"] == 5
    assert data["program"]["address"] == double.registers["PROGRAM_LO"] | 7 << 32
    assert data["units"]["MATRIX"]["busy"] and data["units"]["POST"]["waits"]
    assert not data["units"]["FRONT"]["busy"] and data["ports"] == "prog_arvalid"
    assert data["registers"]["MAGIC"] == "0x4C555456" and "SOFT_RESET" not in data["registers"]
    assert data["transport"]["bytes"] == double.size and data["versions"]["kernel"]
    assert inspect(tmp_path / "dump.json").format == "lutvar-dump-1"


def test_a_dump_of_a_device_that_hardly_answers() -> None:
    double = TransportDouble(CONFIG)

    def refused(offset: int) -> int:
        raise BusError("read", offset, None)

    double.read32 = refused  # type: ignore[method-assign]
    data = dump_data(Device(double, CONFIG))
    assert "no answer" in data["registers"]["MAGIC"] and data["error"] is None
    assert data["program"]["complete"]["MATRIX"] is None
    assert Region.IO.name not in data["units"]
