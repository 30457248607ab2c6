# SPDX-License-Identifier: Apache-2.0
"""The attention unit against the golden model: every shape, boundary records, stalls, errors."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from lutvar.contract.isa import Opcode
from lutvar.host.compile.costs import CostModel
from lutvar.hw.attend.unit import AttendUnit
from lutvar.hw.verilog import export_verilog
from lutvar.quant.golden.attention import scores
from support.hw.attend import Job, config, random_job, run_jobs
from support.hw.axi_memory import AxiMemory, serve
from support.hw.masters import open_windows


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kv", ["E2M3", "E2M1"])
def test_every_remainder_of_rows(kv: str) -> None:
    """1 to 7 rows in blocks of 3, different heads and keys, back to back without reset."""
    size = config(attention_rows=3, kv_format=kv)
    r = rng(1)
    jobs = [random_job(r, size.kv, 1 + n % 2, n, 1 + 5 * n % 9) for n in (2, 1, 4, 3, 7)]
    run_jobs(size, jobs)


def test_key_counts() -> None:
    """From one key to the largest number, one row; blocks in progress wrap the ring of scores."""
    size = config(attention_rows=1, max_keys=48)
    r = rng(2)
    jobs = [random_job(r, size.kv, 1, 2, keys) for keys in (1, 2, 1, 3, 17, 48, 47, 48, 1)]
    run_jobs(size, jobs, idle=3)


def test_heads_fill_their_memory() -> None:
    """As many keys as records fit: those of the next head follow the last pass of one."""
    size = config(attention_rows=2, max_keys=32, read_fifo=64)
    r = rng(15)
    jobs = [random_job(r, size.kv, 2, 3, 32), random_job(r, size.kv, 2, 4, 31)]
    outcome = run_jobs(size, jobs, memory=AxiMemory(latency=30))
    unit = outcome.unit
    # Nothing waits for the memory in between: the second job takes its blocks' cycles.
    assert outcome.cycles[1] - outcome.cycles[0] <= 4 * unit.block_cycles(2, 31) + 4


@pytest.mark.parametrize("seed", [1, 2])
def test_memory_stalls(seed: int) -> None:
    size = config()
    r = rng(seed)
    jobs = [random_job(r, size.kv, 2, 3, 7), random_job(r, size.kv, 1, 5, 20)]
    memory = AxiMemory(seed=seed, latency=1 + 15 * seed, jitter=30, stall=(0.0, 0.2, 0.7)[seed])
    run_jobs(size, jobs, memory=memory)


def test_values_are_late() -> None:
    """Keys run ahead until the ring and the queue of blocks are full."""
    size = config(attention_rows=1, max_keys=48)
    job = random_job(rng(5), size.kv, 1, 6, 48)
    run_jobs(size, [job], values=AxiMemory(latency=200))


def boundary_jobs(kv: str) -> list[Job]:
    """Records that reach every end of the arithmetic."""
    fmt = config(kv_format=kv).kv
    r = rng(7)
    top, bottom = fmt.encode_int(fmt.positive.top, False), fmt.encode_int(fmt.positive.top, True)

    def job(**changes: object) -> Job:
        made = random_job(r, fmt, 1, 2, 10)
        for name, value in changes.items():
            tensor, part = name.split("_")
            getattr(getattr(made, tensor), part)[:] = value
        return made

    jobs = [
        job(v_scales=0, v_codes=0),  # every m is 0
        job(v_scales=0),  # the same with codes that must not count
        job(q_scales=0, q_codes=0),  # N = 0: all scores equal
        job(k_scales=0),
        job(q_scales=0x7BFF, k_scales=0x7BFF),  # all scores saturated at either end
        job(q_codes=top, k_codes=bottom, q_scales=0x7BFF, k_scales=0x7BFF),  # all at the lower end
        job(q_codes=top, k_codes=top, q_scales=0x1400, k_scales=0x1400, v_codes=top),
        job(v_scales=0x7FFF, v_codes=bottom),  # results saturate
        job(v_scales=0x0123, v_codes=top),  # subnormal scale, subnormal results
        job(v_scales=0x0400, v_codes=bottom),
    ]
    spread = random_job(r, fmt, 1, 2, 31, scores=(1, 31))
    spread.v.scales[0] = [e << 10 | 1023 for e in range(31)]
    jobs.append(spread)
    # Any exponent in every scale.
    jobs += [random_job(r, fmt, 2, 2, 12, scores=s) for s in ((1, 31), (9, 16), (4, 8))]
    # The only large V scale belongs to a key without weight: all w vanish.
    lonely = job(q_codes=top, k_codes=bottom, q_scales=0x2400, k_scales=0x2400)
    lonely.k.codes[0, 3] = top
    lonely.v.scales[0] = 0x7800
    lonely.v.scales[0, 3] = 0x0400
    lonely.v.codes[0, 3] = bottom
    jobs.append(lonely)
    return jobs


@pytest.mark.parametrize(("kv", "dsp"), [("E2M3", 0), ("E2M1", 0), ("E2M3", 2), ("E2M3", 1)])
def test_boundary_records(kv: str, dsp: int) -> None:
    """Scores of all rows from tables, of all in multipliers, of one in either."""
    jobs = boundary_jobs(kv)
    outcome = run_jobs(config(kv_format=kv, attention_dsp_rows=dsp), jobs)
    found = [job.found(outcome.memory) for job in jobs]
    assert not found[0].any() and not found[1].any()
    assert set(np.unique(found[7])) == {0xFBFF}
    for job in found[-4:-1]:
        assert len(np.unique(job)) > 50  # a unit that answers a constant would not do
    saturated = scores(np.array([[[64 * 3600, -64 * 3600]]]), *np.full((2, 1, 1), 0x7BFF, "u2"))
    assert abs(saturated).min() >= 2**18 - 1
    assert found[8].min() > 0x100 and found[8].max() < 0x130


def test_one_key_at_a_time() -> None:
    """The ablation: the same results, one record in each datapath."""
    size = config(pipelined=False)
    jobs = [random_job(rng(9), size.kv, 2, 3, 4) for _ in range(2)]
    slow = run_jobs(size, jobs)
    # Blocks of two rows and of one, for each head.
    blocks = 2 * (slow.unit.block_cycles(2, 4) + slow.unit.block_cycles(1, 4))
    assert slow.cycles[1] - slow.cycles[0] == blocks > 350


def test_done_waits_for_the_write_responses() -> None:
    size = config(attention_rows=1)
    memory = AxiMemory(seed=3, jitter=60)
    unit = AttendUnit(size)
    job = random_job(rng(10), size.kv, 1, 2, 3)
    command = job.place(memory, size.kv)

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, unit)
        for name, value in command.items():
            ctx.set(unit.command.payload[name], value)
        ctx.set(unit.command.valid, 1)
        await ctx.tick().until(unit.command.ready)
        ctx.set(unit.command.valid, 0)
        memory.freeze = False
        while not memory.write_bursts:
            await ctx.tick()
        memory.freeze = True  # the data is there, the responses are not
        for _ in range(150):
            _, _, done, busy = await ctx.tick().sample(unit.done, unit.busy)
            assert busy and not done
        memory.freeze = False
        await ctx.tick().until(unit.done)
        assert memory.outstanding == 0
        np.testing.assert_array_equal(job.found(memory), job.expected(size.kv))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    serve(simulator, memory, [unit.keys_memory, unit.values_memory], [unit.write])
    simulator.run()


@pytest.mark.parametrize("bad", ["keys_address", "values_address", "output"])
def test_errors_name_the_address(bad: str) -> None:
    size = config(attention_rows=1)
    job = random_job(rng(11), size.kv, 1, 1, 3)
    address = job.place(AxiMemory(), size.kv)[bad]
    outcome = run_jobs(size, [job], memory=AxiMemory(bad=frozenset([address])))
    assert outcome.error == ("response", address)


def test_stop_ends_with_a_quiet_unit() -> None:
    size = config(attention_rows=1)
    memory = AxiMemory(latency=12)
    unit = AttendUnit(size)
    job = random_job(rng(12), size.kv, 1, 8, 40)
    command = job.place(memory, size.kv)

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, unit)
        for name, value in command.items():
            ctx.set(unit.command.payload[name], value)
        ctx.set(unit.command.valid, 1)
        await ctx.tick().until(unit.command.ready)
        ctx.set(unit.command.valid, 0)
        for _ in range(45):
            await ctx.tick()
        assert memory.outstanding and ctx.get(unit.busy)
        ctx.set(unit.stop, 1)
        await ctx.tick()
        await ctx.tick().until(unit.idle)
        bursts = len(memory.read_bursts) + len(memory.write_bursts)
        assert memory.outstanding == 0
        for _ in range(200):
            await ctx.tick()
            assert ctx.get(unit.idle)
        assert bursts == len(memory.read_bursts) + len(memory.write_bursts)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    serve(simulator, memory, [unit.keys_memory, unit.values_memory], [unit.write])
    simulator.run()


def test_cycles_of_the_digits_model() -> None:
    """16 rows, 2 heads, 30 keys: eight blocks, and the way there and back once."""
    size = config(attention_rows=4, read_fifo=64)
    job = random_job(rng(13), size.kv, 2, 16, 30)
    outcome = run_jobs(size, [job], memory=AxiMemory(latency=20))
    unit = outcome.unit
    assert unit.block_cycles(4, 30) == 35
    operands = {"rows": 16, "heads": 2, "keys": 30}
    cost = CostModel(size).of(Opcode.ATTEND, operands)
    assert cost.occupied == 8 * unit.block_cycles(4, 30)
    moved = {name: 64 * beats for name, beats in (("keys", 2 * 46), ("values", 2 * 30))}
    assert moved.items() <= dict(cost.traffic).items()
    around = outcome.cycles[0] - 7 * unit.block_cycles(4, 30) - unit.latency(4, 30)
    assert 0 < around < 70  # memory latency, reader and writer


def test_cycles_when_results_decide() -> None:
    """Blocks of few keys: the ends of blocks are as far apart as their results need."""
    size = config(attention_rows=3, read_fifo=64)
    jobs = [random_job(rng(14), size.kv, 1, 24, 2) for _ in range(2)]
    outcome = run_jobs(size, jobs)
    assert outcome.cycles[1] - outcome.cycles[0] == 8 * outcome.unit.block_cycles(3, 2)
    assert outcome.unit.block_cycles(3, 2) == outcome.unit.results.interval(3) > 20


@pytest.mark.slow
def test_export_shares_the_rows() -> None:
    text = export_verilog(AttendUnit(config()), "lutvar_attend")
    for name in ("dot", "score_row", "weight_row", "value_row", "result_lane"):
        assert text.count(f"module lutvar_attend_{name}(") == 1
    assert text.count("lutvar_attend_value_row ") >= 2
    assert "'hx" not in text and "'bx" not in text
