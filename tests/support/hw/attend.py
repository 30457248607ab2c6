# SPDX-License-Identifier: Apache-2.0
"""Jobs for the attention unit: records in a memory, instructions, results from the golden model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from numpy.typing import NDArray

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.formats import NumberFormat
from lutvar.contract.memory import pack_records
from lutvar.hw.attend.unit import AttendUnit
from lutvar.quant.golden.attention import attend
from support.hw.axi_memory import AxiMemory, serve
from support.hw.masters import first_report, open_windows


def config(**changes: object) -> AcceleratorConfig:
    """A small accelerator; only what the attention unit reads matters."""
    values: dict[str, object] = {
        "name": "attend-test", "quant": "fp4", "rows": 16, "act_banks": 2, "bank_groups": 4,
        "acc_depth": 128,
        "max_width": 128, "attention_rows": 2, "max_keys": 40, "read_fifo": 32,
    }  # fmt: skip
    return AcceleratorConfig.model_validate({**values, **changes})


@dataclass
class Operand:
    """Codes [heads, n, 64] and scale patterns [heads, n]."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.uint16]


def random_operand(
    rng: np.random.Generator, fmt: NumberFormat, heads: int, n: int, exponents: tuple[int, int]
) -> Operand:
    """Random codes and scales whose exponent fields are in a range; a few records of zeros."""
    codes = rng.integers(0, fmt.code_count, (heads, n, 64), dtype=np.uint8)
    low, high = exponents
    scales = rng.integers(low, high, (heads, n)) << 10 | rng.integers(0, 1024, (heads, n))
    zero = rng.random((heads, n)) < 0.05
    return Operand(
        np.where(zero[..., None], 0, codes).astype(np.uint8),
        np.where(zero, 0, scales).astype(np.uint16),
    )


