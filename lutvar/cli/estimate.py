# SPDX-License-Identifier: Apache-2.0
"""`lutvar estimate`: modelled speed and resources of the accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from .common import Number, command, emit, json_option, note

MAX_CLOCK = 10_000.0  #: MHz; an order of magnitude beyond any FPGA
MODELS = ("d16", "d20", "d24", "d30", "d36-s")
#: A board's name stands for all its configurations.
BOARDS = {"vck190": ("vck190-fp4", "vck190-fp6")}
#: Schedules of a table, with images in a pass (staggered: at each scale).
PLANS = (("single", 1), ("batch", 2), ("batch", 4), ("batch", 8), ("stagger", 1), ("stagger", 4))


@command("estimate")
@click.option(
    "--config",
    default="vck190-fp4",
    metavar="NAME|FILE",
    help="Accelerator size; or a board, vck190: a table of all its sizes and schedules.",
)
@click.option(
    "--model",
    default="d30",
    metavar="NAME",
    help="A released size (d16 ... d36-s), or a model folder.",
)
@click.option(
    "--clock",
    type=Number(0, MAX_CLOCK, min_open=True),
    default=250.0,
    metavar="MHZ",
    help="Clock.",
)
@click.option(
    "--schedule",
    type=click.Choice(["single", "batch", "stagger"]),
    default="stagger",
    help="One image, a batch, or images staggered over the scales.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Images of a batch, or at each scale.",
)
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
@click.option(
    "--compare",
    "as_comparison",
    is_flag=True,
    help="The same array for FP4, FP6, INT4 and INT8 at equal LUTs.",
)
@json_option
def estimate(
    config: str, model: str, clock: float, schedule: str, batch: int, no_guidance: bool,
    full: bool, changes: tuple[str, ...], as_table: bool, as_comparison: bool, as_json: bool,
) -> None:  # fmt: skip
    """Model speed, memory traffic and resources of a transformer on an accelerator.

    The program is compiled and run on the cycle model; every figure is modelled. Sampling and the
    image decoder, which run on the host, are not in it.
    """
    from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
    from lutvar.sim.model.compare import compare, compare_dict, compare_text
    from lutvar.sim.model.model import Estimator
    from lutvar.sim.model.resources import resources
    from lutvar.sim.model.text import estimate_text, resources_text, table_text

    def load(name: str) -> AcceleratorConfig:
        base = load_accelerator(name)
        return _changed(base, changes) if changes else base

    if as_table or config in BOARDS:
        results = []
        for name in BOARDS.get(config, BOARDS["vck190"] if as_table else ()):
            for size in MODELS if as_table else (model,):
                note(f"modelling {size} on {name}")
                estimator = Estimator(load(name), _shape(size), size, clock=clock, full=full)
                results += [estimator.estimate(s, n, not no_guidance) for s, n in PLANS]
        emit(as_json, [r.as_dict() for r in results], table_text(results))
        return
    hardware = load(config)
    if as_comparison:
        lines = compare(
            hardware, _shape(model), model, schedule=schedule, batch=batch,
            guided=not no_guidance, clock=clock, full=full,
        )  # fmt: skip
        emit(
            as_json,
            compare_dict(lines, hardware.name, model),
            compare_text(lines, hardware.name, model),
        )
        return
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
    if model in MODELS:
        from lutvar.contract.shape import TransformerShape

        return TransformerShape.official(model)  # needs no model, so no torch either
    from lutvar.quant.models import load_model

    return load_model(model).var.config.shape


def _changed(config: Any, changes: Sequence[str]) -> Any:
    from pydantic import ValidationError

    values = config.model_dump()
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in values:
            raise click.BadParameter(
                f"{change!r}; it must be KEY=VALUE with a key of {', '.join(values)}",
                param_hint="--set",
            )
        values[key] = value
    try:
        return type(config)(**{**values, "name": f"{config.name}-changed"})
    except ValidationError as error:
        raise click.BadParameter(str(error.errors()[0]["msg"]), param_hint="--set") from None
