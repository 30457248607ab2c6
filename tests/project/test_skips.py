# SPDX-License-Identifier: Apache-2.0
"""A run of CI fails for a skip that is not on its list, and says which programs it missed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import skips

ROOT = Path(__file__).parents[2]
LIST = ROOT / ".ci" / "skips.txt"
#: A reason in a test's source: what follows skip( or reason=, and what importorskip says itself.
_REASON = re.compile(r"""(?:pytest\.skip\(|reason=)\s*f?["']([^"']*(?:'s[^"']*)?)["']""")


def outcome(
    folder: Path, body: str, expected: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """A run of pytest on one test file, with a list of expected skips."""
    (folder / "conftest.py").write_text("from support.skips import pytest_configure\n")
    (folder / "test_it.py").write_text(f"import pytest\n{body}\ndef test_other():\n    pass\n")
    (folder / "list.txt").write_text(expected)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"LUTVAR_SKIPS": str(folder / "list.txt"), "PYTHONPATH": os.pathsep.join(
        [str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-c", os.devnull,
         f"--rootdir={folder}", *arguments, str(folder)],
        env=environment, capture_output=True, text=True, check=False, cwd=folder, timeout=120,
    )  # fmt: skip


IN_TEST = "def test_skips():\n    pytest.skip('no moon')"
IN_MODULE = "pytest.skip('no moon', allow_module_level=True)"


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
@pytest.mark.parametrize("body", [IN_TEST, IN_MODULE], ids=["test", "module"])
def test_a_skip_that_nobody_expects_fails_the_run(tmp_path: Path, body: str, workers) -> None:
    done = outcome(tmp_path, body, "- no sun\n", *workers)
    assert done.returncode != 0 and "UNEXPECTED SKIP of 1: no moon" in done.stdout
    # pytest's own summary stays the last line.
    assert re.search(r"1 skipped.* in ", done.stdout.splitlines()[-1])


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_an_expected_skip_passes(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = outcome(tmp_path, IN_TEST, "# why\n- no (sun|moon)\n", *workers)
    assert done.returncode == 0 and "UNEXPECTED" not in done.stdout


def test_a_skip_for_a_program_is_expected_where_it_is_missing(tmp_path: Path) -> None:
    missing = outcome(tmp_path, IN_TEST, "no-such-program no moon\n")
    assert missing.returncode == 0
    assert "note: 1 tests did not run, no-such-program is missing here: no moon" in missing.stdout
    there = outcome(tmp_path, IN_TEST, "sh no moon\n")
    assert there.returncode == 1 and "UNEXPECTED SKIP" in there.stdout


def test_a_failure_stays_one_and_xfail_is_no_skip(tmp_path: Path) -> None:
    body = "@pytest.mark.xfail\ndef test_x():\n    assert False\n"
    assert outcome(tmp_path, body, "").returncode == 0
    assert outcome(tmp_path, "def test_x():\n    assert False\n", "").returncode == 1


def test_a_line_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2: 'dtc'; write a program or -, then a reason"):
        skips.rules("# comment\ndtc\n")


def test_the_list_covers_the_reasons_in_the_tests() -> None:
    """Every reason written in a test is on the list, or names a package that CI installs."""
    rules = skips.rules(LIST.read_text(encoding="utf-8"))
    installed = ("cocotb", "cocotbext-axi", "pdoc")  # by the extras test and docs
    found = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path != Path(__file__):
            found |= {(path.name, r) for r in _REASON.findall(path.read_text(encoding="utf-8"))}
    assert len(found) > 5
    unknown = [
        (name, reason)
        for name, reason in found
        if not any(re.fullmatch(rule.reason, reason) for rule in rules)
        and not reason.startswith(installed)
    ]
    assert not unknown, "add a line to .ci/skips.txt"


def test_ci_installs_what_the_list_names() -> None:
    """A program on the list is one that CI tries to install, so that its tests run."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    programs = {r.program for r in skips.rules(LIST.read_text(encoding="utf-8"))} - {"-"}
    pairs = dict(re.findall(r"([\w-]+):([\w-]+)", re.search(r"for pair in (.*); do", text)[1]))  # type: ignore[index]
    assert programs <= set(pairs)
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert all(package in workflow for package in pairs.values())
    assert "LUTVAR_SKIPS" in text and text.index("LUTVAR_SKIPS") < text.index("\nmake test")
