# SPDX-License-Identifier: Apache-2.0
"""`lutvar bench --device`: what a device's own counters, the clock and the sensors say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lutvar.text import table

from .common import note

if TYPE_CHECKING:
    from lutvar.contract.accelerator import AcceleratorConfig
    from lutvar.host.board.measure import Measurement


def bench_device(
    url: str, image: Path, config: str, slots: int, rounds: int, mhz: float, memory: str
) -> tuple[dict[str, Any], str]:
    """Measure a device; the figures as data and as text."""
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.host.board.measure import measure
    from lutvar.host.compile.packed import PackedTransformer
    from lutvar.host.open import parse
    from lutvar.host.session import Session

    accelerator, address = load_accelerator(config), parse(url)
    packed = PackedTransformer.load(image, accelerator)
    with Session.open(url, packed, slots=slots, say=note) as session:
        result, name = measure(session, address, rounds), session.transport.name
    promised = promise(accelerator, memory, mhz)
    data = {
        "device": name, "accelerator": accelerator.name, "model": packed.model, "slots": slots,
        **result.as_dict(), "noc": {"mhz": mhz, "memory": memory, "bytes_per_cycle": promised},
    }  # fmt: skip
    return data, text(data, result)


def promise(config: AcceleratorConfig, memory: str, mhz: float) -> dict[str, float]:
    """Bytes a cycle by port and direction that the block design asks the NoC for, at a clock."""
    from lutvar.vivado.qos import PLACEMENTS, plan

    rates: dict[str, float] = {}
    for path in plan(config, PLACEMENTS[memory], mhz).connections:
        for way, mbps in (("read", path.read), ("write", path.write)):
            key = f"{path.port} {way}"
            rates[key] = max(rates.get(key, 0.0), mbps / mhz)
    return {key: rate for key, rate in rates.items() if rate}


def text(data: dict[str, Any], result: Measurement) -> str:
    """The figures for people; each says what it is."""
    kind = result.kind
    rows = [
        ("images", f"{result.images} of {data['slots']} at a time, {result.passes} passes"),
        ("cycles an image", f"{data['cycles_per_image']:,.0f} ({kind})"),
        ("array busy", f"{100 * data['array_busy']:.1f} % ({kind})"),
    ]
    if result.seconds and result.device_seconds is not None:
        rows += [
            ("images a second", f"{result.images_per_second:.3g} (measured; transformer only)"),
            ("in the device", f"{100 * result.device_seconds / result.seconds:.1f} % of the time"),
        ]
    else:
        rows.append(("images a second", f"not measured: this is no board ({kind})"))
    for rail, joules in data["joules_per_image"].items():
        idle = result.idle_watts.get(rail, 0.0)
        rows.append((f"{rail} an image", f"{joules:.3g} J (measured), {idle:.3g} W before the run"))
    ports = [
        (port, f"{rate:.2f}", f"{promised:.2f}" if promised else "-",
         f"{100 * rate / promised:.0f} %" if promised else "-")
        for port, rate in data["bytes_per_cycle"].items()
        for promised in [data["noc"]["bytes_per_cycle"].get(port, 0.0)]
    ]  # fmt: skip
    titles = ("port", f"bytes a cycle ({kind})", "asked of the NoC", "of it")
    at = f"the NoC's figures: {data['noc']['memory']} at {data['noc']['mhz']:g} MHz"
    return "\n".join([table(("figure", data["device"]), rows), "", table(titles, ports), at])


def needs(image: Path | None) -> Path:
    """The packed model; UsageError without one."""
    if image is None:
        raise click.UsageError("--device needs --image, a packed model of `lutvar pack`")
    return image
