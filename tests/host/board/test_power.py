# SPDX-License-Identifier: Apache-2.0
"""Rails and energy from a made-up hwmon, and what is measured on which device."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from lutvar.cli.bench_device import promise
from lutvar.cli.errors import BAD_INPUT, OK
from lutvar.cli.main import run
from lutvar.contract.accelerator import load_accelerator
from lutvar.host.board.errors import NoPermission
from lutvar.host.board.files import Files
from lutvar.host.board.measure import kind_of, measure
from lutvar.host.board.power import RAILS, VCCINT_PHASES, PowerMeter, find_sensors, read_watts
from lutvar.host.open import parse
from lutvar.host.session import Session
from lutvar.sim.golden_device import GoldenDevice
from support.board.chip_files import ChipFiles
from support.board.pynq_standin import make_pynq
from support.board.pyxrt_standin import make_pyxrt
from support.sim.device_rig import packed, random_transformer

CONFIG = load_accelerator("small-fp4")
MUX = "sys/firmware/devicetree/base/axi/i2c@ff030000/i2c-mux@74"


def add_sensor(root: Path, number: int, channel: int, address: int, microwatts: int | str) -> None:
    """An INA226 as the kernel shows it: a number that says nothing, a link to its node."""
    folder = root / f"sys/class/hwmon/hwmon{number}"
    node = root / MUX / f"i2c@{channel}" / f"ina226@{address:x}"
    node.mkdir(parents=True, exist_ok=True)
    (folder / "device").mkdir(parents=True, exist_ok=True)
    (folder / "device/of_node").symlink_to(node)
    (folder / "name").write_text("ina226\n")
    (folder / "power1_input").write_text(f"{microwatts}\n")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    add_sensor(tmp_path, 3, 1, 0x40, 1_500_000)  # VCCINT, one of its phases
    add_sensor(tmp_path, 1, 3, 0x40, 250_000)  # VCCAUX: the same address, another channel
    add_sensor(tmp_path, 10, 3, 0x49, 2_000_000)
    add_sensor(tmp_path, 4, 5, 0x40, 9_000_000)  # a channel without rails
    other = tmp_path / "sys/class/hwmon/hwmon0"
    other.mkdir(parents=True)
    (other / "name").write_text("nvme\n")
    return Files(tmp_path)


def test_rails_by_channel_and_address(files: Files) -> None:
    sensors = find_sensors(files)
    assert [s.rail for s in sensors] == ["VCCINT", "VCCAUX", "1V1_LPDDR4"]
    assert [read_watts(files, s) for s in sensors] == pytest.approx([9.0, 0.25, 2.0])
    assert sensors[0].factor == VCCINT_PHASES == 6 and sensors[1].factor == 1
    assert len(set(RAILS.values())) == len(RAILS) == 17


def test_no_sensors(tmp_path: Path) -> None:
    with PowerMeter(Files(tmp_path)) as meter:
        pass
    assert not meter.sensors and not meter.energy.joules and not meter.energy.watts


def test_energy_is_power_over_time(files: Files) -> None:
    now = [100.0]
    meter = PowerMeter(files, seconds=1e9, clock=lambda: now[0])
    power = files.path("sys/class/hwmon/hwmon3/power1_input")
    with meter:
        for seconds, microwatts in ((2.0, 1_500_000), (1.0, 3_500_000), (0.5, 500_000)):
            now[0] += seconds
            power.write_text(f"{microwatts}\n")
            meter.sample()
        now[0] += 0.25
    energy = meter.energy
    # Means of two readings: 9, 9 to 21, 21 to 3, 3 watts.
    assert energy.joules["VCCINT"] == pytest.approx(9 * 2 + 15 * 1 + 12 * 0.5 + 3 * 0.25)
    assert energy.seconds == pytest.approx(3.75)
    assert energy.watts["VCCAUX"] == pytest.approx(0.25) and energy.samples == 4


def test_the_thread_reads(files: Files) -> None:
    with PowerMeter(files, seconds=0.001) as meter:
        end = time.monotonic() + 60
        while meter.energy.samples < 3 and time.monotonic() < end:
            time.sleep(0.001)
    assert meter.energy.watts["VCCINT"] == pytest.approx(9.0)


def test_a_rail_that_cannot_be_read(files: Files) -> None:
    files.path("sys/class/hwmon/hwmon3/power1_input").write_text("\n")
    files.path("sys/class/hwmon/hwmon1/power1_input").unlink()
    with PowerMeter(files, seconds=1e9) as meter:
        pass
    assert set(meter.energy.joules) == {"1V1_LPDDR4"}


def test_a_rail_that_may_not_be_read(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no figure, and the thread goes on with the others."""
    text = files.text

    def refused(*parts: str) -> str | None:
        if parts[-1] == "power1_input" and "hwmon3" in parts:
            raise NoPermission("/".join(parts))
        return text(*parts)

    monkeypatch.setattr(files, "text", refused)
    with PowerMeter(files, seconds=0.001) as meter:
        end = time.monotonic() + 60
        while meter.energy.samples < 3 and time.monotonic() < end:
            time.sleep(0.001)
    assert set(meter.energy.joules) == {"VCCAUX", "1V1_LPDDR4"} and meter.energy.samples >= 3


