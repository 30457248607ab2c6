# SPDX-License-Identifier: Apache-2.0
"""Parts of the matrix engine by themselves, in Amaranth's simulator."""

import itertools
import random

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator
from stream_bench import Sink, Source, _driver, run_streams

from lutvar.contract.config import GROUP, HardwareConfig, QuantConfig, load_quant
from lutvar.contract.layout import StreamLayout
from lutvar.hw.matrix.job import bank_layout, job_layout
from lutvar.hw.matrix.memory import READ_LATENCY, ChunkMemory, Fifo
from lutvar.hw.matrix.output import Gearbox
from lutvar.hw.matrix.sequencer import Sequencer
from lutvar.hw.matrix.walk import RowWalk
from lutvar.hw.matrix.weights import Weights


def hardware(**changes) -> HardwareConfig:
    sizes = {
        "name": "test", "quant": "fp4", "token_rows": 2, "outputs": 4, "stream_bytes": 32,
        "max_groups": 6, "buffer_vectors": 256, "row_block": 16,
    }  # fmt: skip
    return HardwareConfig(**{**sizes, **changes})


def simulate(dut, *benches, background=()):
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for bench in benches:
        simulator.add_testbench(bench)
    for bench in background:
        simulator.add_testbench(bench, background=True)
    simulator.run()


# -- memories and queues ------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "chunk"), [(64, 16), (40, 16), (24, 24), (20, 24), (7, 1)])
def test_chunk_memory_reads_whole_words(width, chunk):
    depth = 5
    dut = ChunkMemory(width, chunk, depth)
    rng = random.Random(width)
    words = [0] * depth

    async def bench(ctx):
        for _ in range(120):
            address, part = rng.randrange(depth), rng.randrange(dut.chunks)
            value = rng.getrandbits(chunk)
            enable = rng.random() < 0.7
            ctx.set(dut.write_addr, address)
            ctx.set(dut.write_chunk, part)
            ctx.set(dut.write_data, value)
            ctx.set(dut.write_en, enable)
            if enable:
                mask = ((1 << chunk) - 1) << part * chunk
                words[address] = (words[address] & ~mask | value << part * chunk) & (1 << width) - 1
            await ctx.tick()
            ctx.set(dut.write_en, 0)
            address = rng.randrange(depth)
            ctx.set(dut.read_addr, address)
            for _ in range(READ_LATENCY):
                await ctx.tick()
            assert ctx.get(dut.read_data) == words[address]

    simulate(dut, bench)


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_fifo_keeps_order_and_pace(stall):
    dut = Fifo(16, 4)
    items = list(range(1, 200))
    sink = Sink(dut.o, len(items), stall)
    run_streams(dut, [Source(dut.i, items, stall)], [sink])
    assert sink.items == items
    if not stall:
        assert sink.cycles[-1] - sink.cycles[0] == len(items) - 1


@pytest.mark.parametrize(("beats", "stall"), [(1, 0.0), (1, 0.4), (2, 0.4), (3, 0.0), (5, 0.4)])
def test_gearbox_cuts_words_without_gaps(beats, stall):
    rng = random.Random(beats)
    words = [(rng.getrandbits(beats * 256), rng.random() < 0.3) for _ in range(20)]
    expected = [
        (word >> 256 * beat) & (1 << 256) - 1 | (last and beat == beats - 1) << 256
        for word, last in words
        for beat in range(beats)
    ]
    dut = Gearbox(32, beats)
    items = [word | last << beats * 256 for word, last in words]
    sink = Sink(dut.o, len(expected), stall)
    run_streams(dut, [Source(dut.i, items, stall)], [sink])
    assert sink.items == expected
    if not stall:
        assert sink.cycles[-1] - sink.cycles[0] == len(expected) - 1


