# SPDX-License-Identifier: Apache-2.0
"""A whole run: images from the simulated accelerator, every pass compared with the golden model."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import lutvar
from lutvar.contract.errors import ConfigError
from lutvar.contract.labels import Label, resolve_classes
from lutvar.contract.passes import ImageStep, Transformer
from lutvar.files import prepare_output, write_file
from lutvar.host.device_decoder import DecodeReport
from lutvar.host.errors import HostError
from lutvar.host.transformer import PassReport
from lutvar.progress import as_callback, progress_bar
from lutvar.quant.golden.decoder import GoldenDecoder, QuantizedDecoder, decoder_for
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.var import GenerationResult
from lutvar.quant.var.passes import FloatTransformer, generate_passes
from lutvar.sim.device import MemoryTiming
from lutvar.sim.tools import versions
from lutvar.text import class_name

from .compare import compare_generations
from .comparing import ComparingTransformer, Comparison
from .comparing_decoder import ComparingDecoder, FirstImages
from .demo_edits import DemoEdits, demo_edits
from .locate import Located, locate
from .locate_decoder import locate_decoder
from .measure import figures, lanes, port_bytes, total
from .pictures import RooflinePoint, StepTrace, draw_roofline, draw_timeline
from .report import RunReport
from .session import Quantized, Session, Stages, quantize
from .sheet import SheetRow, write_sheet

Decode = Callable[[Tensor], Tensor]

#: Images that the device decodes unless another number is asked for: some 3 s each of a digit.
DECODED = 4
#: File in the output folder that says which instruction differed first; only if one did.
DIVERGENCE = "divergence.txt"


def run_demo(
    out: Path,
    *,
    config: str = "small-fp4",
    model: str = "digits",
    labels: Sequence[Label] | None = None,
    seed: int = 1,
    slots: int | None = None,
    stagger: int = 0,
    recipe: Path | str | None = None,
    edit: bool = False,
    smooth: bool = False,
    decode: int | None = None,
) -> RunReport:
    """Generate one image for each label on the simulated device, and compare all of it.

    If a pass or the decoding of an image differs, the first such one is repeated to find the
    instruction that did it; the answer is printed and written to `divergence.txt`.

    Args:
        out: folder for pictures, reports, Verilog.
        config: accelerator preset or file. model: shipped model or model folder.
        labels: classes, -1 for the null class, None for a random one; default: the first ten.
        seed: of the first image; the others follow.
        slots, stagger: images at a time, and passes between their starts (`generate_passes`).
        recipe: file of a quantized model, or a recipe's name (`session.quantize`).
        edit: edit the unquantized model's images of these classes (`demo_edits`).
        smooth: smooth sampling.
        decode: images whose pixels the device makes too, the first ones; the golden model makes
            those of the others. Default: `DECODED`, or all of fewer.

    Raises:
        ConfigError: more images to decode than there are.
    """

    def say(line: str) -> None:
        tqdm.write(line, file=sys.stderr)

    stages = Stages(say)
    bar = progress_bar("quantize", leave=False)
    with stages("load and quantize the model"), bar:
        quantized = quantize(model, config, recipe, as_callback(bar))
    info, null = quantized.loaded.info, len(quantized.loaded.info.classes)
    wanted = list(range(min(10, null))) if labels is None else labels
    if decode is not None and decode > len(wanted):
        images = "there is 1 image" if len(wanted) == 1 else f"there are {len(wanted)} images"
        raise ConfigError(
            f"--decode {decode}: {images}; decode {len(wanted)} at most, or draw more classes"
        )
    count = min(DECODED, len(wanted)) if decode is None else decode
    prepare_output(out / "report.json")  # not for a wrong name
    seeds = [seed + i for i in range(len(wanted))]
    classes = [-1 if c == null else c for c in resolve_classes(wanted, seeds, null)]
    slots = slots or len(classes)
    edited, drawn_as = None, classes
    if edit:
        with stages("draw and encode the images to edit"):
            edited = demo_edits(quantized.loaded, classes, seeds)
        drawn_as = list(edited.labels)

    def generate(
        transformer: Transformer, name: str, pixels: Decode | None = None
    ) -> GenerationResult:
        loaded = quantized.loaded
        with (
            stages(f"generate: {name}"),
            progress_bar(name, unit="scale") as bar,
        ):
            return generate_passes(
                loaded.var, loaded.vqvae, transformer, drawn_as, seeds, info.cfg, info.top_k,
                info.top_p, slots=slots, stagger=stagger, progress=as_callback(bar),
                edits=None if edited is None else edited.edits, smooth=smooth, decode=pixels,
            )  # fmt: skip

    unquantized = generate(FloatTransformer(quantized.loaded.var), "unquantized")
    coded = _decoder(quantized, say) if count else None
    golden_decoder = None if coded is None else GoldenDecoder(coded)
    golden = generate(GoldenTransformer(quantized.transformer), "golden model", golden_decoder)
    comparison = Comparison()
    reports: list[PassReport] = []
    decoded: list[DecodeReport] = []
    traces: list[StepTrace] = []
    timing = MemoryTiming()
    with Session(
        quantized, out, slots=slots, timing=timing, stages=stages, decoder=coded
    ) as session:

        def finished(report: PassReport) -> None:
            changes = session.simulation.take_trace()
            # Outside a program no unit is busy, so the first and last changes are its ends.
            start, end = (int(changes[i, 0]) for i in (0, -1)) if len(changes) > 1 else (0, 1)
            active = changes[changes[:, 1] != 0]
            start = int(active[0, 0]) if len(active) else start
            traces.append(StepTrace(_name(quantized, report), start, max(end, start + 1), changes))
            reports.append(report)
            session.simulation.start_trace()

        session.transformer.on_pass = finished
        session.simulation.start_trace()
        device = _Locating(
            ComparingTransformer(
                GoldenTransformer(quantized.transformer), session.transformer, comparison
            ),
            out / DIVERGENCE,
            say,
            session.simulation.start_trace,
        )
        pixels = None
        if golden_decoder is not None and session.transformer.decoder is not None:
            session.transformer.decoder.on_image = decoded.append
            comparing = ComparingDecoder(
                golden_decoder, session.transformer.decoder, comparison, device.decoded
            )
            pixels = FirstImages(comparing, count)
        simulated = generate(device, "simulated accelerator", pixels)
        violations = session.simulation.violations
        hashes = {
            "configuration": str(session.manifest.data["config_hash"]),
            "Verilog SHA-256": session.manifest.sha256,
            "packed model SHA-256": session.packed.digest(),
        }

    shape = quantized.transformer.shape
    passes = [figures(_name(quantized, r), r, shape) for r in reports]
    last_scales = [
        p for p, r in zip(passes, reports, strict=True)
        if all(s.position >= shape.tokens - sum(shape.scale_tokens[-2:]) for s in r.steps)
    ]  # fmt: skip
    overall = total("all passes", passes)
    last = total("last two scales", last_scales or passes)
    pictures = {
        "images": out / "sheet.png",
        "which unit is busy when": out / "timeline.png",
        "roofline": out / "roofline.png",
    }
    report = RunReport(
        config=quantized.config,
        model={"name": quantized.loaded.info.name, "files": quantized.loaded.info.files},
        labels=drawn_as,
        seed=seed,
        sampling={"cfg": info.cfg, "top_k": info.top_k, "top_p": info.top_p, "smooth": smooth},
        schedule=f"{slots} images at a time"
        + (f", started {stagger} passes apart" if stagger else ""),
        comparison=comparison,
        end_to_end=compare_generations(golden, simulated),
        against_float=compare_generations(unquantized, golden),
        passes=passes,
        decoded=decoded,
        overall=overall,
        last=last,
        memory=f"latency {timing.latency[0]} to {timing.latency[1]} cycles",
        seconds=stages.seconds,
        versions=_versions(),
        hashes=hashes,
        pictures=pictures,
        violations=violations,
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=_command(
            model, config, recipe, classes, seed, slots, stagger, edit, smooth, decode, out
        ),
        tasks=[] if edited is None else list(edited.tasks),
    )
    _draw(report, quantized, [unquantized, golden, simulated], traces, edited)
    report.write(out)
    say(report.summary())
    return report


def _command(
    model: str, config: str, recipe: Path | str | None, labels: Sequence[int], seed: int,
    slots: int, stagger: int, edit: bool, smooth: bool, decode: int | None, out: Path,
) -> str:  # fmt: skip
    """The command line that repeats the run."""
    words = ["lutvar", "demo", "--model", model, "--config", config]
    words += [] if recipe is None else ["--recipe", str(recipe)]
    words += [f"--class={label}" for label in labels]
    words += ["--seed", str(seed), "--slots", str(slots), "--stagger", str(stagger)]
    words += (["--edit"] if edit else []) + ["--smooth" if smooth else "--no-smooth"]
    words += [] if decode is None else ["--decode", str(decode)]
    return shlex.join([*words, "-o", str(out)])


def _decoder(quantized: Quantized, say: Callable[[str], None]) -> QuantizedDecoder | None:
    """The tokenizer's decoder as the accelerator runs it; None where it does not."""
    try:
        return decoder_for(quantized.loaded.vqvae, quantized.config)
    except ConfigError as error:
        say(f"decoding on this host: {error}")
        return None


