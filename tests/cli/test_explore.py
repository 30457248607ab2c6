# SPDX-License-Identifier: Apache-2.0
"""`lutvar explore` from the command line: files, picks, errors of one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lutvar.cli.main import cli
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.unit_costs import save_point
from support.sim.explore import points

SPACE = """
name: tiny
base: small-fp4
fields:
  rows: {low: 16, high: 64, step: 16}
  attention_rows: [2, 4]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space and invented costs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SPACE)
    for point in points():
        save_point(point, tmp_path / "units.json")
    return tmp_path


def explore(*arguments: str) -> Result:
    common = ["--space", "tiny.yaml", "--costs", "units.json", "--model", "digits", "--jobs", "1"]
    return CliRunner().invoke(cli, ["explore", *common, "-o", "out", *arguments])


def test_front_picks_and_what_is_there(here: Path) -> None:
    done = explore("--pick", "latency", "--pick", "balanced", "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["modelled"] and data["tried"] == 8 and data["objectives"][0] == "latency"
    assert data == json.loads((here / "out" / "front.json").read_text())
    assert (here / "out" / "front.png").read_bytes().startswith(b"\x89PNG")
    best = data["front"][data["picks"]["latency"]]
    config = load_accelerator(here / "out" / "tiny-latency.yaml")
    assert config.name == "tiny-latency" and config.rows == best["values"]["rows"]
    assert set(data["written"]) == {"latency", "balanced"}
    # `estimate` reads the file, and says the same.
    path = str(here / "out" / "tiny-latency.yaml")
    command = ["estimate", "--config", path, "--model", "digits", "--schedule", "single", "--json"]
    found = json.loads(CliRunner().invoke(cli, command).stdout)
    assert found["images_per_second"] == pytest.approx(best["single"])
    # Nothing new is tried; the table says what is there.
    text = explore("--trials", "0", "--pick", "throughput", "--name", "mine").stdout
    assert "8 candidates of 8 tried" in text and "modelled" in text
    assert load_accelerator(here / "out" / "mine.yaml").name == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "nothing"], "unknown recipe 'nothing'"),
        (["--set", "rows=5"], "none of 2 candidates is within all limits"),
        (["--set", "row=5"], "'row' is no field of an accelerator"),
        (["--set", "rows"], "must be KEY=VALUE"),
        (["--space", "nothing"], "unknown space 'nothing'"),
        (["--name", "x"], "--name names one accelerator"),
        (["--preset", "fp4-single", "--recipe", "fpqvar-fp4"], "exclude each other"),
        (["--preset", "fp6"], "the model is quantized with preset fp6"),
        (["--max-kl", "0.1"], "--max-kl needs recipes"),
        (["--model", "nothing"], "unknown model 'nothing'"),
        (["--costs", "tiny.yaml"], "is no file of synthesised units"),
        (["--storage", "tiny.yaml"], "storage tiny.yaml: cannot be used"),
        (["--trials", "0"], "nothing was tried"),
        (["--recipe", "fpqvar-fp4", "--results", "tiny.yaml"], "is no row of results"),
    ],
)
def test_errors(arguments: list[str], message: str, here: Path) -> None:
    from lutvar.cli.errors import describe

    done = explore(*arguments)
    said = done.output
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        failure = describe(done.exception)
        assert failure is not None and failure[1] == 2
        said = failure[0]
        assert "\n" not in said
    assert message in said and done.exit_code != 0
    assert (here / "tiny.yaml").read_text() == SPACE
    assert not list(here.glob("out/*.yaml")) and not list(here.glob("out/front.*"))


def test_another_space_in_the_same_folder(here: Path) -> None:
    assert explore("--set", "rows=16").exit_code == 0
    done = explore("--set", "rows=32")
    assert "is of another space" in str(done.exception)
    assert explore("--set", "rows=32", "--storage", "other.log").exit_code == 0
