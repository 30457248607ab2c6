# SPDX-License-Identifier: Apache-2.0
"""The transports of XRT and PYNQ over stand-ins: a model runs, and a wrong sync is found."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.register_map import BY_NAME, MAGIC
from lutvar.host.board.buffer import LINE, Direction, SyncedBuffer
from lutvar.host.board.errors import DeviceInUse, UnusableBuffer
from lutvar.host.board.lock import Lock
from lutvar.host.board.pynq import PynqBuffer, PynqTransport
from lutvar.host.board.sysfs import find_uio
from lutvar.host.board.uio import UioTransport
from lutvar.host.board.xrt import XrtBuffer
from lutvar.host.errors import BadInput, HostError
from lutvar.host.open import open_transport
from lutvar.host.session import Session
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.sim.golden_device import GoldenDevice
from support.board import pynq_standin, pyxrt_standin
from support.board.stand_ins import KINDS, MEMORY, Board, made
from support.sim.device_rig import image_step, packed, random_transformer, same

CONFIG = load_accelerator("small-fp4")
MIB = MEMORY >> 20


@pytest.fixture(params=KINDS)
def board(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Board]:
    with made(request.param, tmp_path, monkeypatch) as board:
        yield board


@pytest.fixture
def xrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    with made("xrt", tmp_path, monkeypatch) as board:
        yield board


@pytest.fixture
def pynq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    with made("pynq", tmp_path, monkeypatch) as board:
        yield board


@pytest.mark.parametrize("standin", [pyxrt_standin, pynq_standin])
def test_stand_ins_have_the_signatures_of_their_sources(standin: Any) -> None:
    chip = GoldenDevice(CONFIG, size=1 << 12)
    module = pyxrt_standin.make_pyxrt(chip)
    if standin is pynq_standin:
        module = pynq_standin.make_pynq(chip, module)
    for name, expected in standin.SIGNATURES.items():
        item: Any = module
        for part in name.split("."):
            item = getattr(item, part)
        arguments = [
            f"{'**' if p.kind is p.VAR_KEYWORD else ''}{p.name}"
            + ("" if p.default is p.empty else f"={p.default!r}")
            for p in inspect.signature(item).parameters.values()
        ]
        assert f"({', '.join(arguments)})" == expected, name


def run_model(url: str) -> bool:
    """Three scales of two images; whether all logits are the golden model's."""
    model, rng = random_transformer(), np.random.default_rng(2)
    golden, position, right = GoldenTransformer(model), 0, True
    with Session.open(url, packed(model), slots=2) as session:
        for tokens in (1, 4, 9):
            steps = [image_step(rng, s, s, position, tokens) for s in range(2)]
            right &= same(session.transformer.run(steps), golden.run(steps))
            position += tokens
    return right


def test_a_model_runs(board: Board) -> None:
    assert run_model(board.url)
    assert not board.chip.interrupt
    if board.url.startswith("xrt"):
        assert board.files.count >= 3  # it was waited for by interrupt
    else:
        assert board.pynq.device.freed == 1 and board.pynq.overlays[0].downloaded
    # Nothing was synchronised as a whole: the ranges are what was written and read.
    assert board.pyxrt.log and all(size is not None for _, size, _ in board.pyxrt.log)
    assert max(size for _, size, _ in board.pyxrt.log) < MIB << 20


