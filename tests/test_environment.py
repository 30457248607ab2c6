# SPDX-License-Identifier: Apache-2.0
"""What tools see of the caller's shell: variables, compilers with launchers, paths, caches."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lutvar import environment

FOREIGN = (
    "COCOTB_TEST_FILTER", "COCOTB_TESTCASE", "COCOTB_TEST_MODULES", "GPI_USERS", "PYGPI_USERS",
    "PYTHONOPTIMIZE", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "TESTCASE", "WAVES",
)  # fmt: skip


def test_cores_are_those_that_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of 64, by the set of processors or by the container's share of their time."""
    share = tmp_path / "cpu.max"
    monkeypatch.setattr(environment, "_CPU_SHARE", share)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5, 9})
    assert environment.cores() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    for text, count in (("max 100000", 64), ("150000 100000", 2), ("1000 100000", 1)):
        share.write_text(f"{text}\n")
        assert environment.cores() == count


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own, where fallbacks go."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(folder))
    return folder / f"lutvar-{os.getuid()}"


def test_variables_of_other_projects_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FOREIGN:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CXXFLAGS", "-O2")
    monkeypatch.setenv("XCOCOTB_TEST_FILTER", "kept")
    seen = environment.tool_environment({"MAKEFLAGS": "-s"})
    assert not {*FOREIGN} - {"MAKEFLAGS"} & {*seen}
    assert seen["MAKEFLAGS"] == "-s" and seen["CXXFLAGS"] == "-O2" and "XCOCOTB_TEST_FILTER" in seen


@pytest.mark.parametrize(
    ("value", "command"),
    [
        (None, ["g++"]), ("", ["g++"]), ("ccache g++", ["ccache", "g++"]),
        ("g++ -m64", ["g++", "-m64"]), ("'/my tools/g++' -m64", ["/my tools/g++", "-m64"]),
        ("it's", ["it's"]),
    ],
)  # fmt: skip
def test_the_compiler_may_have_a_launcher_and_flags(
    monkeypatch: pytest.MonkeyPatch, value: str | None, command: list[str]
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    if value is not None:
        monkeypatch.setenv("CXX", value)
    assert environment.compiler_command() == command


def test_make_gets_every_value_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("CXX = other\nall:\n\t@echo '$(CXX)|$(LINK)|$(FLAG)'\n")
    values = {"CXX": "ccache g++ -m64", "LINK": "/a$b/g++", "FLAG": "-include"}
    flags = environment.make_flags(values)
    done = subprocess.run(
        ["make", "-s", "-C", str(tmp_path)], capture_output=True, text=True, check=True,
        env=environment.tool_environment({"MAKEFLAGS": flags}),
    )  # fmt: skip
    assert done.stdout == "ccache g++ -m64|/a$b/g++|-include\n"


@pytest.mark.parametrize("name", ["my space", "cash$box", "a#b", "b (copy)", "it's", "pct%d"])
def test_a_path_that_make_cannot_spell_gets_a_link(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "file").write_text("here")
    for _ in range(2):  # the second time it is there already
        link = environment.plain_path(folder, [tmp_path / "links"])
        assert link.parent == tmp_path / "links" and (link / "file").read_text() == "here"
    assert len(list((tmp_path / "links").iterdir())) == 1


@pytest.mark.parametrize("name", ["plain", "job@2", "me@example.org", "größe", "a,b=c+d"])
def test_a_path_that_make_can_spell_stays(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert environment.plain_path(folder, []) == folder


def test_links_go_to_the_temporary_folder_in_the_end(tmp_path: Path, private: Path) -> None:
    odd = tmp_path / "my space"
    odd.mkdir()
    assert environment.plain_path(odd, [odd / "tools"]).parent == private
    assert private.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, private: Path) -> None:
    private.symlink_to(tmp_path)
    odd = tmp_path / "my space"
    odd.mkdir()
    with pytest.raises(PermissionError, match="belongs to another user; delete it, or set TMPDIR"):
        environment.plain_path(odd, [])


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, private: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    assert environment.cache_variables() == {"XDG_CACHE_HOME": str(private / "cache")}
    assert environment.tool_environment()["XDG_CACHE_HOME"] == str(private / "cache")
    with environment.writable_cache():
        assert os.environ["XDG_CACHE_HOME"] == str(private / "cache")
    assert "XDG_CACHE_HOME" not in os.environ


def test_a_cache_that_can_be_written_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new" / "cache"))
    assert environment.cache_variables() == {}
    with environment.writable_cache():
        assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "new" / "cache")
