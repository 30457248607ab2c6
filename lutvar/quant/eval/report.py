# SPDX-License-Identifier: Apache-2.0
"""An evaluation as JSON values and as rows of a table, with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import lutvar

from .evaluate import NOTE, Plan, Run
from .intervals import CONFIDENCE, Interval, interval
from .reference import Reference
from .settings import GENERATE


class Column(NamedTuple):
    """One figure of the table: heading, where it is in a run, how a value is written."""

    heading: str
    part: str
    key: str
    form: str


COLUMNS = (
    Column("Fréchet", "samples", "frechet", ".4f"),
    Column("to train", "samples", "frechet_train", ".4f"),
    Column("score", "samples", "score", ".3f"),
    Column("precision", "samples", "precision", ".3f"),
    Column("recall", "samples", "recall", ".3f"),
    Column("judged", "samples", "agreement", ".3f"),
    Column("Fréchet to float", "paired", "frechet", ".4f"),
    Column("PSNR, dB", "paired", "psnr_db", ".2f"),
    Column("tokens", "paired", "tokens", ".3f"),
    Column("KL, nat", "forced", "kl_nats", ".4f"),
    Column("top-1", "forced", "top1", ".3f"),
    Column("logits, dB", "forced", "logits_snr_db", ".2f"),
)

#: Figures of an editing task.
EDIT_COLUMNS = (
    Column("Fréchet", "region", "frechet", ".4f"),
    Column("Fréchet to float", "region", "frechet_float", ".4f"),
    Column("PSNR, dB", "region", "psnr_db", ".2f"),
    Column("tokens", "region", "tokens", ".3f"),
    Column("kept", "region", "kept", ".3f"),
    Column("whole: Fréchet", "samples", "frechet", ".4f"),
    Column("judged", "samples", "agreement", ".3f"),
    Column("KL, nat", "forced", "kl_nats", ".4f"),
    Column("top-1", "forced", "top1", ".3f"),
    Column("logits, dB", "forced", "logits_snr_db", ".2f"),
)


def columns_of(task: str) -> tuple[Column, ...]:
    """The figures that a task's table shows."""
    return COLUMNS if task == GENERATE else EDIT_COLUMNS


def document(plan: Plan, reference: Reference, model: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Everything about an evaluation, as JSON values (infinite ones become None).

    Args:
        plan: of the runs.
        reference: what the samples were compared with.
        model: fingerprint of the model.
        runs: from `evaluate`.
    """
    return _plain(
        {
            "lutvar": lutvar.__version__,
            "note": NOTE,
            "model": {"name": plan.model, "fingerprint": model},
            "settings": {
                **plan.settings.as_dict(),
                "samples": plan.samples,
                "seeds": plan.seeds,
                "teacher": plan.teacher,
                "device": plan.device,
            },
            "reference": {
                "classifier_sha256": reference.classifier_sha256,
                "test_images": reference.test.count,
                "train_images": reference.train.count,
                "neighbours": len(reference.neighbours_ND),
                "real": asdict(reference.real),
            },
            "runs": [run.as_dict() for run in runs],
            "confidence": CONFIDENCE,
            "summary": _summary_values(runs, columns_of(plan.settings.task)),
        }
    )


def _summary_values(runs: Sequence[Run], columns: Sequence[Column]) -> dict[str, dict[str, Any]]:
    """Method -> how it was computed -> figure -> interval, as JSON values."""
    values: dict[str, dict[str, Any]] = {}
    for (method, on), intervals in summary(runs, columns).items():
        values.setdefault(method, {})[on] = {
            f"{c.part}.{c.key}": asdict(interval)
            for c, interval in zip(columns, intervals, strict=True)
            if interval is not None
        }
    return values


def summary(
    runs: Sequence[Run], columns: Sequence[Column] = COLUMNS
) -> dict[tuple[str, str], list[Interval | None]]:
    """Method and how it was computed -> an interval for each column; None where there is no such
    figure."""
    result = {}
    for method, on in dict.fromkeys((run.method, run.on) for run in runs):
        same = [r for r in runs if (r.method, r.on) == (method, on)]
        result[method, on] = [_interval(c, same) for c in columns]
    return result


def _interval(column: Column, runs: Sequence[Run]) -> Interval | None:
    parts = [getattr(run, column.part) for run in runs]
    values = [getattr(part, column.key) for part in parts if part is not None]
    if len(values) < len(parts) or None in values:
        return None
    return interval([float(value) for value in values])


def table_rows(
    reference: Reference, runs: Sequence[Run], task: str = GENERATE
) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: of generation what real images reach, then every method."""
    real, columns = reference.real, columns_of(task)
    values = [real.train_to_test, None, real.score, real.precision, real.recall, real.agreement]
    first = ["real images", ""]
    first += ["" if v is None else format(v, c.form) for v, c in zip(values, columns, strict=False)]
    first += [""] * (len(columns) - len(values))
    rows = [
        [method, on, *(_cell(c, interval) for c, interval in zip(columns, intervals, strict=True))]
        for (method, on), intervals in summary(runs, columns).items()
    ]
    heading = ["method", "computed", *(c.heading for c in columns)]
    return heading, [first, *rows] if task == GENERATE else rows


def _cell(column: Column, interval: Interval | None) -> str:
    if interval is None:
        return ""
    text = format(interval.mean, column.form)
    if interval.half_width is None:
        return text
    return f"{text} ±{format(interval.half_width, column.form)}"


def _plain(value: Any) -> Any:
    """JSON has neither tuples nor infinite numbers."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