@pytest.mark.parametrize("broken", list(Direction))
def test_a_forgotten_sync_is_found(
    board: Board, broken: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in's memory has two sides, so these tests can fail."""
    for kind in (XrtBuffer, PynqBuffer):
        right = kind._sync

        def wrong(
            self: SyncedBuffer, name: str, start: int, end: int, direction: Direction,
            right: Any = right,
        ) -> None:  # fmt: skip
            if direction is not broken:
                right(self, name, start, end, direction)

        monkeypatch.setattr(kind, "_sync", wrong)
    with contextlib.suppress(HostError):  # a program that never reached the device
        assert not run_model(board.url)


def test_ranges(board: Board) -> None:
    """Exactly the lines of what is read and written, in the right direction."""
    transport, log = open_transport(board.url), board.pyxrt.log
    log.clear()
    transport.write(128, np.arange(64, dtype=np.uint8))
    assert log == [("to", 64, 128)]
    log.clear()
    transport.write(130, np.arange(100, dtype=np.uint8))
    # The lines at both ends also hold what the device may have written.
    assert log == [("from", LINE, 128), ("from", LINE, 192), ("to", 128, 128)]
    log.clear()
    assert transport.read(130, 3).tolist() == [0, 1, 2]
    assert log == [("from", LINE, 128)]
    log.clear()
    transport.read(0, 0)
    transport.write(5, np.empty(0, np.uint8))
    for offset, count in ((-1, 1), ((MIB << 20) - 1, 2)):
        with pytest.raises(BadInput, match="outside the buffer"):
            transport.read(offset, count)
    assert not log
    transport.close()
    transport.close()


def test_what_the_device_wrote_beside_is_kept(board: Board) -> None:
    transport = open_transport(board.url)
    transport.write(0, np.zeros(256, np.uint8))
    board.chip.memory[70] = 9  # by the device, in the middle of the second line
    transport.write(80, np.ones(3, np.uint8))
    assert board.chip.memory[70] == 9 and transport.read(70, 1)[0] == 9
    assert board.chip.memory[80:84].tolist() == [1, 1, 1, 0]
    transport.close()


def test_registers(board: Board) -> None:
    transport = open_transport(board.url)
    assert transport.read32(BY_NAME["MAGIC"].offset) == MAGIC
    assert transport.clock == "seconds" and transport.deadline(1) == 1.0
    assert transport.deadline(10**9) == 10.0
    for offset in (2, -4, 0x1_0000):
        with pytest.raises(BadInput, match="register offset"):
            transport.read32(offset)
    assert not transport.wait(0.01)
    transport.close()


def test_one_owner_at_a_time(board: Board) -> None:
    first = open_transport(board.url)
    with pytest.raises(DeviceInUse):
        open_transport(board.url)
    first.close()
    open_transport(board.url).close() if board.url.startswith("pynq") else None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("memory=HBM", r"no memory bank 'HBM'; there are: .*LPDDR"),
        ("", "several memory banks; choose one with memory=NAME: .*LPDDR"),
        ("memory=LPDDR&bufer=8", "no setting 'bufer'"),
        ("memory=LPDDR&buffer=0", "buffer is '0'"),
    ],
)
def test_wrong_urls(board: Board, change: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        open_transport(f"{board.url.partition('?')[0]}?{change}")


def test_no_memory(board: Board) -> None:
    board.pyxrt.refused = "failed to allocate bo: Cannot allocate memory"
    with pytest.raises(HostError, match=r"8 MiB.*Cannot allocate memory.*ask for less"):
        open_transport(board.url)
    board.pyxrt.refused = ""
    board.pyxrt.shift = 8
    with pytest.raises(UnusableBuffer, match="no multiple of 64"):
        open_transport(board.url.replace("buffer=8", "buffer=7"))


def test_modules_that_are_not_there(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = board.url.partition(":")[0]
    module = {"xrt": "pyxrt"}.get(scheme, scheme)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HostError, match=f"{module} cannot be imported"):
        open_transport(board.url)


def test_xrt_without_a_file(xrt: Board) -> None:
    """The fabric's xclbin is loaded already: memory of the first group."""
    open_transport(f"xrt:?buffer={MIB}").close()
    assert xrt.pyxrt.buffers[-1].group == 0
    with pytest.raises(BadInput, match="no such file"):
        open_transport("xrt:none.xclbin")
    with pytest.raises(HostError, match="XRT opens no device"):
        open_transport(f"xrt:?buffer={MIB}&device=3")
    with pytest.raises(BadInput, match="device is a number"):
        open_transport(f"xrt:?buffer={MIB}&device=x")


def test_xrt_takes_the_bank_that_is_named(xrt: Board) -> None:
    transport = open_transport(xrt.url)
    assert (
        xrt.pyxrt.buffers[-1].group == 1
        and transport.name == "xrt:lutvar (" + str(xrt.files.root / "dev/uio2") + ")"
    )
    transport.close()


def test_pynq_gives_other_memory(pynq: Board) -> None:
    """It says nothing when the bank's node is missing; the address does."""
    pynq.pynq.Device.only_psddr = True
    with pytest.raises(UnusableBuffer, match=r"memory at 0x40000000, not of LPDDR at 0x500"):
        open_transport(pynq.url)
    pynq.pynq.Device.only_psddr = False
    open_transport(pynq.url).close()  # the failure left no lock behind


def test_pynq_finds_the_accelerator(pynq: Board) -> None:
    open_transport(f"{pynq.url}&ip=top/accelerator&download=0").close()
    assert not pynq.pynq.overlays[-1].downloaded
    with pytest.raises(BadInput, match=r"no single IP 'x'; .*: control, top/accelerator"):
        open_transport(f"{pynq.url}&ip=x")
    with pytest.raises(BadInput, match="name the image"):
        open_transport("pynq:")
    with pytest.raises(HostError, match=r"cannot load it: Bitstream file x.bit does not exist"):
        open_transport("pynq:x.bit")


def test_pynq_loads_nothing_under_a_running_process(pynq: Board) -> None:
    """Nor for a URL that is wrong."""
    loaded = pynq.pynq.overlays
    first = open_transport(pynq.url)
    with pytest.raises(DeviceInUse, match="accelerator at 0xA4000000 is in use by process"):
        open_transport(pynq.url)
    for wrong in ("&ip=x", "&clock=x", "&memory=HBM", "&buffer=0"):
        with pytest.raises(BadInput):
            open_transport(f"{pynq.url}{wrong}")
    assert [overlay.downloaded for overlay in loaded] == [True, *[False] * (len(loaded) - 1)]
    first.close()
    pynq.pynq.broken = "the fabric's manager says no"
    with pytest.raises(HostError, match="cannot load it: the fabric's manager says no"):
        open_transport(pynq.url)
    pynq.pynq.broken = ""
    open_transport(pynq.url).close()  # the failure left no lock behind


def test_ways_to_a_device_exclude_one_another(pynq: Board) -> None:
    """The UIO device of the tree has the registers that PYNQ's description names."""
    files, uio = pynq.files, find_uio(pynq.files, "lutvar")
    transport = open_transport(pynq.url)
    with pytest.raises(DeviceInUse, match="uio2 is in use by process"):
        UioTransport(files, uio, PynqBuffer.__new__(PynqBuffer))
    transport.close()
    lock = Lock(files, uio.registers, "uio2")
    with pytest.raises(DeviceInUse):
        open_transport(pynq.url)
    lock.release()


def test_pynq_waits_by_looking(pynq: Board) -> None:
    """ISR after a while, or never."""
    transport = open_transport(pynq.url)
    assert isinstance(transport, PynqTransport)
    looks, isr = [], [0, 0, 0, 1]
    transport.read32 = lambda offset: looks.append(offset) or isr[min(len(looks), 4) - 1]  # type: ignore[method-assign,func-returns-value]
    assert transport.wait(5.0) and len(looks) == 4
    isr[3] = 0
    before = transport.now()
    assert not transport.wait(0.02) and transport.now() - before >= 0.02
    transport.close()
