# SPDX-License-Identifier: Apache-2.0
"""`lutvar vivado`: the folder is whole, hashed, and makes an image where Vivado stands in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from lutvar.cli.main import run
from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.vivado import board
from support.tcl import SCRIPTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def project(export: Path, out: Path, *options: str) -> Path:
    assert run(["vivado", "vck190-fp4", "-v", str(export), "-o", str(out), *options]) == 0
    return out


def test_the_folder_is_whole(export: Path, tmp_path: Path, capsys) -> None:
    out = project(export, tmp_path / "out")
    text = capsys.readouterr().out
    # The page shows what the command prints.
    page = (ROOT / "docs" / "vck190.md").read_text(encoding="utf-8")
    assert text.replace(str(out), "build/vivado") in page
    manifest = json.loads((out / "manifest.json").read_text())
    there = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert there == {*manifest["files"], "manifest.json", "SHA256SUMS"}
    scripts = {f"tcl/{p.name}" for p in SCRIPTS.iterdir()}
    assert set(manifest["files"]) == scripts | {
        "vck190-fp4.v", "vck190-fp4.json", "lutvar_vck190.v", "params.tcl", "lutvar.dtsi",
        "Makefile",
    }  # fmt: skip
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    config = load_accelerator("vck190-fp4")
    assert manifest["accelerator_hash"] == f"{accelerator_hash(config):016x}"
    assert manifest["registers"] == {"address": 0xA4000000, "bytes": 4096, "interrupt": 84}
    assert manifest["buffer"]["address"] == board.MEMORIES["lpddr4"].windows[-1][0]
    # Every file of the folder is known to `lutvar inspect`.
    assert run(["inspect", str(out / "manifest.json")]) == 0
    assert "folder for Vivado" in capsys.readouterr().out
    (out / "lutvar.dtsi").write_text("changed")
    assert run(["inspect", str(out / "manifest.json")]) != 0
    assert "lutvar.dtsi has another SHA-256" in capsys.readouterr().err


def test_without_an_export_it_makes_one(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder itself is where `lutvar verilog` writes then."""
    from lutvar.hw.accelerator import export as module

    def fake(config: AcceleratorConfig, out: Path, progress: Any) -> module.Manifest:
        out.mkdir(parents=True)
        paths = [shutil.copy(export / f"{config.name}.{end}", out) for end in ("v", "json")]
        return module.Manifest(Path(paths[0]), Path(paths[1]), {})

    monkeypatch.setattr(module, "export", fake)
    out = tmp_path / "out"
    assert run(["vivado", "vck190-fp4", "-o", str(out)]) == 0
    other = project(export, tmp_path / "other")
    assert (out / "SHA256SUMS").read_text() == (other / "SHA256SUMS").read_text()


def test_equal_input_gives_equal_bytes(export: Path, tmp_path: Path) -> None:
    one, two = (project(export, tmp_path / name) for name in ("one", "two"))
    for path in one.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


def test_options_reach_the_files(export: Path, tmp_path: Path) -> None:
    out = project(export, tmp_path / "out", "--mhz", "250", "--memory", "split", "--segmented",
                  "--memory-node", "--buffer-mib", "1024")  # fmt: skip
    params = (out / "params.tcl").read_text()
    assert "set lutvar(mhz) {250}" in params and "set lutvar(segmented) {1}" in params
    assert "set lutvar(placement) {split}" in params
    tree = (out / "lutvar.dtsi").read_text()
    assert "memory@50000000000" in tree and "size = <0x0 0x40000000>" in tree
    assert "clock-frequency = <250000000>" in tree
    assert "MHZ ?= 250" in (out / "Makefile").read_text()


def test_what_is_wrong_is_said(export: Path, tmp_path: Path, capsys) -> None:
    for options, message in (
        (("--mhz", "600"), "--mhz"),
        (("--memory", "hbm"), "--memory"),
        (("--buffer-mib", "3"), "a buffer of 3145728 bytes; it must be a multiple of"),
        (("--buffer-mib", "16384"), "lpddr4 has 8589934592"),
    ):
        out = tmp_path / "out"
        assert run(["vivado", "vck190-fp4", "-v", str(export), "-o", str(out), *options]) == 2
        assert message in capsys.readouterr().err
        assert not (out / "params.tcl").exists()
    assert run(["vivado", "vck190-fp6", "-v", str(export), "-o", str(tmp_path / "x")]) == 2
    assert "vck190-fp6.v" in capsys.readouterr().err


