# SPDX-License-Identifier: Apache-2.0
"""Runs testbenches, an image and random programs on builds that count, and adds all of it up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lutvar.contract import isa
from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import INSTRUCTION_BYTES, Instruction, ProgramError
from lutvar.files import make_folder, write_file
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.program import Program
from lutvar.host.device import Device
from lutvar.host.transformer import DeviceTransformer, PassReport
from lutvar.hw.accelerator.export import export
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.runnable import quantize
from lutvar.quant.var.passes import generate_passes
from lutvar.sim.device import WRAPPER, MemoryTiming, VerilatedDevice
from lutvar.sim.fuzz.case import Step as FuzzStep
from lutvar.sim.fuzz.outcome import Outcome
from lutvar.sim.fuzz.run import Fuzzer
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
from .directed import directed
from .points import Point, merge, read_points
from .states import with_transitions

Say = Callable[[str], None]
_MEMORY = 1 << 26
_CLASS = 3  #: of the image
PROGRAMS = 150  #: random ones on each accelerator
#: In the C++ of the simulated device: the end of a simulation, and what it becomes.
_INCLUDES = '#include <cstdlib>\n#include <string>\n#include "verilated_cov.h"\n'
_DESTROY = "void lutvar_destroy(void* handle) { delete self(handle); }"
_WRITE = """\
void lutvar_destroy(void* handle) {
    static int number = 0;
    const char* folder = std::getenv("LUTVAR_COVERAGE");
    if (folder) {
        const std::string path = std::string(folder) + "/" + std::to_string(number++) + ".dat";
        self(handle)->context.coveragep()->write(path);
    }
    delete self(handle);
}
"""


def configurations() -> list[AcceleratorConfig]:
    """Small accelerators that have every form of every part between them."""
    tiny = tiny_accelerator()
    sections = {"name": "tiny-sections-fp6", "weight_ports": 4, "rows": 32, "max_sections": 2}
    versal = {"name": "tiny-da-dsp-fp4", "dot": "da", "float32": "dsp58"}
    fp6 = tiny_accelerator("fp6")
    return [tiny, fp6.model_copy(update=sections), tiny.model_copy(update=versal)]


@dataclass
class Coverage:
    """What the runs on all configurations have covered.

    Attributes:
        configs: names of the accelerators.
        points: of Verilator. bins: of instruction fields, errors and rules.
        results: of the testbenches, by configuration.
        image_values: compared with the golden model, and different.
        random_programs: that ran on each accelerator. deviations: that they have found.
    """

    configs: list[str] = field(default_factory=list)
    points: dict[Point, int] = field(default_factory=dict)
    bins: dict[Bin, int] = field(default_factory=dict)
    results: dict[str, list[SimulationResult]] = field(default_factory=dict)
    image_values: tuple[int, int] = (0, 0)
    random_programs: int = 0
    deviations: int = 0

    @property
    def ok(self) -> bool:
        """All testbenches passed and the images are right."""
        passed = all(row.passed for rows in self.results.values() for row in rows)
        right = self.image_values[0] > 0 and not self.image_values[1]
        return passed and right and not self.deviations


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
        image: generate one, and run random programs, too.
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
        errors = _errors(work / "testbenches" / "errors")
        if image:
            library = _build(config, verilog, work, say)
            say(f"{config.name}: an image ...")
            reports, comparison = _image(config, library, work / "image")
            programs += [i for r in reports for i in r.compiled.program.instructions]
            compared, different = total.image_values
            total.image_values = compared + comparison.total, different + comparison.mismatches
            chosen, missing = directed(config, seed=0)
            for bin_ in sorted(missing, key=str):
                say(f"{config.name}: no program with {bin_.group} {bin_.name}")
            say(f"{config.name}: {PROGRAMS} programs, {len(chosen)} of them for their fields ...")
            fuzzer = _CountingFuzzer(library, config, 0, work, say)
            fuzzer.chosen = chosen
            with _counted(work / "fuzz"):
                total.random_programs = PROGRAMS
                total.deviations += len(fuzzer.run(programs=PROGRAMS).deviations)
            programs += fuzzer.instructions
            errors += fuzzer.errors
            for part in ("image", "fuzz"):
                parts += [_points(file, config) for file in (work / part).glob("*.dat")]
        total.configs.append(config.name)
        total.points = merge([total.points, *parts])
        for counts in (field_bins(config, programs), error_bins(config, errors)):
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


class _CountingFuzzer(Fuzzer):
    """Keeps the instructions of right programs, and how the others ended.

    Runs the programs in `chosen` before random ones.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.chosen: list[FuzzStep] = []
        self.instructions: list[Instruction] = []
        self.errors: list[tuple[int, int]] = []

    def _step(self) -> FuzzStep:
        return self.chosen.pop(0) if self.chosen else super()._step()

    def _count(self, step: FuzzStep, outcome: Outcome) -> None:
        super()._count(step, outcome)
        if step.right:
            self.instructions += Program.decode(step.program).instructions
        if outcome.error:
            self.errors.append((outcome.error, outcome.info))


@contextmanager
def _counted(folder: Path) -> Iterator[None]:
    """Simulations that end here leave their counts in the folder."""
    make_folder(folder)
    for old in folder.glob("*.dat"):
        old.unlink()
    os.environ["LUTVAR_COVERAGE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["LUTVAR_COVERAGE"]


def _build(config: AcceleratorConfig, verilog: Path, folder: Path, say: Say) -> Path:
    wrapper, source = folder / "device.cpp", WRAPPER.read_text(encoding="utf-8")
    assert _DESTROY in source
    write_file(wrapper, _INCLUDES + source.replace(_DESTROY, _WRITE))
    for header in WRAPPER.parent.glob("*.hpp"):
        write_file(folder / header.name, header.read_bytes())
    return build(
        verilog, top=config.module, wrapper=wrapper, build_dir=folder / "sim", progress=say,
        more=COVERAGE_ARGUMENTS,
    )  # fmt: skip


def _image(
    config: AcceleratorConfig, library: Path, folder: Path
) -> tuple[list[PassReport], Comparison]:
    quantized = quantize("digits", config)
    info, loaded = quantized.loaded.info, quantized.loaded
    reports: list[PassReport] = []
    comparison = Comparison()
    timing = MemoryTiming((2, 60), 0.1)
    with _counted(folder), VerilatedDevice(library, _MEMORY, timing=timing) as simulation:
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
