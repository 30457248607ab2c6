# SPDX-License-Identifier: Apache-2.0
"""`lutvar evidence`: long simulations of the shipped accelerators, kept as records."""

from __future__ import annotations

from pathlib import Path

import click

from lutvar.text import table

from .common import command, emit, json_option, note, out_option, refuse_with, require_simulator
from .errors import FAILED, OK


@command("evidence")
@click.argument("items", nargs=-1, metavar="[ITEM]...")
@out_option("Folder for records and logs.", "build/evidence", folder=True)
@click.option(
    "--list", "listing", is_flag=True, help="Only say where each item stands; exit code 1 unless "
    "all of them are done.",
)  # fmt: skip
@click.option("--again", is_flag=True, help="Run items that are done, too.")
@click.option("--dry-run", is_flag=True, help="Only start each item, and stop after some cycles.")
@click.option(
    "--page",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="Run nothing; put the records of the folder into this page's table and into "
    "evidence.jsonl beside it.",
)
@json_option
def evidence(
    items: tuple[str, ...],
    out: Path,
    listing: bool,
    again: bool,
    dry_run: bool,
    page: Path | None,
    as_json: bool,
) -> int:
    """Simulate the shipped accelerators for hours, and compare everything that they write.

    ITEM: names, or patterns such as '*-vck190-fp4'; all by default, cheapest first. Each leaves a
    record (JSON) and a log in the folder. Started again, the command goes on where it ended: items
    whose record is of the same version, contract and Verilog are skipped.

    Exit code 1 when a value differs.
    """
    from lutvar.sim.evidence.items import choose

    if sum((listing, dry_run, page is not None)) > 1:
        raise click.UsageError("--list, --dry-run and --page exclude each other; choose one")
    if page is not None:
        refuse_with("--page (runs nothing)", again="--again", as_json="--json")
    if listing:
        refuse_with("--list (runs nothing)", again="--again")
    if dry_run:
        refuse_with("--dry-run (keeps no record)", as_json="--json")
    chosen = choose(items)
    if page is None and not listing:
        require_simulator()
    from lutvar.sim.evidence.campaign import Campaign
    from lutvar.sim.evidence.page import update_page

    campaign = Campaign(out, "build/sim", note)
    if page is not None:
        states = [campaign.state(item) for item in chosen]
        good = [s.record for s in states if s.state == "done" and s.record is not None]
        bad = [s.item.name for s in states if s.record is not None and s.state != "done"]
        for name in bad:
            note(f"{name}: left out, its record is stale or failed")
        note(f"{page}: {update_page(page, good)} records")
        return FAILED if bad else OK
    if listing:
        states = [campaign.state(item) for item in chosen]
    else:
        states = list(campaign.run(chosen, again=again, dry=dry_run))
    if dry_run:
        return OK
    rows = [
        (s.item.name, s.state, s.item.work.what, f"{s.record['values']:,}" if s.record else "",
         f"{s.record['values_different']:,}" if s.record else "")
        for s in states
    ]  # fmt: skip
    data = [{"name": s.item.name, "state": s.state, "record": s.record} for s in states]
    emit(as_json, data, table(("item", "state", "work", "values compared", "differ"), rows))
    return OK if all(s.state == "done" for s in states) else FAILED
