# SPDX-License-Identifier: Apache-2.0
"""`lutvar verilog`: the accelerator as one Verilog file for Vivado, and its manifest."""

from __future__ import annotations

from pathlib import Path

import click

from .common import command, emit, json_option, note, out_option


@command("verilog")
@click.argument("config", default="small-fp4")
@out_option("Folder for <name>.v and <name>.json.", "build/verilog", folder=True)
@json_option
def verilog(config: str, out: Path, as_json: bool) -> None:
    """Write the accelerator CONFIG as Verilog with a manifest.

    CONFIG is a shipped size (small-fp4, vck190-fp4, ...) or the path of a .yaml file. Equal input
    gives equal bytes.
    """
    from lutvar.contract.accelerator import load_accelerator

    accelerator = load_accelerator(config)  # first: a wrong name must not wait for Amaranth
    from lutvar.hw.accelerator.export import export

    manifest = export(accelerator, out, progress=note)
    emit(
        as_json,
        {"files": [str(manifest.verilog), str(manifest.json)], **manifest.data},
        f"{manifest.verilog}  module {manifest.data['verilog']['module']}, "
        f"SHA-256 {manifest.sha256}\n"
        f"{manifest.json}  configuration {manifest.config_hash:016x}",
    )
