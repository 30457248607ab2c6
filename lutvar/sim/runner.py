# SPDX-License-Identifier: Apache-2.0
"""Run the cocotb testbenches on a freshly exported accelerator, in one simulator."""

from __future__ import annotations

import contextlib
import os
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.environment import plain_path, spaceless_folder, tool_environment
from lutvar.files import json_text, write_file

from .tools import VERILATOR_HINT, Tool, icarus, verilator
from .verilator import FAST_FLAGS, first_module

Simulator = Literal["verilator", "icarus"]
TESTBENCHES = ("registers", "programs", "errors", "weights", "bounds", "resets")
#: What Icarus runs unless told otherwise: a matter of minutes. Everything takes it hours.
ICARUS_TESTBENCHES = (
    r"registers\.|every_unit$|bad_headers|dead_memory|memory_refuses/port=\w+/response=2"
)
_HINTS = {
    "verilator": VERILATOR_HINT,
    "icarus": "Install the package iverilog of your distribution.",
}
#: Testbenches touch ports only. Making every signal visible, as cocotb does by default,
#: keeps Verilator from optimising and multiplies build and run time.
_VISIBLE = ("*_axi*", "ap_clk", "ap_rst_n", "interrupt")
_VERILATOR_ARGUMENTS = (
    "-Wno-fatal", "-Wno-lint", "-Wno-style", "--no-timing", "-O3", "--noassert",
    "--x-assign", "fast", "--x-initial", "fast",
    "--output-split", "20000", "--output-split-cfuncs", "2000",
)  # fmt: skip
#: Lines, branches, and signals of up to a beat's width.
COVERAGE_ARGUMENTS = (
    "--coverage-line", "--coverage-toggle", "--coverage-max-width", "512",
)  # fmt: skip
#: Testbenches run so few cycles that an optimised build costs more than it saves.
_COMPILER_FLAGS = "OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O0"
#: Counting makes a cycle several times as long; then it does not.
_COUNTING_FLAGS = f"OPT_FAST={FAST_FLAGS} OPT_SLOW=-O0 OPT_GLOBAL=-O0"


def tiny_accelerator(quant: str = "fp4") -> AcceleratorConfig:
    """The smallest build with every feature; what Icarus runs, some 40 cycles a second.

    With 6 bits it has two weight ports, with 4 one.
    """
    return AcceleratorConfig(
        name=f"tiny-{quant}", quant=quant, rows=16, act_banks=2, bank_groups=4, acc_banks=2,
        acc_depth=512, max_width=128, attention_rows=1, max_keys=64, weight_fifo=64, read_fifo=32,
        queue=4, weight_ports=2 if quant == "fp6" else 1,
    )  # fmt: skip


@dataclass(frozen=True)
class SimulationResult:
    """One test of a testbench on one simulator."""

    sim: str
    bench: str
    passed: bool
    seconds: float
    message: str = ""

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self)


class RunError(RuntimeError):
    """A simulator failed before it could report results; the message ends with its log."""


def find_simulator(sim: Simulator, build_dir: Path | str) -> Tool:
    """The simulator, or ToolError with a hint."""
    tool = verilator(build_dir) if sim == "verilator" else icarus()
    return tool.require(_HINTS[sim])


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Variables for the runner, which reads and passes on this process's environment."""
    before, ours = dict(os.environ), tool_environment(changes)
    os.environ.clear()
    os.environ.update(ours)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _build_folder(sim: Simulator, folder: Path) -> Path:
    """Where the simulator is compiled; everything else is written to `folder`."""
    return spaceless_folder(folder) if sim == "verilator" else folder


def _make_runner(sim: Simulator, folder: Path) -> Any:
    from cocotb_tools import config
    from cocotb_tools import runner as cocotb_runner

    if sim == "icarus":
        return cocotb_runner.get_runner("icarus")

    class Runner(cocotb_runner.Verilator):
        def _build_command(self) -> list[Any]:
            verilate, *others = super()._build_command()
            words = [word for word in verilate if word != "--public-flat-rw"]
            # Both end up in a makefile, wherever the environment was installed.
            for root in (config.libs_dir, config.share_dir):
                plain = str(plain_path(Path(root), [folder / "tools"]))
                words = [word.replace(str(root), plain) for word in words]
            return [words, *others]

    return Runner()


def build_model(
    sim: Simulator,
    verilog: Path,
    folder: Path,
    *,
    waves: bool = False,
    more: Sequence[str] = (),
) -> tuple[Any, Mapping[str, str]]:
    """Compile exported Verilog for cocotb. Returns (cocotb runner, environment for its tests).

    `more`: further arguments for Verilator, to count what is covered.
    """
    tool = find_simulator(sim, folder)
    folder.mkdir(parents=True, exist_ok=True)
    sources, arguments, top = [verilog], [], first_module(verilog)
    environment = dict(tool.environment)
    if sim == "verilator":
        visible = folder / "visible.vlt"
        rules = (f'public_flat_rw -module "{top}" -var "{name}"\n' for name in _VISIBLE)
        write_file(visible, "`verilator_config\n" + "".join(rules))
        sources.insert(0, visible)
        arguments = [*_VERILATOR_ARGUMENTS, *more]
        flags = environment.get("MAKEFLAGS", "")
        compiler = _COUNTING_FLAGS if more else _COMPILER_FLAGS
        environment["MAKEFLAGS"] = f"{flags} {compiler}".strip()
    runner = _make_runner(sim, folder)
    log = folder / "build.log"
    with _environment(environment):
        try:
            runner.build(
                sources=sources, hdl_toplevel=top, build_dir=_build_folder(sim, folder),
                build_args=arguments, always=True, timescale=("1ns", "1ps"), waves=waves,
                log_file=log,
            )  # fmt: skip
        except (SystemExit, Exception) as error:
            raise RunError(f"{sim} could not build {verilog.name}: {_tail(log)}") from error
    return runner, environment


