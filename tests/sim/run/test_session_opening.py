# SPDX-License-Identifier: Apache-2.0
"""A session on a simulation that does not open leaves no simulation behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lutvar.host.errors import BadInput, HostError
from lutvar.sim.device import VerilatedDevice
from lutvar.sim.run import session as sim_session
from lutvar.sim.run.session import Stages
from support.board.faulty_device import Faulty
from support.sim.device_rig import packed, random_transformer


def without_reset() -> Faulty:
    device = Faulty()
    device.read_fault = lambda name, value: value & ~8 if name == "CTRL" else value
    return device


@pytest.mark.parametrize(
    ("device", "error", "said"),
    [(Faulty(1 << 12), BadInput, "bytes are needed"), (without_reset(), HostError, "soft reset")],
)
def test_the_simulation_is_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: Faulty, error: type[Exception],
    said: str,
) -> None:  # fmt: skip
    """The golden device stands in for the simulation: what is looked at is who closes it."""
    closed: list[Faulty] = []
    monkeypatch.setattr(device, "close", lambda: closed.append(device))
    monkeypatch.setattr(VerilatedDevice, "from_verilog", lambda *_arguments, **_options: device)
    monkeypatch.setattr(sim_session, "SimulatedMemory", lambda simulation, _watch: simulation)
    monkeypatch.setattr(sim_session, "export", lambda _config, _out: ManifestDouble(tmp_path))
    with pytest.raises(error, match=said):
        sim_session.Session(packed(random_transformer()), tmp_path)
    assert closed == [device]


class ManifestDouble:
    def __init__(self, verilog: Path) -> None:
        self.verilog = verilog


def test_stages_are_summed_and_told() -> None:
    told: list[str] = []
    stages = Stages(told.append)
    with stages("draw"):
        pass
    first = stages.seconds["draw"]
    with stages("draw"):
        time.sleep(0.01)
    assert stages.seconds["draw"] >= first + 0.01 and list(stages.seconds) == ["draw"]
    assert len(told) == 4 and told[0] == told[2] == "draw ..." and told[3].startswith("draw: 0.")
    with pytest.raises(ZeroDivisionError), stages("fail"):
        _ = 1 / 0
    assert stages.seconds["fail"] >= 0 and told[-1] == "fail ..."
