# SPDX-License-Identifier: Apache-2.0
"""`lutvar study`: simulated comparisons of pipelining, schedules and memories."""

from __future__ import annotations

from pathlib import Path

import click

from lutvar.files import json_text, prepare_output, write_file

from .common import (
    accelerator_option,
    beside,
    command,
    emit,
    model_option,
    note,
    out_option,
    refuse_with,
    require_simulator,
)

STUDIES = ("ablation", "sections", "sharing", "memory", "agreement")


@command("study")
@click.argument("studies", nargs=-1, type=click.Choice(STUDIES))
@model_option
@accelerator_option
@out_option(
    "JSON file; a Markdown page is written beside it.", "build/study.json", endings=(".json",)
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def study(studies: tuple[str, ...], model: str, config: str, out: Path, as_json: bool) -> int:
    """Simulate variants of one workload and compare their cycles; all STUDIES by default.

    ablation: each pipeline level on and off. sections: tiles of few rows in sections, whole and
    half tiles (on an accelerator that has sections). sharing: images together and staggered.
    memory: latency and stalls. agreement: the cycle model against simulation, for several models
    and accelerators of its own. Every run is compared with the golden model; exit code 1 when one
    differs.
    """
    if studies and set(studies) == {"agreement"}:
        refuse_with(
            "study agreement (models and accelerators of its own)",
            model="--model", config="--config",
        )  # fmt: skip
    require_simulator()
    prepare_output(out)
    from lutvar.sim.run.agreement import agreement_table, run_agreement
    from lutvar.sim.run.document import Heading, Paragraph, Table, to_markdown
    from lutvar.sim.run.session import quantize
    from lutvar.sim.run.studies import (
        ABLATION,
        MEMORY,
        SHARING,
        ablation_table,
        memory_table,
        run_variants,
        section_variants,
        sections_table,
        sharing_table,
    )

    tables = {
        "ablation": ("Pipeline levels", ABLATION, ablation_table),
        "sharing": ("Sharing weights", SHARING, sharing_table),
        "memory": ("Memory latency", MEMORY, memory_table),
    }
    quantized = quantize(model, config)
    if "sections" in studies and quantized.config.max_sections == 1:
        raise click.UsageError(
            f"study sections: {quantized.config.name} has no sections; --config one with "
            "max_sections of 2 or 4, such as small-sections-fp4"
        )
    tables["sections"] = ("Sections", section_variants(quantized.config), sections_table)
    name = f"{quantized.config.name}, model {quantized.loaded.info.name}"
    blocks: list[Heading | Paragraph | Table] = []
    data: dict[str, object] = {"accelerator": quantized.config.model_dump(), "model": model}
    wrong, folder = 0, out.parent / "study"

    def add(key: str, title: str, what: str, result: Table) -> None:
        blocks.extend([Heading(title, 3), Paragraph(what), result])
        data[key] = [dict(zip(result.head, row, strict=True)) for row in result.rows]

    for key in studies or STUDIES:
        if key == "agreement":
            pairs = run_agreement(folder, say=note)
            add(key, "Cycle model", "Simulated and modelled: `lutvar study agreement`",
                agreement_table(pairs))  # fmt: skip
            wrong += sum(p.mismatches for p in pairs)
            continue
        title, variants, make = tables[key]
        if not variants:
            continue
        outcomes = run_variants(quantized, variants, folder, say=note)
        add(key, title, f"Simulated: {name}. `lutvar study {key} --config {config}`",
            make(outcomes))  # fmt: skip
        wrong += sum(o.mismatches for o in outcomes)
    data["different"] = wrong
    page = to_markdown(blocks)
    write_file(out, json_text(data, indent=2) + "\n")
    written = [out]
    if (target := beside(out, ".md")) is not None:
        write_file(target, page)
        written.append(target)
    emit(as_json, data, page)
    note("written: " + ", ".join(map(str, written)))
    return 1 if wrong else 0
