# SPDX-License-Identifier: Apache-2.0
"""The main job: quantize, pack, build, generate on the simulated accelerator, compare, report."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

import lutvar
from lutvar.contract.config import HardwareConfig, QuantConfig, load_hardware, load_quant
from lutvar.contract.identity import config_hash
from lutvar.host.backend import AcceleratorBackend
from lutvar.host.comparing import ComparingBackend, OnMismatch
from lutvar.host.driver import Accelerator
from lutvar.host.packed import PackedModel
from lutvar.host.record import JobRecord, Recorder
from lutvar.host.sim_transport import SimTransport
from lutvar.hw.top.export import export
from lutvar.models import LoadedModel, load_model
from lutvar.quant.golden import FakeQuantBackend, GoldenBackend
from lutvar.quant.golden.distance import DistanceReport, compare_backends
from lutvar.quant.ptq import QuantizedModel, quantize_model
from lutvar.quant.var import FloatLinear, GenerationResult, LinearBackend, Var, generate
from lutvar.run.compare import compare_generations
from lutvar.run.sheet import SheetRow, write_sheet
from lutvar.sim.tools import versions
from lutvar.sim.verilated import VerilatedTop

from .performance import PerformanceTable
from .report import DemoReport

Say = Callable[[str], None]
_BUILD = Path("build/sim")


class Simulation(NamedTuple):
    """A simulated device, ready for jobs, and the files that it was made from."""

    device: Accelerator
    packed: PackedModel
    verilog: Path
    hashes: dict[str, str]


class Stages:
    """Names and times the parts of a run; ``seconds`` is filled as they end."""

    def __init__(self, say: Say) -> None:
        self.seconds: dict[str, float] = {}
        self._say = say

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._say(f"{name} ...")
        started = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


def prepare(
    quantized: QuantizedModel,
    hardware: HardwareConfig,
    quant: QuantConfig,
    folder: Path,
    *,
    build_dir: Path = _BUILD,
    stages: Stages | None = None,
    say: Say | None = None,
) -> Simulation:
    """Pack the weights to a file and load them back, export the Verilog, build and open it.

    Args:
        quantized: what to run.
        hardware, quant: the accelerator; ``quant`` is the preset of ``quantized``.
        folder: gets the packed weights and the Verilog.
        build_dir: cache of compiled simulations.
        stages: times the parts.
        say: gets lines about the build.
    """
    say = say or (lambda _line: None)
    stages = stages or Stages(say)
    folder.mkdir(parents=True, exist_ok=True)
    with stages("pack the weights"):
        file = folder / "weights.lutvar"
        layers = {layer.name: layer for layer in quantized.layers.values()}
        digest = PackedModel.pack(layers, hardware, quant).save(file)
        packed = PackedModel.load(file, hardware, quant)
    with stages("export the Verilog"):
        manifest = export(hardware, quant, folder)
    with stages("build the simulation"):
        top = VerilatedTop.from_verilog(
            manifest.verilog, hardware.stream_bytes, build_dir=build_dir, progress=say
        )
    device = Accelerator(SimTransport(top), hardware, quant)
    device.open()
    hashes = {
        "configuration": f"{config_hash(hardware, quant):016x}",
        "Verilog (SHA-256)": manifest.sha256,
        "packed weights (SHA-256)": digest,
    }
    return Simulation(device, packed, manifest.verilog, hashes)


def open_simulated(
    var: Var, hardware: HardwareConfig, quant: QuantConfig, folder: Path = _BUILD
) -> AcceleratorBackend:
    """A backend that runs a model's linear layers on the simulated accelerator.

    The simulation is closed with the process; the compiled model stays in ``folder``.
    """
    simulation = prepare(
        quantize_model(var, quant), hardware, quant, folder / hardware.name, build_dir=folder
    )
    return AcceleratorBackend(simulation.device, simulation.packed)


def run_demo(
    out_dir: str | Path,
    hardware: str = "small-fp4",
    labels: Sequence[int] = range(10),
    seed: int = 1,
    progress: bool = True,
    *,
    model: str = "digits",
    build_dir: Path = _BUILD,
    on_mismatch: OnMismatch = "continue",
) -> DemoReport:
    """Generate one image for each label on the simulated accelerator and compare everything.

    Writes sheet.png, report.html, report.md, report.json, the Verilog with its manifest, and the
    packed weights to ``out_dir``. Progress and summary go to standard error.

    Args:
        out_dir: folder; made if needed.
        hardware: accelerator size, preset name or YAML file.
        labels: classes, one image each, all in one batch with guidance.
        seed: of the sampling.
        progress: show progress and a summary.
        model: shipped model or model folder.
        build_dir: cache of compiled simulations.
        on_mismatch: ``stop`` ends the run at the first difference with DivergenceError.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    say: Say = _to_stderr if progress else lambda _line: None
    stages = Stages(say)
    config = load_hardware(hardware)
    quant = load_quant(config.quant)
    with stages("load the model"):
        loaded = load_model(model)
    with stages("quantize"):
        quantized = quantize_model(loaded.var, quant, progress=False)
    golden = GoldenBackend(quantized)
    fake = FakeQuantBackend(loaded.var, quant)
    simulation = prepare(quantized, config, quant, out, build_dir=build_dir, stages=stages, say=say)
    runs: dict[str, GenerationResult] = {}
    for name, backend in (
        ("unquantized", FloatLinear()),
        ("fake quantization", fake),
        ("golden model", golden),
    ):
        with stages(f"generate: {name}"):
            runs[name] = _generate(loaded, backend, labels, seed)
    with stages("distances under equal tokens"):
        others: dict[str, LinearBackend] = {"golden model": golden, "fake quantization": fake}
        distances = _distances(loaded, others, runs["golden model"], labels)

    recorder = Recorder()
    accelerator = AcceleratorBackend(simulation.device, simulation.packed)
    comparing = ComparingBackend(golden, accelerator, recorder, on_mismatch)
    with stages("generate: simulated accelerator"):
        loaded.var.step_hook = recorder.begin_step
        try:
            with _bar(loaded, labels, recorder, progress):
                runs["accelerator"] = _generate(loaded, comparing, labels, seed)
        finally:
            loaded.var.step_hook = None
            simulation.device.transport.close()

    performance = PerformanceTable.of(recorder.jobs, config)
    columns = [loaded.info.classes[label] for label in labels]
    report = DemoReport(
        hardware=config,
        quant=quant,
        model={"name": loaded.info.name, "files": loaded.info.files},
        labels=list(labels),
        seed=seed,
        sampling=_sampling(loaded),
        compared=recorder.totals(),
        divergences=recorder.divergences,
        end_to_end=compare_generations(runs["golden model"], runs["accelerator"]),
        others={
            name: compare_generations(runs["golden model"], runs[name])
            for name in ("unquantized", "fake quantization")
        },
        distances=distances,
        performance=performance,
        simulated_cycles=performance.overall.cycles + performance.overall.dump_cycles,
        simulation_seconds=stages.seconds["generate: simulated accelerator"],
        seconds=stages.seconds,
        versions=_versions(),
        hashes=simulation.hashes,
        sheet=out / "sheet.png",
    )
    rows = [
        SheetRow("unquantized", "float32", runs["unquantized"].images_BCHW),
        SheetRow("golden model", f"{quant.name}, CPU", runs["golden model"].images_BCHW),
        SheetRow(
            "accelerator", f"{quant.name}, simulated Verilog", runs["accelerator"].images_BCHW
        ),
    ]
    title = f"lutvar demo: model {loaded.info.name}, accelerator {config.name}, seed {seed}"
    write_sheet(report.sheet, rows, columns, title, report.verdict)
    report.write()
    say(report.summary())
    return report


