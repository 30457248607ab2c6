# SPDX-License-Identifier: Apache-2.0
"""What `lutvar generate` writes and says of the images that a run made. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lutvar.text import table

from .common import emit
from .host_times import breakdown, breakdown_text
from .image_row import write_row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lutvar.host.device_decoder import DecodeReport
    from lutvar.host.transformer import PassReport


@dataclass(frozen=True, eq=False)
class Row:
    """What a run made.

    Attributes:
        images_BCHW: float32 in [0, 1].
        tokens: of each image, all scales after each other.
        labels: class of each image; -1 for none.
        names: what stands above each image.
        seconds: of all images by part, as `GenerationResult.seconds`.
        reports: of the passes on a device.
        decodes: of the images that it decoded.
        elapsed: seconds of wall time for all images, where groups took turns; else None.
    """

    images_BCHW: NDArray[np.float32]
    tokens: Sequence[Sequence[int]]
    labels: Sequence[int]
    names: Sequence[str]
    seconds: Mapping[str, float]
    reports: Sequence[PassReport]
    decodes: Sequence[DecodeReport] = ()
    elapsed: float | None = None


def finish(
    row: Row,
    out: Path,
    *,
    backend: str,
    what: str,
    seed: int,
    zoom: int,
    names: bool,
    as_json: bool,
) -> None:
    """Write the picture, then print passes, times and where the picture is.

    Args:
        row: what was made.
        out: PNG file.
        backend: "float", "golden", "sim" or a device's URL.
        what: what that is, "backend" or "device".
        seed: of the first image.
        zoom: screen pixels per pixel.
        names: write the classes above the images.
        as_json: print data.
    """
    write_row(row.images_BCHW, zoom, row.names if names else None, out)
    data: dict[str, Any] = {
        "file": str(out),
        "backend": backend,
        "seed": seed,
        "classes": list(row.labels),
        "tokens": [list(tokens) for tokens in row.tokens],
    }
    text = f"{out}: classes {', '.join(map(str, row.labels))}, {what} {backend}, seed {seed}"
    text = describe(row, data, text, backend)
    emit(as_json, data, text)


def describe(row: Row, data: dict[str, Any], text: str, backend: str) -> str:
    """Add passes and times to the data; returns the text for people with both tables."""
    if row.reports:
        rows = [_timing(i, report) for i, report in enumerate(row.reports)]
        titles = _titles(backend)
        data["passes"] = [dict(zip(titles, cells, strict=True)) for cells in rows]
        text = f"{table(titles, rows)}\n{text}"
    if row.decodes:
        data["decoder"] = [asdict(report) for report in row.decodes]
        text = f"{text}\n{_decoded(row.decodes, backend)}"
    data["time"] = spent = breakdown(
        row.seconds, row.reports, len(row.labels), backend, row.decodes, row.elapsed
    )
    return f"{text}\n{breakdown_text(spent, backend)}"


def _decoded(reports: Sequence[DecodeReport], backend: str) -> str:
    """What decoding took on a device, all images together."""
    programs, instructions, cycles = (
        sum(getattr(report, name) for report in reports)
        for name in ("programs", "instructions", "cycles")
    )
    how = "modelled cycles" if backend.startswith("golden") else "device cycles"
    return (
        f"decoded on the device: {programs} programs, {instructions:,} instructions, "
        f"{cycles:,} {how}"
    )


def _titles(backend: str) -> tuple[str, ...]:
    """Of the table of passes: cycles of the golden device are modelled, its time is this host's."""
    scheme = backend.partition(":")[0]
    last = {"sim": "simulation s", "golden": "golden model s"}.get(scheme, "device s")
    cycles = "modelled cycles" if scheme == "golden" else "device cycles"
    return "pass", "images", "token rows", cycles, "array busy", "compile s", "transfer s", last


def _timing(index: int, report: PassReport) -> tuple[str, ...]:
    rows = sum(s.tokens * (2 if s.guided else 1) for s in report.steps)
    counters = report.counters
    return (
        str(index + 1), str(len(report.steps)), str(rows), f"{counters.cycles:,}",
        f"{100 * counters.utilisation:.1f} %", f"{report.compile_seconds:.3f}",
        f"{report.transfer_seconds:.3f}", f"{report.device_seconds:.1f}",
    )  # fmt: skip
