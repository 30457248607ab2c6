# SPDX-License-Identifier: Apache-2.0
"""From a model of d30's size to the image that lies in a device's memory: time and memory.

The model has random weights and lies in a folder as trained ones do, 8 GB that the commands map.
What counts is memory that only the process can give back: pages of mapped files are not in it.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lutvar.files import json_text, write_file

from .methods import RECIPE, make
from .report import Measurement

SIZE, CONFIG = "d30", "vck190-fp4"
MAX_SECONDS, MAX_MEMORY = 180.0, 4.0  #: of `lutvar pack`, GB
_POLL = 0.02  #: seconds between two looks at a process


def packing_speed() -> list[Measurement]:
    """`lutvar quantize`, then `lutvar pack` with all classes: seconds and anonymous memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_folder_of(folder / "model", SIZE)
        codes, image = folder / "codes.safetensors", folder / "model.img"
        model = ("--model", str(folder / "model"))
        commands = {
            "quantize": ["quantize", *model, "--recipe", RECIPE, "-o", str(codes)],
            "pack": ["pack", str(codes), *model, "--config", CONFIG, "-o", str(image)],
        }
        figures: dict[str, Figures] = {}
        for what, arguments in commands.items():
            try:
                figures[what] = watched([sys.executable, "-m", "lutvar.cli.main", *arguments])
            except RuntimeError as error:
                detail = {"error": str(error)}
                return [Measurement(f"{what} {SIZE}", None, "s", "timed", detail=detail)]
        sizes = {
            "file GB": (folder / "model" / "var.safetensors").stat().st_size / 1e9,
            "codes GB": codes.stat().st_size / 1e9,
            "image GB": image.stat().st_size / 1e9,
        }
    quantize, pack = figures["quantize"], figures["pack"]
    return [
        Measurement(
            f"quantize {SIZE}, {RECIPE}", quantize.seconds, "s", "timed",
            detail={"processor s": quantize.processor, "peak anonymous GB": quantize.peak},
        ),
        Measurement(
            f"pack {SIZE} with all classes", pack.seconds, "s", "timed", MAX_SECONDS,
            detail={"processor s": pack.processor, **sizes},
        ),
        Measurement(
            f"pack {SIZE} with all classes: peak anonymous memory", pack.peak, "GB", "counted",
            MAX_MEMORY,
        ),
    ]  # fmt: skip


def make_folder_of(folder: Path, size: str) -> None:
    """A model folder with a random transformer of an official size and a random tokenizer."""
    from lutvar.quant.models.model import sha256_of
    from lutvar.quant.models.official import CFG, TOP_K, TOP_P
    from lutvar.quant.var import VarConfig, Vqvae, VqvaeConfig
    from lutvar.quant.var.checkpoint import save_model

    folder.mkdir()
    var = VarConfig.official(size)
    vqvae = VqvaeConfig.official(var.patch_nums)
    make(folder / "var.safetensors", size)
    save_model(folder / "vqvae.safetensors", Vqvae(vqvae))
    description = {
        "format": 1,
        "name": f"random-{size}",
        "sampling": {"cfg": CFG, "top_k": TOP_K, "top_p": TOP_P},
        "classes": [str(i) for i in range(var.num_classes)],
        "figures": {},
        "files": {file.name: sha256_of(file) for file in sorted(folder.iterdir())},
        "var": var.to_dict(),
        "vqvae": vqvae.to_dict(),
    }
    write_file(folder / "model.json", json_text(description))


class Figures(NamedTuple):
    """What a command took: seconds, seconds of processor, most anonymous memory in GB."""

    seconds: float
    processor: float
    peak: float


def watched(command: Sequence[str]) -> Figures:
    """Run a command and look at it many times a second: Linux keeps no maximum of this memory.

    Raises:
        RuntimeError: the command failed; its last line.
    """
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, anonymous(process.pid))
                time.sleep(_POLL)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        seconds = time.monotonic() - started
        if process.returncode:
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip()
            raise RuntimeError(text.splitlines()[-1] if text else "no message")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Figures(seconds, used, peak / 1e9)


def anonymous(process: int) -> int:
    """Bytes of a process that no file holds and that are in RAM; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    match = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(match[1]) if match else 0
