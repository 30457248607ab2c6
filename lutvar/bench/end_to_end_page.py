# SPDX-License-Identifier: Apache-2.0
"""Tables of what a user waits for an image of d30 at 256 px, from class to pixels; all modelled.

    python -m lutvar.bench.end_to_end_page docs/performance.md

writes the text between `<!-- begin end-to-end NAME -->` and `<!-- end end-to-end NAME -->` again,
for each accelerator NAME that the page has such a block of. `lutvar estimate` prints the same
figures, with all parts of the host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.decoder import DecoderShape
from lutvar.contract.quant_preset import model_quant
from lutvar.contract.shape import TransformerShape
from lutvar.sim.evidence.page import replace_block, rewrite_pages
from lutvar.sim.model.end_to_end import EndToEnd, decoder_seconds
from lutvar.sim.model.hosts import HOSTS, HostTimes
from lutvar.sim.model.many import Request, estimate_many

MODEL, CLOCK = "d30", 250.0
SCHEDULES = {"single": "one image", "stagger": "staggered"}
_HEAD = (
    "| schedule | host | transformer, ms | decoder, ms | sampling, ms | host for decoder, ms "
    "| rest of host, ms | in turn, image/s | overlapped, image/s |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|",
)


def blocks(page: str) -> list[str]:
    """The accelerator of each table of a page."""
    return re.findall(r"<!-- begin end-to-end (\S+) -->", page)


def images(config: AcceleratorConfig) -> list[EndToEnd]:
    """One image alone and staggered, with every host."""
    shape = TransformerShape.official(MODEL)
    quant = model_quant(None, config.quant)
    requests = [Request(config, shape, MODEL, s, clock=CLOCK, quant=quant) for s in SCHEDULES]
    decoder = decoder_seconds(DecoderShape.official(shape.patch_nums), config, CLOCK)
    return [
        EndToEnd(estimate, HostTimes.of(host, shape), decoder)
        for estimate in estimate_many(requests)
        for host in HOSTS
    ]


def table(found: Sequence[EndToEnd]) -> str:
    """Markdown, a row for each schedule and host."""
    return "\n".join([*_HEAD, *map(_row, found)]) + "\n"


def _row(e: EndToEnd) -> str:
    device, decoder = e.transformer, "host" if e.decoder is None else f"{1e3 * e.decoder:.0f}"
    mine = " | ".join(f"{1e3 * t:.0f}" for t in (e.sampling, e.decoding_host, e.other_host))
    both = "" if e.overlapped is None else f"{e.overlapped:.2f}"
    return (
        f"| {SCHEDULES[e.estimate.schedule]} | {e.host.name} | {1e3 * device:.0f} | {decoder} "
        f"| {mine} | **{e.images_per_second:.2f}** | {both} |"
    )


def rewritten(page: str) -> str:
    """A page with all its tables written again.

    Raises:
        ConfigError: a block is of no accelerator.
        EvidenceError: a block has no end, or is there twice.
    """
    for name in blocks(page):
        page = replace_block(page, f"end-to-end {name}", table(images(load_accelerator(name))))
    return page


if __name__ == "__main__":
    rewrite_pages(rewritten)
