# SPDX-License-Identifier: Apache-2.0
"""`lutvar export-vectors`: a case that any Verilog simulator can replay without Python."""

from __future__ import annotations

from pathlib import Path

import click

from .common import command, emit, json_option, note, out_option
from .errors import OK

CASES = ("units", "layer", "digits")


@command("export-vectors")
@click.argument("config")
@click.option(
    "--case", type=click.Choice(CASES), default="units", help="What is replayed, shortest first."
)
@out_option("Folder for all files.", "build/vectors", folder=True)
@json_option
def export_vectors(config: str, case: str, out: Path, as_json: bool) -> int:
    """Write Verilog, testbench, memory images and scripts that replay a case on CONFIG.

    In the folder, run_xsim.sh (Vivado), run_icarus.sh or run_verilator.sh prints PASS, or FAIL and
    the first difference; SEED in the environment chooses other pauses on the memory ports.

    units: three programs with one instruction for each unit. layer: three passes of one random
    block. digits: a whole image of the digits model.
    """
    from lutvar.contract.accelerator import load_accelerator

    accelerator = load_accelerator(config)
    from lutvar.sim.vectors.write import export_vectors as write

    note(f"{case} on {accelerator.name}: interpreter and golden model, then Verilog ...")
    data = write(accelerator, case, out)
    text = (
        f"{out}: {data['programs']} programs, {data['memory_words']:,} words of memory, "
        f"{data['words_written']:,} of them written by the device\n"
        f"run: {out / 'run_xsim.sh'}, or run_icarus.sh, run_verilator.sh"
    )
    emit(as_json, data, text)
    return OK
