# SPDX-License-Identifier: Apache-2.0
"""`lutvar train`: train a small class-conditional model from images to a model folder."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .common import command, emit, json_option, seed_option


@command("train")
@click.option("--model", default="digits", help="Which training plan.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the model. Default: build/train/MODEL.",
)
@seed_option
@click.option("--restart", is_flag=True, help="Ignore the state of an interrupted run.")
@json_option
def train(model: str, out: Path | None, seed: int, restart: bool, as_json: bool) -> None:
    """Train a model: classifier, tokenizer, transformer, report (digits-rar: RAR, no classifier).

    Interrupt it at any time; the same command continues where it stopped.
    """
    from lutvar.quant.train.plans import PLANS
    from lutvar.quant.train.run import train as run_training
    from lutvar.quant.train.tokens import PLANS as TOKEN_PLANS

    known = (*PLANS, *TOKEN_PLANS)
    if model not in known:
        raise click.BadParameter(f"unknown plan {model!r}; known: {', '.join(known)}")
    out = Path("build/train") / model if out is None else out
    if model in TOKEN_PLANS:
        from lutvar.quant.train.token_run import train_tokens

        train_tokens(out, seed, resume=not restart, plan=TOKEN_PLANS[model])
        figures = json.loads((out / "model.json").read_text(encoding="utf-8"))["figures"]
    else:
        figures = run_training(out, seed, not restart, PLANS[model]).info.figures
    lines = [f"{key:24} {value}" for key, value in figures.items()]
    emit(
        as_json,
        {"folder": str(out), "figures": figures},
        "\n".join([f"model written to {out} (see MODEL_CARD.md there)", *lines]),
    )
