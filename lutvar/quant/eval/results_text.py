# SPDX-License-Identifier: Apache-2.0
"""docs/results.md: tables, the paper's order, and the comparison of two recipes seed by seed."""

from __future__ import annotations

import math
from collections.abc import Callable

from lutvar.text import wrap_page

from .evaluate import NOTE, Run
from .intervals import Interval, interval
from .reference import Reference
from .results import Results, difference
from .subject import FLOAT

_HEAD = (
    "| recipe | weights and inputs | bits a weight | accelerator runs it | Fréchet | "
    "Fréchet to float | KL, nat | same tokens | judged |"
)
_RULE = "|" + "---|" * 9


def _frechet(run: Run) -> float:
    return run.samples.frechet


def _kl(run: Run) -> float:
    return run.forced.kl_nats if run.forced else 0.0


def _to_float(run: Run) -> float:
    return run.paired.frechet if run.paired else 0.0


def _tokens(run: Run) -> float:
    return run.paired.tokens if run.paired else 1.0


def _judged(run: Run) -> float:
    return run.samples.agreement


def _cell(runs: list[Run], value: Callable[[Run], float], form: str) -> str:
    ci = interval([value(run) for run in runs])
    text = format(ci.mean, form)
    return text if ci.half_width is None else f"{text} ± {format(ci.half_width, form)}"


def _row(results: Results, name: str, runs: list[Run]) -> str:
    if name == FLOAT:
        first = ["float32", "W32A32 everywhere", "", "no"]
    else:
        entry = results.entries[name]
        kinds: dict[str, list[str]] = {}
        for site, kind in entry.recipe.coverage().items():
            if kind != "float":
                kinds.setdefault(kind, []).append(site)
        coverage = "; ".join(f"{kind}: {', '.join(sites)}" for kind, sites in kinds.items())
        runs_it = "yes" if entry.hardware.runs else "no"
        first = [f"`{name}`", coverage, f"{entry.hardware.bits_per_weight:.2f}", runs_it]
    figures = [
        _cell(runs, _frechet, ".2f"),
        "" if name == FLOAT else _cell(runs, _to_float, ".3f"),
        "" if name == FLOAT else _cell(runs, _kl, ".4f"),
        "" if name == FLOAT else _cell(runs, _tokens, ".3f"),
        _cell(runs, _judged, ".3f"),
    ]
    return "| " + " | ".join([*first, *figures]) + " |"


def _mean(results: Results, name: str, value: Callable[[Run], float]) -> float:
    return interval([value(run) for run in results.of(name)]).mean


def order_lines(results: Results) -> list[str]:
    """The order that the FPQVAR paper reports, each statement with the figures of this run."""
    plan = results.plan
    four = [
        n for n, e in results.entries.items()
        if {e.recipe.layers[s].weight.bits for s in e.recipe.layers if e.recipe.layers[s].weight}  # type: ignore[union-attr]
        == {4}
    ]  # fmt: skip
    paper = [n for n in results.plan.groups[0].recipes if n in four]
    lines = []
    for heading, value, form in (("KL", _kl, ".4f"), ("Fréchet", _frechet, ".2f")):
        ranked = sorted(paper, key=lambda n: _mean(results, n, value))
        worst, best = ranked[-1], ranked[0]
        lines.append(
            f"* {heading}: worst of the paper's 4-bit rows is `{worst}` "
            f"({_mean(results, worst, value):{form}}); `{plan.worst}` has "
            f"{_mean(results, plan.worst, value):{form}}. Best is `{best}` "
            f"({_mean(results, best, value):{form}}); `{plan.plain}` has "
            f"{_mean(results, plan.plain, value):{form}}."
        )
    lines.append(
        f"* `{plan.six}` is near the float model: Fréchet {_mean(results, plan.six, _frechet):.2f} "
        f"against {_mean(results, FLOAT, _frechet):.2f}, KL {_mean(results, plan.six, _kl):.4f}."
    )
    return lines


def best_lines(results: Results) -> list[str]:
    """The best recipe against plain FPQVAR: differences seed by seed, with their interval."""
    lines = []
    best, plain = results.pair()
    for heading, value, form in (
        ("Fréchet", _frechet, ".3f"),
        ("Fréchet to float", _to_float, ".4f"),
        ("KL", _kl, ".5f"),
    ):
        ci = interval(difference(best, plain, value))
        lines.append(f"* {heading}: {_difference(ci, form)}.")
    return lines


def _difference(ci: Interval, form: str) -> str:
    assert ci.half_width is not None
    text = f"{ci.mean:+{form}} ± {ci.half_width:{form}}"
    if not math.isfinite(ci.mean):
        return text
    if abs(ci.mean) <= ci.half_width:
        return f"{text}: within the interval of the seeds, no difference shown"
    return f"{text}: {'better' if ci.mean < 0 else 'worse'}, beyond the interval of the seeds"


def focus_lines(results: Results) -> list[str]:
    """The section with more samples for a few recipes; nothing without."""
    focus = results.plan.focus
    if focus is None:
        return []
    return [
        "",
        "## More samples for the main recipes",
        "",
        f"{focus.samples} images for each of {len(focus.seeds)} seeds. A Fréchet distance falls "
        "with the number of images: compare the rows of this table with each other only.",
        "",
        _HEAD,
        _RULE,
        *(_row(results, name, results.focused(name)) for name in (FLOAT, *focus.methods())),
    ]


def document_text(results: Results, reference: Reference) -> str:
    """The whole file, Markdown."""
    plan, real = results.plan, reference.real
    lines = [
        "# Results",
        "",
        f"Every recipe on the shipped model `{plan.model}`, made by one command:",
        "",
        "    lutvar results -o build/results --markdown docs/results.md",
        "",
        f"{plan.samples} images for each of {len(plan.seeds)} seeds; intervals are 95 % over the "
        f"seeds (Student t). KL is the mean over all tokens of {plan.teacher} images with given "
        "coarser tokens, conditional half. [evaluation.md](evaluation.md) says what each figure "
        "is, [methods.md](methods.md) where each method comes from.",
        "",
        f"**All figures use the {NOTE}.** A Fréchet distance depends on the number of images; real "
        f"training images reach {real.train_to_test:.2f} against the test images with all of them.",
    ]
    for group in plan.groups:
        lines += ["", f"## {group.title}", "", _HEAD, _RULE]
        lines += [_row(results, name, results.of(name)) for name in (FLOAT, *group.recipes)]
    lines += focus_lines(results)
    lines += ["", "## The paper's order", "", *order_lines(results)]
    lines += [
        "",
        f"## `{plan.best}` against `{plan.plain}`",
        "",
        f"Differences seed by seed (same seeds, same random streams), {len(results.pair()[0])} "
        "seeds:",
        "",
        *best_lines(results),
    ]
    lines += ["", "## What needs hardware that does not exist", ""]
    for name, entry in results.entries.items():
        if not entry.hardware.runs:
            missing = [*entry.hardware.missing]
            if entry.hardware.unshipped is not None:
                missing.append(f"no shipped configuration: {entry.hardware.unshipped}")
            lines.append(f"* `{name}`: {'; '.join(missing)}")
    lines += [
        "",
        "## The same seeds",
        "",
        f"![{', '.join(plan.sheet)}: same classes and seeds in each column](results.png)",
    ]
    return wrap_page("\n".join(lines) + "\n")
