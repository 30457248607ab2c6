# SPDX-License-Identifier: Apache-2.0
"""`lutvar selftest`, its references, and the self-test on simulated Verilog."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lutvar.cli.errors import EXTRAS, FAILED, OK
from lutvar.cli.main import run
from lutvar.cli.selftest import _golden
from lutvar.contract.accelerator import load_accelerator
from lutvar.host import BadInput
from lutvar.host.board.references import References
from lutvar.host.board.selftest import SelfTest
from lutvar.sim.device import MemoryTiming, VerilatedDevice
from lutvar.sim.golden_device import GoldenDevice
from lutvar.sim.transport import SimulatedMemory
from support.board.faulty_device import CONFIG, SIZE, recorded
from support.sim.device_rig import BUILD, exported, packed, random_transformer

#: A process in which modules of the extras cannot be imported.
BLOCK = (
    "import sys\n"
    "for name in {names!r}: sys.modules[name] = None\n"
    "from lutvar.cli.main import main\n"
    "main()"
)


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


def test_a_failed_test_records_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so; a device of an unknown size is one line."""
    record, url = tmp_path / "r.safetensors", "golden:small-fp4?memory=1"
    arguments = ["selftest", url, "--rounds", "1", "--record", str(record)]
    assert run([*arguments, "--config", "small-fp6"]) == FAILED and not record.exists()
    assert f"not written: {record}; a check failed" in capsys.readouterr().err
    monkeypatch.setattr("lutvar.host.board.selftest.shipped_accelerator", lambda _hash: None)
    assert run(arguments) == FAILED
    assert "no accelerator that ships has the device's hash" in capsys.readouterr().err


def test_references_are_computed_on_a_device_that_is_closed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(GoldenDevice, "close", lambda device: closed.append(device.name))
    assert _golden(CONFIG, None, 1) is not None and closed == ["golden:small-fp4"]
    assert "computing references" in capsys.readouterr().err


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
