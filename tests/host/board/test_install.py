# SPDX-License-Identifier: Apache-2.0
"""`lutvar board install`: only what belongs together is laid out, whole."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from lutvar.cli.main import cli, run
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.host.board import install
from lutvar.host.board.install import InstallError
from lutvar.host.board.references import References
from lutvar.host.errors import BadInput

HASH = f"{accelerator_hash(load_accelerator('vck190-fp4')):016x}"


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """A folder as the flow's scripts leave it; `tests/vivado` checks that they write these keys."""

    def make(segmented: bool = False, **changed: object) -> Path:
        folder = tmp_path / "results"
        folder.mkdir(exist_ok=True)
        images = ("lutvar_boot.pdi", "lutvar_pld.pdi") if segmented else ("lutvar.pdi",)
        names = (*images, "lutvar.xsa", "lutvar.hwh", "addresses.csv", "lutvar.dtsi")
        files = {}
        for name in names:
            content = f"content of {name}".encode()
            (folder / name).write_bytes(content)
            files[name] = hashlib.sha256(content).hexdigest()
        data = {
            "format": "lutvar-build-1", "configuration": "vck190-fp4", "accelerator_hash": HASH,
            "segmented": f"{segmented:d}", "files": files, **changed,
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(data))
        return folder

    return make


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A packed model; what is read of it is its accelerator."""
    path = tmp_path / "model.img"
    path.write_bytes(b"weights")
    monkeypatch.setattr(install, "read_image", lambda path: ({"accelerator": HASH}, None))
    return path


def test_what_goes_onto_the_card(
    results, model: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "card"
    assert run(["board", "install", str(results()), "--image", str(model), "-o", str(out)]) == 0
    there = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert there == {
        "boot/lutvar.pdi", "boot/boot.bif", "boot/lutvar.dtsi",
        "root/lib/firmware/lutvar/lutvar.hwh", "root/usr/share/lutvar/manifest.json",
        "root/usr/share/lutvar/model.img", *(f"root/{name}" for name in install.SETTINGS),
    }  # fmt: skip
    assert (out / "boot/lutvar.pdi").read_bytes() == b"content of lutvar.pdi"
    assert (out / "root/usr/share/lutvar/model.img").read_bytes() == b"weights"
    assert "{ type=bootimage, file=lutvar.pdi }" in (out / "boot/boot.bif").read_text()
    text = capsys.readouterr().out
    assert "fpgautil" not in text and "bootgen -arch versal -image boot.bif" in text
    # The commands of lutvar that it prints exist, with these options.
    commands = re.findall(r"^ *lutvar (.*)$", text, re.MULTILINE)
    assert len(commands) == 3
    for line in commands:
        words = shlex.split(line)
        with cli.make_context("lutvar", list(words)) as parent:
            name, command, rest = cli.resolve_command(parent, words)
            assert command is not None
            for parameter in command.params:
                if isinstance(parameter.type, click.Path):
                    monkeypatch.setattr(parameter.type, "exists", False)
            with command.make_context(name, rest, parent=parent):
                pass


def test_references_of_the_self_test(
    results, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go along when they are of the accelerator and of a model that goes along."""
    folder, out, file = results(), tmp_path / "card", tmp_path / "r.safetensors"
    meta = {"accelerator": HASH, "sha256": "5" * 64}
    monkeypatch.setattr(install, "read_image", lambda path: (meta, None))
    References(HASH, "5" * 64, "golden:vck190-fp4").save(file)
    done = install.install(folder, out, (model,), file)
    name = "usr/share/lutvar/reference.safetensors"
    assert (out / "root" / name).read_bytes() == file.read_bytes()
    test = next(line for line in done.commands if "selftest" in line)
    assert test.endswith(f"--image /usr/share/lutvar/model.img --reference /{name}")
    with pytest.raises(BadInput, match="5555, which is not among the models"):
        install.install(folder, out, (), file)
    References("0" * 16, "", "golden:small-fp4").save(file)
    with pytest.raises(BadInput, match="references of accelerator 0000"):
        install.install(folder, out, (model,), file)
    References(HASH, "", "golden:vck190-fp4").save(file)  # of the units alone
    done = install.install(folder, out, (), file)
    assert any(line.endswith(f"vck190-fp4 --reference /{name}") for line in done.commands)


