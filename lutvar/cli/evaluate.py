# SPDX-License-Identifier: Apache-2.0
"""`lutvar eval`: samples, distances and given tokens of a model without and with methods."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .common import command, emit, json_option, model_option, note, progress, table


@command("eval")
@model_option
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME",
    help="Method to evaluate; repeat for several. preset:NAME is the block linears of a "
    "quantization preset. The unquantized model always comes first.",
)
@click.option("--samples", default=10_000, type=click.IntRange(1), help="Images a seed.")
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    default=(0,),
    type=click.IntRange(0),
    help="Seed of a run; repeat for intervals over several.",
)
@click.option(
    "--teacher",
    default=200,
    type=click.IntRange(1),
    help="Images whose tokens are given to compare logits and layers.",
)
@click.option("--cfg", type=float, help="Guidance. Default: the model's.")
@click.option("--top-k", type=int, help="Most likely tokens to draw from. Default: the model's.")
@click.option("--top-p", type=float, help="Their probability. Default: the model's.")
@click.option("--chunk", default=50, type=click.IntRange(1), help="Images in one batch.")
@click.option("--jobs", type=click.IntRange(1), help="Processes. Default: one a processor.")
@click.option("--device", default="cpu", help="Where models run, as torch names it.")
@click.option("--wait", default=3600.0, help="Seconds torchrun's rank 0 waits for a new chunk.")
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the samples; an interrupted run goes on there. Default: build/eval/MODEL.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write everything as JSON to this file.",
)
@json_option
def evaluate(
    model: str,
    recipes: tuple[str, ...],
    samples: int,
    seeds: tuple[int, ...],
    teacher: int,
    cfg: float | None,
    top_k: int | None,
    top_p: float | None,
    chunk: int,
    jobs: int | None,
    device: str,
    wait: float,
    work: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure a model and what methods do to it.

    Fréchet distance, class score, precision and recall of samples on the features of the model's
    own small classifier (no ImageNet Inception figures); distance to the unquantized model's
    samples with the same seeds; logits and layers under given tokens.

    Interrupt it at any time; the same command continues where it stopped. Under torchrun each
    process makes its part of the samples, with the same results.
    """
    from lutvar.eval.evaluate import NOTE, Plan
    from lutvar.eval.evaluate import evaluate as run_evaluation
    from lutvar.eval.reference import load_reference
    from lutvar.eval.report import document, table_rows
    from lutvar.eval.settings import SampleSettings
    from lutvar.eval.subject import model_fingerprint
    from lutvar.eval.work import Share
    from lutvar.models import load_model
    from lutvar.quant.var.checkpoint import write_atomic

    loaded = load_model(model)
    plan = Plan(
        model=model,
        methods=tuple(dict.fromkeys(recipes)),
        settings=SampleSettings.of(loaded.info, cfg, top_k, top_p, chunk),
        samples=samples,
        seeds=seeds,
        teacher=min(teacher, samples),
        folder=Path("build/eval") / loaded.info.name if work is None else work,
        jobs=jobs,
        wait=wait,
        device=device,
        share=Share.of_torchrun(),
    )
    runs = run_evaluation(plan, progress)
    if runs is None:
        note(f"rank {plan.share.index}: samples done; rank 0 has the result")
        return
    reference = load_reference(loaded)
    data = document(plan, reference, model_fingerprint(loaded), runs)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, (json.dumps(data, indent=1) + "\n").encode())
    emit(as_json, data, f"{table(*table_rows(reference, runs))}\n{NOTE}")
