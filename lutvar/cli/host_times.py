# SPDX-License-Identifier: Apache-2.0
"""Where the time of an image went: the table of `lutvar generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lutvar.text import table

if TYPE_CHECKING:
    from lutvar.host.device_decoder import DecodeReport
    from lutvar.host.transformer import PassReport

#: What a backend's own time is: on a board the device's, else that of what stands for it.
DEVICES = {"sim": "simulation of the device", "golden": "golden model of the device"}
#: Of threads, until others leave the device to them.
WAITING = "waiting for a turn"
#: Clock at which cycles are converted to seconds of a device that is not there.
CLOCK = 250e6


def breakdown(
    seconds: Mapping[str, float],
    reports: Sequence[PassReport],
    images: int,
    backend: str,
    decodes: Sequence[DecodeReport] = (),
    elapsed: float | None = None,
) -> dict[str, Any]:
    """Seconds of an image by part, and images a second, end to end.

    Args:
        seconds: of all images, as `GenerationResult.seconds` has them.
        reports: of the passes on a device; empty for a model on this host.
        images: how many were made.
        backend: "float", "golden", "sim" or a device's URL.
        decodes: of the images that the device decoded; empty where the host did.
        elapsed: wall time of all images where groups took turns: parts of several threads ran at
            the same time, so that their sum is no time that anybody waits. None: one thread.
    """
    parts: dict[str, float] = {}
    waits = [0.0, 0.0]
    if elapsed is not None:
        waits = [sum(one.waited_seconds for one in some) for some in (reports, decodes)]
        parts[WAITING] = sum(waits)
    device = DEVICES.get(backend.partition(":")[0], "device")
    if reports:
        compiling = sum(r.compile_seconds for r in reports)
        transfers = sum(r.transfer_seconds for r in reports)
        running = sum(r.device_seconds for r in reports)
        parts |= {"compile": compiling, "transfers": transfers, device: running}
        rest = seconds.get("transformer", 0.0) - compiling - transfers - running - waits[0]
        parts["driver"] = max(0.0, rest)
    else:
        parts["transformer on this host"] = seconds.get("transformer", 0.0)
    parts |= {name: value for name, value in seconds.items() if name != "transformer"}
    decoding = sum(d.device_seconds for d in decodes)
    if decodes:
        parts[f"decoder, {device}"] = decoding
        parts["decoder, host"] = max(0.0, parts.pop("decoder", 0.0) - decoding - waits[1])
    each = {name: value / images for name, value in parts.items()}
    whole = sum(each.values())
    took = whole if elapsed is None else elapsed / images
    result: dict[str, Any] = {
        "seconds_per_image": each,
        "total_seconds_per_image": whole,
        "overlapped": elapsed is not None,
        "images_per_second": 1 / took if took else None,
    }
    if reports and device != "device":
        passes = sum(r.counters.cycles for r in reports) / images / CLOCK
        decoder = sum(d.cycles for d in decodes) / images / CLOCK
        host = whole - each[device] - (decoding + sum(waits)) / images
        both = (host, passes + decoder)
        result |= {
            "host_seconds_per_image": host,
            "device_seconds_modelled": passes + decoder,
            "transformer_seconds_modelled": passes,
            "decoder_seconds_modelled": decoder if decodes else None,
            "images_per_second_modelled": 1 / (sum(both) if elapsed is None else max(both)),
        }
    return result


def breakdown_text(data: Mapping[str, Any], backend: str) -> str:
    """The table, then images a second; says what is not measured."""
    whole = data["total_seconds_per_image"]
    rows = [
        (name, f"{1e3 * value:.1f}", f"{100 * value / whole:.1f} %")
        for name, value in data["seconds_per_image"].items()
    ]
    rows.append(("all threads" if data["overlapped"] else "all", f"{1e3 * whole:.1f}", "100.0 %"))
    lines = [table(("of one image", "ms", "share"), rows)]
    lines.append(f"end to end {data['images_per_second']:.2f} image/s, measured here")
    if "device_seconds_modelled" in data:
        what = "simulation" if backend.partition(":")[0] == "sim" else "golden model"
        lines[-1] += f" with the {what}"
        most = "at most " if data["overlapped"] else ""
        device = [f"transformer {1e3 * data['transformer_seconds_modelled']:.1f} ms"]
        if data["decoder_seconds_modelled"] is not None:
            device.append(f"decoder {1e3 * data['decoder_seconds_modelled']:.1f} ms")
        lines.append(
            f"with a device at 250 MHz ({', '.join(device)} of an image, modelled from its "
            f"cycles) and this host ({1e3 * data['host_seconds_per_image']:.1f} ms): "
            f"{most}{data['images_per_second_modelled']:.2f} image/s end to end"
        )
    return "\n".join(lines)
