# SPDX-License-Identifier: Apache-2.0
"""`lutvar fuzz`: random programs on the simulated accelerator, or a case that one of them left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lutvar.files import json_text, make_folder, write_file
from lutvar.progress import progress_bar

from .common import (
    Number,
    accelerator_option,
    command,
    emit,
    json_option,
    note,
    out_option,
    refuse_with,
    require_simulator,
    seed_option,
)
from .errors import FAILED, OK

if TYPE_CHECKING:
    from lutvar.sim.fuzz.run import Report


@command("fuzz")
@accelerator_option
@seed_option
@click.option(
    "--seconds",
    type=Number(0, min_open=True),
    default=60.0,
    help="Start no program after so long; building the simulation does not count.",
)
@click.option("--programs", type=click.IntRange(1), help="Run no more random programs than this.")
@click.option(
    "--case",
    "case_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Replay a case instead; its file says which accelerator.",
)
@out_option("Folder for Verilog, report.json and cases.", "build/fuzz", folder=True)
@json_option
def fuzz(
    config: str,
    seed: int,
    seconds: float,
    programs: int | None,
    case_file: Path | None,
    out: Path,
    as_json: bool,
) -> int:
    """Run random programs, right and malformed, on the Verilog of an accelerator.

    Each meets a memory of random timing, and some meet refused bursts, resets or register accesses
    on the way; after each one a right program must compute right. What deviates is made small and
    written as a case. Exit code 1 when something deviates.
    """
    if case_file is not None:
        refuse_with("--case", config="--config", seed="--seed", seconds="--seconds",
                    programs="--programs")  # fmt: skip
        return _replay(case_file, out, as_json)
    require_simulator()
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.sim.fuzz.build import build_device
    from lutvar.sim.fuzz.run import Fuzzer

    accelerator = load_accelerator(config)
    make_folder(out)
    library = build_device(accelerator, out, note)
    with progress_bar("fuzz", None, unit="program", leave=False) as bar:
        fuzzer = Fuzzer(library, accelerator, seed, out, note)
        report = fuzzer.run(
            seconds=seconds, programs=programs, progress=lambda done: _move(bar, done)
        )
    data = report.as_dict()
    write_file(out / "report.json", json_text(data, indent=1) + "\n")
    emit(as_json, data, _text(report, out / "report.json"))
    return FAILED if report.deviations else OK


def _move(bar: object, done: int) -> None:
    bar.update(done - bar.n)  # type: ignore[attr-defined]


def _replay(path: Path, out: Path, as_json: bool) -> int:
    from lutvar.sim.fuzz.case import read_case

    case = read_case(path)
    require_simulator()
    from lutvar.sim.fuzz.build import build_device
    from lutvar.sim.fuzz.oracle import replay

    make_folder(out)
    deviation = replay(build_device(case.config, out, note), case)
    text = "no deviation"
    if deviation is not None:
        text = f"program {deviation.at + 1} of {len(case.steps)}: {deviation.kind}: "
        text += deviation.what
    emit(as_json, {"case": str(path), "deviation": deviation and deviation.what}, text)
    return FAILED if deviation else OK


def _text(report: Report, path: Path) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.kinds.items()))
    ends = ", ".join(f"{count} {end}" for end, count in report.ends.most_common())
    lines = [
        f"{report.programs} programs in {report.seconds:.0f} s, {report.cycles:,} cycles",
        f"programs: {kinds}", f"ends: {ends}",
        *(f"{d.kind}: {d.what}: {p}" for d, p in zip(report.deviations, report.cases, strict=True)),
        f"{len(report.deviations)} deviations; figures in {path}",
    ]  # fmt: skip
    return "\n".join(lines)
