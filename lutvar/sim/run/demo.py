# SPDX-License-Identifier: Apache-2.0
"""A whole run: images from the simulated accelerator, every pass compared with the golden model."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import torch
from tqdm import tqdm

import lutvar
from lutvar.contract.errors import ConfigError
from lutvar.contract.labels import Label, resolve_classes
from lutvar.files import prepare_output
from lutvar.progress import as_callback, progress_bar
from lutvar.quant.golden.decoder import GoldenDecoder, QuantizedDecoder, decoder_for
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.var import GenerationResult
from lutvar.quant.var.passes import FloatTransformer
from lutvar.sim.tools import versions
from lutvar.text import class_name

from .compare import compare_generations
from .demo_device import DeviceRun, Task, pass_name, run_on_device
from .demo_edits import DemoEdits, demo_edits
from .measure import figures, lanes, port_bytes, total
from .pictures import RooflinePoint, StepTrace, draw_roofline, draw_timeline
from .report import RunReport
from .session import Quantized, Stages, quantize
from .sheet import SheetRow, write_sheet

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
    null = len(quantized.loaded.info.classes)
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

    task = Task(quantized, drawn_as, seeds, slots, stagger, edited, smooth, stages)
    unquantized = task.generate(FloatTransformer(quantized.loaded.var), "unquantized")
    coded = _decoder(quantized, say) if count else None
    golden_decoder = None if coded is None else GoldenDecoder(coded)
    golden = task.generate(GoldenTransformer(quantized.transformer), "golden model", golden_decoder)
    run = run_on_device(task, out, coded, golden_decoder, count, out / DIVERGENCE)
    command = _command(
        model, config, recipe, classes, seed, slots, stagger, edit, smooth, decode, out
    )
    report = _report(task, run, golden, unquantized, out, seed, command)
    _draw(report, quantized, [unquantized, golden, run.images], run.traces, edited)
    report.write(out)
    say(report.summary())
    return report


def _report(
    task: Task,
    run: DeviceRun,
    golden: GenerationResult,
    unquantized: GenerationResult,
    out: Path,
    seed: int,
    command: str,
) -> RunReport:
    """What a run came to; its pictures are still to be drawn."""
    quantized, edited, info = task.quantized, task.edited, task.quantized.loaded.info
    shape = quantized.transformer.shape
    passes = [figures(pass_name(quantized, r), r, shape) for r in run.passes]
    last_scales = [
        p for p, r in zip(passes, run.passes, strict=True)
        if all(s.position >= shape.tokens - sum(shape.scale_tokens[-2:]) for s in r.steps)
    ]  # fmt: skip
    overall = total("all passes", passes)
    last = total("last two scales", last_scales or passes)
    pictures = {
        "images": out / "sheet.png",
        "which unit is busy when": out / "timeline.png",
        "roofline": out / "roofline.png",
    }
    return RunReport(
        config=quantized.config,
        model={"name": quantized.loaded.info.name, "files": quantized.loaded.info.files},
        labels=task.labels,
        seed=seed,
        sampling={"cfg": info.cfg, "top_k": info.top_k, "top_p": info.top_p, "smooth": task.smooth},
        schedule=f"{task.slots} images at a time"
        + (f", started {task.stagger} passes apart" if task.stagger else ""),
        comparison=run.comparison,
        end_to_end=compare_generations(golden, run.images),
        against_float=compare_generations(unquantized, golden),
        passes=passes,
        decoded=run.decoded,
        overall=overall,
        last=last,
        memory=f"latency {run.timing.latency[0]} to {run.timing.latency[1]} cycles",
        seconds=task.stages.seconds,
        versions=_versions(),
        hashes=run.hashes,
        pictures=pictures,
        violations=run.violations,
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=command,
        tasks=[] if edited is None else list(edited.tasks),
    )


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


def _versions() -> dict[str, str]:
    result = {"lutvar": lutvar.__version__, "Python": platform.python_version()}
    result["torch"] = str(torch.__version__)
    return result | {tool.name: tool.found for tool in versions() if tool.found}


__all__ = ["run_demo"]
