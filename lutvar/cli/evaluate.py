# SPDX-License-Identifier: Apache-2.0
"""`lutvar eval`: samples, distances and given tokens of a model without and with methods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lutvar.files import json_text, prepare_output, write_file
from lutvar.text import table

from .common import (
    SEED,
    Number,
    OutputFile,
    command,
    emit,
    json_option,
    model_option,
    note,
    progress,
    refuse_with,
)

if TYPE_CHECKING:
    from lutvar.quant.eval.evaluate import Plan
    from lutvar.quant.eval.subject import On
    from lutvar.quant.models import LoadedModel


def _usable_device(_ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The device, when this build of torch and this machine have it."""
    if value == "cpu":
        return value
    import torch

    try:
        torch.zeros(1, device=value)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise click.BadParameter(f"{value!r}: {reason}; --device cpu works everywhere") from None
    return value


@command("eval")
@model_option
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME|FILE",
    help="Method to evaluate, or a file of `lutvar quantize`; repeat for several. "
    "preset:NAME is the block linears of a quantization preset. The unquantized model always "
    "comes first.",
)
@click.option(
    "--task",
    type=click.Choice(["generate", "inpaint", "outpaint", "edit"]),
    default="generate",
    help="Draw images of a class, or edit images that the unquantized model has drawn.",
)
@click.option(
    "--on",
    type=click.Choice(["golden", "fake"]),
    help="Only the golden model, which computes what the accelerator does, or only fake "
    "quantization in the float model. Default: both where the accelerator runs the method and "
    "models run on the CPU.",
)
@click.option(
    "--protocol",
    type=click.Choice(["own", "imagenet"]),
    default="own",
    help="own: features of the model's classifier; imagenet: Inception, for released checkpoints.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    help="Images per seed. Default: 10,000; with --protocol imagenet 50 per class.",
)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    default=(0,),
    type=SEED,
    help="Seed of a run; repeat for intervals over several.",
)
@click.option(
    "--teacher",
    default=200,
    type=click.IntRange(1),
    help="Images whose tokens are given to compare logits and layers.",
)
@click.option("--cfg", type=float, help="Guidance. Default: the model's.")
@click.option("--top-k", type=int, help="Candidates of a draw. Default: the model's.")
@click.option(
    "--top-p",
    type=float,
    help="Probability of the candidates. Default: the model's.",
)
@click.option("--chunk", default=50, type=click.IntRange(1), help="Images in one batch.")
@click.option("--jobs", type=click.IntRange(1), help="Processes. Default: one per processor.")
@click.option(
    "--device", default="cpu", callback=_usable_device, help="Where models run, as torch names it."
)
@click.option(
    "--wait",
    type=Number(0),
    default=3600.0,
    help="Seconds torchrun's rank 0 waits for a new chunk.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="NPZ",
    help="ADM's reference batch, for --protocol imagenet.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="PTH",
    help="Inception's weights, for --protocol imagenet. Default: torch's download folder.",
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the samples; an interrupted run goes on there. Default: build/eval/MODEL, "
    "of an editing task build/eval/MODEL-TASK.",
)
@click.option(
    "-o",
    "--out",
    type=OutputFile(".json"),
    metavar="FILE",
    help="Write everything as JSON to this file.",
)
@json_option
def evaluate(
    model: str,
    recipes: tuple[str, ...],
    task: str,
    on: On | None,
    protocol: str,
    samples: int | None,
    seeds: tuple[int, ...],
    teacher: int,
    cfg: float | None,
    top_k: int | None,
    top_p: float | None,
    chunk: int,
    jobs: int | None,
    device: str,
    wait: float,
    reference: Path | None,
    weights: Path | None,
    work: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure a model and what methods do to it, on the accelerator's arithmetic and without it.

    Fréchet distance, class score, precision and recall of samples on the features of the model's
    own small classifier (no ImageNet Inception figures); distance to the unquantized model's
    samples with the same seeds; logits and layers under given tokens. Of edited images the
    regenerated region is measured.

    Interrupt it at any time; the same command continues where it stopped. Under torchrun each
    process makes its part of the samples, with the same results.
    """
    if protocol == "own":
        refuse_with("--protocol own", reference="--reference", weights="--weights")
    if out is not None:
        prepare_output(out)
    from lutvar.quant.eval.evaluate import Plan
    from lutvar.quant.eval.settings import SampleSettings
    from lutvar.quant.eval.work import Share
    from lutvar.quant.models import load_model

    loaded = load_model(model)
    inception = protocol == "imagenet"
    if inception and task != "generate":
        raise click.UsageError(
            "--protocol imagenet measures --task generate; editing has --protocol own"
        )
    if samples is None:
        samples = 50 * len(loaded.info.classes) if inception else 10_000
    plan = Plan(
        model=model,
        methods=tuple(dict.fromkeys(recipes)),
        settings=SampleSettings.of(loaded.info, cfg, top_k, top_p, chunk, inception, task),
        samples=samples,
        seeds=seeds,
        teacher=min(teacher, samples),
        folder=_folder(loaded.info.name, task) if work is None else work,
        jobs=jobs,
        wait=wait,
        device=device,
        share=Share.of_torchrun(),
        on=on,
    )
    result = _imagenet(plan, reference, weights) if inception else _own(plan, loaded)
    if result is None:
        note(f"rank {plan.share.index}: samples done; rank 0 has the result")
        return
    data, text = result
    if out is not None:
        write_file(out, json_text(data, indent=1) + "\n")
    emit(as_json, data, text)


def _folder(model: str, task: str) -> Path:
    """Where samples are by default."""
    return Path("build/eval") / (model if task == "generate" else f"{model}-{task}")


def _own(plan: Plan, loaded: LoadedModel) -> tuple[dict[str, Any], str] | None:
    """JSON values and text; None when another process has them."""
    from lutvar.quant.eval.evaluate import NOTE
    from lutvar.quant.eval.evaluate import evaluate as run_evaluation
    from lutvar.quant.eval.reference import load_reference
    from lutvar.quant.eval.report import document, table_rows
    from lutvar.quant.eval.subject import model_fingerprint

    runs = run_evaluation(plan, progress)
    if runs is None:
        return None
    real = load_reference(loaded)
    text = f"{table(*table_rows(real, runs, plan.settings.task))}\n{NOTE}"
    return document(plan, real, model_fingerprint(loaded), runs), text


def _imagenet(
    plan: Plan, reference: Path | None, weights: Path | None
) -> tuple[dict[str, Any], str] | None:
    """The same under the ImageNet protocol."""
    from lutvar.quant.eval.protocol import evaluate_imagenet, imagenet_document, imagenet_rows

    runs = evaluate_imagenet(plan, reference, weights, progress)
    if runs is None:
        return None
    return imagenet_document(plan, runs), table(*imagenet_rows(runs))