def test_names_that_are_taken(results, model: Path, tmp_path: Path) -> None:
    """A model takes no other file's place, nor another model's."""
    folder, out, other = results(), tmp_path / "card", tmp_path / "b" / "model.img"
    other.parent.mkdir()
    other.write_bytes(b"other weights")
    with pytest.raises(BadInput, match=r"b/model.img: another file goes to /usr/.*/model.img; ren"):
        install.install(folder, out, (model, other))
    for name in ("manifest.json", "reference.safetensors"):
        (tmp_path / name).write_bytes(b"weights")
        with pytest.raises(BadInput, match=f"another file goes to /usr/share/lutvar/{name}"):
            install.install(folder, out, (tmp_path / name,))
    assert not out.exists()


def test_names_that_a_shell_takes_apart(results, model: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a model; rm x.img"
    odd.write_bytes(b"weights")
    out = tmp_path / "my card"
    commands = install.install(results(), out, (odd,)).commands
    words = [word for line in commands if line[0] != "#" for word in shlex.split(line)]
    assert f"/usr/share/lutvar/{odd.name}" in words
    for name in ("boot", "boot/BOOT.BIN", "root/."):
        assert f"{out}/{name}" in words


def test_rules_are_those_of_the_page(results, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/vck190.md").read_text(encoding="utf-8")
    install.install(results(), tmp_path / "card")
    for name in ("etc/udev/rules.d/60-lutvar.rules", "usr/local/sbin/lutvar-attributes"):
        assert (tmp_path / "card/root" / name).read_text() in page, name
    options = (tmp_path / "card/root/etc/modprobe.d/lutvar.conf").read_text()
    assert options == "options uio_pdrv_genirq of_id=generic-uio\n"


def test_a_segmented_build_loads_the_fabric_from_linux(results, tmp_path: Path) -> None:
    done = install.install(results(segmented=True), tmp_path / "card")
    assert {"boot/lutvar_boot.pdi", "root/lib/firmware/lutvar/lutvar_pld.pdi"} <= set(done.files)
    text = "\n".join(done.commands)
    assert "fpgautil -b /lib/firmware/lutvar/lutvar_pld.pdi" in text and "operating" in text
    assert "file=lutvar_boot.pdi" in (tmp_path / "card/boot/boot.bif").read_text()


def test_a_model_for_another_accelerator_is_refused(
    results, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "read_image", lambda path: ({"accelerator": "0" * 16}, None))
    out = tmp_path / "card"
    with pytest.raises(InstallError, match=f"packed for accelerator 0+, .*{HASH}.*--config vck190"):
        install.install(results(), out, (model,))
    assert not out.exists()


@pytest.mark.parametrize("name", ["lutvar.pdi", "lutvar.xsa", "lutvar.dtsi"])
def test_a_file_that_was_altered_cut_or_lost_is_named(results, tmp_path: Path, name: str) -> None:
    folder, out = results(), tmp_path / "card"
    whole = (folder / name).read_bytes()
    for content in (whole[:-1], whole + b"x"):
        (folder / name).write_bytes(content)
        with pytest.raises(InstallError, match=f"{name} is not the file that manifest.json"):
            install.install(folder, out)
    (folder / name).unlink()
    with pytest.raises(InstallError, match=f"{name} is missing; build it again"):
        install.install(folder, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "other"}, "format other, lutvar-build-1 is read"),
        ({"files": {}}, "names no lutvar.pdi"),
        ({"files": 3}, "is no manifest of a build"),
    ],
)
def test_another_manifest_is_refused(results, tmp_path: Path, changed, message: str) -> None:
    with pytest.raises(InstallError, match=message):
        install.install(results(**changed), tmp_path / "card")


def test_a_folder_without_results_is_one_line(tmp_path: Path, capsys) -> None:
    assert run(["board", "install", str(tmp_path), "-o", str(tmp_path / "card")]) != 0
    error = capsys.readouterr().err
    assert "manifest.json does not exist; name the results folder" in error
    assert error.count("\n") == 1
