# SPDX-License-Identifier: Apache-2.0
"""The simulated transport, on a core that just combines its two streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lutvar.host import BusError, FrameError, Stream, Transfer, TransferTimeout
from lutvar.host.sim_transport import SimTransport
from lutvar.sim import tools
from lutvar.sim.verilated import VerilatedTop
from lutvar.sim.verilator import build

_CORE = Path(__file__).parents[1] / "sim" / "stand_in.v"
_SCRATCH, _UNKNOWN, _SILENT = 0x70, 0x500, 0xF0

pytestmark = pytest.mark.skipif(
    not tools.verilator().ok, reason="Verilator 5.036 or later is not installed"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(_CORE, 32, build_dir=tmp_path_factory.mktemp("sim"))


@pytest.fixture
def transport(library: Path) -> Iterator[SimTransport]:
    opened = SimTransport(VerilatedTop(library, bus_limit=50))
    yield opened
    opened.close()
    opened.close()  # harmless


def _packet(rng: np.random.Generator, beats: int) -> np.ndarray:
    return rng.integers(0, 256, beats * 32, dtype=np.uint8)


def _queue(
    transport: SimTransport, act: np.ndarray, wgt: np.ndarray, nbytes: int | None = None
) -> list[Transfer]:
    return [
        transport.send(Stream.ACT, act),
        transport.send(Stream.WGT, wgt),
        transport.receive(Stream.OUT, len(act) if nbytes is None else nbytes),
    ]


def test_registers_and_bus_errors(transport: SimTransport) -> None:
    transport.write32(_SCRATCH, 0xCAFE0123)
    assert transport.read32(_SCRATCH) == 0xCAFE0123
    with pytest.raises(BusError, match=r"read .*0x500 .*SLVERR") as caught:
        transport.read32(_UNKNOWN)
    assert caught.value.resp == 2
    with pytest.raises(BusError, match=r"write .*0x500"):
        transport.write32(_UNKNOWN, 1)
    for access in (lambda: transport.read32(_SILENT), lambda: transport.write32(_SILENT, 0)):
        with pytest.raises(BusError, match=r"0x0F0: no answer") as caught:
            access()
        assert caught.value.resp is None


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_packets_complete_in_order(transport: SimTransport, pause: float) -> None:
    for seed, stream in enumerate(("act", "wgt", "out")):
        transport.top.pauses(stream, pause, seed)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    packets = [(_packet(rng, n), _packet(rng, n)) for n in (1, 900, 2, 1500)]
    jobs = [_queue(transport, *packet) for packet in packets]
    transport.wait(jobs[1], 10_000)
    assert all(t.complete for t in jobs[0] + jobs[1])
    assert not jobs[3][2].complete, "waiting for one packet must not wait for all"
    transport.read32(_SCRATCH)  # streams move meanwhile
    transport.wait([t for job in jobs for t in job], 20_000)
    for (act, wgt), job in zip(packets, jobs, strict=True):
        assert np.array_equal(job[2].data, act ^ wgt)


def test_a_timeout_leaves_the_transfers_queued(transport: SimTransport) -> None:
    rng = np.random.default_rng(2)
    act, wgt = _packet(rng, 300), _packet(rng, 300)
    job = _queue(transport, act, wgt)
    before = transport.top.cycles
    with pytest.raises(
        TransferTimeout, match=r"after 100 cycles.*m_axis_out: .* of 9600"
    ) as caught:
        transport.wait(job, 100)
    assert transport.top.cycles - before == 100
    assert all(0 < done < total for _, done, total in caught.value.pending)
    transport.idle(400)
    transport.wait(job, 0)
    assert np.array_equal(job[2].data, act ^ wgt)


def test_abort_forgets_what_was_queued(transport: SimTransport) -> None:
    rng = np.random.default_rng(3)
    _queue(transport, _packet(rng, 50), _packet(rng, 40))
    transport.idle(45)
    transport.abort()
    act, wgt = _packet(rng, 5), _packet(rng, 5)
    job = _queue(transport, act, wgt)
    transport.wait(job, 20)
    assert np.array_equal(job[2].data, act ^ wgt)


@pytest.mark.parametrize(
    ("beats", "wanted", "text"),
    [(3, 5, "TLAST after 96 bytes, expected after 160"), (5, 3, "no TLAST, expected after 96")],
)
def test_a_packet_of_another_length_is_an_error(
    transport: SimTransport, beats: int, wanted: int, text: str
) -> None:
    rng = np.random.default_rng(4)
    good = _queue(transport, _packet(rng, 2), _packet(rng, 2))
    transport.wait(good, 20)
    bad = _queue(transport, _packet(rng, beats), _packet(rng, beats), wanted * 32)
    with pytest.raises(FrameError, match=text):
        transport.wait(bad, 50)