class _Locating:
    """Runs passes; after the first difference, finds the instruction that did it."""

    def __init__(
        self,
        comparing: ComparingTransformer,
        file: Path,
        say: Callable[[str], None],
        afterwards: Callable[[], None],
    ) -> None:
        self._comparing, self._file, self._say = comparing, file, say
        self._afterwards = afterwards
        file.unlink(missing_ok=True)

    def run(self, steps: Sequence[ImageStep]) -> list[NDArray[np.float32]]:
        comparison = self._comparing.comparison
        equal_before = not comparison.mismatches
        logits = self._comparing.run(steps)
        if equal_before and comparison.mismatches:
            self._tell("pass", lambda: locate(self._comparing.device, steps))
        return logits

    def decoded(self, latent_ZHW: NDArray[np.float32]) -> None:
        """The same for the first image whose maps or pixels differ."""
        decoder = self._comparing.device.decoder
        assert decoder is not None
        self._tell("decoding of the image", lambda: locate_decoder(decoder, latent_ZHW))

    def _tell(self, what: str, search: Callable[[], Located]) -> None:
        text = f"first difference in {self._comparing.comparison.first[0]}"
        self._say(f"{text}; repeating the {what} to find its cause")
        try:
            text += f"\n{search()}"
        except HostError as error:
            text += f"\n{error}"
        self._say(text)
        write_file(self._file, text + "\n")
        self._afterwards()


