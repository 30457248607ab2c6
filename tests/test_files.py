# SPDX-License-Identifier: Apache-2.0
"""The one way to write files, and the rule that nothing else in the package writes any."""

from __future__ import annotations

import ast
import errno
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import lutvar
from lutvar.files import (
    OutputError,
    json_text,
    make_folder,
    not_a_file,
    prepare_output,
    write_file,
)

PACKAGE = Path(lutvar.__file__).parent
SCRIPTS = Path(__file__).parents[1] / "constraints"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bytes_text_and_pieces(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"1")
    write_file(tmp_path / "b", "µ\udc80")
    write_file(tmp_path / "c", iter([b"1", b"", bytes(3 << 20)]))
    assert (tmp_path / "a").read_bytes() == b"1"
    assert (tmp_path / "b").read_bytes() == "µ".encode() + rb"\udc80"
    assert (tmp_path / "c").read_bytes() == b"1" + bytes(3 << 20)
    assert names(tmp_path) == ["a", "b", "c"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_file(path, b"old")

    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, pieces())
    assert path.read_bytes() == b"old" and names(tmp_path) == ["f"]


def test_a_full_disk_is_one_line_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    write_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"f: No space left.*: the disk is full, .*; free space"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["f"]


def test_links_stay_and_their_targets_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "real" / "x"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to("real/x")
    (tmp_path / "chain").symlink_to("link")
    (tmp_path / "dangling").symlink_to("real/y")
    write_file(tmp_path / "chain", b"new")
    write_file(tmp_path / "dangling", b"made")
    assert (tmp_path / "chain").is_symlink() and (tmp_path / "link").is_symlink()
    assert target.read_bytes() == b"new" and stat.S_IMODE(target.stat().st_mode) == 0o640
    assert (tmp_path / "real" / "y").read_bytes() == b"made" and names(target.parent) == ["x", "y"]
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OutputError, match="circle"):
        write_file(tmp_path / "circle", b"")


def test_new_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_file(tmp_path / "f", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_pipes_and_devices_are_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    prepare_output(pipe)
    write_file(pipe, [b"a" * 100_000, b"b"])
    reader.join(60)
    assert received == [b"a" * 100_000 + b"b"] and pipe.is_fifo()
    (tmp_path / "null").symlink_to("/dev/null")
    write_file(tmp_path / "null", b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode) and (tmp_path / "null").is_symlink()


def test_an_open_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb", buffering=0) as file:
        file.write(b"before ")
        write_file(f"/dev/fd/{file.fileno()}", b"in between")
        file.write(b" after")
    assert path.read_bytes() == b"before in between after"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/f", "missing/f: .*: its folder does not exist; make it first"),
        ("file/f", "file/f: .*: a part of its path is a file"),
        ("folder", "folder: is a folder; name a file in it"),
        ("x" * 300, ": the name is too long; shorten it"),
        ("socket", "socket: is a socket; name a file"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(OutputError, match=message) as caught:
            write_file(name, b"")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["file", "folder", "socket"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_permissions(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"old")
    kept.chmod(0o444)
    with pytest.raises(OutputError, match="write-protected"):
        write_file(kept, b"")
    tmp_path.chmod(0o555)
    try:
        for act in (lambda p: write_file(p, b""), prepare_output):
            with pytest.raises(OutputError, match="no permission"):
                act(tmp_path / "new")
    finally:
        tmp_path.chmod(0o755)


def test_folders(tmp_path: Path) -> None:
    prepare_output(tmp_path / "a" / "b" / "f")
    assert names(tmp_path / "a") == ["b"] and names(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="is a file"):
            make_folder(path)


def test_json_has_no_numbers_that_are_none() -> None:
    nan, inf = float("nan"), float("inf")
    text = json_text({"a": [nan, -inf, 1.5], "b": {"c": (inf, 2)}, 3: True})
    assert json.loads(text) == {"a": [None, None, 1.5], "b": {"c": [None, 2]}, "3": True}
    data = {"b": 1, "a": [0.1, "µ"]}
    assert json_text(data, indent=1, sort_keys=True) == json.dumps(data, indent=1, sort_keys=True)
    assert json_text(data, separators=(",", ":")) == json.dumps(data, separators=(",", ":"))


#: Modules that write something else than a file of the user's: logs and sources in folders of
#: tools, a file that is appended to.
OWN_WRITES = {"sim/lint.py", "sim/verilator.py", "sim/tools.py", "bench/synth.py",
              "bench/history.py", "files.py", "sim/formal/aiger.py", "sim/formal/flow.py",
              "sim/formal/selects.py", "sim/formal/trace.py", "sim/testbenches/common.py",
              "sim/evidence/campaign.py", "bench/resets.py", "bench/routed.py",
              "bench/mutation/campaign.py", "sim/fakeboard/tree.py", "host/record.py"}  # fmt: skip
WRITES = {"write_text", "write_bytes", "savez", "tofile", "save_file"}


def test_nothing_else_writes_files() -> None:
    """No module writes, makes JSON or reads YAML past `lutvar.files` and `lutvar.yaml_files`."""
    found = []
    for path in (*PACKAGE.rglob("*.py"), *SCRIPTS.glob("*.py")):
        module = path.relative_to(PACKAGE if PACKAGE in path.parents else SCRIPTS).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name, owner = node.func.attr, ast.unparse(node.func.value)
            given = {keyword.arg for keyword in node.keywords}
            modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
            writes = name in WRITES or (owner, name) == ("os", "replace") or (
                name == "open" and any(isinstance(m, str) and set(m) & set("wax+") for m in modes)
            )  # fmt: skip
            wrong = {
                "writes": writes and module not in OWN_WRITES,
                "JSON": (owner, name) in {("json", "dumps"), ("json", "dump")}
                and module != "files.py",
                "YAML": owner == "yaml" and name.endswith("load") and module != "yaml_files.py",
                "encoding": (name in {"read_text", "write_text"} or "text" in given)
                and "encoding" not in given,
            }
            found += [f"{module}:{node.lineno}: {what}" for what, is_so in wrong.items() if is_so]
    assert not found


def test_what_cannot_be_read_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "there"
    file.write_bytes(b"x")
    assert not_a_file(file) == ""
    assert not_a_file(tmp_path / "gone") == "no such file"
    assert not_a_file(tmp_path) == "is a folder; name a file"
    assert not_a_file(Path("/dev/null")) == "is no regular file; copy it into one"
