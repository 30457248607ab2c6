# SPDX-License-Identifier: Apache-2.0
"""A session that ends with an error, at its opening or later: what is written, what is closed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lutvar.files import OutputError
from lutvar.host import IncompatibleDevice, ProgramTimeout
from lutvar.host.errors import BadInput, HostError
from lutvar.host.load import MemoryMismatch
from lutvar.host.open import OPENERS, open_transport
from lutvar.host.record import Recorder
from lutvar.host.session import Session
from support.host.transport_double import CONFIG, TransportDouble
from support.sim.device_rig import packed, random_transformer


class Closing(TransportDouble):
    """Counts how often it is closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def never_ready(double: TransportDouble) -> None:
    double.reset_takes = 1 << 30


def bad_memory(double: TransportDouble) -> None:
    read = double.read
    double.read = lambda offset, count: read(offset, count) ^ np.uint8(1)  # type: ignore[method-assign]


def too_small(double: TransportDouble) -> None:
    double.size = 1 << 12


def another_one(double: TransportDouble) -> None:
    double.registers["HASH_LO"] ^= 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (never_ready, ProgramTimeout),
        (bad_memory, MemoryMismatch),
        (too_small, BadInput),
        (another_one, IncompatibleDevice),
    ],
)
def test_a_session_that_does_not_open(tmp_path: Path, fault, error: type[HostError]) -> None:
    """The dump is written where registers can say more than the error, the transport closed."""
    double, dump, said = Closing(CONFIG, size=1 << 23), tmp_path / "dump.json", list[str]()
    fault(double)
    with pytest.raises(error) as caught:
        Session(double, packed(random_transformer()), dump=dump, say=said.append)
    assert double.closed == 1
    if error in (BadInput, IncompatibleDevice):
        assert not dump.exists() and not said
        return
    data = json.loads(dump.read_text(encoding="utf-8"))
    assert data["error"] == {"type": error.__name__, "text": str(caught.value)}
    assert said == [f"{dump}: all registers of the device, for a report"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Closing:
    """What the scheme `double` opens."""
    double = Closing(CONFIG)
    monkeypatch.setitem(OPENERS, "double", "support.host.transport_double:opened")
    monkeypatch.setattr(
        "support.host.transport_double.opened", lambda _address: double, raising=False
    )
    return double


def test_a_record_that_cannot_be_made(opened: Closing, tmp_path: Path) -> None:
    """The device is free again, and the error names the file."""
    with pytest.raises(OutputError, match=r"record .*/none/run.rec: cannot be written: No such"):
        open_transport(f"double?record={tmp_path}/none/run.rec")
    assert opened.closed == 1
    open_transport(f"double?record={tmp_path}/run.rec").close()
    assert opened.closed == 2


def test_a_record_that_cannot_be_finished(opened: Closing) -> None:
    """The disk is full: the transport is closed all the same."""
    recorder = Recorder(opened, "/dev/full")
    recorder.now()
    with pytest.raises(OutputError, match="record /dev/full: cannot be written: No space left"):
        recorder.close()
    assert opened.closed == 1
