# SPDX-License-Identifier: Apache-2.0
"""Runs an item of evidence: exports, builds, simulates, compares, and says what it took."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import Region
from lutvar.contract.passes import ImageStep, Transformer
from lutvar.contract.register_map import BY_NAME
from lutvar.host.compile.costs import CostModel, unit_times
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.packed import PackedTransformer, scratch
from lutvar.host.compile.program import Program
from lutvar.host.device_decoder import DecodeReport
from lutvar.host.device_errors import ProgramTimeout
from lutvar.host.transformer import PassReport
from lutvar.host.transport import as_bytes
from lutvar.hw.accelerator.export import Manifest
from lutvar.quant.golden.decoder import GoldenDecoder, QuantizedDecoder, decoder_for
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.var import GenerationResult
from lutvar.quant.var.passes import generate_passes
from lutvar.sim.device import MemoryTiming
from lutvar.sim.model.simulate import simulate
from lutvar.sim.run.compare import compare_generations
from lutvar.sim.run.comparing import Comparison
from lutvar.sim.run.comparing_decoder import ComparingDecoder
from lutvar.sim.run.session import MEMORY_BYTES, Quantized, Session, Stages, quantize

from .items import Images, Item, Layers, Pixels
from .random_model import random_records, random_transformer
from .written import WrittenTransformer

Say = Callable[[str], None]
#: Memory for all but the model; rows of the largest pass and its caches take a fourth of it.
_REST = 1 << 29
#: Cycles after which a dry run gives up waiting: enough to see every unit begin.
_DRY_CYCLES = 20_000


@dataclass(frozen=True)
class Outcome:
    """What an item's simulation has shown.

    Attributes:
        compared, different: values by tensor.
        first: the first differences, as text.
        images_equal: tokens and pixels are those of the golden model generating alone; None when
            no images were made.
        cycles: of the device, over all passes. modelled: what the cycle model says.
        passes, instructions: how many ran.
        simulate_seconds: in which the device ran.
        seconds: by stage. peak_bytes: largest memory of the process.
        violations: AXI rules broken on the memory ports.
    """

    compared: dict[str, int]
    different: dict[str, int]
    first: list[str]
    images_equal: bool | None
    cycles: int
    modelled: int
    passes: int
    instructions: int
    simulate_seconds: float
    seconds: dict[str, float]
    peak_bytes: int
    violations: int

    @property
    def ok(self) -> bool:
        """Something was compared, nothing differed, no rule was broken."""
        right = not any(self.different.values()) and self.images_equal is not False
        return right and sum(self.compared.values()) > 0 and not self.violations


def run_item(
    item: Item,
    folder: Path,
    say: Say,
    *,
    manifest: Manifest | None = None,
    build_dir: Path | str = "build/sim",
    dry: bool = False,
) -> Outcome | None:
    """Simulate an item and compare everything.

    Args:
        item: what to run.
        folder: for Verilog and large memory images.
        say: gets lines of progress.
        manifest: of the item's accelerator, exported before; default: export it to `folder`.
        build_dir: cache of simulation models.
        dry: start it, run the first cycles and stop; the answer is None.
    """
    run = _Run(item, folder, say, manifest, Path(build_dir), dry)
    work = item.work
    if isinstance(work, Images):
        return run.images(work)
    if isinstance(work, Pixels):
        return run.pixels(work)
    return run.layers(work)


class _Run:
    """One run of an item."""

    def __init__(
        self,
        item: Item,
        folder: Path,
        say: Say,
        manifest: Manifest | None,
        build_dir: Path,
        dry: bool,
    ) -> None:
        self.item, self.folder, self.say, self.build_dir = item, folder, say, build_dir
        self.manifest = manifest
        self.dry, self.stages = dry, Stages(say)
        self.config = load_accelerator(item.config)
        self.timing, self.comparison = MemoryTiming(), Comparison()
        self.reports: list[PassReport] = []
        self.decoded: list[DecodeReport] = []
        self.modelled = 0
        self.started = (0.0, 0)
        self.expected = 0

    def images(self, work: Images) -> Outcome | None:
        with self.stages("load and quantize the model"):
            quantized = quantize(work.model, self.config)
        with self.stages("generate: golden model"):
            golden = _generate(work, quantized, GoldenTransformer(quantized.transformer))
        with self._session(quantized, MEMORY_BYTES, len(work.labels)) as session:
            device = WrittenTransformer(quantized.transformer, session.transformer, self.comparison)
            if self.dry:
                width = quantized.loaded.var.config.width
                self._first_cycles(session, _first_pass(work, width))
                return None
            with self.stages("generate: simulated accelerator"):
                simulated = _generate(work, quantized, device)
            equal = compare_generations(golden, simulated).equal
            return self._outcome(session, equal)

    def pixels(self, work: Pixels) -> Outcome | None:
        with self.stages("load and quantize the model"):
            quantized = quantize(work.model, self.config)
            coded = decoder_for(quantized.loaded.vqvae, self.config)
        latents: list[Tensor] = []

        def keep(f_hat_BZHW: Tensor) -> Tensor:
            latents.append(f_hat_BZHW)
            return quantized.loaded.vqvae.to_image(f_hat_BZHW)

        with self.stages("generate: golden model"):
            _generate(work, quantized, GoldenTransformer(quantized.transformer), keep)
        with self._session(quantized, MEMORY_BYTES, 1, coded) as session:
            decoder = session.transformer.decoder
            assert decoder is not None
            decoder.on_image = self._image
            if self.dry:
                self._first_of(session, decoder.programs[0][1])
                return None
            self._expect(self._modelled([compiled.program for compiled, _ in decoder.programs]))
            both = ComparingDecoder(GoldenDecoder(coded), decoder, self.comparison)
            with self.stages("decode on golden model and simulated accelerator"):
                for latent in latents:
                    both(latent)
            return self._outcome(session, None)

    def _image(self, report: DecodeReport) -> None:
        self.modelled += self.expected
        self.decoded.append(report)
        self.say(
            f"image {len(self.decoded)}: {report.cycles:,} cycles in {report.device_seconds:.0f} s"
        )
        self.started = (0.0, 0)

    def layers(self, work: Layers) -> Outcome | None:
        shape = work.sizes
        with self.stages("make and quantize random weights"):
            model = random_transformer(shape, self.config)
        with ExitStack() as stack:
            allocate = stack.enter_context(scratch(self.folder))
            with self.stages("pack the model"):
                packed = pack_transformer(model, self.config, labels=[0], allocate=allocate)
            session = stack.enter_context(
                self._session(packed, packed.layout.size + _REST, slots=1)
            )
            rng = np.random.default_rng([2, work.scale])
            x = rng.standard_normal((2, work.tokens, shape.width), np.float32)
            step = ImageStep(0, 0, work.position, x[0], x[1], 0.5)
            with self.stages("compile"):
                self._expect(session.transformer.compile([step]).cycles)
            device = WrittenTransformer(model, session.transformer, self.comparison)
            if work.position:
                device.prefill(step, *random_records(shape, self.config, work.position, rng))
            if self.dry:
                self._first_cycles(session, [step])
                return None
            with self.stages("run on golden model and simulated accelerator"):
                device.run([step])
            return self._outcome(session, None)

    def _session(
        self,
        what: Quantized | PackedTransformer,
        memory: int,
        slots: int,
        decoder: QuantizedDecoder | None = None,
    ) -> Session:
        return Session(
            what, self.folder / "verilog", build_dir=self.build_dir, slots=slots,
            timing=self.timing, manifest=self.manifest, memory=memory, watch=self._watch,
            on_pass=self._finished, stages=self.stages, decoder=decoder,
        )  # fmt: skip

    def _finished(self, report: PassReport) -> None:
        self.modelled += self._modelled([report.compiled.program])
        self.reports.append(report)
        self.say(
            f"pass {len(self.reports)}: {report.counters.cycles:,} cycles in "
            f"{report.device_seconds:.0f} s"
        )
        self.started = (0.0, 0)

    def _modelled(self, programs: Sequence[Program]) -> int:
        """Cycles of programs, one after the other, with the mean latency of the memory."""
        costs = CostModel(
            self.config, replace(unit_times(self.config), memory=sum(self.timing.latency) // 2)
        )
        return sum(simulate(program, costs).cycles for program in programs)

    def _expect(self, cycles: int) -> None:
        self.expected = cycles
        self.say(f"the cycle model expects {cycles:,} cycles")

    def _watch(self, cycles: int) -> None:
        now = time.monotonic()
        if not self.started[0]:
            self.started = (now, cycles)
            return
        done = cycles - self.started[1]
        rate = done / (now - self.started[0])
        left = max(0, self.expected - done) / rate
        ends = f", about {left / 60:.0f} min to go" if self.expected else ""
        self.say(f"cycle {done:,}: {rate:,.0f} cycles a second{ends}")

    def _first_cycles(self, session: Session, steps: Sequence[ImageStep]) -> None:
        """Start a pass and stop it after some cycles; it must have begun."""
        compiled = session.transformer.compile(steps)
        session.device.write(Region.IO, 0, as_bytes(compiled.embeddings(steps)))
        self._first_of(session, compiled.program.encode())

    def _first_of(self, session: Session, program: bytes) -> None:
        """Start a program and stop it after some cycles; it must have begun."""
        with self.stages("first cycles"):
            try:
                session.device.run(program, _DRY_CYCLES, "the first cycles")
            except ProgramTimeout as stop:
                if BY_NAME["CTRL"].field_value(stop.snapshot.ctrl, "idle"):
                    raise
            session.device.soft_reset()

    def _outcome(self, session: Session, equal: bool | None) -> Outcome:
        c = self.comparison
        reports: list[PassReport | DecodeReport] = [*self.reports, *self.decoded]
        return Outcome(
            compared=dict(c.compared),
            different=dict(c.different),
            first=[str(d) for d in c.first[:8]],
            images_equal=equal,
            cycles=sum(
                r.cycles if isinstance(r, DecodeReport) else r.counters.cycles for r in reports
            ),
            modelled=self.modelled,
            passes=len(self.reports) + sum(r.programs for r in self.decoded),
            instructions=sum(r.instructions for r in reports),
            simulate_seconds=sum(r.device_seconds for r in reports),
            seconds=dict(self.stages.seconds),
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            violations=session.simulation.violations,
        )


def _generate(
    work: Images | Pixels,
    quantized: Quantized,
    transformer: Transformer,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> GenerationResult:
    """All images of an item at once."""
    info, loaded, count = quantized.loaded.info, quantized.loaded, len(work.labels)
    return generate_passes(
        loaded.var, loaded.vqvae, transformer, work.labels, [1 + i for i in range(count)],
        info.cfg, info.top_k, info.top_p, slots=count, decode=decode,
    )  # fmt: skip


def _first_pass(work: Images, width: int) -> list[ImageStep]:
    """The first scale of all images, with other embeddings."""
    x = np.random.default_rng(3).standard_normal((len(work.labels), 2, 1, width), np.float32)
    return [
        ImageStep(i, label, 0, x[i, 0], x[i, 1], 0.0) for i, label in enumerate(work.labels)
    ]  # fmt: skip


def host() -> dict[str, object]:
    """The machine that runs, for records: processor, cores, load when asked."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"processor": model, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
