# SPDX-License-Identifier: Apache-2.0
"""`lutvar inspect`: what a file that lutvar wrote is."""

from __future__ import annotations

from pathlib import Path

import click

from .common import command, emit, json_option


@command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Say what FILE is, or a folder: kind, format, hashes, sizes, what it was made from.

    Files are known by their content, whatever their names: models and their parts, quantized
    models, packed images, programs, Verilog and manifests, sizes of accelerators, all JSON that
    commands write to files, records, pictures, pages, states of unfinished runs. Hashes in a file
    are checked; damage is an error. A record that ends in the midst of a line was stopped there:
    that line is left out.
    """
    from .inspecting import inspect as look_at

    report = look_at(file)
    emit(as_json, report.as_dict(file), report.text(file))
