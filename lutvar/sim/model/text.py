# SPDX-License-Identifier: Apache-2.0
"""Estimates as text. Every table says that its figures are modelled."""

from __future__ import annotations

from collections.abc import Sequence

from lutvar.text import table

from .hosts import HostTimes
from .model import MEMORY_GBS, Estimate, PassEstimate
from .resources import KINDS, Resources


def percent(value: float) -> str:
    """A share as text."""
    return f"{100 * value:.1f} %"


def estimate_text(e: Estimate, host: HostTimes) -> str:
    """One estimate: the figures, with what the host adds, then pass by pass what bounds it."""
    what = e.schedule if e.schedule == "single" else f"{e.schedule}, {e.batch} image(s)"
    if e.schedule == "stagger":
        what += " at each scale"
    guided = "guidance on" if e.guided else "no guidance"
    head = [
        f"{e.model} in {e.preset} on {e.config} at {e.clock:g} MHz, {what}, {guided}: modelled, "
        "not measured",
        f"  images a second (modelled)     {e.images_per_second:.2f}, the device alone",
        host.text(e),
        f"  latency of an image (modelled) {e.latency:.2f} s",
        f"  array takes a vector (modelled) {percent(e.utilisation)} of all cycles, "
        f"{percent(e.useful)} counting only rows with tokens",
        f"  memory traffic (modelled)      {e.gigabytes_per_second:.1f} GB/s of {MEMORY_GBS:g}",
    ]
    if e.extrapolated:
        head.append("  extrapolated from models of 3 and 6 blocks; --full compiles all of them")
    rows = [
        (
            p.name, p.rows, p.tiles, f"{p.cycles:,.0f}", p.bound, percent(p.reached),
            *(percent(p.busy[u] / p.cycles) for u in ("FRONT", "MATRIX", "POST", "ATTEND")),
            f"{p.bytes / p.cycles * e.clock / 1e3:.1f}",
        )
        for p in e.passes
    ]  # fmt: skip
    names = ["pass", "rows", "tiles", "cycles", "bound", "reached", "FRONT", "MATRIX", "POST",
             "ATTEND", "GB/s"]  # fmt: skip
    return "\n".join([*head, "modelled, pass by pass:", table(names, rows), _waits_text(e)])


def _tiles(p: PassEstimate) -> str:
    """Tiles of a pass and the sections of each: "2 x 4, 2 x 1" are two in four, two in one."""
    counts: dict[int, int] = {}
    for sections in p.sections:
        counts[sections] = counts.get(sections, 0) + 1
    return ", ".join(f"{n} x {sections}" for sections, n in sorted(counts.items(), reverse=True))


def _waits_text(e: Estimate) -> str:
    """What the array does in all cycles: it takes a vector, or waits for what is named."""
    total: dict[str, float] = {}
    for p in e.passes:
        for name, n in p.waits.items():
            total[name] = total.get(name, 0.0) + n
    names = sorted(total, key=lambda name: -total[name])
    rows: list[tuple[str, ...]] = [
        (p.name, _tiles(p), percent(p.issue / p.cycles),
         *(percent(p.waits.get(name, 0.0) / p.cycles) for name in names))
        for p in e.passes
    ]  # fmt: skip
    if len(e.passes) > 1:
        issue = sum(p.issue for p in e.passes)
        rows.append(("all", "", percent(issue / e.cycles),
                     *(percent(total[name] / e.cycles) for name in names)))  # fmt: skip
    head = ["pass", "tiles x sections", "takes a vector", *names]
    return "modelled, all cycles of the array, or what it waits for:\n" + table(head, rows)


def table_text(estimates: Sequence[Estimate], hosts: Sequence[HostTimes]) -> str:
    """Many estimates, one line each, and what the same host makes of each."""
    rows = [
        (
            e.model, e.config, f"{e.schedule} {e.batch}" if e.schedule != "single" else "single",
            f"{e.images_per_second:.2f}", f"{host.images_per_second(e):.2f}",
            f"{1 / (1 / e.images_per_second + host.without_decoder):.2f}",
            f"{e.latency:.2f}", percent(e.utilisation),
            percent(e.useful), f"{e.gigabytes_per_second:.1f}", e.bound, percent(e.reached),
        )
        for e, host in zip(estimates, hosts, strict=True)
    ]  # fmt: skip
    names = ["model", "accelerator", "schedule", "image/s", "with host", "no decoder", "latency s",
             "array busy", "useful",
             "GB/s", "bound by", "reached"]  # fmt: skip
    clock = estimates[0].clock if estimates else 0
    text = f"modelled at {clock:g} MHz, guidance as asked:\n{table(names, rows)}"
    if hosts:
        text += (
            f"\nimage/s: the device alone. With host: device and {hosts[0].name} in turn, with and "
            f"without the decoder; {hosts[0].how}"
        )
    return text


def resources_text(r: Resources) -> str:
    """Resources against the limits."""

    def cell(amounts: dict[str, int | None], kind: str) -> str:
        if kind not in amounts:
            return ""
        value = amounts[kind]
        return "?" if value is None else f"{value:,}"

    rows = [(x.unit, *(cell(x.amounts, k) for k in KINDS), x.source) for x in r.lines]
    rows.append(("sum", *(f"{r.total(k):,}{'+' if r.missing(k) else ''}" for k in KINDS), ""))
    rows.append(("limit", *(f"{r.limit(k):,}" for k in KINDS), "70/75/80/80 % of XCVC1902"))
    return "modelled resources:\n" + table(["unit", *KINDS, "source"], rows)
