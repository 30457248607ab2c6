# SPDX-License-Identifier: Apache-2.0
"""Where commands write, under which names, and the numbers that they take."""

from __future__ import annotations

import importlib
import math
import os
import stat
from pathlib import Path

import click
import pytest

from lutvar.cli.common import OutputFile
from lutvar.cli.errors import describe
from lutvar.cli.main import COMMANDS, run
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.seeds import MAX_SEED
from lutvar.contract.shape import TransformerShape
from lutvar.sim.model.model import Estimator

PICTURE = ["generate", "--backend", "float", "--class", "3", "--zoom", "1"]
QUANTIZE = ["quantize", "--preset", "fp4"]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: ") and all(line.startswith("try: ") for line in lines[1:])
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "name", "fix"),
    [
        (PICTURE, "sheet.jpg", "writes .png, not .jpg; use sheet.png"),
        (PICTURE, "sheet.5", "writes .png, not .5; use sheet.png"),
        (QUANTIZE, "model.pth", "writes .safetensors, not .pth; use model.safetensors"),
        (["eval"], "figures.csv", "writes .json, not .csv; use figures.json"),
        (["bench"], "figures.md", "writes .json, not .md; use figures.json"),
        (["study"], "page.md", "writes .json, not .md; use page.json"),
    ],
)
def test_a_name_does_not_promise_another_format(
    arguments: list[str], name: str, fix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    assert fix in error_of([*arguments, "-o", str(path)], capsys)
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["results", "--markdown", "page.png"], "use page.md"),
        (["bench", "--markdown", "page.png"], "use page.md"),
        (["bench", "--history", "figures.png"], "use figures.jsonl"),
        (["sim", "--junit", "results.json"], "use results.xml"),
    ],
)
def test_further_files(arguments: list[str], fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fix in error_of(arguments, capsys)


@pytest.mark.parametrize("name", ["sheet", "SHEET.PNG", "new/deep/sheet.png"])
def test_pictures_are_png(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert run([*PICTURE, "-o", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_links_and_devices(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for arguments, name in ((PICTURE, "x.png"), (QUANTIZE, "x.safetensors")):
        link = tmp_path / name
        link.symlink_to(f"real/{name}")
        assert run([*arguments, "-o", str(link)]) == 0
        assert link.is_symlink() and (tmp_path / "real" / name).stat().st_size > 100
        null = tmp_path / f"{name}.null"
        null.symlink_to(os.devnull)
        assert run([*arguments, "-o", str(null)]) == 0
        assert null.is_symlink() and stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_what_is_in_the_way_is_said_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")

    def load(model: str) -> None:
        raise AssertionError("the work has begun")

    # What binds the function when it is first imported must not find the one below.
    importlib.import_module("lutvar.sim.run.session")
    for module in ("lutvar.quant.models", "lutvar.quant.runnable"):
        monkeypatch.setattr(f"{module}.load_model", load)
    for arguments in (PICTURE, QUANTIZE, ["eval"], ["quantize", "--recipe", "fp4-baseline"]):
        text = error_of([*arguments, "-o", str(tmp_path / "file" / "x")], capsys)
        assert "file" in text and ("is a file" in text or "a part of its path is a file" in text)


SEEDED = [c for c in COMMANDS if any("--seed" in p.opts for p in c.params)]


@pytest.mark.parametrize("command", SEEDED, ids=lambda c: str(c.name))
@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**64, "nan", "1.5"])
def test_every_command_takes_the_same_seeds(
    command: click.Command, seed: object, capsys: pytest.CaptureFixture[str]
) -> None:
    text = error_of([str(command.name), "--seed", str(seed)], capsys)
    if isinstance(seed, int):
        assert text.endswith(f"'--seed': {seed} is not in the range 0<=x<={MAX_SEED}.")
    else:
        assert text.endswith(f"'--seed': '{seed}' is not a valid integer range.")


def test_the_commands_with_seeds_are_those_that_draw() -> None:
    assert {c.name for c in SEEDED} == {
        "decoder",
        "demo",
        "edit",
        "eval",
        "explore",
        "fuzz",
        "generate",
        "quality",
        "sim",
        "train",
    }


@pytest.mark.parametrize("clock", ["nan", "inf", "-inf", "1e308", "0", "-1"])
def test_clocks(clock: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'--clock': " in error_of(["estimate", "--model", "digits", "--clock", clock], capsys)
    value = float(clock)
    if not (math.isfinite(value) and value > 0):
        shape = TransformerShape.official("d16")
        with pytest.raises(ValueError, match=f"clock = {value}: must be a finite number above 0"):
            Estimator(load_accelerator("vck190-fp4"), shape, "d16", clock=value)


def test_messages_do_not_steer_the_terminal() -> None:
    class OutOfPlaceError(ValueError):
        pass

    OutOfPlaceError.__module__ = "lutvar.somewhere"
    error = OutOfPlaceError("\x1b[1mbold\x1b[0m\n and \x07\x9b2J gone\u202e")
    assert describe(error) == ("bold and 2J gone", 2)


def test_a_command_without_endings_takes_any_name() -> None:
    assert OutputFile().convert("x.img", None, None) == Path("x.img")
    assert OutputFile(".img").convert("x.IMG", None, None) == Path("x.IMG")
    with pytest.raises(click.BadParameter, match=r"not \.png; use x\.img"):
        OutputFile(".img").convert("x.png", None, None)
