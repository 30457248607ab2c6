# SPDX-License-Identifier: Apache-2.0
"""The result of a run: as data, as a summary for the console, and as pages to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import UNITS
from lutvar.files import json_text, write_file
from lutvar.host.device_decoder import DecodeReport

from .compare import GenerationComparison
from .comparing import Comparison
from .document import Block, Heading, Paragraph, Picture, Table, to_html, to_markdown
from .measure import PassFigures, lanes

_KINDS = {
    "logits": "guided logits (float32)",
    "keys": "K records (codes and scales, bytes)",
    "values": "V records (codes and scales, bytes)",
    "maps": "maps of the decoder (float32 and FP16)",
    "pixels": "decoded pixels (float32)",
}


_TWO_COUNTS = (
    "The cycles of this table are the device's counter: from the accepted start to the end of the "
    "program, the fetch of its first instructions and the last write's answer included. The "
    "timeline begins when the first unit does and ends with the last one, so its passes are "
    "a little shorter."
)


@dataclass(frozen=True)
class RunReport:
    """The results of a run.

    Attributes:
        config: the accelerator.
        model: name, and SHA-256 of its files.
        labels, seed, sampling, schedule: what was generated, and how many images at a time.
        comparison: what was compared with the golden model, and what differed.
        end_to_end: images of accelerator and golden model, each generating on its own.
        against_float: images of golden and unquantized model.
        decoded: what each image took that the accelerator decoded.
        passes: figures of each pass; overall: of all; last: of each image's last two scales.
        memory: how the simulated memory behaved.
        seconds: time of each stage of the run.
        versions, hashes: of tools, and of configuration, Verilog and packed model.
        pictures: name -> file.
        violations: AXI rules broken on the memory ports.
        date: when it ended, ISO 8601. command: the command line that repeats the run.
        tasks: what was done to each given image; none: images were generated.
    """

    config: AcceleratorConfig
    model: Mapping[str, object]
    labels: Sequence[int]
    seed: int
    sampling: Mapping[str, float]
    schedule: str
    comparison: Comparison
    end_to_end: GenerationComparison
    against_float: GenerationComparison
    passes: Sequence[PassFigures]
    overall: PassFigures
    last: PassFigures
    memory: str
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    hashes: Mapping[str, str]
    pictures: Mapping[str, Path]
    violations: int
    date: str
    command: str
    tasks: Sequence[str] = ()
    decoded: Sequence[DecodeReport] = ()

    @property
    def ok(self) -> bool:
        """Everything agrees and no AXI rule was broken."""
        return not self.comparison.mismatches and self.end_to_end.equal and not self.violations

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        c = self.comparison
        equal = f"{c.total:,} values compared bit by bit, {c.mismatches:,} differ"
        images = self.end_to_end
        same = f"{images.images - images.images_different} of {images.images} images identical"
        return f"{equal}; {same}"

    @property
    def decoding(self) -> str:
        """Whose pixels these are, in a sentence."""
        if not self.decoded:
            return "decoded on this host: all images"
        cycles = sum(report.cycles for report in self.decoded)
        rest = self.end_to_end.images - len(self.decoded)
        others = f"; the other {rest} by the golden model" if rest else ""
        return (
            f"decoded by the accelerator, simulated: {len(self.decoded)} of "
            f"{self.end_to_end.images} images, {cycles // len(self.decoded):,} cycles and "
            f"{self.decoded[0].programs} programs each{others}"
        )

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "date": self.date,
            "command": self.command,
            "accelerator": self.config.model_dump(),
            "model": dict(self.model),
            "labels": list(self.labels),
            "tasks": list(self.tasks),
            "seed": self.seed,
            "sampling": dict(self.sampling),
            "schedule": self.schedule,
            "memory": self.memory,
            "compared": self.comparison.compared,
            "different": self.comparison.different,
            "first_differences": [str(d) for d in self.comparison.first[:10]],
            "end_to_end": self.end_to_end.as_dict(),
            "against_float": self.against_float.as_dict(),
            "decoded": [asdict(report) for report in self.decoded],
            "passes": [_figures(p) for p in self.passes],
            "overall": _figures(self.overall),
            "last_two_scales": _figures(self.last),
            "axi_violations": self.violations,
            "seconds": dict(self.seconds),
            "versions": dict(self.versions),
            "hashes": dict(self.hashes),
        }

    def summary(self) -> str:
        """Lines for the console."""
        o, t = self.overall, self.seconds
        lines = [
            self.verdict,
            *(f"  first difference: {d}" for d in self.comparison.first[:3]),
            f"{self.config.name}, simulated: {o.cycles:,} cycles, the array multiplies in "
            f"{100 * o.utilisation:.1f} % of them "
            f"({100 * self.last.utilisation:.1f} % in the last two scales), "
            f"{o.traffic / 1e6:.1f} MB of memory traffic, {o.bytes_per_cycle:.0f} bytes a cycle",
            "units at work: "
            + ", ".join(f"{name} {100 * share:.0f} %" for name, share in o.busy.items()),
            f"time on this host: compile {o.compile_seconds:.1f} s, transfer "
            f"{o.transfer_seconds:.1f} s, simulated device {o.device_seconds:.1f} s "
            f"({o.cycles / max(o.device_seconds, 1e-9):,.0f} cycles/s); "
            f"whole run {sum(t.values()):.0f} s",
            self.decoding,
            *(f"{name}: {path}" for name, path in self.pictures.items()),
        ]
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write report.json, report.md and report.html."""
        blocks = self._blocks()
        data = json_text(self.as_dict(), indent=2, default=str)
        write_file(folder / "report.json", data + "\n")
        write_file(folder / "report.md", to_markdown(blocks))
        write_file(folder / "report.html", to_html("lutvar run", blocks))

    def _blocks(self) -> list[Block]:
        c = self.comparison
        compared = [
            [_KINDS.get(kind, kind), f"{count:,}", f"{c.different[kind]:,}"]
            for kind, count in c.compared.items()
        ]
        head = ["pass", "token rows", "cycles", "array busy", "bytes a cycle"]
        rows = [
            [p.name, f"{p.rows:,}", f"{p.cycles:,}", f"{100 * p.utilisation:.1f} %",
             f"{p.bytes_per_cycle:.0f}", *(f"{100 * p.busy[u.name]:.0f} %" for u in UNITS)]
            for p in (*self.passes, self.last, self.overall)
        ]  # fmt: skip
        pictures = [Picture(path, name) for name, path in self.pictures.items()]
        return [
            Heading("lutvar: whole transformer on the simulated accelerator", 1),
            Paragraph(f"{'Right' if self.ok else 'WRONG'}: {self.verdict}."),
            Paragraph(f"{self.date}, seed of the first image {self.seed}: {self.command}"),
            *pictures[:1],
            Heading("Compared with the golden model"),
            Table(["tensor", "values", "different"], compared),
            Paragraph(f"{self.decoding}."),
            Heading("Passes"),
            Paragraph(
                f"Simulated: {self.config.name}, {lanes(self.config):,} multiplier lanes, memory "
                f"{self.memory}; {self.schedule}. Shares are of the cycles of a pass."
            ),
            Paragraph(_TWO_COUNTS),
            Table([*head, *(u.name for u in UNITS)], rows),
            *pictures[1:],
            Heading("Run"),
            Table(["stage", "seconds"], [[k, f"{v:.1f}"] for k, v in self.seconds.items()]),
            Table(["what", "version or hash"],
                  [[k, v] for k, v in {**self.versions, **self.hashes}.items()]),
        ]  # fmt: skip


def _figures(p: PassFigures) -> dict[str, object]:
    return asdict(p) | {"utilisation": p.utilisation, "bytes_per_cycle": p.bytes_per_cycle}
