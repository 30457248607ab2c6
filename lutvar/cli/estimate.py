# SPDX-License-Identifier: Apache-2.0
"""`lutvar estimate`: modelled speed and resources of the accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from .common import command, emit, json_option, note

MODELS = ("d16", "d20", "d24", "d30", "d36-s")
TABLE_CONFIGS = ("vck190-fp4", "vck190-fp6")
TABLE_BATCHES = (1, 2, 4, 8)


@command("estimate")
@click.option("--config", default="vck190-fp4", metavar="NAME|FILE", help="Accelerator size.")
@click.option(
    "--model",
    default="d30",
    metavar="NAME",
    help="A released size (d16 ... d36-s), or a model folder.",
)
@click.option("--clock", default=250.0, metavar="MHZ", help="Clock.")
@click.option(
    "--schedule",
    type=click.Choice(["single", "batch", "stagger"]),
    default="stagger",
    help="One image, a batch, or images staggered over the scales.",
)
@click.option("--batch", default=1, metavar="N", help="Images of a batch, or at each scale.")
@click.option("--no-guidance", is_flag=True, help="Conditional rows only.")
@click.option("--full", is_flag=True, help="Compile every block of the model; slower.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the accelerator size, for example rows=352.",
)
@click.option("--table", "as_table", is_flag=True, help="All released sizes and schedules.")
@json_option
def estimate(
    config: str, model: str, clock: float, schedule: str, batch: int, no_guidance: bool,
    full: bool, changes: tuple[str, ...], as_table: bool, as_json: bool,
) -> None:  # fmt: skip
    """Model speed, memory traffic and resources of a transformer on an accelerator.

    The program is compiled and run on the cycle model; every figure is modelled. Sampling and the
    image decoder, which run on the host, are not in it.
    """
    from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
    from lutvar.estimate.model import Estimator
    from lutvar.estimate.resources import resources
    from lutvar.estimate.text import estimate_text, resources_text, table_text

    if clock <= 0:
        raise click.BadParameter(f"{clock:g} MHz; it must be above 0", param_hint="--clock")

    def load(name: str) -> AcceleratorConfig:
        base = load_accelerator(name)
        return _changed(base, changes) if changes else base

    if as_table:
        results = []
        for name in TABLE_CONFIGS:
            for size in MODELS:
                note(f"modelling {size} on {name}")
                estimator = Estimator(load(name), _shape(size), size, clock=clock, full=full)
                plans: Sequence[tuple[str, int]] = [
                    *(("single" if n == 1 else "batch", n) for n in TABLE_BATCHES), ("stagger", 1)
                ]  # fmt: skip
                results += [estimator.estimate(s, n, not no_guidance) for s, n in plans]
        emit(as_json, [r.as_dict() for r in results], table_text(results))
        return
    hardware = load(config)
    result = Estimator(hardware, _shape(model), model, clock=clock, full=full).estimate(
        schedule, batch, not no_guidance
    )
    used = resources(hardware)
    emit(
        as_json,
        {**result.as_dict(), "resources": used.as_dict()},
        f"{estimate_text(result)}\n\n{resources_text(used)}",
    )


def _shape(model: str) -> Any:
    from lutvar.models import load_model
    from lutvar.quant.shape import TransformerShape

    if model in MODELS:
        return TransformerShape.official(model)
    return TransformerShape.of(load_model(model).var.config)


def _changed(config: Any, changes: Sequence[str]) -> Any:
    import yaml
    from pydantic import ValidationError

    values = config.model_dump()
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in values:
            raise click.BadParameter(
                f"{change!r}; it must be KEY=VALUE with a key of {', '.join(values)}",
                param_hint="--set",
            )
        # As in the files of sizes: [72, 36] is a list.
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise click.BadParameter(f"{change!r} is not YAML", param_hint="--set") from None
    try:
        return type(config)(**{**values, "name": f"{config.name}*"})
    except ValidationError as error:
        raise click.BadParameter(str(error.errors()[0]["msg"]), param_hint="--set") from None