def test_only_a_board_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LUTVAR_ROOT", raising=False)
    kinds = {"golden:x": "modelled", "sim:x": "simulated", "replay:x": "replayed",
             "uio:lutvar": "measured", f"uio:lutvar?root={tmp_path}": "fake board",
             "pynq:x.pdi": "measured", "xrt:": "measured"}  # fmt: skip
    assert {url: kind_of(parse(url)) for url in kinds} == kinds
    monkeypatch.setenv("LUTVAR_ROOT", str(tmp_path))
    assert kind_of(parse("uio:lutvar")) == "fake board"


def test_a_device_that_is_no_board_has_no_seconds() -> None:
    model, url = packed(random_transformer()), "golden:small-fp4?memory=8"
    with Session.open(url, model, slots=2) as session:
        result = measure(session, parse(url), 2)
    data = json.loads(json.dumps(result.as_dict()))
    assert (result.images, result.passes) == (4, 6) and data["kind"] == "modelled"
    assert data["images_per_second"] is data["seconds"] is data["device_seconds"] is None
    assert data["cycles_per_image"] == result.cycles / 4 and 0 < data["array_busy"] < 1
    # Every weight is read once a pass: the beats are the device's own counters.
    assert data["traffic"]["wgt read"] % 64 == 0 and data["bytes_per_cycle"]["wgt read"] < 64
    assert not data["joules"]


def test_a_board_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for a board: seconds, images a second, energy of the run alone."""
    chip = GoldenDevice(CONFIG, size=8 << 20)
    files = ChipFiles(tmp_path, chip)
    add_sensor(tmp_path, 0, 1, 0x40, 2_000_000)
    pyxrt = make_pyxrt(chip)
    monkeypatch.delenv("LUTVAR_ROOT", raising=False)
    monkeypatch.setitem(sys.modules, "pyxrt", pyxrt)
    monkeypatch.setitem(sys.modules, "pynq", make_pynq(chip, pyxrt))
    monkeypatch.setattr(Files, "under", staticmethod(lambda _root: files))
    monkeypatch.setattr("lutvar.host.board.measure.IDLE_SECONDS", 0.05)
    url = "pynq:lutvar.pdi?memory=LPDDR&buffer=8"
    with Session.open(url, packed(random_transformer())) as session:
        result = measure(session, parse(url), 3)
    files.end()
    assert result.kind == "measured" and result.images == 3
    assert result.seconds and result.device_seconds and result.device_seconds < result.seconds
    assert result.images_per_second == pytest.approx(3 / result.seconds)
    assert result.idle_watts["VCCINT"] == pytest.approx(12.0)
    assert 12 * result.seconds <= result.joules["VCCINT"] <= 12 * (result.seconds + 30)
    assert result.as_dict()["joules_per_image"]["VCCINT"] == result.joules["VCCINT"] / 3


def test_the_promise_is_the_block_designs() -> None:
    config = load_accelerator("vck190-fp4")
    asked = promise(config, "lpddr4", 200.0)
    assert {"prog read", "wgt read", "wgt1 read", "post write", "values write"} <= set(asked)
    assert all(0 < rate <= 75 for rate in asked.values()) and asked["wgt read"] > 10
    # MB/s are limited, so a faster clock is promised fewer bytes in each cycle.
    assert promise(config, "lpddr4", 400.0)["wgt read"] <= asked["wgt read"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out = tmp_path / "m.img", tmp_path / "b.json"
    packed(random_transformer()).save(image)
    arguments = ["bench", "--device", "golden:small-fp4?memory=8", "--config", "small-fp4"]
    assert run([*arguments, "--image", str(image), "--rounds", "1", "-o", str(out)]) == OK
    text = capsys.readouterr().out
    assert "not measured: this is no board (modelled)" in text and "wgt read" in text
    data = json.loads(out.read_text())
    assert data["images_per_second"] is None and data["noc"]["mhz"] == 200.0
    assert run(["inspect", str(out), "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["kind"] == "figures of `lutvar bench --device`"
    assert run([*arguments, "-o", str(out)]) == BAD_INPUT
    assert "--device needs --image" in capsys.readouterr().err
    assert run(["bench", "--slots", "2"]) == BAD_INPUT
    assert "no use of --slots" in capsys.readouterr().err
    assert run([*arguments, "--image", str(image), "--quick"]) == BAD_INPUT