VIVADO = """\
#!/bin/sh
# Vivado's command line as the Makefile writes it, on the stand-in for its commands.
[ "$1 $2 $3 $4 $5" = "-mode batch -notrace -nojournal -log" ] || { echo "options: $*" >&2; exit 9; }
[ "$7" = -source ] && [ "$9" = -tclargs ] || { echo "options: $*" >&2; exit 9; }
export LUTVAR_SOURCE="$8"
shift 9
exec tclsh "$(dirname "$0")/run.tcl" "$@"
"""


@pytest.fixture
def vivado(tmp_path: Path) -> Path:
    """A program `vivado` that runs scripts on the stand-in."""
    if shutil.which("tclsh") is None:
        pytest.skip("tclsh is not installed; the Tcl scripts cannot be executed here")
    folder = tmp_path / "bin"
    folder.mkdir()
    settings = {
        "version": "2025.2", "slack": 0.1, "pulse": 0.2, "route_errors": 0, "hertz": 199_998_001,
        "late": 0, "act_mhz": "", "status": "", "noc_mc": 2, "stubborn": "", "window": 1,
        "exclude": 1, "relaxed": "no", "images": "system.pdi", "handoff": 1, "integrity": "",
        "runs": folder / "runs",
    }  # fmt: skip
    lines = [f"set stub({key}) {{{value}}}" for key, value in settings.items()]
    lines += [
        f"source {{{Path(__file__).with_name('vivado.tcl')}}}",
        "source $env(LUTVAR_SOURCE)",
    ]
    (folder / "run.tcl").write_text("\n".join(lines) + "\n")
    program = folder / "vivado"
    program.write_text(VIVADO)
    program.chmod(0o755)
    return program


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", "-C", str(folder), *arguments], capture_output=True, text=True,
                          env=clean, check=False, timeout=60)  # fmt: skip


def test_make_builds_the_image(export: Path, vivado: Path, tmp_path: Path, capsys) -> None:
    out = project(export, tmp_path / "my [build]")
    done = make(out, f"VIVADO={vivado}")
    assert done.returncode == 0, done.stderr
    results = out / "build" / "results"
    assert (results / "lutvar.pdi").is_file() and (results / "lutvar.xsa").is_file()
    assert run(["inspect", str(results / "manifest.json")]) == 0
    assert "results of a build in Vivado" in capsys.readouterr().out
    # What a build leaves is what `lutvar board install` reads.
    card = tmp_path / "card"
    assert run(["board", "install", str(results), "-o", str(card)]) == 0
    text = capsys.readouterr().out
    page = (ROOT / "docs" / "vck190.md").read_text(encoding="utf-8")
    assert text.replace(str(card), "build/board") in page
    assert (card / "boot" / "lutvar.pdi").is_file()
    again = make(out, f"VIVADO={vivado}")
    assert again.returncode == 0 and "launch_runs" not in again.stdout  # nothing to do
    assert make(out, "clean").returncode == 0 and not results.exists()
    reports = make(out, f"VIVADO={vivado}", "ooc", "MHZ=250")
    assert reports.returncode == 0 and "-period 4.000" in reports.stdout


def test_make_refuses_a_changed_file(export: Path, vivado: Path, tmp_path: Path) -> None:
    out = project(export, tmp_path / "out")
    with (out / "vck190-fp4.v").open("a") as file:
        file.write("// mine\n")
    done = make(out, f"VIVADO={vivado}")
    assert done.returncode != 0 and "vck190-fp4.v: FAILED" in done.stdout
    assert not (out / "build").exists()


def test_the_wheel_has_every_file() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    patterns = settings["setuptools"]["package-data"]["lutvar"]
    for path in (ROOT / "lutvar" / "vivado").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            name = path.relative_to(ROOT / "lutvar").as_posix()
            assert any(fnmatch(name, pattern) for pattern in patterns), name


def test_the_old_names_still_work(export: Path, tmp_path: Path) -> None:
    out = tmp_path / "old"
    done = subprocess.run(
        [sys.executable, str(ROOT / "constraints/params.py"), "vck190-fp4", "-v", str(export),
         "-o", str(out)], capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {p.name for p in out.iterdir()} == {"params.tcl", "lutvar_vck190.v", "lutvar.dtsi"}


@pytest.mark.parametrize("name", ["ooc", "system"])
def test_old_scripts_source_the_new_ones(shell, name: str) -> None:
    result = shell(ROOT / "constraints" / f"{name}.tcl")
    assert result.returncode == 2 and "usage: -tclargs" in result.stderr
