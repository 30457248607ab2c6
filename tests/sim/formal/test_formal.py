"""`lutvar formal`: what it proves, what it refuses, and what its page says."""

import json
import shutil
from pathlib import Path

import pytest

from lutvar.cli.main import run
from lutvar.sim.formal.aiger import Aig, bounded, induction, read_aiger, write_aiger
from lutvar.sim.formal.mutants import MutantError, applied
from lutvar.sim.formal.proofs import PROPERTIES
from lutvar.sim.formal.property import Mutant
from lutvar.sim.formal.run import prove
from lutvar.sim.formal.table import listed

ROOT = Path(__file__).parents[3]
ENGINES = ("berkeley-abc", "yosys-abc", "abc")
needs_abc = pytest.mark.skipif(
    not any(shutil.which(name) for name in ENGINES), reason="abc is missing"
)
MUTANTS = [(p.name, m) for p in PROPERTIES.values() for m in p.mutants]
#: Quick to prove, with mutants.
SMALL = "queue.wide-16"


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
    with applied(PROPERTIES[SMALL].mutants[0]):
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
    result = prove(SMALL, "read-again", tmp_path)
    assert result.status == "broken", result
    assert "words_order" in result.detail
    trace = Path(result.trace).read_text(encoding="utf-8")
    assert "$enddefinitions" in trace
    assert " dut.write_addr " in trace


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
