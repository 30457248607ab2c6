# SPDX-License-Identifier: Apache-2.0
"""What the Tcl scripts are told, `params.tcl`, and the files beside it that a build needs.

    lutvar verilog vck190-fp4 -o build/verilog
    python -m lutvar.vivado.params vck190-fp4 -v build/verilog -o build/vivado --mhz 200

writes `params.tcl`, `lutvar_vck190.v` and `lutvar.dtsi` for an export that lies elsewhere;
`lutvar vivado` does all of it in one folder. Nothing in them is typed by hand that the
configuration, the register table or the exported Verilog knows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.quant_preset import ConfigError
from lutvar.contract.register_map import ADDRESS_BITS, read_ports
from lutvar.files import make_folder, write_file

from . import board, wrapper
from .device_tree import device_tree, pool
from .qos import PLACEMENTS, Plan, plan, summary

DEVICE_TREE = "lutvar.dtsi"
#: Clocks that a request may name, MHz.
LEAST_MHZ, MOST_MHZ = 10, 500
MOST_BUFFER_MIB = 1 << 20


class TooManyPorts(ValueError):
    """A configuration has more memory ports than the block design can connect."""


def check_ports(config: AcceleratorConfig) -> None:
    """Raise TooManyPorts unless one NoC cell has an input for each memory port."""
    masters, room = read_ports(config.weight_ports), board.NOC_INPUTS - len(board.PS_PORTS)
    if len(masters) > room:
        raise TooManyPorts(
            f"{config.name} has {len(masters)} memory ports (weight_ports {config.weight_ports}); "
            f"the NoC cell has {room} inputs beside those of the processing system; use fewer "
            "weight_ports"
        )


class StaleExport(ValueError):
    """Verilog or manifest do not belong to the configuration."""


@dataclass(frozen=True)
class Options:
    """What a build for the card may choose.

    Attributes:
        mhz: PL0, the accelerator's clock.
        memory: where the buffers lie, a key of `qos.PLACEMENTS`.
        buffer_mib: size of the data buffer that the device tree declares.
        segmented: two images, one to boot and one for the fabric that Linux loads (Vivado 2025.1).
        memory_node: the device tree declares the buffer's memory, for trees that do not list it.
    """

    mhz: float = 200.0
    memory: str = "lpddr4"
    buffer_mib: int = 2048
    segmented: bool = False
    memory_node: bool = False

    def __post_init__(self) -> None:
        if not LEAST_MHZ <= self.mhz <= MOST_MHZ:
            raise ValueError(f"--mhz is {self.mhz:g}; it must be from {LEAST_MHZ} to {MOST_MHZ}")
        if not 1 <= self.buffer_mib <= MOST_BUFFER_MIB:
            raise ValueError(
                f"--buffer-mib is {self.buffer_mib}; it must be from 1 to {MOST_BUFFER_MIB}"
            )
        pool(self.buffer_memory, self.buffer_mib << 20)  # refuses what does not fit

    @property
    def buffer_memory(self) -> str:
        """The memory that holds the data buffer."""
        return "ddr4" if self.memory == "ddr4" else "lpddr4"


@dataclass(frozen=True)
class Export:
    """An exported Verilog: its path, SHA-256 and ports."""

    verilog: Path
    sha256: str
    ports: tuple[wrapper.Port, ...]


def read_export(config: AcceleratorConfig, folder: Path) -> Export:
    """The export of a configuration in a folder. Raises StaleExport, OSError."""
    verilog, manifest = (folder / f"{config.name}.{end}" for end in ("v", "json"))
    text = verilog.read_text(encoding="utf-8")
    data = json.loads(manifest.read_text(encoding="utf-8"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    again = f"export it again: lutvar verilog {config.name} -o {folder}"
    if data["config_hash"] != f"{accelerator_hash(config):016x}":
        raise StaleExport(f"{manifest} is of another configuration or version; {again}")
    if data["verilog"]["sha256"] != digest:
        raise StaleExport(f"{verilog} is not the file that {manifest.name} describes; {again}")
    return Export(verilog, digest, tuple(wrapper.ports_of_verilog(text, config.module)))


def tcl_word(text: str) -> str:
    """A text as one word of Tcl: in braces, or with backslashes where those would not balance."""
    if re.search(r"[{}\\]", text):
        return re.sub(r'([\s{}\[\]\\$";#])', r"\\\1", text)
    return f"{{{text}}}"


def tcl(
    config: AcceleratorConfig, verilog: str, digest: str, wished: Plan, options: Options
) -> str:
    """Text of params.tcl: one array, `lutvar`; `verilog` is relative to the file's folder."""
    rows = [
        ("name", config.name),
        ("hash", f"{accelerator_hash(config):016x}"),
        ("verilog", verilog),
        ("sha256", digest),
        ("module", config.module),
        ("wrapper", wrapper.NAME),
        ("device_tree", DEVICE_TREE),
        ("part", board.PART),
        ("board", board.BOARD),
        ("mhz", f"{options.mhz:g}"),
        ("segmented", f"{options.segmented:d}"),
        ("control", wrapper.CONTROL),
        ("control_base", f"0x{board.CONTROL_BASE:X}"),
        ("control_range", f"0x{1 << ADDRESS_BITS:X}"),
        ("masters", " ".join(read_ports(config.weight_ports))),
        ("memories", " ".join(board.MEMORIES)),
        ("placement", options.memory),
    ]
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        f"# Generated by lutvar for {config.name}; do not edit.",
        *(f"set lutvar({key}) {tcl_word(value)}" for key, value in rows),
        "# Ports of the processing system on the NoC: {interface clock category MB/s}.",
        "set lutvar(ps_ports) {",
        *(f"    {{{p.interface} {p.clock} {p.category} {p.mbps}}}" for p in board.PS_PORTS),
        "}",
        "# Windows of each memory: {memory address bytes}.",
        "set lutvar(windows) {",
        *(_window(m, base, size) for m in board.MEMORIES.values() for base, size in m.windows),
        "}",
        "# Those that hold the accelerator's buffers; its ports reach no other.",
        "set lutvar(reach) {",
        *(
            _window(board.MEMORIES[name], *board.MEMORIES[name].windows[-1])
            for name in buffers(options.memory)
        ),
        "}",
        "# Paths from memory ports to memories, MB/s: {port memory channel read write}.",
        *(f"# {line}" for line in summary(wished)),
        "set lutvar(paths) {",
        *(
            f"    {{{c.port} {c.memory} {c.channel} {c.read} {c.write}}}"
            for c in wished.connections
        ),
        "}",
        "",
    ]
    return "\n".join(lines)


