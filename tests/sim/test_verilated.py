# SPDX-License-Identifier: Apache-2.0
"""The ctypes model of a core, on a stand-in core whose behaviour is obvious from its Verilog."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lutvar.sim import tools
from lutvar.sim.verilated import SimulationTimeout, VerilatedTop
from lutvar.sim.verilator import BuildError, build

STAND_IN = Path(__file__).with_name("stand_in.v")
SCRATCH, BEATS, SILENT = 0x70, 0x9C, 0xF0

pytestmark = pytest.mark.skipif(
    not tools.verilator().ok, reason="Verilator 5.036 or later is not installed"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(STAND_IN, 32, build_dir=tmp_path_factory.mktemp("sim"))


@pytest.fixture
def top(library: Path) -> Iterator[VerilatedTop]:
    with VerilatedTop(library) as opened:
        yield opened


def _random(beats: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, beats * 32, dtype=np.uint8)


def test_registers_obey_strobes_and_report_errors(top: VerilatedTop) -> None:
    assert top.reg_read(SCRATCH) == (0, 0)
    assert top.reg_write(SCRATCH, 0x12345678) == 0
    assert top.reg_write(SCRATCH, 0xAABBCCDD, strobe=0b0101) == 0
    assert top.reg_read(SCRATCH) == (0x12BB56DD, 0)
    assert top.reg_read(0x500) == (0, 2)
    assert top.reg_write(0x500, 1) == 2


def test_silent_register_ends_in_a_timeout(library: Path) -> None:
    with VerilatedTop(library, bus_limit=50) as top:
        with pytest.raises(SimulationTimeout, match="read of 0x0F0 in 50 cycles"):
            top.reg_read(SILENT)
        with pytest.raises(SimulationTimeout, match="write to 0x0F0"):
            top.reg_write(SILENT, 1)
        assert top.reg_write(SCRATCH, 7) == 0 and top.reg_read(SCRATCH) == (7, 0)


def test_pump_runs_at_one_beat_a_cycle(top: VerilatedTop) -> None:
    act, wgt = _random(500, 1), _random(500, 2)
    result = top.pump(1000, act=act, wgt=wgt, out_bytes=act.size)
    assert result.done and result.cycles == 501
    assert np.array_equal(result.data, act ^ wgt)
    assert result.lasts == (499,)
    assert top.reg_read(BEATS) == (500, 0)


@pytest.mark.parametrize("paused", [p for n in (1, 3) for p in itertools.combinations("awo", n)])
def test_random_pauses_change_timing_only(top: VerilatedTop, paused: tuple[str, ...]) -> None:
    for name in ("act", "wgt", "out"):
        top.pauses(name, 0.6 if name[0] in paused else 0.0, seed=len(paused))  # type: ignore[arg-type]
    for frame, beats in enumerate((1, 2, 700)):
        act, wgt = _random(beats, 3 + frame), _random(beats, 30 + frame)
        result = top.pump(20_000, act=act, wgt=wgt, out_bytes=act.size)
        assert result.done and np.array_equal(result.data, act ^ wgt)
        assert result.lasts == (beats - 1,)
    assert result.cycles > 1.5 * 700


def test_streams_move_during_register_accesses(top: VerilatedTop) -> None:
    act, wgt = _random(3, 5), _random(3, 6)
    top.send("act", act[:32], last=False)
    top.send("act", act[32:], last=True)
    top.send("wgt", wgt)
    top.want(64)
    for _ in range(4):
        top.reg_read(SCRATCH)
    assert top.pending("act") == top.pending("out") == 0
    assert np.array_equal(top.take(32), (act ^ wgt)[:32])
    assert top.available == 32 and top.lasts() == ()  # one more result waits in the core
    top.want(32)
    assert top.run(5) and top.lasts() == (2,)
    assert np.array_equal(top.take(), (act ^ wgt)[32:])


def test_limits_are_kept_and_clearing_drops_transfers(top: VerilatedTop) -> None:
    result = top.pump(100, act=_random(4, 7), out_bytes=128)
    assert not result.done and result.cycles == 100 and result.data.size == 0
    assert (top.pending("act"), top.pending("out")) == (128, 128)
    top.clear_streams()
    assert top.run(0)
    act, wgt = _random(2, 8), _random(2, 9)
    assert np.array_equal(top.pump(99, act=act, wgt=wgt, out_bytes=64).data, act ^ wgt)


def test_reset_drops_transfers_and_state(top: VerilatedTop) -> None:
    top.reg_write(SCRATCH, 5)
    top.send("act", _random(1, 1))
    top.reset()
    assert top.reg_read(SCRATCH) == (0, 0) and top.pending("act") == 0


def test_the_interrupt_line_stops_a_run(top: VerilatedTop) -> None:
    top.want(32)
    top.reg_write(SCRATCH, 1 << 31)
    assert top.interrupt
    before = top.cycles
    assert not top.run(1000, stop_on_interrupt=True) and top.cycles == before
    top.idle(10)
    assert top.cycles == before + 10


def test_partial_beats_and_closed_models_are_refused(top: VerilatedTop) -> None:
    with pytest.raises(ValueError, match="33 bytes on s_axis_act"):
        top.send("act", bytes(33))
    with pytest.raises(ValueError, match="whole beats of 32"):
        top.want(31)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        top.pauses("act", 1.0)
    top.close()
    top.close()
    with pytest.raises(ValueError, match="closed"):
        top.reset()


def test_second_build_comes_from_the_cache(library: Path) -> None:
    lines: list[str] = []
    assert build(STAND_IN, 32, build_dir=library.parent.parent, progress=lines.append) == library
    assert lines == [f"simulation model: cached in {library.parent}"]


def test_broken_verilog_shows_the_log(tmp_path: Path) -> None:
    bad = tmp_path / "bad.v"
    bad.write_text("module lutvar_top(input wire ap_clk;\nendmodule\n")
    with pytest.raises(BuildError, match="syntax error"):
        build(bad, 32, build_dir=tmp_path / "sim")
    assert not list((tmp_path / "sim").glob("partial-*"))
