# SPDX-License-Identifier: Apache-2.0
"""`lutvar vivado`: a folder from which Vivado builds the accelerator for the VCK190."""

from __future__ import annotations

from pathlib import Path

import click

from .common import Number, command, emit, json_option, note, out_option


@command("vivado")
@click.argument("config", default="vck190-fp4")
@out_option("Folder to write.", "build/vivado", folder=True)
@click.option("--mhz", type=Number(10, 500), default=200.0, help="The accelerator's clock (PL0).")
@click.option(
    "--memory",
    type=click.Choice(["lpddr4", "split", "ddr4"]),
    default="lpddr4",
    help="Where the buffers lie; split: WORK and IO in DDR4, for drivers with two buffers.",
)
@click.option(
    "--buffer-mib", type=click.IntRange(1, 1 << 20), default=2048, help="Size of the data buffer."
)
@click.option(
    "--segmented",
    is_flag=True,
    help="Two images: one boots, Linux loads the other with the fabric (from Vivado 2025.1).",
)
@click.option(
    "--memory-node",
    is_flag=True,
    help="Declare the buffer's memory in the device tree, for boot trees that do not list it.",
)
@click.option("--ip", is_flag=True, help="An IP-XACT package too, for designs drawn by hand.")
@click.option(
    "--kernel", is_flag=True, help="The IP, and what makes a user-managed Vitis kernel of it."
)
@click.option(
    "-v",
    "--verilog",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Take the export of `lutvar verilog` from here instead of making one.",
)
@json_option
def vivado(
    config: str,
    out: Path,
    mhz: float,
    memory: str,
    buffer_mib: int,
    segmented: bool,
    memory_node: bool,
    ip: bool,
    kernel: bool,
    verilog: Path | None,
    as_json: bool,
) -> None:
    """Write everything that Vivado needs to build the accelerator CONFIG for the VCK190.

    Verilog, wrapper, Tcl scripts, parameters, device tree, hashes and a Makefile: `make -C DIR`
    then makes device image and XSA, on a machine that has Vivado and needs no lutvar.
    """
    from lutvar.contract.accelerator import load_accelerator

    accelerator = load_accelerator(config)  # first: a wrong name must not wait for Amaranth
    from lutvar.vivado.params import Options, check_ports, read_export
    from lutvar.vivado.project import write_project
    from lutvar.vivado.qos import summary

    options = Options(mhz, memory, buffer_mib, segmented, memory_node)
    check_ports(accelerator)
    if verilog is None:
        from lutvar.hw.accelerator.export import export

        verilog = export(accelerator, out, progress=note).verilog.parent
    project = write_project(
        accelerator, read_export(accelerator, verilog), out, options, ip=ip, kernel=kernel
    )
    lines = [
        f"{out}: {len(project.data['files'])} files for {accelerator.name}, "
        f"configuration {project.data['accelerator_hash']}, {mhz:g} MHz",
        *(f"  {line}" for line in summary(project.plan)),
        f"next, where Vivado is: make -C {out}",
    ]
    emit(as_json, {"folder": str(out), **project.data}, "\n".join(lines))
