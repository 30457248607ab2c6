# SPDX-License-Identifier: Apache-2.0
"""Everything that the scripts say to Vivado is in the table of facts, and the table is used."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from lutvar.vivado import board
from support.facts import FACTS, holds
from support.tcl import words


@pytest.fixture(params=["2023.1", "2025.2"])
def said(request: pytest.FixtureRequest, shell, prepared: Path, tmp_path: Path) -> list[list[str]]:
    """What the system script says to the stand-in, line by line, as lists of words."""
    if request.param == "2025.2":  # the only release of the two that has it
        text = (prepared / "params.tcl").read_text()
        (prepared / "params.tcl").write_text(text.replace("(segmented) {0}", "(segmented) {1}"))
    result: subprocess.CompletedProcess[str] = shell(
        "system.tcl", prepared / "params.tcl", tmp_path / "project", version=request.param,
        images="a_boot.pdi a_pld.pdi" if request.param == "2025.2" else "a.pdi",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [words(line) for line in result.stdout.splitlines() if line]


def claims(said: list[list[str]]) -> Iterator[tuple[str, str, str, str]]:
    """(kind, owner, name, value) of everything that was said."""
    cells = {line[1]: "module" if line[2] == "module" else line[3].split(":")[2]
             for line in said if line[0] == "cell"}  # fmt: skip
    objects = {"project": "project", "sources_1": "fileset", "lutvar_system.bd": "bd file",
               "synth_1": "run", "impl_1": "run"}  # fmt: skip
    for what, *rest in said:
        if what == "cell":
            yield "cell", cells[rest[0]], rest[2], ""
        elif what == "board":
            cell, pin = rest[0].split("/")
            yield "pin", cells[cell], pin, ""
            yield "board", "vck190", pin, rest[1]
        elif what == "connect":
            for cell, pin in (end.split("/") for end in rest):
                yield "pin", cells[cell], pin, ""
        elif what == "property":
            target, name, value = rest
            cell, _, pin = target.partition("/")
            owner = objects.get(target) or cells[cell]
            if pin:
                owner += " interface" if pin.endswith(("_AXI", "_INI")) else " pin"
            yield "property", owner, name, value
            if name == "CONFIG.PS_PMC_CONFIG":
                pairs = words(value)
                for key, setting in zip(pairs[::2], pairs[1::2], strict=True):
                    yield "ps", "PS_PMC_CONFIG", key, setting
            elif name == "CONFIG.CONNECTIONS":
                for share in words(value)[1::2]:
                    pairs = words(share)
                    for key, setting in zip(pairs[::2], pairs[1::2], strict=True):
                        yield "share", "axi_noc", key, setting


def test_everything_said_to_vivado_is_a_fact(said: list[list[str]]) -> None:
    found = list(claims(said))
    assert len(found) > 300
    unknown = sorted({claim for claim in found if holds(*claim) is None})
    assert not unknown


def test_what_is_no_fact_would_be_noticed() -> None:
    assert holds("property", "axi_noc", "CONFIG.MC_CHANNEL_INTERLEAVING", "true")
    assert holds("property", "axi_noc", "CONFIG.MC_CHANNEL_INTERLEAVED", "true") is None
    assert holds("property", "axi_noc", "CONFIG.MC_INTERLEAVE_SIZE", "128") is None
    assert holds("pin", "versal_cips", "FPD_CCI_NOC_4") is None


def test_every_fact_about_the_design_is_used(shell, prepared: Path, tmp_path: Path) -> None:
    text = (prepared / "params.tcl").read_text()
    (prepared / "params.tcl").write_text(text.replace("(segmented) {0}", "(segmented) {1}"))
    out = shell("system.tcl", prepared / "params.tcl", tmp_path / "project",
                images="a_boot.pdi a_pld.pdi").stdout  # fmt: skip
    used = {holds(*claim) for claim in claims([words(x) for x in out.splitlines() if x])}
    kinds = ("cell", "pin", "board", "property", "ps", "share")
    assert [fact for fact in FACTS if fact.kind in kinds and fact not in used] == []


def test_every_command_of_the_stand_in_is_vivados() -> None:
    text = Path(__file__).with_name("vivado.tcl").read_text(encoding="utf-8")
    own = {"plain", "at_least", "config", "numbered", "terminals", "find_pin", "link"}
    defined = set(re.findall(r"^proc (\w+) ", text, re.M)) - own
    packaging = re.search(r"^namespace eval ipx \{(.*?)^\}", text, re.M | re.S)
    assert packaging is not None
    names = re.findall(r"(?<=proc )\w+|(?<=foreach name \{)[^}]*", packaging[1])
    defined |= {f"ipx::{name}" for group in names for name in group.split()}
    plain = re.search(r"foreach name \{([^}]*)\} \{ plain", text)
    assert plain is not None
    defined |= {*plain[1].split(), *re.findall(r"[{;] plain (\w+)", text)} - {"name"}
    assert defined - {fact.name for fact in FACTS if fact.kind == "command"} == set()


def test_every_fact_has_a_source() -> None:
    assert all(fact.source.strip() for fact in FACTS)
    names = {(fact.kind, fact.owner, fact.name) for fact in FACTS}
    assert len(names) == len(FACTS)


def test_addresses_are_the_facts_and_do_not_overlap() -> None:
    windows: list[tuple[str, str, int, int]] = []
    for fact in FACTS:
        if fact.kind == "address":
            base, size = (int(number, 16) for number in fact.value.split())
            windows.append((f"{fact.owner} {fact.name}", fact.owner, base, size))
    for (one, _, a, size), (other, _, b, length) in combinations(windows, 2):
        assert a + size <= b or b + length <= a, f"{one} and {other} overlap"
    for name, memory in board.MEMORIES.items():
        assert [(a, n) for _, owner, a, n in windows if owner == name] == list(memory.windows)
    ((base, size),) = ((a, n) for _, owner, a, n in windows if owner == "control")
    assert (base, size) == (board.CONTROL_BASE, board.CONTROL_WINDOW)


def test_rates_and_interrupt_are_the_facts() -> None:
    known = {(f.kind, f.owner): int(f.value) for f in FACTS if f.kind in ("rate", "interrupt")}
    assert known["rate", "noc"] >= board.LINK_MBPS
    for name, memory in board.MEMORIES.items():
        assert memory.peak_mbps == known["rate", name]
    assert known["interrupt", "gic"] == board.INTERRUPT_SPI + 32
