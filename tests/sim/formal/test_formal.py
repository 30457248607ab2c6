# SPDX-License-Identifier: Apache-2.0
"""`lutvar formal`: what it proves, what it refuses, and what its page says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.cli.main import run
from lutvar.contract.accelerator import load_accelerator
from lutvar.hw import netlist, verilog
from lutvar.hw.accelerator.top import Accelerator
from lutvar.hw.axi.queue import WideQueue
from lutvar.hw.sequencer.queue import UnitQueue
from lutvar.hw.units.count import Level
from lutvar.hw.units.elastic import GroupStore, OutputQueue
from lutvar.hw.units.memory import Fifo
from lutvar.hw.units.two_term_store import TwoTermStore
from lutvar.sim.formal.aiger import Aig, bounded, induction, read_aiger, write_aiger
from lutvar.sim.formal.flow import decide
from lutvar.sim.formal.harness import Check, build
from lutvar.sim.formal.mutants import MutantError, applied
from lutvar.sim.formal.proofs import PROPERTIES, queues, sequencer, terms
from lutvar.sim.formal.property import Mutant
from lutvar.sim.formal.run import prove
from lutvar.sim.formal.selects import decide_selects
from lutvar.sim.formal.table import listed

ROOT = Path(__file__).parents[3]
ENGINES = ("berkeley-abc", "yosys-abc", "abc")
needs_abc = pytest.mark.skipif(
    not any(shutil.which(name) for name in ENGINES), reason="abc is missing"
)
MUTANTS = [(p.name, m) for p in PROPERTIES.values() for m in p.mutants]
#: Quick to prove, with mutants.
SMALL = "queue.fifo-4"


def test_the_page_lists_every_property_and_no_other() -> None:
    page = (ROOT / "docs/verification.md").read_text(encoding="utf-8")
    assert listed(page) == list(PROPERTIES)


@pytest.mark.parametrize(
    ("name", "mutant"), MUTANTS, ids=[f"{name} {mutant.name}" for name, mutant in MUTANTS]
)
def test_every_mutant_fits_the_gateware(name: str, mutant: Mutant) -> None:
    with applied(mutant):
        pass


def test_a_mutant_is_gone_after_its_block() -> None:
    from lutvar.hw.axi import queue, reader

    spaces = [vars(queue), vars(reader)]
    before = queue.WideQueue
    with applied(PROPERTIES["queue.wide-16"].mutants[0]):
        assert queue.WideQueue is not before
        assert spaces[1]["WideQueue"] is queue.WideQueue
    assert [space["WideQueue"] for space in spaces] == [before, before]


def test_a_mutant_that_does_not_fit_says_so() -> None:
    with (
        pytest.raises(
            MutantError, match=r"'no such text' occurs 0 times in lutvar\.hw\.axi\.queue"
        ),
        applied(Mutant("wrong", "lutvar.hw.axi.queue", "no such text", "")),
    ):
        pass


class Aged(wiring.Component):
    """A register behind the inverted input, and the cycles so far, which no reset starts anew."""

    give: Signal
    low: Signal
    age: Signal

    def __init__(self) -> None:
        super().__init__({"give": In(1), "low": Out(1), "age": Out(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        age = Signal(2, name="cycles", reset_less=True)
        low = Signal(init=1, name="held")
        m.d.sync += [low.eq(~self.give), age.eq(Mux(age == 3, 3, age + 1))]
        m.d.comb += [self.age.eq(age), self.low.eq(low)]
        return m


@needs_abc
@pytest.mark.yosys
def test_a_property_is_proved_and_kept(tmp_path: Path) -> None:
    first = prove(SMALL, "", tmp_path)
    assert (first.status, first.engine, first.depth) == ("proved", "induction", 1)
    log = tmp_path / SMALL / "abc.log"
    log.unlink()
    assert prove(SMALL, "", tmp_path) == first
    assert not log.exists()  # the second time nothing ran


@needs_abc
@pytest.mark.yosys
def test_a_fault_is_found_with_a_trace(tmp_path: Path) -> None:
    result = prove(SMALL, "no-wrap", tmp_path)
    assert result.status == "broken", result
    assert "items_order" in result.detail
    trace = Path(result.trace).read_text(encoding="utf-8")
    assert "$enddefinitions" in trace
    assert " dut.read__addr " in trace


@needs_abc
@pytest.mark.yosys
@pytest.mark.parametrize(
    ("lemma", "detail"),
    [
        # Nothing comes to be 1: no step leads to it, but the first cycle does.
        ("age is not 1", "base fails: age_is_not_1 in cycle 1"),
        ("low stays", "induction does not close: low_stays"),
    ],
)
def test_a_wrong_lemma_is_named(lemma: str, detail: str, tmp_path: Path) -> None:
    def check(c: Check[Aged]) -> None:
        c.require("low is late", c.dut.low != c.previous("before", c.dut.give))
        c.lemma(lemma, c.dut.low if lemma == "low stays" else c.dut.age != 1)

    verdict = decide(build(Aged, check), tmp_path, depth=2, seconds=100)
    assert (verdict.status, verdict.detail) == ("open", detail)
    assert verdict.trace is not None and "$enddefinitions" in verdict.trace.read_text()


@needs_abc
@pytest.mark.yosys
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mutant"), MUTANTS, ids=[f"{name} {mutant.name}" for name, mutant in MUTANTS]
)
def test_every_fault_is_found(name: str, mutant: Mutant, tmp_path: Path) -> None:
    result = prove(name, mutant.name, tmp_path, 600)
    assert result.status == "broken", result


@needs_abc
@pytest.mark.yosys
def test_a_time_out_is_a_failure_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["formal", SMALL, "--seconds", "0.01", "-o", str(tmp_path)])
    assert code == 1
    assert f"{SMALL}: time-out: not decided within 0 s" in capsys.readouterr().out


def test_an_unknown_property_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["formal", "queue.wild"]) == 2
    assert "there is no property 'queue.wild'; `lutvar formal --list`" in capsys.readouterr().err


def test_a_missing_engine_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["formal", SMALL, "-o", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "abc was not found; install it: sudo apt-get install berkeley-abc" in message


def test_the_list_needs_no_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["formal", "--list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(PROPERTIES)


CASE = """\
module top (input clk, input [1:0] k, input [1:0] a, input [1:0] b, output reg [1:0] y);
  reg [1:0] q;
  always @(posedge clk) q <= k;
  always @* begin
    (* parallel_case *)
    casez ({q == 2'd1, SECOND})
      2'b?1: y = a;
      2'b1?: y = b;
      default: y = 2'd0;
    endcase
  end
endmodule
"""


@needs_abc
@pytest.mark.yosys
@pytest.mark.parametrize(
    ("second", "status"), [("q == 2'd2", "proved"), ("q[0]", "broken")], ids=["one", "both"]
)
def test_selects_that_are_1_together_are_found(second: str, status: str, tmp_path: Path) -> None:
    verdict, count = decide_selects(CASE.replace("SECOND", second), tmp_path, 100)
    assert (verdict.status, count) == (status, 1)


@pytest.mark.slow
def test_the_sizes_proved_are_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elaborates the two largest accelerators and asks every queue for its size."""
    used: dict[str, set[object]] = {}

    def watch(cls: Any, *names: str) -> None:
        original = cls.__init__

        def made(self: Any, *args: Any, **more: Any) -> None:
            original(self, *args, **more)
            size = tuple(getattr(self, name) for name in names)
            used.setdefault(cls.__name__, set()).add(size if len(size) > 1 else size[0])

        monkeypatch.setattr(cls, "__init__", made)

    watch(WideQueue, "depth")
    watch(Fifo, "depth")
    watch(GroupStore, "beats", "depth")
    watch(OutputQueue, "beats", "depth")
    watch(TwoTermStore, "beats")
    watch(UnitQueue, "depth")
    count = Level.__init__

    def counted(
        self: Level, m: Any, name: str, maximum: int, up: Any, down: Any, init: int = 0
    ) -> None:
        count(self, m, name, maximum, up, down, init)
        used.setdefault("Level", set()).add((maximum, init))

    monkeypatch.setattr(Level, "__init__", counted)
    monkeypatch.setattr(netlist, "_verilog", lambda _netlist: "")  # elaboration is enough
    for name in ("small-fp4", "vck190-fp4"):
        top = Accelerator(load_accelerator(name))
        verilog.export_verilog(top, "lutvar_sizes", ports=top.port_map())
    assert used["WideQueue"] == set(queues.WIDE_DEPTHS)
    assert used["Fifo"] == set(queues.FIFO_DEPTHS)
    assert used["GroupStore"] == set(queues.STORES)
    assert used["OutputQueue"] == set(queues.OUTPUT_QUEUES)
    assert used["TwoTermStore"] <= set(terms.BEATS)
    assert used["Level"] <= set(queues.LEVELS)
    assert used["UnitQueue"] == {sequencer.DEPTH}


#: A counter of two bits that counts while its input is high; output: it is 3.
COUNTER = Aig(
    1,
    (13, 21),
    (22,),
    ((5, 2), (4, 3), (11, 9), (4, 2), (15, 6), (14, 7), (19, 17), (6, 4)),
)


def test_graphs_survive_a_file(tmp_path: Path) -> None:
    write_aiger(COUNTER, tmp_path / "counter.aig")
    again = read_aiger(tmp_path / "counter.aig")
    assert (again.latches, again.outputs) == (COUNTER.latches, COUNTER.outputs)
    for a, b in zip(again.ands, COUNTER.ands, strict=True):
        assert set(a) == set(b)


def test_unrolled_graphs_agree_with_a_replay() -> None:
    for pattern in range(8):
        inputs = [[pattern >> n & 1] for n in range(3)]
        cycles = COUNTER.replay(inputs)
        bad = [nodes[COUNTER.outputs[0] >> 1] for nodes in cycles]
        flat = bounded(COUNTER, 3)
        nodes = flat.evaluate([], [v for row in inputs for v in row])
        assert nodes[flat.outputs[0] >> 1] ^ (flat.outputs[0] & 1) == int(any(bad))
        for state in range(4):
            start = [state & 1, state >> 1]
            cycles = COUNTER.replay(inputs, start)
            bad = [nodes[COUNTER.outputs[0] >> 1] for nodes in cycles]
            step = induction(COUNTER, 2)
            nodes = step.evaluate([], start + [v for row in inputs for v in row])
            value = nodes[step.outputs[0] >> 1] ^ (step.outputs[0] & 1)
            assert value == int(bad == [0, 0, 1])
