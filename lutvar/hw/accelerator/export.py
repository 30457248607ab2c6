# SPDX-License-Identifier: Apache-2.0
"""Write an accelerator: one self-contained Verilog file and a manifest that describes it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lutvar import __version__
from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash, accelerator_identity
from lutvar.contract.isa import Region
from lutvar.contract.register_map import DeviceError, HeaderRule, InstructionRule
from lutvar.files import json_text, prepare_output, write_file
from lutvar.hw.netlist import yosys
from lutvar.hw.verilog import export_verilog, with_prefix

from .top import TOP_NAME, Accelerator


@dataclass(frozen=True)
class Manifest:
    """What was written.

    Attributes:
        verilog: path of the Verilog file.
        json: path of the manifest file, which holds `data`.
        data: plain data; keys are described in `manifest_data`.
    """

    verilog: Path
    json: Path
    data: dict[str, Any]

    @property
    def config_hash(self) -> int:
        """Hash of the configuration, as in HASH_HI:HASH_LO."""
        return int(self.data["config_hash"], 16)

    @property
    def sha256(self) -> str:
        """SHA-256 of the Verilog file."""
        return self.data["verilog"]["sha256"]


def manifest_data(config: AcceleratorConfig, top: Accelerator, verilog: str) -> dict[str, Any]:
    """Contents of the manifest.

    `parameters` sizes; `config_hash` as in HASH_HI:HASH_LO; `ports` name, width, direction in
    declaration order; `registers` the register map; `errors`, `header_rules`,
    `instruction_rules` codes of ERROR and ERROR_INFO; `instructions` the instruction set;
    `regions` of addresses; `formats` grids and tie rule; `signs` of the Hadamard transform;
    `verilog` file name, module, SHA-256; `tools` versions that the text depends on.
    """
    identity = accelerator_identity(config)
    return {
        "name": config.name,
        "contract_version": identity["version"],
        "config_hash": f"{accelerator_hash(config):016x}",
        "parameters": {
            **config.model_dump(exclude={"name", "quant"}),
            "group": identity["group"],
            "code_bits": config.quant_config.code_bits,
        },
        "quantization": config.quant_config.name,
        "formats": {key: identity[key] for key in ("weight", "activation", "dual", "kv", "ties")},
        "signs": identity["signs"],
        "ports": [
            {"name": name, "width": len(signal), "direction": direction.name.lower()}
            for name, (signal, direction) in top.port_map().items()
        ],
        "registers": identity["registers"],
        "errors": {code.name: int(code) for code in DeviceError},
        "header_rules": {rule.name: int(rule) for rule in HeaderRule},
        "instruction_rules": {rule.name: int(rule) for rule in InstructionRule},
        "instructions": identity["instructions"],
        "regions": {region.name: int(region) for region in Region},
        "verilog": {
            "file": f"{config.name}.v",
            "module": config.module,
            "bytes": len(verilog.encode()),
            "sha256": hashlib.sha256(verilog.encode()).hexdigest(),
        },
        "tools": {
            "lutvar": __version__,
            "amaranth": metadata.version("amaranth"),
            "yosys": ".".join(map(str, yosys().version())),
        },
    }


def export(
    config: AcceleratorConfig,
    out_dir: Path | str,
    *,
    units: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Write `<name>.v` and `<name>.json` into a folder.

    Module names start with `lutvar_<name>__`, so files of several configurations go together.

    The same configuration gives the same bytes on every machine with the same versions of Amaranth
    and its Yosys; the manifest is written last.

    Args:
        config: the build.
        out_dir: folder; made when missing.
        units: stand in for the units in tests.
        progress: called with a line of text for each step.
    """
    say = progress or (lambda _line: None)
    folder = Path(out_dir)
    prepare_output(folder / f"{config.name}.json")
    say(f"Verilog: elaborating {config.name}")
    top = Accelerator(config, units)
    digest = f"{accelerator_hash(config):016x}"
    text = (
        f"// lutvar accelerator {config.name}, configuration {digest}. Generated; do not edit.\n"
        + with_prefix(
            export_verilog(top, TOP_NAME, ports=top.port_map()), config.module_prefix
        ).strip()
        + "\n"
    )
    data = manifest_data(config, top, text)
    result = Manifest(folder / f"{config.name}.v", folder / f"{config.name}.json", data)
    write_file(result.verilog, text)
    write_file(result.json, json_text(data, indent=1) + "\n")
    say(f"Verilog: {result.verilog} ({len(text) / 1e6:.1f} MB)")
    return result