@dataclass
class Job:
    """One instruction's operands, and where they lie; offsets in bytes."""

    q: Operand
    k: Operand
    v: Operand
    base: int = 1 << 20
    gap: int = 1  #: records between rows, heads and tensors that belong to nobody
    addresses: dict[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        heads, rows = self.q.scales.shape
        return heads, rows, self.k.scales.shape[1]

    def place(self, memory: AxiMemory, fmt: NumberFormat) -> dict[str, int]:
        """Write the records; returns the operands of the instruction."""
        heads, rows, keys = self.shape
        query_stride = (heads + self.gap) * 64
        head_stride = (keys + self.gap) * 64
        output_stride = (2 * heads + self.gap) * 64
        query = self.base
        keys_at = query + rows * query_stride + 64
        values_at = keys_at + heads * head_stride + 64
        output = values_at + heads * head_stride + 64
        q = pack_records(self.q.codes, self.q.scales, fmt)
        k = pack_records(self.k.codes, self.k.scales, fmt, self.v.scales)
        v = pack_records(self.v.codes, self.v.scales, fmt)
        for h in range(heads):
            for r in range(rows):
                memory.write(query + r * query_stride + h * 64, q[h, r].tobytes())
            memory.write(keys_at + h * head_stride, k[h].tobytes())
            memory.write(values_at + h * head_stride, v[h].tobytes())
        self.addresses = {
            "rows": rows, "heads": heads, "keys": keys, "query": query,
            "query_stride": query_stride, "keys_address": keys_at, "values_address": values_at,
            "head_stride": head_stride, "output": output, "output_stride": output_stride,
        }  # fmt: skip
        return self.addresses

    def records(self) -> list[int]:
        """Addresses of all records, each of which is to be read once."""
        at, (heads, rows, keys) = self.addresses, self.shape
        return [
            *(at["query"] + r * at["query_stride"] + h * 64 for h in range(heads)
              for r in range(rows)),
            *(at[base] + h * at["head_stride"] + k * 64 for base in ("keys_address",
              "values_address") for h in range(heads) for k in range(keys)),
        ]  # fmt: skip

    @property
    def end(self) -> int:
        return self.addresses["output"] + self.shape[1] * self.addresses["output_stride"]

    def expected(self, fmt: NumberFormat) -> NDArray[np.uint16]:
        """Patterns [rows, heads * 64]."""
        q, k, v = self.q, self.k, self.v
        result = attend(q.codes, q.scales, k.codes, k.scales, v.codes, v.scales, fmt).view(
            np.uint16
        )
        return result.transpose(1, 0, 2).reshape(self.shape[1], -1)

    def found(self, memory: AxiMemory) -> NDArray[np.uint16]:
        heads, rows, _ = self.shape
        at = self.addresses
        lines = [
            memory.read(at["output"] + r * at["output_stride"], heads * 128) for r in range(rows)
        ]
        return np.frombuffer(b"".join(lines), "<u2").reshape(rows, -1)


def random_job(
    rng: np.random.Generator,
    fmt: NumberFormat,
    heads: int,
    rows: int,
    keys: int,
    scores: tuple[int, int] = (7, 9),
    values: tuple[int, int] = (1, 31),
) -> Job:
    """Random records; the exponent fields of q and k decide how far the scores are spread."""
    return Job(
        random_operand(rng, fmt, heads, rows, scores),
        random_operand(rng, fmt, heads, keys, scores),
        random_operand(rng, fmt, heads, keys, values),
    )


@dataclass
class Outcome:
    """cycles: from the first command offered to each `done`. error: the first report."""

    unit: AttendUnit
    memory: AxiMemory
    error: tuple[str, int] = ("", 0)
    cycles: list[int] = field(default_factory=list)


def run_jobs(
    configuration: AcceleratorConfig,
    jobs: Sequence[Job],
    *,
    memory: AxiMemory | None = None,
    values: AxiMemory | None = None,
    idle: int = 0,
    limit: int = 20_000,
) -> Outcome:
    """Run jobs one after the other without reset and compare all results.

    Args:
        memory: behind all ports; default: one that answers at once.
        values: how the port of the values behaves instead; its content is that of `memory`.
        idle: cycles between the instructions offered.
    """
    memory = memory or AxiMemory()
    unit = AttendUnit(configuration)
    outcome = Outcome(unit, memory)
    fmt = configuration.kv
    base = 1 << 20
    commands = []
    for job in jobs:
        job.base = base
        commands.append(job.place(memory, fmt))
        base = job.end + 64
    before = dict(memory.beats)

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, unit)
        for command in commands:
            for name, value in command.items():
                ctx.set(unit.command.payload[name], value)
            ctx.set(unit.command.valid, 1)
            await ctx.tick().until(unit.command.ready)
            ctx.set(unit.command.valid, 0)
            for _ in range(idle):
                await ctx.tick()

    async def count(ctx: Any) -> None:
        cycle = 0
        while len(outcome.cycles) < len(jobs):
            _, _, done, busy = await ctx.tick().sample(unit.done, unit.busy)
            cycle += 1
            assert cycle < limit, f"{len(outcome.cycles)} of {len(jobs)} instructions completed"
            if done:
                assert busy
                outcome.cycles.append(cycle)
        for _ in range(10):
            _, _, done = await ctx.tick().sample(unit.done)
            assert not done, "done without an instruction"
        assert not ctx.get(unit.busy) and ctx.get(unit.idle)
        assert memory.outstanding == 0
        outcome.error = first_report(ctx, unit.reports)
        assert memory.bad or not outcome.error[0]

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.add_testbench(count)
    values = values or memory
    values.beats = memory.beats
    serve(simulator, memory, [unit.keys_memory], [unit.write])
    serve(simulator, values, [unit.values_memory], [])
    simulator.run()
    bursts = memory.read_bursts + (values.read_bursts if values is not memory else [])
    read = sorted(first + 64 * beat for first, beats in bursts for beat in range(beats))
    assert read == sorted(address for job in jobs for address in job.records())
    written = set()
    for number, job in enumerate(jobs):
        np.testing.assert_array_equal(
            job.found(memory), job.expected(fmt), f"job {number}, {job.shape}"
        )
        at = job.addresses
        for r in range(job.shape[1]):
            first = at["output"] + r * at["output_stride"]
            written |= {first + 64 * b for b in range(2 * job.shape[0])}
    for address, beat in memory.beats.items():
        assert address in written or before.get(address) == beat, f"{address:#x} overwritten"
    return outcome
