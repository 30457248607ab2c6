# SPDX-License-Identifier: Apache-2.0
"""Netlists of definitions to Verilog, by Yosys."""

import re
from concurrent.futures import Executor, Future
from typing import Any

from amaranth._toolchain.yosys import find_yosys

from lutvar.environment import writable_cache

_BATCH = 4_000_000  #: characters of a netlist for which a run of Yosys is worth its start
_YOSYS = (0, 40)  #: oldest Yosys that Amaranth's own export accepts
_ATTRIBUTES = " ".join(
    f"-remove {name}"
    for name in (
        "generator", "top", "src", "unused_bits", "full_case",
        "amaranth.hierarchy", "amaranth.decoding",
    )
)  # fmt: skip
#: Yosys passes between Amaranth's netlist and Verilog. `proc` turns processes into multiplexers,
#: which become continuous assignments: unlike `always @*` blocks they are evaluated at time
#: zero, so no simulator starts with X in logic that depends on constants or initial values only.
_PASSES = (
    # Without optimisation: it would take masked words apart into bits, which simulate ten times
    # slower.
    "proc -noopt",
    "memory_collect",
    "opt_merge",
    "opt_clean -purge",
    # Resets and enables leave the multiplexers: `if (rst) ... else if (en)`, which every synthesis
    # takes for the control set of a register. Only plain ones, which split no word.
    "opt_dff -simple-dffe",
    "opt_clean -purge",
    f"attrmap {_ATTRIBUTES}",
    f"attrmap -modattr {_ATTRIBUTES}",
    "write_verilog",
)


def yosys() -> Any:
    """The Yosys that writes Verilog: the system's when it is new enough, else Amaranth's own."""
    return find_yosys(lambda version: version >= _YOSYS)


def _verilog(text: str) -> str:
    script = [f"read_rtlil <<rtlil\n{text}\nrtlil", *_PASSES]
    with writable_cache():
        # Yosys warns of processes that it cannot translate in general; after `proc` none is left.
        written = yosys().run(["-q", "-"], "\n".join(script), ignore_warnings=True)
    # Initial values are in declarations of registers; on a wire, part of which is a register, the
    # attribute says no more, and readers may object to its undefined bits.
    written = re.sub(r"^ *\(\* init = [^*]*\*\)\n", "", written, flags=re.MULTILINE)
    # Tables that Yosys makes of switches, a few address bits wide.
    return re.sub(
        r"^  reg (\[\d+:0\] _\d+_ \[\d+:0\];)$",
        r'  (* rom_style = "distributed" *) reg \1',
        written,
        flags=re.MULTILINE,
    )


class Batch:
    """Definitions that Yosys translates in one go: it takes a while to start."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self._result: Future[str] | None = None

    @property
    def full(self) -> bool:
        """Large enough for a run of its own."""
        return sum(map(len, self.texts)) > _BATCH

    def modules(self) -> list[str]:
        """Names of the modules."""
        return [
            name
            for text in self.texts
            for name in re.findall(r"^module \\(\S+)", text, flags=re.MULTILINE)
        ]

    def start(self, writer: Executor) -> None:
        """Give the definitions to Yosys."""
        self._result = writer.submit(_verilog, "\n".join(self.texts))

    def verilog(self) -> str:
        """The translation, when it is there."""
        assert self._result is not None
        return self._result.result()
