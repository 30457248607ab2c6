# SPDX-License-Identifier: Apache-2.0
"""Parts of the top: argument check, stream slice, error latch, watchdog, counters."""

import random

import pytest
from amaranth.sim import Simulator
from stand_in_engine import JOB
from stream_bench import Sink, Source, run_streams

from lutvar.contract.config import load_hardware, load_quant
from lutvar.contract.registers import BY_NAME, ErrorCode
from lutvar.hw.top.arguments import JobChecker
from lutvar.hw.top.control import pack_fields, place_fields
from lutvar.hw.top.monitor import COUNTED, Counters, ErrorLatch, Watchdog
from lutvar.hw.top.stream_slice import StreamSlice


def simulate(dut, bench):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def first_bad(hardware, quant, args):
    """The rule book, in plain Python: name of the first bad register or None."""
    rows, groups, tiles = args["rows"], args["groups"], args["tiles"]
    groups_ok = 1 <= groups <= hardware.max_groups
    if rows == 0 or rows % hardware.token_rows:
        return "ROWS"
    vectors = rows // hardware.token_rows
    if vectors > hardware.buffer_vectors or (
        groups_ok and vectors * groups > hardware.buffer_vectors
    ):
        return "ROWS"
    if not groups_ok:
        return "GROUPS"
    if not args["dump"] and not 1 <= tiles < 1 << 16:
        return "TILES"
    if args["dual"] and quant.dual_format is None:
        return "FLAGS"
    exponent = args["scale_exp"]
    if exponent not in [*range(32), *range(0xE0, 0x100), *range(0xFFFFFFE0, 1 << 32)]:
        return "SCALE_EXP"
    return None


def boundary_arguments(hardware):
    base = {"rows": hardware.token_rows, "groups": 1, "tiles": 1, "rotate": 0, "dual": 0, "dump": 0,
            "scale_exp": 0}  # fmt: skip
    top, depth, most = hardware.token_rows, hardware.buffer_vectors, hardware.max_groups
    rows = {0, 1, top - 1, top, top + 1, 2 * top, depth * top - top, depth * top, depth * top + 1,
            depth * top + top, 2 * depth * top, 1 << 31, 0xFFFFFFFF, (1 << 16) * top}  # fmt: skip
    for value in sorted(rows):
        for groups in (1, most):
            yield {**base, "rows": value, "groups": groups}
    for groups in (0, 1, most - 1, most, most + 1, 128, 256, 1 << 16, 0xFFFFFFFF):
        fit = min(groups, most) or 1
        for vectors in (1, depth // fit, depth // fit + 1):
            yield {**base, "groups": groups, "rows": vectors * top}
    for dump in (0, 1):
        for tiles in (0, 1, 0xFFFF, 0x10000, 0xFFFFFFFF):
            yield {**base, "tiles": tiles, "dump": dump}
    for dual in (0, 1):
        for rotate in (0, 1):
            yield {**base, "dual": dual, "rotate": rotate}
    for exponent in (31, 32, 0x7F, 0x80, 0xDF, 0xE0, 0xFF, 0x100, 0x1FF, 0xFFFFFF00, 0xFFFFFFDF,
                     0xFFFFFFE0, 0xFFFFFFFF, 0x7FFFFFFF):  # fmt: skip
        yield {**base, "scale_exp": exponent}
    # Two mistakes: the first register in order is named.
    yield {**base, "rows": 0, "groups": 0, "scale_exp": 99}
    yield {**base, "groups": 0, "tiles": 0}
    yield {**base, "tiles": 0, "scale_exp": 99}


@pytest.mark.parametrize("token_rows, has_dual", [(1, True), (3, False), (2, False), (8, True)])
def test_arguments_are_checked_exactly(token_rows, has_dual):
    hardware = load_hardware("small-fp4").model_copy(
        update={"token_rows": token_rows, "buffer_vectors": 256, "max_groups": 72}
    )
    quant = load_quant("fp4")
    if not has_dual:
        sites = {name: site.model_copy(update={"activation": "E2M1"})
                 for name, site in quant.sites.items()}  # fmt: skip
        quant = quant.model_copy(update={"sites": sites})
    assert (quant.dual_format is not None) == has_dual
    dut = JobChecker(hardware, quant, JOB)
    rng = random.Random(token_rows)
    cases = list(boundary_arguments(hardware))
    kinds = {first_bad(hardware, quant, args) for args in cases}
    assert {None, "ROWS", "GROUPS", "TILES", "SCALE_EXP"} <= kinds

    async def bench(ctx):
        for args in cases:
            for name, value in args.items():
                ctx.set(dut.arguments[name], value)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for name in args:  # taken at the start, so later writes do not matter
                ctx.set(dut.arguments[name], 0)
            wait = rng.randrange(3)
            for _ in range(80):
                assert ctx.get(dut.busy)
                if ctx.get(dut.bad) or ctx.get(dut.o.valid):
                    break
                await ctx.tick()
            bad = ctx.get(dut.bad_offset) if ctx.get(dut.bad) else None
            expected = first_bad(hardware, quant, args)
            assert bad == (None if expected is None else BY_NAME[expected].offset), args
            if expected is None:
                for _ in range(wait):
                    await ctx.tick()
                job = ctx.get(dut.o.payload)
                signed = args["scale_exp"] & 0xFF
                assert ctx.get(dut.o.valid)
                assert job.rows == args["rows"] // token_rows
                assert (job.groups, job.tiles) == (args["groups"], args["tiles"] & 0xFFFF)
                assert (job.rotate, job.dual, job.dump) == (
                    args["rotate"], args["dual"], args["dump"],
                )  # fmt: skip
                assert job.scale_exp == signed
                ctx.set(dut.o.ready, 1)
            await ctx.tick()
            ctx.set(dut.o.ready, 0)
            assert not ctx.get(dut.busy) and not ctx.get(dut.bad) and not ctx.get(dut.o.valid)

    simulate(dut, bench)


@pytest.mark.parametrize("idle, stall", [(0, 0), (0.5, 0), (0, 0.5), (0.6, 0.6)])
def test_slice_keeps_order_and_full_rate(idle, stall):
    dut = StreamSlice(16)
    words = [random.Random(7).getrandbits(16) for _ in range(300)]
    sink = Sink(dut.o, len(words), stall=stall)
    run_streams(dut, [Source(dut.i, words, idle=idle)], [sink], seed=3)
    assert sink.items == words
    if not idle and not stall:
        assert sink.cycles[-1] - sink.cycles[0] == len(words) - 1


@pytest.mark.parametrize("taken_late", [False, True])
def test_halted_slice_keeps_its_offer_and_nothing_else(taken_late):
    dut = StreamSlice(8)

    async def bench(ctx):
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.i.payload, 1)
        await ctx.tick().until(dut.o.valid)
        ctx.set(dut.i.payload, 2)
        await ctx.tick()  # now 1 is offered and 2 waits
        ctx.set(dut.halt, 1)
        await ctx.tick()
        for _ in range(5):
            await ctx.tick()
            assert not ctx.get(dut.i.ready)
            assert ctx.get(dut.o.valid) and ctx.get(dut.o.payload) == 1
        if taken_late:
            ctx.set(dut.o.ready, 1)
            await ctx.tick()
            for _ in range(5):
                assert not ctx.get(dut.o.valid)
                await ctx.tick()

    simulate(dut, bench)