# -- activation side ----------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "vectors", "groups"), [
    (1, 1, 1), (1, 3, 2), (2, 1, 3), (3, 2, 1), (2, 3, 2),
])  # fmt: skip
def test_row_walk_visits_the_words_of_a_bank_in_stream_order(slots, vectors, groups):
    beats = 8
    dut = RowWalk(hardware(token_rows=slots, outputs=8), beats)
    expected = []
    for row, group, beat in itertools.product(range(vectors * slots), range(groups), range(beats)):
        expected.append((row // slots * groups + group, row % slots, beat))
    rng = random.Random(slots)

    async def bench(ctx):
        for _ in range(2):  # a second walk starts anew
            ctx.set(dut.rows, vectors)
            ctx.set(dut.groups, groups)
            ctx.set(dut.load, 1)
            await ctx.tick()
            ctx.set(dut.load, 0)
            seen = []
            while ctx.get(dut.active):
                step = rng.random() < 0.8
                ctx.set(dut.step, step)
                if step:
                    seen.append(tuple(map(ctx.get, (dut.address, dut.slot, dut.beat))))
                    assert ctx.get(dut.final) == (len(seen) == len(expected))
                    assert ctx.get(dut.group_end) == (len(seen) % beats == 0)
                await ctx.tick()
            ctx.set(dut.step, 0)
            assert seen == expected

    simulate(dut, bench)


# -- weight side --------------------------------------------------------------------------------


def _tile(rng: random.Random, layout: StreamLayout, groups: int):
    """Random tile: its beats, and what the banks must show."""
    n, width = layout.outputs, layout.stream_bytes * 8
    bias = rng.getrandbits(32 * n)
    scales = [rng.getrandbits(16 * n) for _ in range(groups)]
    codes = [rng.getrandbits(n * GROUP * layout.code_bits) for _ in range(groups)]
    beats = []
    sections = [(bias, layout.bias_beats)]
    for pair in zip(scales, codes, strict=True):
        sections += zip(pair, (layout.scale_beats, layout.weight_code_beats), strict=True)
    for value, count in sections:
        beats += [value >> width * i & (1 << width) - 1 for i in range(count)]
    return beats, (bias, scales, codes)


@pytest.mark.parametrize(
    ("quant", "outputs", "token_rows", "stream_bytes"),
    [("fp4", 4, 2, 32), ("fp6", 8, 1, 32), ("fp6", 3, 16, 64), ("fp4", 20, 2, 32)],
)
def test_weights_fill_banks_in_turn(quant, outputs, token_rows, stream_bytes):
    config = hardware(
        outputs=outputs, token_rows=token_rows, stream_bytes=stream_bytes, max_groups=3
    )
    preset: QuantConfig = load_quant(quant)
    layout = StreamLayout.of(config, preset)
    rng = random.Random(outputs)
    jobs = [(1, 1), (3, 2), (2, 3)]  # groups, tiles
    items, tiles = [], []
    for groups, count in jobs:
        beats = []
        for _ in range(count):
            tile_beats, content = _tile(rng, layout, groups)
            beats += tile_beats
            tiles.append((groups, content))
        items += [b | (i == len(beats) - 1) << stream_bytes * 8 for i, b in enumerate(beats)]
    dut = Weights(config, preset)
    job_items = [
        job_layout(config).const({"rows": 1, "groups": g, "tiles": t}).as_bits() for g, t in jobs
    ]
    errors = []

    async def reader(ctx):
        bank = 0
        for groups, (bias, scales, codes) in tiles:
            while not ctx.get(dut.bank_full) >> bank & 1:
                await ctx.tick()
            for _ in range(rng.choice([0, 0, 40])):  # sometimes both banks become full
                await ctx.tick()
            ctx.set(dut.read_bank, bank)
            for group in range(groups):
                ctx.set(dut.read_group, group)
                for _ in range(READ_LATENCY):
                    await ctx.tick()
                assert ctx.get(Value.cast(dut.scales)) == scales[group]
                assert ctx.get(dut.codes) == codes[group]
                assert ctx.get(Value.cast(dut.bias)) == bias
            ctx.set(dut.release, 1)
            await ctx.tick()
            ctx.set(dut.release, 0)
            bank ^= 1
        assert ctx.get(dut.bank_full) == 0

    async def watch(ctx):
        async for _, _, error in ctx.tick().sample(dut.frame_error):
            errors.append(error)

    simulate(
        dut,
        _driver(Source(dut.job, job_items, 0.3), rng, 20_000),
        _driver(Source(dut.wgt, items, 0.1), rng, 20_000),
        reader,
        background=[watch],
    )
    assert not any(errors)


@pytest.mark.parametrize("shift", [-1, 1])
def test_weights_report_a_misplaced_tlast(shift):
    config, preset = hardware(max_groups=2), load_quant("fp4")
    layout = StreamLayout.of(config, preset)
    total = layout.wgt_beats(2, 1)
    place = total - 1 + shift
    dut = Weights(config, preset)
    reports = []

    async def bench(ctx):
        ctx.set(dut.job.valid, 1)
        ctx.set(dut.job.payload.groups, 2)
        ctx.set(dut.job.payload.tiles, 1)
        ctx.set(dut.wgt.valid, 1)
        sent = 0
        while sent < total:
            ctx.set(dut.wgt.payload.last, sent == place)
            _, _, ready = await ctx.tick().sample(dut.wgt.ready)
            sent += ready
            if ctx.get(dut.frame_error):
                reports.append(ctx.get(dut.beats))

    simulate(dut, bench)
    # Early: reported at the beat that carries it, and again at the last one, which lacks it.
    assert reports == ([total - 1, total] if shift < 0 else [total])


# -- sequencer ----------------------------------------------------------------------------------

INTERVAL = 11


def _issues(config, rows, groups, tiles, dual, bank, wgt_bank):
    """The loops of the contract, as (address, group, pass, slot, first, last, final, banks)."""
    for tile in range(tiles):
        for start in range(0, rows, config.row_block):
            block = range(start, min(start + config.row_block, rows))
            rounds = [(g, neg) for g in range(groups) for neg in ((1, 0) if dual else (0,))]
            for number, (g, neg) in enumerate(rounds):
                for slot, vector in enumerate(block):
                    last = number == len(rounds) - 1
                    yield (
                        vector * groups + g, g, neg, slot, number == 0, last,
                        last and tile == tiles - 1 and vector == rows - 1,
                        bank, (wgt_bank + tile) % 2,
                    )  # fmt: skip


@pytest.mark.parametrize(("patience", "slowness"), [(0, 0), (3, 30)])
def test_sequencer_follows_the_loops_of_the_contract(patience, slowness):
    config = hardware()
    jobs = [
        # rows, groups, tiles, dual
        (1, 1, 1, 0), (1, 1, 3, 1), (1, 3, 2, 0), (16, 2, 2, 0), (17, 1, 2, 1), (15, 4, 1, 1),
        (33, 2, 3, 0), (32, 2, 1, 1), (48, 1, 2, 0), (40, 6, 2, 1),
    ]  # fmt: skip
    dut = Sequencer(config, INTERVAL)
    rng = random.Random(slowness)
    expected, wgt_bank = [], 0
    for index, (rows, groups, tiles, dual) in enumerate(jobs):
        expected += _issues(config, rows, groups, tiles, dual, index % 2, wgt_bank)
        wgt_bank = (wgt_bank + tiles) % 2
    seen, when, reserved = [], [], []
    stalls = {"wgt": 0, "gap": 0, "out": 0}

    async def feed(ctx):
        for index, (rows, groups, tiles, dual) in enumerate(jobs):
            for _ in range(rng.randint(0, patience)):
                await ctx.tick()
            word = {"rows": rows, "groups": groups, "tiles": tiles, "dual": dual, "scale_exp": -7}
            ctx.set(dut.job.payload, bank_layout(config).const({"job": word, "words": 0}))
            ctx.set(dut.bank, index % 2)
            ctx.set(dut.job.valid, 1)
            await ctx.tick().until(dut.job.ready)
            ctx.set(dut.job.valid, 0)
        for _ in range(5):
            await ctx.tick()

    async def weights(ctx):
        """Two banks that become full in turn, some time after they were released."""
        state, fill, waits = [0, 0], 0, 0
        released = 0
        while True:
            if state[fill] == 0:
                if waits == 0:
                    state[fill], fill = 1, 1 - fill
                    waits = rng.randint(0, slowness)
                else:
                    waits -= 1
            ctx.set(dut.weights_ready, state[0] | state[1] << 1)
            _, _, release = await ctx.tick().sample(dut.release_wgt)
            if release:
                assert state[released], "a bank was released that was not full"
                state[released], released = 0, 1 - released

    async def room(ctx):
        while True:
            ctx.set(dut.room, not patience or rng.random() < 0.7)
            await ctx.tick()

    async def watch(ctx):
        names = ("stall_wgt", "stall_gap", "stall_out", "issued")
        flags = [getattr(dut, name) for name in names]
        cycle = 0
        async for _, _, valid, issue, reserve, room_, *values in ctx.tick().sample(
            dut.valid, dut.issue, dut.reserve, dut.room, *flags,
            dut.act_addr, dut.wgt_group, dut.act_bank, dut.wgt_bank,
        ):  # fmt: skip
            wgt, gap, out, issued, address, group, bank, wgt_bank_ = values
            assert wgt + gap + out + issued <= 1
            stalls["wgt"] += wgt
            stalls["gap"] += gap
            stalls["out"] += out
            if reserve:
                assert room_ and issued
                reserved.append(cycle)
            if valid:
                seen.append(
                    (address, group, issue.neg, issue.slot, bool(issue.first), bool(issue.last),
                     bool(issue.final), bank, wgt_bank_)
                )  # fmt: skip
                when.append(cycle)
                assert issue.scale_exp == -7
            cycle += 1

    simulate(dut, feed, background=[weights, room, watch])
    assert seen == expected
    assert len(reserved) == sum(item[5] for item in expected)
    latest: dict[int, int] = {}
    for cycle, (*_, slot, first, _last, _final, _b, _w) in zip(when, seen, strict=True):
        assert first or cycle - latest[slot] >= INTERVAL, "a slot came back too early"
        latest[slot] = cycle
    assert stalls["gap"] > 0
    if slowness:
        assert stalls["wgt"] > 0 and stalls["out"] > 0
    else:
        # Nothing but short rounds, weights and two cycles between jobs may cost time.
        lost = when[-1] - when[0] + 1 - len(seen) - stalls["gap"] - stalls["wgt"]
        assert stalls["out"] == 0 and lost <= 2 * (len(jobs) - 1)