def _draw(
    report: RunReport,
    quantized: Quantized,
    results: Sequence[GenerationResult],
    traces: Sequence[StepTrace],
    edited: DemoEdits | None,
) -> None:
    config, info = quantized.config, quantized.loaded.info
    sheet, timeline, roofline = report.pictures.values()
    rows = [
        SheetRow(name, detail, result.images_BCHW)
        for (name, detail), result in zip(
            [
                ("unquantized", "float32"),
                ("golden model", f"{config.quant}, CPU"),
                ("accelerator", f"{config.quant}, simulated Verilog"),
            ],
            results,
            strict=True,
        )
    ]
    what = "transformer and decoder" if report.decoded else "whole transformer"
    title = f"lutvar: model {info.name}, {what} on {config.name}, seed {report.seed}"
    columns = [class_name(info.classes, label) for label in report.labels]
    if edited is not None:
        columns = list(edited.tasks)
        rows.insert(0, SheetRow("given", "by the unquantized model", edited.given_BCHW))
    write_sheet(sheet, rows, columns, title, report.verdict)
    draw_timeline(timeline, list(traces)[-4:], f"{config.name}, model {info.name}, simulated")
    points = [RooflinePoint(p.name, p.macs, p.traffic, p.cycles) for p in report.passes][-10:]
    draw_roofline(
        roofline, points, lanes(config), port_bytes(config),
        f"{config.name}, model {info.name}: useful work of the linear layers, simulated",
    )  # fmt: skip


def _name(quantized: Quantized, report: PassReport) -> str:
    """Scales that a pass computed, for people."""
    shape = quantized.transformer.shape
    starts = [sum(shape.scale_tokens[:k]) for k in range(len(shape.scale_tokens))]
    scales = sorted({starts.index(s.position) + 1 for s in report.steps if s.position in starts})
    images = len(report.steps)
    which = f"scale {scales[0]}" if len(scales) == 1 else f"scales {scales[0]} to {scales[-1]}"
    return f"{which}, {images} image{'s' if images > 1 else ''}"


def _versions() -> dict[str, str]:
    result = {"lutvar": lutvar.__version__, "Python": platform.python_version()}
    result["torch"] = str(torch.__version__)
    return result | {tool.name: tool.found for tool in versions() if tool.found}


__all__ = ["run_demo"]
