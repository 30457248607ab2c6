# SPDX-License-Identifier: Apache-2.0
"""Survivors that were examined by hand: which are equivalent to the original, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lutvar.yaml_files import read_yaml

REVIEW = Path(__file__).with_name("review.yaml")


@dataclass(frozen=True)
class Judgement:
    """Why a mutant changes nothing that anybody could see.

    Attributes:
        module: its Verilog module, without the configuration's prefix.
        line: the line of Verilog that is changed.
        after: what a part of it becomes.
        reason: why it is equivalent.
    """

    module: str
    line: str
    after: str
    reason: str


def load_review(path: Path = REVIEW) -> list[Judgement]:
    """The judgements in a file, the entries of `equivalent`."""
    return [Judgement(**row) for row in read_yaml(path)["equivalent"]]


def reviewed(report: dict[str, Any], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """The report with reasons at equivalent survivors, and the share of the others that died."""
    known = {(j.module, j.line, j.after): j.reason for j in judgements}
    equivalent = 0
    for row in report["rows"]:
        module = str(row["module"]).split("__", 1)[-1]
        reason = known.get((module, row["source"], row["after"].strip()))
        row["equivalent"] = "" if row["check"] or reason is None else reason
        equivalent += bool(row["equivalent"])
    others = report["mutants"] - equivalent
    return {
        **report, "equivalent": equivalent, "open": report["survived"] - equivalent,
        "share": report["killed"] / others if others else 0.0,
    }  # fmt: skip
