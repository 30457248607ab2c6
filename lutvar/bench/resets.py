# SPDX-License-Identifier: Apache-2.0
"""How many flip-flops each register of the reset tree drives.

`python -m lutvar.bench.resets [CONFIG]` prints them for an accelerator's exported Verilog.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lutvar.contract.accelerator import load_accelerator
from lutvar.environment import tool_environment
from lutvar.hw.accelerator.top import TOP_NAME, Accelerator
from lutvar.hw.verilog import export_verilog
from lutvar.text import table

from .area import EXPORTING
from .synth import SynthesisError, synthesis_tool

#: Names of the tree's registers, and of the port in front of them.
_OF_TREE = re.compile(r"(^|[._])(re)?rst|reset[^.]*$")
#: Yosys keeps the hierarchy, so that a definition with many instances is looked at once.
_SCRIPT = (
    "read_verilog design.v; hierarchy -top {top}; proc; opt_expr; opt_dff; opt_clean; "
    "write_json design.json"
)


def reset_loads(verilog: str, top: str) -> dict[str, int]:
    """Flip-flops with a synchronous reset behind each net that resets some.

    Args:
        verilog: hierarchical Verilog.
        top: its top module.

    Returns:
        Name of the net, in the module that drives it, behind the instance names -> flip-flops
        (bits); a net that the top gets from a port has the port's name.

    Raises:
        ToolError: no Yosys.
        SynthesisError: Yosys failed.
    """
    tool = synthesis_tool()
    assert tool.path is not None
    with tempfile.TemporaryDirectory(prefix="lutvar-resets-") as folder:
        Path(folder, "design.v").write_text(verilog, encoding="utf-8")
        done = subprocess.run(
            [tool.path, "-q", "-p", _SCRIPT.format(top=top)], cwd=folder, capture_output=True,
            encoding="utf-8", errors="replace", check=False, env=tool_environment(),
        )  # fmt: skip
        if done.returncode:
            raise SynthesisError(f"Yosys ended with status {done.returncode}: {done.stderr[-500:]}")
        modules = json.loads(Path(folder, "design.json").read_text(encoding="utf-8"))["modules"]
    return _Loads(modules).of(top)


class _Loads:
    def __init__(self, modules: dict[str, Any]) -> None:
        self._modules = modules
        self._inside = cache(self._inside_uncached)

    def of(self, top: str) -> dict[str, int]:
        loads, ports = self._inside(top)
        return dict(Counter(loads) + Counter(ports))

    def _inside_uncached(self, name: str) -> tuple[dict[str, int], dict[str, int]]:
        """Loads of nets that the module or one below drives, and of its input ports."""
        module = self._modules[name]
        nets: Counter[Any] = Counter()
        loads: Counter[str] = Counter()
        for label, cell in module["cells"].items():
            kind, pins = cell["type"], cell["connections"]
            if "SRST" in pins:
                nets[pins["SRST"][0]] += len(pins["Q"])
            elif kind in self._modules:
                below, ports = self._inside(kind)
                loads.update({f"{label}.{net}": count for net, count in below.items()})
                for port, count in ports.items():
                    nets[pins[port][0]] += count
        inputs = {
            bit: label for label, port in module["ports"].items()
            if port["direction"] == "input" for bit in port["bits"]
        }  # fmt: skip
        names: dict[Any, str] = {}
        for label, net in module["netnames"].items():
            for bit in net["bits"]:
                if bit not in names or len(label) < len(names[bit]):
                    names[bit] = label
        at_ports: Counter[str] = Counter()
        for bit, count in nets.items():
            if bit in inputs:
                at_ports[inputs[bit]] += count
            else:
                loads[names.get(bit, str(bit))] += count
        return dict(loads), dict(at_ports)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the registers of the reset tree with their loads, and the number of other clears."""
    names = list(sys.argv[1:] if arguments is None else arguments) or ["vck190-fp4"]
    top = Accelerator(load_accelerator(names[0]))
    with EXPORTING:
        verilog = export_verilog(top, TOP_NAME, top.port_map())
    loads = sorted(reset_loads(verilog, TOP_NAME).items(), key=lambda item: -item[1])
    tree = [item for item in loads if _OF_TREE.search(item[0])]
    others = sum(count for _, count in loads) - sum(count for _, count in tree)
    rows = [(net, f"{count:,}") for net, count in tree]
    print(table(["net", "flip-flops"], [*rows, ("cleared in operation", f"{others:,}")]))


if __name__ == "__main__":
    main()
