# SPDX-License-Identifier: Apache-2.0
"""The AXI4 masters: what a memory port may see, whatever the memory answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Cat, Mux, Signal

from lutvar.hw.axi.reader import OUTSTANDING, BurstReader
from lutvar.hw.axi.writer import BurstWriter
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

from .order import Follow, stable

_READER = "lutvar.hw.axi.reader"
_WRITER = "lutvar.hw.axi.writer"
DEPTH = 32


def _channel(c: Check[Any], name: str, address: Any, length: Any, valid: Any, ready: Any) -> Signal:
    """AR or AW: stable, whole beats, at most 16, within 1 KiB. Returns: it was taken."""
    stable(c, name, valid, ready, Cat(address, length))
    c.require(f"{name} is of whole beats", implies(valid, address[:6] == 0))
    c.require(f"{name} has at most 16 beats", implies(valid, length < 16))
    within = address[6:10] + length[:4] < 16
    c.require(f"{name} within 1 KiB", implies(valid, within))
    return c.wire(f"{name}_taken", valid & ready)


def splitter_lemmas(c: Check[Any]) -> None:
    """What `bursts.split` proves of the bursts that are offered."""
    offered = c.probe("dut.split.o__valid")
    burst = c.probe("dut.split.o__payload", 65)
    address, beats, last = burst[:58], burst[58:63], burst[63]
    c.lemma("burst of 1 to 16", implies(offered, (beats != 0) & (beats <= 16)))
    c.lemma("burst within 1 KiB", implies(offered, address[:4] + beats <= 16))
    c.lemma("burst to the end", implies(offered & ~last, address[:4] + beats == 16))
    first, second = c.probe("dut.split.first", 84), c.probe("dut.split.second", 84)
    has_first, has_second = c.probe("dut.split.has_first"), c.probe("dut.split.has_second")
    left = c.probe("dut.split.left", 20)
    large, room = c.probe("dut.split.large"), c.probe("dut.split.room", 5)
    c.lemma("first is not empty", implies(has_first, first[64:] != 0))
    c.lemma("second is not empty", implies(has_second, second[64:] != 0))
    c.lemma("second after first", implies(has_second, has_first))
    c.lemma("large", implies(has_first, large == first[69:].any()))
    c.lemma("room", implies(has_first, room == 16 - first[6:10]))
    c.lemma("more beats are left", implies(offered & ~last, left != 0))


def _reader(c: Check[BurstReader]) -> None:
    dut: Any = c.dut
    axi, m = dut.memory, c.m
    c.assume(~dut.request.valid | (dut.request.payload.beats != 0))
    taken = _channel(c, "AR", axi.araddr, axi.arlen, axi.arvalid, axi.arready)
    c.require("R is always ready", axi.rready)
    # Bursts that were requested and have not ended. Without one, a beat is nobody's.
    open_bursts = Signal(range(OUTSTANDING + 2))
    owned = c.wire("owned_beat", axi.rvalid & ((open_bursts != 0) | taken))
    ends = c.wire("burst_ends", owned & axi.rlast)
    m.d.sync += open_bursts.eq(open_bursts + taken - ends)
    c.require(f"at most {OUTSTANDING} bursts", open_bursts + axi.arvalid <= OUTSTANDING)
    c.require("idle: nothing is outstanding", implies(dut.idle, (open_bursts == 0) & ~axi.arvalid))
    unsolicited = c.previous("nobodys_beat", axi.rvalid & ~owned)
    c.require("beats that nobody asked for are told", dut.report.unsolicited == unsolicited)
    pushed = c.probe("dut.push")
    c.require("and dropped", implies(pushed, c.previous("was_owned", owned)))
    was_stopped = c.previous("was_stopped", dut.stop)
    waited = c.previous("ar_waited", axi.arvalid & ~axi.arready)
    c.require("stop: no new burst", implies(was_stopped & ~waited, ~axi.arvalid))
    errors = Cat(dut.report.response, dut.report.last, dut.report.outside)
    kept = c.previous("errors_before", errors)
    c.require("the first error is kept", implies(kept.any(), errors == kept))
    outside = c.previous("refused_before", dut.report.outside)
    c.require("nothing after a refused transfer", implies(outside & ~waited, ~axi.arvalid))

    bursts = c.probe("dut.bursts", 7)
    c.lemma("bursts", bursts == open_bursts + axi.arvalid)
    c.lemma("several", c.probe("dut.several", 1) == (bursts > 1))
    c.lemma("idle follows", implies(dut.idle, bursts == 0))
    splitter_lemmas(c)
    refused = c.probe("dut.refused")
    c.lemma("refused is told", implies(dut.report.outside, refused))


def _writer(c: Check[BurstWriter]) -> None:
    dut: Any = c.dut
    axi, m = dut.memory, c.m
    c.assume(~dut.request.valid | (dut.request.payload.beats != 0))
    taken = _channel(c, "AW", axi.awaddr, axi.awlen, axi.awvalid, axi.awready)
    c.require("B is always ready", axi.bready)
    stable(c, "W", axi.wvalid, axi.wready, axi.wlast)
    c.require("whole beats", implies(axi.wvalid, axi.wstrb.all()))

    # Each burst has as many beats as its AWLEN says; the n-th WLAST ends the n-th burst.
    waited = c.previous("aw_waited", axi.awvalid & ~axi.awready)
    fresh = c.wire("aw_fresh", axi.awvalid & ~waited)
    beat = c.wire("w_taken", axi.wvalid & axi.wready)
    finished = c.wire("w_finished", beat & axi.wlast)
    count, beats = Signal(5), Signal(5)
    m.d.comb += beats.eq(count + 1)
    with m.If(beat):
        m.d.sync += count.eq(Mux(axi.wlast, 0, beats))
    length = (axi.awlen + 1)[:5]
    f = Follow(c, "bursts", fresh, length, finished, beats, OUTSTANDING)
    c.require("WLAST not late", implies(f.is_next & axi.wvalid & ~axi.wlast, beats < f.word))
    c.require("no W before its AW is offered", implies(axi.wvalid, f.inside != 0))

    # Responses: a burst has one after its address and its last beat.
    addresses, lasts = Signal(range(OUTSTANDING + 2)), Signal(range(OUTSTANDING + 2))
    owned = c.wire("owned_response", axi.bvalid & ((addresses != 0) | taken)
                   & ((lasts != 0) | finished))  # fmt: skip
    m.d.sync += [
        addresses.eq(addresses + taken - owned), lasts.eq(lasts + finished - owned),
    ]  # fmt: skip
    c.require(f"at most {OUTSTANDING} bursts", addresses + axi.awvalid <= OUTSTANDING)
    quiet = (addresses == 0) & (lasts == 0) & (f.inside == 0) & ~axi.awvalid & ~axi.wvalid
    c.require("idle: nothing is outstanding", implies(dut.idle, quiet))
    unsolicited = c.previous("nobodys_response", axi.bvalid & ~owned)
    c.require("responses that nobody waits for are told", dut.report.unsolicited == unsolicited)
    was_owned = c.previous("was_owned", owned)
    c.require("and dropped", implies(dut.responses, was_owned))
    was_stopped = c.previous("was_stopped", dut.stop)
    c.require("stop: no new burst", implies(was_stopped & ~waited, ~axi.awvalid))
    errors = Cat(dut.report.response, dut.report.outside)
    kept = c.previous("errors_before", errors)
    c.require("the first error is kept", implies(kept.any(), errors == kept))
    outside = c.previous("refused_before", dut.report.outside)
    c.require("nothing after a refused transfer", implies(outside & ~waited, ~axi.awvalid))
    accepted = c.wire("accepted_request", dut.request.valid & dut.request.ready)
    pending = Signal(16)
    m.d.sync += pending.eq(pending + accepted - dut.responses)
    c.require("pending requests", dut.pending_requests == pending)

    bursts, sent = c.probe("dut.bursts", 7), c.probe("dut.sent", 7)
    waiting, left = c.probe("dut.waiting", 7), c.probe("dut.left", 5)
    active = c.probe("dut.active")
    c.lemma("bursts", bursts == addresses + axi.awvalid)
    c.lemma("sent", sent == lasts)
    # A burst is before its last beat, or after it and before its response.
    c.lemma("every burst is somewhere", bursts == waiting + active + sent)
    c.lemma("idle follows", implies(dut.idle, bursts == 0))
    c.lemma("refused is told", implies(dut.report.outside, c.probe("dut.refused")))
    c.lemma("fresh ones wait", waiting >= fresh)
    c.lemma("beats of the burst", implies(f.is_next & active, left + count == f.word))
    c.lemma("beats to come", implies(f.waits, f.word != 0) & implies(f.is_next & active, left != 0))
    c.lemma("last of the burst", implies(active, axi.wlast == (left == 1)))
    c.lemma("no beats between bursts", implies(~active, count == 0))
    write, read = (c.probe(f"dut.{n}", 6) for n in ("$signature__addr", "read__addr"))
    f.in_ram(
        c, "ram", places=OUTSTANDING, write=(write - fresh)[:6], read=read,
        level=(waiting - fresh)[:7], behind=active, cells="dut.lengths",
    )  # fmt: skip
    newest = (write - 1)[:6]
    for number in range(OUTSTANDING):
        cell = c.probe(f"dut.lengths[{number}]", 5)
        c.lemma(f"newest {number}", implies(fresh & (newest == number), cell == length))
    splitter_lemmas(c)


def properties() -> Iterator[Property]:
    """All of this file."""
    yield Property(
        "ports.reader", f"BurstReader, depth {DEPTH}",
        "AR stable, at most 16 whole beats within 1 KiB; at most 64 bursts; idle means that "
        "nothing is outstanding; beats that nobody asked for are told and dropped; nothing new "
        "after stop or a refused transfer; whatever the memory answers",
        lambda: BurstReader(DEPTH), _reader,
        mutants=(
            Mutant("ar-unstable", _READER, "with m.If(~axi.arvalid | axi.arready):\n",
                   "with m.If(1):\n"),
            Mutant("stop-ignored", _READER, "& ~bursts[-1] & ~self.stop", "& ~bursts[-1]"),
            Mutant("idle-early", _READER, "self.idle.eq((bursts == 0) & ~granted)",
                   "self.idle.eq(bursts == 0)"),
            Mutant("all-owned", _READER, "queue.push.eq(owned & ~lost)",
                   "queue.push.eq(axi.rvalid & ~lost)"),
        ),
    )  # fmt: skip
    yield Property(
        "ports.writer", f"BurstWriter, depth {DEPTH}",
        "AW and W stable, bursts as `ports.reader`; WLAST with the last beat of each burst, in "
        "order; at most 64 bursts; idle means that nothing is outstanding; responses that nobody "
        "waits for are told and dropped; `pending_requests` is right",
        lambda: BurstWriter(DEPTH), _writer,
        mutants=(
            Mutant("wlast-early", _WRITER, "axi.wlast.eq(left == 2)", "axi.wlast.eq(left <= 3)"),
            Mutant("length-short", _WRITER, "m.d.sync += [address.eq(burst.address), length",
                   "m.d.sync += [address.eq(burst.address + 1), length"),
            Mutant(
                "response-missed", _WRITER, "axi.bvalid & ((sent != 0) | finished)",
                "axi.bvalid & ((sent > 1) | finished)"),
            Mutant("stop-ignored", _WRITER, "& ~bursts[-1] & ~self.stop", "& ~bursts[-1]"),
        ),
    )  # fmt: skip
