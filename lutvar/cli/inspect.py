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

    Every file that lutvar writes is known by its content, whatever its name: models and their
    parts, quantized models, packed images, programs, Verilog and manifests, results in JSON,
    states of unfinished runs. Hashes in a file are checked; damage is an error.
    """
    from .inspecting import inspect as look_at

    report = look_at(file)
    emit(as_json, report.as_dict(file), report.text(file))