def _generate(
    loaded: LoadedModel, backend: LinearBackend, labels: Sequence[int], seed: int
) -> GenerationResult:
    """One free-running generation with the model's own sampling settings."""
    before = loaded.var.linear_backend
    loaded.var.linear_backend = backend
    try:
        info = loaded.info
        return generate(
            loaded.var, loaded.vqvae, list(labels), seed, info.cfg, info.top_k, info.top_p
        )
    finally:
        loaded.var.linear_backend = before


def _distances(
    loaded: LoadedModel,
    backends: dict[str, LinearBackend],
    tokens_of: GenerationResult,
    labels: Sequence[int],
) -> DistanceReport:
    """Logits and layer outputs with each backend, all given the tokens of one generation."""
    with torch.no_grad():
        inputs = loaded.vqvae.quantize.teacher_inputs(tokens_of.tokens)
    return compare_backends(loaded.var, torch.tensor(list(labels)), inputs, backends)


def _sampling(loaded: LoadedModel) -> dict[str, float]:
    info = loaded.info
    return {"cfg": info.cfg, "top_k": info.top_k, "top_p": info.top_p}


@contextmanager
def _bar(
    loaded: LoadedModel, labels: Sequence[int], recorder: Recorder, show: bool
) -> Iterator[None]:
    """A bar over the multiply-accumulates of the whole generation, with step and layer."""
    config = loaded.var.config
    tokens = sum(side * side for side in config.patch_nums)
    weights = sum(weight.numel() for _, weight, _ in loaded.var.iter_sites())
    rows = 2 * len(labels) * tokens
    total = rows * weights
    form = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    # Rarely where the bar does not overwrite itself, as in a log.
    pause = 0.2 if sys.stderr.isatty() else 15
    with tqdm(
        total=total, bar_format=form, disable=not show, file=sys.stderr, mininterval=pause
    ) as bar:

        def update(job: JobRecord) -> None:
            bar.set_description(f"step {job.step + 1} of {len(config.patch_nums)}", refresh=False)
            wrong = sum(job.mismatches.values())
            place = f"block {job.block} {job.site}"
            bar.set_postfix_str(f"{place}, {recorder.mismatches} mismatches", refresh=wrong > 0)
            bar.update(job.macs)

        recorder.on_job = update
        try:
            yield
        finally:
            recorder.on_job = None


def _versions() -> dict[str, str]:
    found = {"lutvar": lutvar.__version__, "Python": platform.python_version()}
    found["torch"] = str(torch.__version__)
    return found | {tool.name: tool.found for tool in versions() if tool.found}


def _to_stderr(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
