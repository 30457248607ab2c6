# SPDX-License-Identifier: Apache-2.0
"""The driver on the exported Verilog of a tiny accelerator, compiled by Verilator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from host_cases import gateware
from host_scenarios import SCENARIOS, Rig

from lutvar.host import Stream
from lutvar.host.sim_transport import SimTransport
from lutvar.hw.top.export import export
from lutvar.sim import tools
from lutvar.sim.verilated import VerilatedTop
from lutvar.sim.verilator import build

pytestmark = pytest.mark.skipif(
    not tools.verilator().ok, reason="Verilator 5.036 or later is not installed"
)
_PORTS = {Stream.ACT: "act", Stream.WGT: "wgt", Stream.OUT: "out"}


@pytest.fixture(scope="module", params=["fp4", "fp6"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    hardware, quant = gateware(request.param)
    manifest = export(hardware, quant, tmp_path_factory.mktemp("tiny"))
    library = build(manifest.verilog, 32, build_dir=request.config.rootpath / "build" / "sim")
    transport = SimTransport(VerilatedTop(library))

    def pauses(stream: Stream, probability: float) -> None:
        transport.top.pauses(_PORTS[stream], probability, seed=7)  # type: ignore[arg-type]

    yield Rig(transport, hardware, quant, pauses)
    transport.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_scenario(rig: Rig, scenario: Callable[[Rig], None]) -> None:
    scenario(rig)
