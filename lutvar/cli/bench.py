# SPDX-License-Identifier: Apache-2.0
"""`lutvar bench`: area, simulation speed, golden speed and memory, against their targets."""

from __future__ import annotations

from pathlib import Path

import click

from lutvar.files import json_text, prepare_output, write_file

from .bench_device import bench_device, needs
from .common import (
    MARKDOWN,
    Number,
    OutputFile,
    beside,
    command,
    emit,
    json_option,
    note,
    out_option,
    refuse_with,
)
from .errors import FAILED, OK


@command("bench")
@click.option("--quick", is_flag=True, help="Skip what takes longest (large syntheses).")
@click.option("--check", is_flag=True, help="Also exit with 1 when a target is missed.")
@click.option(
    "--markdown",
    type=OutputFile(*MARKDOWN),
    metavar="FILE",
    help="Write the table into a Markdown page too, between its marks.",
)
@click.option(
    "--history",
    type=OutputFile(".jsonl", ".json"),
    metavar="FILE",
    help="Append the figures to a file of JSON lines, and draw it as a PNG beside it.",
)
@click.option(
    "--device",
    metavar="URL",
    help="Measure this device instead: images a second, bandwidth, energy. On devices that are no "
    "board, cycles and bytes only.",
)
@click.option(
    "--image",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --device: the packed model.",
)
@click.option(
    "--config", default="vck190-fp4", metavar="NAME|FILE", help="With --device: what it is."
)
@click.option("--slots", type=click.IntRange(1, 64), default=1, help="With --device: at a time.")
@click.option("--rounds", type=click.IntRange(1), default=4, help="With --device: of all slots.")
@click.option(
    "--mhz", type=Number(10, 500), default=200.0, help="With --device: clock of the NoC's figures."
)
@click.option(
    "--memory",
    type=click.Choice(["lpddr4", "split", "ddr4"]),
    default="lpddr4",
    help="With --device: placement of the NoC's figures.",
)
@out_option("JSON file.", "build/bench.json", endings=(".json",))
@json_option
def bench(
    quick: bool,
    check: bool,
    markdown: Path | None,
    history: Path | None,
    device: str | None,
    image: Path | None,
    config: str,
    slots: int,
    rounds: int,
    mhz: float,
    memory: str,
    out: Path,
    as_json: bool,
) -> int:
    """Measure and compare with the targets: synthesised, simulated or timed, and say which."""
    if device is not None:
        refuse_with(
            "--device", quick="--quick", check="--check", markdown="--markdown",
            history="--history",
        )  # fmt: skip
        packed = needs(image)
        prepare_output(out)
        data, text = bench_device(device, packed, config, slots, rounds, mhz, memory)
        write_file(out, json_text(data, indent=2) + "\n")
        emit(as_json, data, text)
        return OK
    refuse_with(
        "bench without --device", image="--image", config="--config", slots="--slots",
        rounds="--rounds", mhz="--mhz", memory="--memory",
    )  # fmt: skip
    for target in (out, markdown, history):
        if target is not None:
            prepare_output(target)
    from lutvar.bench.history import append, entry_of, read
    from lutvar.bench.history_plot import draw, panels
    from lutvar.bench.report import insert
    from lutvar.bench.run import run_benchmarks

    page = markdown.read_text(encoding="utf-8") if markdown and markdown.exists() else ""
    insert(page, "")  # first: a page without marks must not cost the figures
    if history is not None:
        read(history)  # likewise
    report = run_benchmarks(quick=quick)
    write_file(out, json_text(report.as_dict(), indent=2) + "\n")
    if markdown is not None:
        write_file(markdown, insert(page, report.markdown()))
    written = [out, *([markdown] if markdown else [])]
    if history is not None:
        append(history, entry_of(report))
        written.append(history)
        if panels(entries := read(history)):
            picture = beside(history, ".png")
            if picture is not None:
                written.append(picture)
                draw(entries, picture)
    emit(as_json, report.as_dict(), report.text())
    note("written: " + ", ".join(map(str, written)))
    return FAILED if report.failed or (check and report.missed) else OK
