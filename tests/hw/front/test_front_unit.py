# SPDX-License-Identifier: Apache-2.0
"""The FRONT unit, compiled, against the golden norm and quantizer: rows, memory, order, rate."""

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from support.hw.front import DONE, END, READ, Harness, cycles, mixed, norm_job, raw_job

pytestmark = pytest.mark.verilator


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    changes = {"bank_groups": 16, "rows": 64, "weight_ports": 4, "max_sections": 4}
    config = load_accelerator("small-fp4").model_copy(update=changes)
    return Harness(config, tmp_path_factory.mktemp("front"))


@pytest.mark.parametrize("width", [128, 256, 384, 512])
def test_norm(harness: Harness, width: int) -> None:
    harness.run([norm_job(16, width, width, rotate=1), norm_job(5, width, 9, dual=1, row_first=11)])


def test_norm_of_corners(harness: Harness) -> None:
    """Rows without variance, of zeros, saturated, tiny, and a variance that rounds below 0."""
    x = np.zeros((8, 256), np.float32)
    x[1] = 3.1
    x[2] = np.where(np.arange(256) % 2, 1e9, -1e9)
    x[3] = 1e-6
    x[4] = 60000
    x[5], x[5, 7] = 1000, 1001
    x[6] = -0.0
    x[7] = np.where(np.arange(256) % 2, 2.0**-24, -(2.0**-24))
    for eps in (1e-6, 0.5):
        job = norm_job(8, 256, 3, rotate=1)
        job.x, job.eps = x, eps
        harness.run([job])


def test_raw(harness: Harness) -> None:
    jobs = [
        raw_job(16, 128, 1), raw_job(1, 512, 2, dual=1), raw_job(16, 512, 3, rotate=1),
        raw_job(2, 2048, 4, dual=1, rotate=1), raw_job(3, 256, 5, row_first=13, bank=3),
    ]  # fmt: skip
    harness.run(jobs)


@pytest.mark.parametrize(
    ("latency", "jitter", "stall"), [(1, 0, 0.0), (60, 50, 0.0), (5, 9, 0.3), (40, 0, 0.7)]
)
def test_mixed(harness: Harness, latency: int, jitter: int, stall: float) -> None:
    jobs = mixed(24, seed=latency, kinds=(0, 1, 2))
    harness.run(jobs, latency=latency, jitter=jitter, stall=stall, seed=latency)


@pytest.mark.parametrize("width", [256, 512])
@pytest.mark.parametrize("norm", [0, 1])
def test_cycles(harness: Harness, width: int, norm: int) -> None:
    """Alone and back to back, an instruction takes what the unit's description says."""
    words = width // 16
    make = norm_job if norm else raw_job
    work = 16 * (words + norm) + 2 * words * norm
    records = harness.run([make(16, width, n) for n in range(5)], latency=8)
    done = cycles(records, DONE)
    assert abs(np.diff(done) - work).max() <= 1
    first = cycles(records, READ)[0] + 8
    assert abs(done[0] - first - work - 100 - (125 + words) * norm) <= 10


@pytest.mark.parametrize(("latency", "stall"), [(1, 0.0), (30, 0.5)])
def test_two_terms(harness: Harness, latency: int, stall: float) -> None:
    """Rows of all widths, alone and after each other, and what follows in one term."""
    jobs = [
        norm_job(16, 512, 1, rotate=1, terms=1), raw_job(1, 128, 2, terms=1, bank=1),
        raw_job(16, 1024, 3, rotate=1, terms=1, bank=2), norm_job(3, 128, 4, terms=1, bank=3),
        raw_job(1, 128, 5), raw_job(2, 256, 6, terms=1, bank=1), raw_job(3, 384, 7, dual=1),
    ]  # fmt: skip
    harness.run(jobs, latency=latency, stall=stall)


@pytest.mark.parametrize("width", [256, 512])
@pytest.mark.parametrize("norm", [0, 1])
def test_two_terms_take_twice_as_long(harness: Harness, width: int, norm: int) -> None:
    """Where the work of an instruction is longer than half of its whole time."""
    words = width // 16
    make = norm_job if norm else raw_job
    jobs = [make(16, width, n, terms=1, bank=n % 4) for n in range(6)]
    records = harness.run(jobs, latency=8)
    done = cycles(records, DONE)
    assert abs(np.diff(done)[1:].mean() / (2 * 16 * words) - 1) < 0.01
    first = cycles(records, READ)[0] + 8
    alone = done[0] - first - 2 * 16 * words - 100 - (125 + 3 * words) * norm
    assert 20 <= alone <= 60, alone


def test_stop_and_error(harness: Harness) -> None:
    jobs = [norm_job(16, 512, 1), raw_job(16, 512, 2)]
    records = harness.run(jobs, check=False, stop=250, latency=30)
    end = records[records["kind"] == END][0]
    assert not end["data"][4], "reads are under way"
    assert (cycles(records, READ) < 255).all()
    bad = int(records[records["kind"] == READ][3]["data"][:2].copy().view(np.uint64)[0])
    records = harness.run(jobs, check=False, bad=bad + 64)
    end = records[records["kind"] == END][0]
    assert end["data"][0] == 1
    assert int(end["data"][2:4].copy().view(np.uint64)[0]) == bad
    assert len(cycles(records, DONE)) == 2


@pytest.mark.parametrize("stop", [60, 150, 330, 460, 650])
def test_reset_in_the_middle(harness: Harness, stop: int) -> None:
    """Whatever was under way when the unit was stopped leaves no trace after a reset."""
    jobs = [
        norm_job(7, 256, 1, rotate=1, terms=1), raw_job(5, 512, 2, dual=1), norm_job(3, 128, 4),
    ]  # fmt: skip
    harness.run(jobs, latency=30, jitter=9, stop=stop, restart=1)