def _tail(log: Path) -> str:
    if not log.exists():
        return "it wrote no log"
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"the log is {log}. Its end:\n" + "\n".join(text[-25:])


def _results(path: Path, sim: str) -> list[SimulationResult]:
    """Read cocotb's results; a test is named `module.test`."""
    results = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        problem = case.find("failure")
        problem = case.find("error") if problem is None else problem
        module = case.get("classname", "").rsplit(".", 1)[-1]
        results.append(
            SimulationResult(
                sim=sim,
                bench=f"{module}.{case.get('name')}",
                passed=problem is None and case.find("skipped") is None,
                seconds=float(case.get("time", 0)),
                message="" if problem is None else (problem.get("message") or "failed"),
            )
        )
    return results


def default_config(sim: Simulator) -> AcceleratorConfig:
    """What a simulator runs unless told otherwise: `small-fp4`, or a tiny build on Icarus."""
    return load_accelerator("small-fp4") if sim == "verilator" else tiny_accelerator()


def run_testbenches(
    sim: Simulator,
    config: str | AcceleratorConfig | None = None,
    *,
    build_dir: Path | str = "build/cocotb",
    verilog: Path | None = None,
    test_filter: str | None = None,
    seed: int = 1,
    waves: bool = False,
) -> list[SimulationResult]:
    """Export an accelerator, build it for a simulator and run the testbenches on it.

    Args:
        sim: simulator.
        config: preset, YAML path or configuration; default: `default_config`.
        build_dir: gets a folder for each simulator and configuration, with logs, `results.xml`
            and `results.json`.
        verilog: file exported earlier from the same configuration; default: export it now.
        test_filter: regular expression on names of tests; default: `ICARUS_TESTBENCHES` on Icarus,
            all of them on Verilator.
        seed: of everything random inside cocotb.
        waves: write a wave file in the folder.

    Raises:
        ToolError: the simulator is missing.
        RunError: it could not build or start.
    """
    import cocotb_tools.runner  # noqa: F401  # missing packages are noticed before anything is written

    from lutvar.hw.accelerator.export import export

    if config is None:
        config = default_config(sim)
    elif not isinstance(config, AcceleratorConfig):
        config = load_accelerator(config)
    if test_filter is None and sim == "icarus":
        test_filter = ICARUS_TESTBENCHES
    folder = Path(build_dir).absolute() / f"{sim}-{config.name}"
    find_simulator(sim, folder)
    verilog = verilog or export(config, folder).verilog
    return run_on(
        sim, verilog, config, folder,
        modules=[f"lutvar.sim.testbenches.{name}" for name in TESTBENCHES],
        test_filter=test_filter, seed=seed, waves=waves,
    )  # fmt: skip


def ports_of(config: AcceleratorConfig) -> list[dict[str, object]]:
    """Name, width and direction of the top's ports, as in the manifest."""
    from lutvar.hw.accelerator.top import Accelerator
    from lutvar.hw.inspection import for_inspection

    ports = for_inspection(Accelerator(config, units={})).port_map()
    return [
        {"name": name, "width": len(signal), "direction": direction.name.lower()}
        for name, (signal, direction) in ports.items()
    ]


def run_on(
    sim: Simulator,
    verilog: Path,
    config: AcceleratorConfig,
    folder: Path,
    *,
    modules: Sequence[str],
    test_filter: str | None = None,
    seed: int = 1,
    waves: bool = False,
    coverage: bool = False,
) -> list[SimulationResult]:
    """Run testbench modules on a Verilog file that exists; see `run_testbenches`.

    With `coverage` Verilator leaves `coverage.dat` in the folder, and testbenches note their
    `programs` and `errors` there.
    """
    from lutvar.sim.testbenches.common import RECORD, SETTINGS

    started, folder = time.monotonic(), folder.absolute()  # the simulator runs in it
    more = COVERAGE_ARGUMENTS if coverage else ()
    runner, environment = build_model(sim, verilog, folder, waves=waves, more=more)
    built = time.monotonic()
    settings = folder / "settings.json"
    manifest = {
        "accelerator": config.model_dump(),
        "ports": ports_of(config),
        "four_state": sim == "icarus",
    }
    write_file(settings, json_text(manifest))
    results, log = folder / "results.xml", folder / "run.log"
    results.unlink(missing_ok=True)
    variables = {SETTINGS: str(settings), "PYTHONWARNINGS": "default"}
    if coverage:
        variables[RECORD] = str(folder)
        for name in ("programs", "errors"):
            write_file(folder / name, b"")
    raised: BaseException | None = None
    with _environment({**environment, **variables}):
        try:
            runner.test(
                hdl_toplevel=first_module(verilog), test_module=list(modules), test_dir=folder,
                build_dir=_build_folder(sim, folder), results_xml=str(results), seed=seed,
                test_filter=test_filter, waves=waves, log_file=log,
            )  # fmt: skip
        except (SystemExit, Exception) as error:
            raised = error
    if not results.exists():
        raise RunError(f"{sim} stopped without results: {_tail(log)}") from raised
    rows = _results(results, sim)
    if not rows:
        raise RunError(f"{sim} ran no test of {', '.join(modules)}: {_tail(log)}")
    report = {
        "simulator": sim, "configuration": config.name, "build_seconds": built - started,
        "run_seconds": time.monotonic() - built, "benches": [row.as_dict() for row in rows],
    }  # fmt: skip
    write_file(folder / "results.json", json_text(report, indent=1) + "\n")
    return rows
