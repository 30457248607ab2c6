# SPDX-License-Identifier: Apache-2.0
"""No path crosses a unit: what goes in meets a register before anything comes out."""

from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.attend.unit import AttendUnit
from lutvar.hw.fetch.unit import FetchUnit
from lutvar.hw.front.unit import FrontUnit
from lutvar.hw.matrix.unit import MatrixUnit
from lutvar.hw.post.unit import PostUnit
from lutvar.hw.sequencer.sequencer import Sequencer
from lutvar.sim.runner import tiny_accelerator
from support.hw.comb_paths import combinational_paths

_UNITS = {
    "sequencer": Sequencer, "fetch": FetchUnit, "front": FrontUnit, "matrix": MatrixUnit,
    "post": PostUnit, "attend": AttendUnit,
}  # fmt: skip
#: Commands of the control registers that hold for many cycles; they may reach a ready.
_STEADY = {"stop", "halt"}


def _slow(name: str, quant: str) -> Any:
    return pytest.param(name, quant, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("sequencer", "fp4"), ("fetch", "fp4"), ("fetch", "fp6"), _slow("matrix", "fp4"),
        _slow("matrix", "fp6"), _slow("front", "fp6"), _slow("post", "fp6"), _slow("attend", "fp6"),
    ],
)  # fmt: skip
def test_no_path_crosses_a_unit(name: str, quant: str) -> None:
    unit = _UNITS[name](tiny_accelerator(quant))  # fp6 has two weight ports
    paths = {pair for pair in combinational_paths(unit) if pair[0] not in _STEADY}
    assert not paths, f"{name} lets through {sorted(paths)}"


def test_a_path_is_found() -> None:
    """What the test above looks for: a ready that another ready makes."""

    class Through(wiring.Component):
        ready: In(1)
        data: In(4)
        taken: Out(1)
        kept: Out(4)

        def elaborate(self, platform: Any) -> Module:
            m = Module()
            busy = Signal()
            m.d.comb += self.taken.eq(self.ready & ~busy)
            m.d.sync += [busy.eq(self.data.any()), self.kept.eq(self.data)]
            return m

    assert combinational_paths(Through()) == {("ready", "taken")}
