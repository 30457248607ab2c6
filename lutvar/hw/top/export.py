# SPDX-License-Identifier: Apache-2.0
"""Write a build of the core: one self-contained Verilog file and a manifest that describes it."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from amaranth._toolchain.yosys import find_yosys

from lutvar import __version__
from lutvar.contract.config import HardwareConfig, QuantConfig
from lutvar.contract.identity import config_hash, identity
from lutvar.contract.layout import StreamLayout
from lutvar.contract.registers import ErrorCode
from lutvar.hw.shared import export_verilog

from .top import TOP_NAME, Top


@dataclass(frozen=True)
class Manifest:
    """What was written.

    Attributes:
        verilog: path of the Verilog file.
        json: path of the manifest file, which holds `data`.
        data: plain data; keys are described in :func:`manifest_data`.
    """

    verilog: Path
    json: Path
    data: dict[str, Any]

    @property
    def config_hash(self) -> int:
        return int(self.data["config_hash"], 16)

    @property
    def sha256(self) -> str:
        """SHA-256 of the Verilog file."""
        return self.data["verilog"]["sha256"]

    @property
    def stream_bytes(self) -> int:
        return self.data["parameters"]["stream_bytes"]


def _layout_data(hardware: HardwareConfig, quant: QuantConfig) -> dict[str, int]:
    layout = StreamLayout.of(hardware, quant)
    names = ("act_group_beats", "bias_beats", "scale_beats", "weight_code_beats", "result_beats",
             "dump_scale_beats", "dump_code_beats")  # fmt: skip
    return {name: getattr(layout, name) for name in names}


def manifest_data(hardware: HardwareConfig, quant: QuantConfig, top: Top, verilog: str) -> dict:
    """Contents of the manifest.

    ``parameters`` sizes; ``config_hash`` as in HASH_HI:HASH_LO; ``ports`` name, width, direction in
    declaration order; ``registers`` the register map; ``errors`` codes of ERROR; ``formats`` grids
    and tie rule; ``signs`` of the Hadamard transform; ``streams`` beats of each section;
    ``verilog`` file name, module, SHA-256; ``tools`` versions that the text depends on.
    """
    known = identity(hardware, quant)
    return {
        "name": hardware.name,
        "contract_version": known["version"],
        "config_hash": f"{config_hash(hardware, quant):016x}",
        "parameters": {
            **{k: v for k, v in hardware.model_dump().items() if k not in ("name", "quant")},
            "group": known["group"],
            "code_bits": quant.code_bits,
        },
        "quantization": quant.name,
        "formats": {key: known[key] for key in ("weight", "activation", "dual", "ties")},
        "signs": known["signs"],
        "streams": _layout_data(hardware, quant),
        "ports": [
            {"name": name, "width": len(signal), "direction": direction.name.lower()}
            for name, (signal, direction) in top.port_map().items()
        ],
        "registers": known["registers"],
        "errors": {code.name: int(code) for code in ErrorCode},
        "verilog": {
            "file": f"{hardware.name}.v",
            "module": TOP_NAME,
            "bytes": len(verilog.encode()),
            "sha256": hashlib.sha256(verilog.encode()).hexdigest(),
        },
        "tools": {
            "lutvar": __version__,
            "amaranth": metadata.version("amaranth"),
            "yosys": ".".join(map(str, find_yosys(lambda _version: True).version())),
        },
    }


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole, so that no reader ever sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def export(
    hardware: HardwareConfig,
    quant: QuantConfig,
    out_dir: Path | str,
    *,
    engine: Any = None,
    progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Write ``<name>.v`` and ``<name>.json`` into a folder.

    The same configuration gives the same bytes on every machine with the same versions of Amaranth
    and its Yosys; the manifest is written last.

    Args:
        hardware, quant: the build.
        out_dir: folder; made when missing.
        engine: stands in for the matrix engine in tests.
        progress: called with a line of text for each step.
    """
    say = progress or (lambda _line: None)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    say(f"Verilog: elaborating {hardware.name}")
    top = Top(hardware, quant, engine)
    ports = top.port_map()
    digest = f"{config_hash(hardware, quant):016x}"
    text = (
        f"// lutvar core {hardware.name}, configuration {digest}. Generated; do not edit.\n"
        + export_verilog(top, TOP_NAME, ports=ports).strip()
        + "\n"
    )
    data = manifest_data(hardware, quant, top, text)
    result = Manifest(folder / f"{hardware.name}.v", folder / f"{hardware.name}.json", data)
    _write(result.verilog, text)
    _write(result.json, json.dumps(data, indent=1) + "\n")
    say(f"Verilog: {result.verilog} ({len(text) / 1e6:.1f} MB)")
    return result
