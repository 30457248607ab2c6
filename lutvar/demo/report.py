# SPDX-License-Identifier: Apache-2.0
"""The result of a demo run: as data, as a summary for the console, and as pages to read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lutvar.contract.config import HardwareConfig, QuantConfig
from lutvar.host.record import Divergence
from lutvar.quant.golden.distance import DistanceReport
from lutvar.run.compare import GenerationComparison
from lutvar.run.document import Block, Heading, Paragraph, Picture, Table, to_html, to_markdown

from .performance import Performance, PerformanceTable

_TENSORS = {
    "scale": "activation scales",
    "scale_neg": "negative scales (dual format)",
    "codes": "activation codes",
    "result": "layer results (float32)",
}


@dataclass(frozen=True)
class DemoReport:
    """Everything that a run found.

    Attributes:
        hardware, quant: configuration.
        model: name, and SHA-256 of its files.
        labels, seed, sampling: what was generated.
        compared: elements compared and mismatched, by tensor.
        divergences: the first differences, in order of computation.
        end_to_end: accelerator against golden model, each generating on its own.
        others: free-running generations of other models against the golden one.
        distances: logits and layer outputs against the unquantized model, given the same tokens.
        performance: device counters.
        simulated_cycles, simulation_seconds: size and time of the simulation.
        seconds: time of each stage of the run.
        versions, hashes: of tools, and of configuration, Verilog and packed weights.
        sheet: the picture.
    """

    hardware: HardwareConfig
    quant: QuantConfig
    model: Mapping[str, object]
    labels: Sequence[int]
    seed: int
    sampling: Mapping[str, float]
    compared: Mapping[str, Mapping[str, int]]
    divergences: Sequence[Divergence]
    end_to_end: GenerationComparison
    others: Mapping[str, GenerationComparison]
    distances: DistanceReport
    performance: PerformanceTable
    simulated_cycles: int
    simulation_seconds: float
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    hashes: Mapping[str, str]
    sheet: Path

    @property
    def mismatches(self) -> int:
        """Differing codes, scales and layer results."""
        return sum(row["mismatches"] for row in self.compared.values())

    @property
    def ok(self) -> bool:
        """No element differs, neither layer by layer nor in the images and tokens."""
        return self.mismatches == 0 and self.end_to_end.equal

    @property
    def verdict(self) -> str:
        """One sentence."""
        total = sum(row["compared"] for row in self.compared.values())
        if self.ok:
            return (
                f"The simulated accelerator equals the golden model: {total:,} values compared bit "
                f"by bit, none differs; {self.end_to_end.images} images and "
                f"{self.end_to_end.tokens} tokens are identical."
            )
        first = f" First: {self.divergences[0]}." if self.divergences else ""
        return (
            f"The simulated accelerator DIFFERS from the golden model: {self.mismatches:,} of "
            f"{total:,} values, {self.end_to_end.tokens_different} of {self.end_to_end.tokens} "
            f"tokens, {self.end_to_end.images_different} of {self.end_to_end.images} images.{first}"
        )

    def as_dict(self) -> dict[str, object]:
        """Plain data: what report.json holds."""
        return {
            "simulated": True,
            "ok": self.ok,
            "verdict": self.verdict,
            "hardware": self.hardware.model_dump(),
            "quant": self.quant.model_dump(),
            "model": dict(self.model),
            "labels": list(self.labels),
            "seed": self.seed,
            "sampling": dict(self.sampling),
            "compared": {name: dict(row) for name, row in self.compared.items()},
            "mismatches": self.mismatches,
            "divergences": [asdict(d) for d in self.divergences],
            "end_to_end": self.end_to_end.as_dict(),
            "others": {name: c.as_dict() for name, c in self.others.items()},
            "distances": {
                "logits": {name: asdict(d) for name, d in self.distances.logits.items()},
                "site_snr_db": self.distances.sites,
                "pairs_relative_error": {
                    f"{a} and {b}": error for (a, b), error in self.distances.pairs.items()
                },
            },
            "performance": self.performance.as_dict(),
            "simulated_cycles": self.simulated_cycles,
            "simulation_seconds": self.simulation_seconds,
            "seconds": dict(self.seconds),
            "versions": dict(self.versions),
            "hashes": dict(self.hashes),
            "sheet": self.sheet.name,
        }

    def summary(self) -> str:
        """A few lines for the console."""
        overall, rate = self.performance.overall, self.simulated_cycles / self.simulation_seconds
        return "\n".join(
            (
                self.verdict,
                f"simulated: {self.simulated_cycles:,} cycles in {self.simulation_seconds:.1f} s "
                f"({rate:,.0f} a second); array issued work in {overall.issue_rate:.1%} of "
                f"{overall.cycles:,} cycles of multiplication",
                f"total: {sum(self.seconds.values()):.1f} s; read {self.sheet.parent}/report.html, "
                f"look at {self.sheet}",
            )
        )

    def write(self) -> None:
        """Write report.json, report.md and report.html beside the sheet."""
        folder, page = self.sheet.parent, self._page()
        text = json.dumps(self.as_dict(), indent=2) + "\n"
        (folder / "report.json").write_text(text, encoding="utf-8")
        (folder / "report.md").write_text(to_markdown(page), encoding="utf-8")
        html = to_html(f"lutvar demo, {self.hardware.name}", page)
        (folder / "report.html").write_text(html, encoding="utf-8")

    def _page(self) -> list[Block]:
        hw, generated = self.hardware, ", ".join(str(label) for label in self.labels)
        return [
            Heading(f"lutvar demo: {hw.name}, simulated", 1),
            Paragraph(self.verdict),
            Paragraph(
                f"Model {self.model['name']}, classes {generated}, seed {self.seed}. Every qkv, "
                "proj, fc1 and fc2 product of every block and scale step ran in the exported "
                f"Verilog, compiled by Verilator: {hw.token_rows} token rows x {hw.outputs} "
                f"outputs x 128 lanes, preset {self.quant.name}. No hardware was used; cycles are "
                "exact, seconds are those of the simulation."
            ),
            Picture(self.sheet, "images of the unquantized model, golden model and accelerator"),
            Heading("Accelerator against golden model"),
            *self._comparison(),
            Heading("Cycles"),
            Paragraph(
                "Issue rate: cycles in which the array was issued work. Useful rate: "
                "multiply-accumulates of the model over what all lanes could do in these cycles; a "
                "dual format takes two issues for each group. A layer call is one job here, so its "
                "activations load before it multiplies. Jobs that only dump codes for the "
                f"comparison took {self.performance.overall.dump_cycles:,} cycles more and are "
                "not included."
            ),
            _performance_table([self.performance.overall, *self.performance.steps]),
            _performance_table(self.performance.sites),
            Heading("Waiting and traffic"),
            _traffic_table([self.performance.overall, *self.performance.steps]),
            Heading("Quantization error"),
            *self._distances(),
            Heading("Time of this run"),
            Table(("stage", "seconds"), [(k, f"{v:.1f}") for k, v in self.seconds.items()]),
            Heading("Versions and hashes"),
            Table(("what", "value"), [*self.versions.items(), *self.hashes.items()]),
        ]

    def _comparison(self) -> list[Block]:
        rows = [
            (text, f"{self.compared[name]['compared']:,}", f"{self.compared[name]['mismatches']:,}")
            for name, text in _TENSORS.items()
            if name in self.compared
        ]
        whole = self.end_to_end
        rows += [
            ("tokens, whole generation", f"{whole.tokens:,}", f"{whole.tokens_different:,}"),
            ("pixel values, whole generation", f"{whole.values:,}", f"{whole.values_different:,}"),
        ]
        blocks: list[Block] = [Table(("bit by bit", "compared", "different"), rows)]
        if self.divergences:
            blocks.append(Paragraph("First differences, in order of computation:"))
            blocks += [Paragraph(str(d)) for d in self.divergences]
        return blocks

    def _distances(self) -> list[Block]:
        rows = [
            (
                f"golden model and {name}",
                f"{c.tokens - c.tokens_different:,} of {c.tokens:,}",
                "equal" if c.psnr is None else f"{c.psnr:.1f}",
            )
            for name, c in self.others.items()
        ]
        logits = [
            (
                f"{name} and unquantized",
                f"{d.snr_db:.2f}",
                f"{d.relative_error:.4f}",
                f"{d.kl_nats:.4f}",
                f"{d.token_agreement:.1%}",
            )
            for name, d in self.distances.logits.items()
        ]
        between = [
            (f"{a} and {b}", f"{-20 * math.log10(e) if e else math.inf:.2f}", f"{e:.4f}", "", "")
            for (a, b), e in self.distances.pairs.items()
        ]
        head = ("logits of", "SNR, dB", "relative error", "KL, nats", "same most likely token")
        by_site = {name: _mean_by_kind(sites) for name, sites in self.distances.sites.items()}
        kinds = list(next(iter(by_site.values()), {}))
        sites = [(name, *(f"{row[k]:.2f}" for k in kinds)) for name, row in by_site.items()]
        return [
            Paragraph("Generating on their own, from the same seed:"),
            Table(("runs", "equal tokens", "PSNR of the images, dB"), rows),
            Paragraph("Given the same tokens:"),
            Table(head, [*logits, *between]),
            Paragraph(
                "SNR of each layer alone, given the unquantized input; mean over blocks, dB:"
            ),
            Table(("layer", *kinds), sites),
        ]


def _mean_by_kind(sites: Mapping[str, float]) -> dict[str, float]:
    """Mean over the blocks for each kind of layer; keys are ``block0.qkv`` and so on."""
    kinds: dict[str, list[float]] = {}
    for name, value in sites.items():
        kinds.setdefault(name.split(".")[-1], []).append(value)
    return {kind: sum(values) / len(values) for kind, values in kinds.items()}


def _performance_table(parts: Sequence[Performance]) -> Table:
    rows = [
        (
            p.name,
            f"{p.calls}",
            f"{p.rows:,}",
            f"{p.macs:,}",
            f"{p.cycles:,}",
            f"{p.issue_rate:.1%}",
            f"{p.mac_rate:.1%}",
        )
        for p in parts
    ]
    head = ("part", "layer calls", "token rows", "MACs", "cycles", "issue rate", "useful rate")
    return Table(head, rows)


def _traffic_table(parts: Sequence[Performance]) -> Table:
    stalls, streams = list(parts[0].stalls), list(parts[0].stream_bytes)
    head = ("part", *(f"waits: {s}" for s in stalls), *(f"bytes {s}" for s in streams))
    rows = [
        (
            p.name,
            *(f"{p.stalls[s] / p.cycles:.1%}" for s in stalls),
            *(f"{p.stream_bytes[s]:,}" for s in streams),
        )
        for p in parts
    ]
    return Table(head, rows)