def _window(memory: board.Memory, base: int, size: int) -> str:
    return f"    {{{memory.name} 0x{base:X} 0x{size:X}}}"


def buffers(placement: str) -> list[str]:
    """Memories that hold a buffer of the accelerator, which lies in a memory's last window."""
    used = set(PLACEMENTS[placement].values())
    return [name for name in board.MEMORIES if name in used]


def prepare(
    config: AcceleratorConfig, export: Export, out: Path, options: Options
) -> tuple[Mapping[str, str], Plan]:
    """Texts of the files that a build in `out` needs beside the Verilog, and the bandwidth plan."""
    check_ports(config)
    digest = f"{accelerator_hash(config):016x}"
    wished = plan(config, PLACEMENTS[options.memory], options.mhz)
    relative = Path(os.path.relpath(export.verilog, out)).as_posix()
    masters = read_ports(config.weight_ports)
    texts = {
        f"{wrapper.NAME}.v": wrapper.wrapper(config.module, export.ports, ADDRESS_BITS, masters),
        DEVICE_TREE: device_tree(
            config.name, digest, board.CONTROL_BASE, 1 << ADDRESS_BITS, options.buffer_memory,
            options.buffer_mib << 20, options.memory_node, round(options.mhz * 1e6),
        ),
        "params.tcl": tcl(config, relative, export.sha256, wished, options),
    }  # fmt: skip
    return texts, wished


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", help="accelerator preset or YAML file")
    parser.add_argument("-v", "--verilog", type=Path, default=Path("build/verilog"),
                        help="folder that `lutvar verilog` wrote")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, default=Path("build/vivado"))
    parser.add_argument("--mhz", type=float, default=200.0, help="clock (PL0), default 200")
    parser.add_argument("--memory", choices=sorted(PLACEMENTS), default="lpddr4",
                        help="where the buffer lies; split: WORK and IO in DDR4")  # fmt: skip
    parser.add_argument("--buffer-mib", type=int, default=2048, help="size of the data buffer")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    found = arguments(argv)
    try:
        options = Options(found.mhz, found.memory, found.buffer_mib)
        config = load_accelerator(found.config)
        texts, wished = prepare(config, read_export(config, found.verilog), found.out, options)
        make_folder(found.out)
        for name, content in texts.items():
            write_file(found.out / name, content)
            print(found.out / name)
    except (ConfigError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in summary(wished):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
