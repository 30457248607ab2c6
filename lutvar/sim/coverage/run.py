# SPDX-License-Identifier: Apache-2.0
"""Runs testbenches and an image on builds that count coverage, and adds everything up."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lutvar.contract import isa
from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import INSTRUCTION_BYTES, Instruction, ProgramError
from lutvar.files import make_folder, write_file
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.device import Device
from lutvar.host.transformer import DeviceTransformer, PassReport
from lutvar.hw.accelerator.export import export
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.runnable import quantize
from lutvar.quant.var.passes import generate_passes
from lutvar.sim.device import WRAPPER, MemoryTiming, VerilatedDevice
from lutvar.sim.run.comparing import ComparingTransformer, Comparison
from lutvar.sim.runner import (
    COVERAGE_ARGUMENTS,
    TESTBENCHES,
    SimulationResult,
    run_on,
    tiny_accelerator,
)
from lutvar.sim.transport import SimulatedMemory
from lutvar.sim.verilator import build

from .bins import Bin, error_bins, field_bins
from .points import Point, merge, read_points
from .states import with_transitions

Say = Callable[[str], None]
_MEMORY = 1 << 26
_CLASS = 3  #: of the image
#: Added to the C++ of the simulated device.
_WRITE = """
#include "verilated_cov.h"
#pragma GCC visibility push(default)
extern "C" void lutvar_coverage(void* handle, const char* path) {
    self(handle)->context.coveragep()->write(path);
}
#pragma GCC visibility pop
"""


def configurations() -> list[AcceleratorConfig]:
    """Small accelerators that have every form of every part between them."""
    tiny = tiny_accelerator()
    versal = {"name": "tiny-da-dsp-fp4", "dot": "da", "float32": "dsp58"}
    return [tiny, tiny_accelerator("fp6"), tiny.model_copy(update=versal)]


@dataclass
class Coverage:
    """What the runs on all configurations have covered.

    Attributes:
        configs: names of the accelerators.
        points: of Verilator. bins: of instruction fields, errors and rules.
        results: of the testbenches, by configuration.
        image_values: compared with the golden model, and different.
    """

    configs: list[str] = field(default_factory=list)
    points: dict[Point, int] = field(default_factory=dict)
    bins: dict[Bin, int] = field(default_factory=dict)
    results: dict[str, list[SimulationResult]] = field(default_factory=dict)
    image_values: tuple[int, int] = (0, 0)

    @property
    def ok(self) -> bool:
        """All testbenches passed and the images are right."""
        passed = all(row.passed for rows in self.results.values() for row in rows)
        return passed and self.image_values[0] > 0 and not self.image_values[1]


def run_coverage(
    configs: Sequence[AcceleratorConfig],
    folder: Path,
    say: Say,
    *,
    test_filter: str | None = None,
    image: bool = True,
    after: Callable[[Coverage], object] = lambda _coverage: None,
) -> Coverage:
    """Measure what testbenches and an image cover.

    Args:
        configs: accelerators; `configurations` by default of the command.
        folder: for builds, logs and counts.
        say: gets lines of progress.
        test_filter: regular expression on names of testbenches.
        image: generate one, too.
        after: called after each accelerator with what there is.
    """
    total = Coverage()
    for config in configs:
        say(f"{config.name}: testbenches ...")
        work = folder / config.name
        make_folder(work)
        text = export(config, work).verilog.read_text(encoding="utf-8")
        verilog = work / "covered.v"
        write_file(verilog, with_transitions(text)[0])
        rows = run_on(
            "verilator", verilog, config, work / "testbenches",
            modules=[f"lutvar.sim.testbenches.{name}" for name in TESTBENCHES],
            test_filter=test_filter, coverage=True,
        )  # fmt: skip
        parts = [_points(work / "testbenches" / "coverage.dat", config)]
        programs = [*_programs(work / "testbenches" / "programs")]
        if image:
            say(f"{config.name}: an image ...")
            reports, comparison = _image(config, verilog, work, say)
            parts.append(_points(work / "image.dat", config))
            programs += [i for r in reports for i in r.compiled.program.instructions]
            compared, different = total.image_values
            total.image_values = compared + comparison.total, different + comparison.mismatches
        total.configs.append(config.name)
        total.points = merge([total.points, *parts])
        errors = _errors(work / "testbenches" / "errors")
        for counts in (field_bins(config, programs), error_bins(errors)):
            for bin_, count in counts.items():
                total.bins[bin_] = total.bins.get(bin_, 0) + count
        total.results[config.name] = rows
        after(total)
    return total


def _points(path: Path, config: AcceleratorConfig) -> dict[Point, int]:
    """Counts of a run; lines are those of its own Verilog, signals of all builds are the same."""
    return {
        point if point.kind == "toggle" else point._replace(name=f"{config.name}:{point.name}"): n
        for point, n in read_points(path, config.module_prefix).items()
    }


def _image(
    config: AcceleratorConfig, verilog: Path, folder: Path, say: Say
) -> tuple[list[PassReport], Comparison]:
    wrapper = folder / "device.cpp"
    write_file(wrapper, WRAPPER.read_text(encoding="utf-8") + _WRITE)
    for header in WRAPPER.parent.glob("*.hpp"):
        write_file(folder / header.name, header.read_bytes())
    library = build(
        verilog, top=config.module, wrapper=wrapper, build_dir=folder / "sim", progress=say,
        more=COVERAGE_ARGUMENTS,
    )  # fmt: skip
    quantized = quantize("digits", config)
    info, loaded = quantized.loaded.info, quantized.loaded
    reports: list[PassReport] = []
    comparison = Comparison()
    with VerilatedDevice(library, _MEMORY, timing=MemoryTiming((2, 60), 0.1)) as simulation:
        device = Device(SimulatedMemory(simulation), config)
        device.open()
        transformer = DeviceTransformer(
            device, pack_transformer(quantized.transformer, config), 1, on_pass=reports.append
        )
        golden = GoldenTransformer(quantized.transformer)
        generate_passes(
            loaded.var, loaded.vqvae, ComparingTransformer(golden, transformer, comparison),
            [_CLASS], [1], info.cfg, info.top_k, info.top_p,
        )  # fmt: skip
        write = ctypes.CDLL(str(library.absolute())).lutvar_coverage
        write.restype, write.argtypes = None, (ctypes.c_void_p, ctypes.c_char_p)
        write(simulation._handle, str(folder / "image.dat").encode())
    return reports, comparison


def _programs(path: Path) -> Iterator[Instruction]:
    """Instructions of the programs that testbenches ran; malformed ones are left out."""
    raw, at = path.read_bytes(), 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        words = range(at + 4 + INSTRUCTION_BYTES, at + 4 + size, INSTRUCTION_BYTES)
        for index, start in enumerate(words):
            try:
                yield isa.decode(raw[start : start + INSTRUCTION_BYTES], index)
            except ProgramError:
                continue
        at += 4 + size


def _errors(path: Path) -> list[tuple[int, int]]:
    pairs = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [(int(code), int(info)) for code, info in pairs]