def test_first_error_is_kept_with_its_context():
    names = [code.name.lower() for code in ErrorLatch.CODES]

    def scenario(hits, later):
        dut = ErrorLatch()

        async def bench(ctx):
            for index, name in enumerate(names):
                ctx.set(getattr(dut, f"{name}_info"), 100 + index)
            await ctx.tick()
            assert not ctx.get(dut.halt) and not ctx.get(dut.raised)
            for name in hits:
                ctx.set(getattr(dut, name), 1)
            await ctx.tick()
            assert ctx.get(dut.halt) and ctx.get(dut.raised)
            for name in names:
                ctx.set(getattr(dut, name), name in later)
                ctx.set(getattr(dut, f"{name}_info"), 7)
            await ctx.tick().repeat(3)
            first = min(ErrorCode[name.upper()] for name in hits)
            assert ctx.get(dut.code) == first
            assert ctx.get(dut.info) == 100 + names.index(first.name.lower())
            assert ctx.get(dut.halt) and not ctx.get(dut.raised)

        simulate(dut, bench)

    for name in names:
        scenario([name], [n for n in names if n != name])
    scenario(names, [])
    scenario(["frame_wgt", "stall"], ["bad_argument"])


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_watchdog_counts_cycles_without_progress(limit):
    dut = Watchdog()

    async def quiet(ctx, cycles):
        fired = False
        for _ in range(cycles):
            await ctx.tick()
            fired |= bool(ctx.get(dut.fire))
        return fired

    async def bench(ctx):
        ctx.set(dut.limit, limit)
        assert not await quiet(ctx, 5 * limit + 5)  # no work, no alarm
        ctx.set(dut.active, 1)
        for _ in range(5):  # progress at the last moment
            assert not await quiet(ctx, limit)
            ctx.set(dut.progress, 1)
            await ctx.tick()
            ctx.set(dut.progress, 0)
        assert await quiet(ctx, limit + 4)
        ctx.set(dut.limit, 0)
        await ctx.tick().repeat(3)
        assert not await quiet(ctx, 100)

    simulate(dut, bench)


def test_counters_count_and_the_upper_half_is_latched():
    dut = Counters()

    async def bench(ctx):
        for index, name in enumerate(COUNTED):
            ctx.set(getattr(dut, f"count_{name.lower()}"), 1)
            await ctx.tick().repeat(index + 1)
            ctx.set(getattr(dut, f"count_{name.lower()}"), 0)
        await ctx.tick()
        for index, name in enumerate(COUNTED):
            assert ctx.get(getattr(dut, name.lower())) == index + 1
        ctx.set(dut.cycles_lo, 0xFFFFFFFE)
        ctx.set(dut.running, 1)
        await ctx.tick()
        ctx.set(dut.cycles_lo_seen, 1)  # read just before the carry
        assert ctx.get(dut.cycles_lo) == 0xFFFFFFFF
        await ctx.tick()
        ctx.set(dut.cycles_lo_seen, 0)
        await ctx.tick().repeat(3)
        assert (ctx.get(dut.cycles_lo), ctx.get(dut.cycles_hi)) == (3, 0)
        ctx.set(dut.cycles_lo_seen, 1)
        await ctx.tick()
        assert ctx.get(dut.cycles_hi) == 1

    simulate(dut, bench)


def test_field_helpers_refuse_incomplete_and_wide_values():
    with pytest.raises(ValueError, match="IER has fields"):
        place_fields("IER", {"done": 1})
    with pytest.raises(ValueError, match=r"CAPS0.token_rows = 256 needs over 8 bits"):
        pack_fields("CAPS0", {"token_rows": 256, "outputs": 1, "stream_bytes": 32, "code_bits": 4})
    word = pack_fields("CAPS0", {"token_rows": 2, "outputs": 4, "stream_bytes": 32, "code_bits": 6})
    assert word == 0x06200402
    assert BY_NAME["CAPS0"].field_value(word, "outputs") == 4
