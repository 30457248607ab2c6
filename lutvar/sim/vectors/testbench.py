# SPDX-License-Identifier: Apache-2.0
"""The testbench of exported vectors: plain Verilog-2005, for any simulator, without Python."""

from __future__ import annotations

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Region
from lutvar.contract.register_map import WRITE_PORTS, read_ports

from .recorder import WORD, Op, Recorder
from .testbench_text import HEAD, READ, TAIL, WRITE

_READ_PINS = (
    "araddr", "arlen", "arsize", "arburst", "arvalid", "arready", "rdata", "rresp", "rlast",
    "rvalid", "rready",
)  # fmt: skip
_WRITE_PINS = (
    "awaddr", "awlen", "awsize", "awburst", "awvalid", "awready", "wdata", "wstrb", "wlast",
    "wvalid", "wready", "bresp", "bvalid", "bready",
)  # fmt: skip


def testbench(case: str, config: AcceleratorConfig, recorder: Recorder) -> str:
    """The Verilog of a recorded case's testbench."""
    connections, valids, parts = [], [], []
    outputs = [
        ("s_bvalid, s_rvalid, s_awready, s_wready, s_arready, interrupt", 6),
        ("{2{s_bvalid}} & s_bresp, {34{s_rvalid}} & {s_rresp, s_rdata}", 36),
    ]
    for number, name in enumerate(read_ports(config.weight_ports)):
        p = f"r_{name}"
        parts.append(READ.format(p=p, port=f"m_axi_{name}", seed=0x1234567 + 0x1111111 * number))
        valids += [f"{p}_arvalid", f"{p}_rready"]
        address = f"{{{p}_araddr, {p}_arlen, {p}_arsize, {p}_arburst}}"
        outputs.append((f"{p}_arvalid, {p}_rready, {{77{{{p}_arvalid}}}} & {address}", 79))
        connections += [f".m_axi_{name}_{pin}({p}_{pin})" for pin in _READ_PINS]
        connections.append(f".m_axi_{name}_rid(1'b0)")
    for number, name in enumerate(WRITE_PORTS):
        p = f"w_{name}"
        parts.append(WRITE.format(p=p, port=f"m_axi_{name}", seed=0x7654321 + 0x1010101 * number))
        valids += [f"{p}_awvalid", f"{p}_wvalid", f"{p}_bready"]
        address = f"{{{p}_awaddr, {p}_awlen, {p}_awsize, {p}_awburst}}"
        outputs.append((f"{p}_awvalid, {p}_wvalid, {p}_bready", 3))
        outputs.append((f"{{77{{{p}_awvalid}}}} & {address}", 77))
        data = f"{{{p}_wlast, {p}_wstrb, {p}_wdata}}"
        outputs.append((f"{{577{{{p}_wvalid}}}} & {data}", 577))
        connections += [f".m_axi_{name}_{pin}({p}_{pin})" for pin in _WRITE_PINS]
        connections.append(f".m_axi_{name}_bid(1'b0)")
    pieces = -(-sum(width for _, width in outputs) // 64)
    fill = 64 * pieces - sum(width for _, width in outputs)
    outputs.append((f"{fill}'b0", fill))
    values = {
        "bits": pieces, "outputs": ",".join(f"\n    {text}" for text, width in outputs if width),
        "case": case, "config": config.name, "words": recorder.words, "base": recorder.base,
        "size": recorder.words * WORD, "last_step": len(recorder.steps), "top": config.module,
        "programs": len(recorder.loads), **{op.name: int(op) for op in Op},
        "connections": "".join(f",\n    {text}" for text in connections),
        "valids": "".join(f", {text}" for text in valids),
        "loads": _reads("load", len(recorder.loads), ("memory", "expected")),
        "expects": _reads("expect", len(recorder.expects), ("expected",)),
        "region": ", ".join(f"{region.name} %h" for region in Region),
        "region_arguments": "".join(
            f", BASE + (first << 6) - 64'h{base:x}" for base in recorder.bases
        ),
    }  # fmt: skip
    return HEAD.format(**values) + "".join(parts) + TAIL.format(**values)


def _reads(file: str, count: int, arrays: tuple[str, ...]) -> str:
    return "\n".join(
        f"      {k}: begin "
        + " ".join(f'$readmemh("{file}{k}.hex", {array});' for array in arrays)
        + " end"
        for k in range(count)
    )
