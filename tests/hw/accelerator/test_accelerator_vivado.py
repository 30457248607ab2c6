# SPDX-License-Identifier: Apache-2.0
"""What synthesis for the board depends on and simulation does not show: memories, resets."""

import re

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.hw.accelerator.top import TOP_NAME, Accelerator
from lutvar.hw.inspection import for_inspection
from lutvar.hw.links import BEAT
from lutvar.hw.units.memory import ChunkMemory, SharedMemory
from lutvar.hw.units.ram_style import ULTRA_WORDS, RamStyle, ram_style
from lutvar.hw.verilog import export_verilog
from lutvar.sim.runner import tiny_accelerator

BUILDS = {"tiny": tiny_accelerator(), "vck190-fp4": load_accelerator("vck190-fp4")}
#: A declaration of an array, with what stands before it in its line and the line before.
_ARRAY = re.compile(
    r"^(.*\n)?(.*)\breg (?:signed )?(?:\[[^]]+\] )?(\S+)\s+\[[^]]+\];", re.MULTILINE
)
_STYLE = re.compile(r'r[ao]m_style = "(block|distributed|ultra)"')


@pytest.fixture(scope="module", params=BUILDS)
def verilog(request: pytest.FixtureRequest) -> str:
    top = Accelerator(BUILDS[request.param])
    return export_verilog(top, TOP_NAME, top.port_map())


def _for_synthesis(verilog: str) -> str:
    """The text as Vivado sees it, which defines SYNTHESIS."""
    defined, shown, lines = {"SYNTHESIS"}, [True], []
    for line in verilog.splitlines():
        word, _, name = line.strip().partition(" ")
        if word in ("`ifdef", "`ifndef"):
            shown.append((name in defined) == (word == "`ifdef"))
        elif word == "`else":
            shown[-1] = not shown[-1]
        elif word == "`endif":
            shown.pop()
        elif all(shown):
            lines.append(line)
            if word == "`define":
                defined.add(name)
    assert shown == [True]
    return "\n".join(lines)


def test_every_memory_names_its_style(verilog: str) -> None:
    arrays = list(_ARRAY.finditer(_for_synthesis(verilog)))
    assert len(arrays) > 30
    without = [a[3] for a in arrays if not _STYLE.search((a[1] or "") + a[2])]
    assert not without, f"{len(without)} memories leave the choice to synthesis: {without[:9]}"


#: Kinds of modules in UltraRAM: POST's sums of columns; in the large one ATTEND's heads, too.
ULTRA_KINDS = {"tiny": 1, "vck190-fp4": 2}


def test_ultraram_has_no_initial_values(verilog: str, request: pytest.FixtureRequest) -> None:
    modules = re.findall(r"^module .*?^endmodule", _for_synthesis(verilog), flags=re.M | re.S)
    ultra = [text for text in modules if 'ram_style = "ultra"' in text]
    assert all("initial" not in text and not re.search(r"reg [^;]*=", text) for text in ultra)
    assert len(ultra) == ULTRA_KINDS[request.node.callspec.params["verilog"]]


def test_operand_banks_are_never_ultraram() -> None:
    """They are 72 x 6,912, and would take what the accumulators need."""
    assert for_inspection(ChunkMemory(72, 72, 6912)).style is RamStyle.BLOCK
    assert for_inspection(SharedMemory(1024, 4096)).style is RamStyle.ULTRA
    for depth in (1, 64, 65, ULTRA_WORDS, 1 << 16):
        assert ram_style(depth) is (RamStyle.DISTRIBUTED if depth <= 64 else RamStyle.BLOCK)
    assert ram_style(64, ultra=True) is RamStyle.DISTRIBUTED


def test_each_unit_and_row_group_has_its_own_reset(verilog: str) -> None:
    leaves = {
        module for module, text in re.findall(r"^module (\w+)(.*?)^endmodule", verilog, re.M | re.S)
        if re.search(r"^  lutvar_reset_stage leaf ", text, re.M)
    }  # fmt: skip
    assert leaves >= {"lutvar_row_group", "lutvar_sequencer"} | {
        f"lutvar_unit_{name}" for name in ("fetch", "front", "matrix", "post", "attend")
    }
    stage = re.search(r"module lutvar_reset_stage.*?endmodule", verilog, re.S)
    assert stage and 'dont_touch = "true"' in stage[0]


def test_resets_are_written_as_such_and_only_where_state_needs_them(verilog: str) -> None:
    multiplexers = re.findall(r"\b(?:rst|bus_rst|reset_leaf) \? ", verilog)
    assert len(multiplexers) < 20, f"{len(multiplexers)} resets are multiplexers"
    assert len(re.findall(r"^    else if \(", verilog, re.M)) > 100, "enables are multiplexers"
    wide = []
    for text in re.findall(r"^module .*?^endmodule", verilog, re.M | re.S):
        width = {n: int(w) + 1 for w, n in re.findall(r"reg \[(\d+):0\] (\\?\S+)", text)}
        reset = re.findall(r"^    if \((?:rst|bus_rst|reset_leaf)\) (\\?\S+) <=", text, re.M)
        name = re.match(r"module (\w+)", text)
        assert name
        wide += [f"{name[1]} {n}" for n in reset if width.get(n, 1) >= BEAT]
    assert wide == ["lutvar_accelerator__core__control__counters counts"]


def test_no_attribute_hides_a_case(verilog: str) -> None:
    """Attributes that synthesis trusts and simulators ignore; `parallel_case` alone is proved."""
    assert not re.search(r"full_case|synthesis translate|\(\* init", verilog)
    assert "function" in verilog
