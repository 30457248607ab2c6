# SPDX-License-Identifier: Apache-2.0
"""Estimates as text. Every table says that its figures are modelled."""

from __future__ import annotations

from collections.abc import Sequence

from lutvar.text import table

from .end_to_end import EndToEnd
from .hosts import HIDDEN
from .model import MEMORY_GBS, Estimate, PassEstimate
from .resources import KINDS, Resources


def percent(value: float) -> str:
    """A share as text."""
    return f"{100 * value:.1f} %"


def estimate_text(e: Estimate, whole: EndToEnd) -> str:
    """One estimate: the figures, from class to pixels as well, then what bounds each pass."""
    what = e.schedule if e.schedule == "single" else f"{e.schedule}, {e.batch} image(s)"
    if e.schedule == "stagger":
        what += " at each scale"
    guided = "guidance on" if e.guided else "no guidance"
    head = [
        f"{e.model} in {e.preset} on {e.config} at {e.clock:g} MHz, {what}, {guided}: modelled, "
        "not measured",
        f"  images a second (modelled)     {e.images_per_second:.2f}, transformer on the device",
        f"  latency of an image (modelled) {e.latency:.2f} s, of its transformer passes",
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
    return "\n".join(
        [
            *head,
            end_to_end_text(whole),
            "modelled, pass by pass:",
            table(names, rows),
            _waits_text(e),
        ]
    )


def end_to_end_text(whole: EndToEnd) -> str:
    """Transformer, decoder, sampling, the rest of the host and all together, side by side."""
    host = whole.host
    device = [("transformer", "device", whole.transformer)]
    if whole.decoder is not None:
        device.append(("decoder", "device", whole.decoder))
    mine = [(name, f"host {host.name}", t) for name, t in whole.host_parts.items()]
    total = whole.device + whole.host_seconds
    rows = [
        (name, where, f"{1e3 * t:.1f}", percent(t / total)) for name, where, t in (*device, *mine)
    ]
    rows.append(("all, in turn", "", f"{1e3 * total:.1f}", percent(1)))
    lines = [
        "modelled, an image from class to pixels:",
        table(("part", "where", "ms", "share"), rows),
        f"  end to end {whole.images_per_second:.2f} image/s: device and one core of host "
        f"{host.name} in turn, as the driver does; {1e3 * host.seconds[HIDDEN]:.0f} ms of random "
        "bits are made while the device computes",
    ]
    if whole.overlapped is not None:
        lines.append(
            f"  {whole.overlapped:.2f} image/s where the host works for some images while the "
            "device does for others (generate --groups), if none waits for another"
        )
    return "\n".join([*lines, f"  host {host.name}: {host.how}"])


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


def table_text(estimates: Sequence[Estimate], wholes: Sequence[EndToEnd]) -> str:
    """Many estimates, one line each, with the same host."""

    def cell(seconds: float | None) -> str:
        return "" if seconds is None else f"{seconds:.2f}"

    rows = [
        (
            e.model, e.config, f"{e.schedule} {e.batch}" if e.schedule != "single" else "single",
            f"{e.images_per_second:.2f}", cell(w.transformer), cell(w.decoder),
            cell(w.sampling), cell(w.host_seconds - w.sampling), f"{w.images_per_second:.2f}",
            cell(w.overlapped),
            f"{e.latency:.2f}", percent(e.utilisation),
            percent(e.useful), f"{e.gigabytes_per_second:.1f}", e.bound, percent(e.reached),
        )
        for e, w in zip(estimates, wholes, strict=True)
    ]  # fmt: skip
    names = ["model", "accelerator", "schedule", "image/s", "transformer", "decoder", "sampling",
             "host", "end to end", "overlapped", "latency s", "array busy", "useful",
             "GB/s", "bound by", "reached"]  # fmt: skip
    clock = estimates[0].clock if estimates else 0
    text = f"modelled at {clock:g} MHz, guidance as asked:\n{table(names, rows)}"
    if wholes:
        host = wholes[0].host
        text += (
            "\nimage/s: transformer on the device alone. Seconds of an image: transformer and "
            f"decoder on the device, sampling and the rest on host {host.name}. End to end: "
            "image/s, device and host in turn on one core; overlapped: image/s where the host "
            "works for some images while the device does for others (generate --groups), if none "
            "waits for another. Without a figure for the decoder the host decodes; "
            f"host {host.name}: {host.how}"
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
