# SPDX-License-Identifier: Apache-2.0
"""The matrix engine in the exported core against the golden model, compiled with Verilator."""

import numpy as np
import pytest
from matrix_bench import (
    CORES,
    Job,
    Spec,
    assert_equal,
    open_core,
    read,
    run_jobs,
    soft_reset,
    start,
)

from lutvar.contract.registers import ErrorCode
from lutvar.sim.tools import verilator

pytestmark = pytest.mark.skipif(not verilator().ok, reason="no Verilator 5.036 or later")

#: Blocks of 16 vectors: one and several, whole and not; groups from one to the maximum.
JOBS = [
    Spec(1, 1),
    Spec(1, 5, tiles=3, dual=True),
    Spec(16, 2, tiles=2, rotate=True),
    Spec(3, 2, rotate=True, dump=True),
    Spec(17, 1, tiles=3),
    Spec(2, 4, dual=True, dump=True),
    Spec(1, 1, dump=True),
    Spec(15, 3, tiles=2, dual=True),
    Spec(33, 3, tiles=1, rotate=True, dual=True),
    Spec(1, 2, tiles=9, exponent=31),
    Spec(32, 4, tiles=2, dual=True, exponent=-32),
    Spec(40, 3, tiles=2),
]


@pytest.fixture(scope="module", params=list(CORES))
def opened(request):
    hardware = CORES[request.param]
    with open_core(hardware) as core:
        yield core, hardware


@pytest.fixture
def bench(opened):
    core, hardware = opened
    for stream in ("act", "wgt", "out"):
        core.pauses(stream, 0)
    core.reset()
    return core, hardware, np.random.default_rng(hardware.outputs)


def error(core):
    return read(core, "ERROR"), read(core, "ERROR_INFO")


@pytest.mark.parametrize("pauses", [(0, 0, 0), (0.3, 0.3, 0.3), (0.6, 0, 0.7), (0, 0.7, 0)])
def test_jobs_back_to_back_equal_the_golden_model(bench, pauses):
    core, hardware, rng = bench
    for seed, (stream, probability) in enumerate(zip(("act", "wgt", "out"), pauses, strict=True)):
        core.pauses(stream, probability, seed + 1)
    jobs = [Job(hardware, spec, rng) for spec in JOBS]
    for job, got in zip(jobs, run_jobs(core, jobs), strict=True):
        assert_equal(job, got)
    assert error(core) == (0, 0)
    assert read(core, "JOBS") == len(jobs)
    assert read(core, "BUSY") == sum(job.issues for job in jobs)
    assert read(core, "BEATS_ACT") == sum(len(j.act) for j in jobs) // core.stream_bytes
    assert read(core, "BEATS_WGT") == sum(len(j.wgt) for j in jobs) // core.stream_bytes


def test_one_job_at_a_time_without_reset_between(bench):
    core, hardware, rng = bench
    for spec in (Spec(2, 5, tiles=2, dual=True), Spec(1, 1, dump=True), Spec(18, 2), Spec(1, 3)):
        job = Job(hardware, spec, rng)
        assert_equal(job, run_jobs(core, [job])[0])
        core.idle(100)
        assert read(core, "STATE") >> 8 == 0, "the engine is not empty after its job"


def test_array_is_busy_when_the_streams_keep_up(bench):
    core, hardware, rng = bench
    # A single group is the hardest case: every issue is a result.
    job = Job(hardware, Spec(32, 1, tiles=40), rng)
    assert_equal(job, run_jobs(core, [job])[0])
    names = ("BUSY", "STALL_ACT", "STALL_WGT", "STALL_OUT", "STALL_GAP", "CYCLES_LO")
    busy, act, wgt, out, gap, cycles = (read(core, name) for name in names)
    assert busy == job.issues
    assert busy / (cycles - act) > 0.9
    assert (wgt + out + gap) / busy < 0.1


def test_short_rounds_wait_for_the_adder(bench):
    core, hardware, rng = bench
    job = Job(hardware, Spec(1, 5, tiles=4), rng)
    run_jobs(core, [job])
    assert read(core, "STALL_GAP") >= job.issues * 3


def test_results_wait_for_the_receiver(bench):
    core, hardware, rng = bench
    job = Job(hardware, Spec(40, 1, tiles=4), rng)
    core.pauses("out", 0.9)
    assert_equal(job, run_jobs(core, [job])[0])
    assert read(core, "STALL_OUT") > job.issues


def test_weights_of_a_job_load_before_its_rows(bench):
    core, hardware, rng = bench
    job = Job(hardware, Spec(2, 2, tiles=2), rng)
    start(core, job)
    core.send("wgt", job.wgt)
    core.idle(300)
    assert read(core, "STATE") >> 12 & 3 == 3
    core.send("act", job.act)
    core.want(len(job.out))
    assert core.run(5_000)
    assert_equal(job, core.take().tobytes())


@pytest.mark.parametrize("stream", ["act", "wgt"])
@pytest.mark.parametrize("shift", [-3, -1, 1])
def test_misplaced_tlast_halts_and_soft_reset_revives(bench, stream, shift):
    core, hardware, rng = bench
    job = Job(hardware, Spec(3, 2, tiles=2), rng)
    beats = len(getattr(job, stream)) // core.stream_bytes
    for name in ("act", "wgt"):
        data = getattr(job, name)
        if name == stream:
            data += bytes(core.stream_bytes * 4)
            data = data[: (beats + shift) * core.stream_bytes]
        core.send(name, data, last=True)
    start(core, job)
    core.idle(2_000)
    code = ErrorCode.FRAME_ACT if stream == "act" else ErrorCode.FRAME_WGT
    assert error(core) == (code, min(beats, beats + shift))
    soft_reset(core)
    good = Job(hardware, Spec(2, 3, tiles=2, dual=True), rng)
    assert_equal(good, run_jobs(core, [good])[0])
    assert error(core) == (0, 0)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("place", [0, 127, 128 * 7 + 77])
def test_nonfinite_activation_is_reported_with_its_group(bench, rotate, place):
    core, hardware, rng = bench
    spec = Spec(8, 3, rotate=rotate)
    job = Job(hardware, spec, rng)
    job.patterns.reshape(-1)[place] = 0x7C00 if rotate else 0xFFFF
    core.send("act", job.act)
    start(core, job)
    core.idle(2_000)
    assert error(core) == (ErrorCode.NONFINITE, place // 128)
    soft_reset(core)
    good = Job(hardware, spec, rng)
    assert_equal(good, run_jobs(core, [good])[0])


def test_soft_reset_at_any_moment_leaves_nothing_behind(bench):
    core, hardware, rng = bench
    core.pauses("out", 0.5)
    specs = [Spec(18, 2, tiles=3, dual=True), Spec(2, 2, dump=True), Spec(17, 3, tiles=2)]
    jobs = [Job(hardware, spec, rng) for spec in specs]
    good = Job(hardware, Spec(17, 2, tiles=3, rotate=True), rng)
    for moment in (1, 40, 150, 400, 700, 1000, 1400, 1900):
        core.clear_streams()
        core.want(sum(len(job.out) for job in jobs))
        for job in jobs:
            core.send("act", job.act)
            if job.wgt:
                core.send("wgt", job.wgt)
        for job in jobs:
            start(core, job)
        core.run(moment)
        soft_reset(core)
        assert_equal(good, run_jobs(core, [good])[0])
