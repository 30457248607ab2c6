# SPDX-License-Identifier: Apache-2.0
"""`python -m lutvar.bench.mutation`: run a campaign, or go on with one."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.seeds import MAX_SEED
from lutvar.files import json_text, write_file

from .campaign import Campaign
from .review import load_review, reviewed


@click.command()
@click.option("--config", default="small-fp4", show_default=True, help="Accelerator size.")
@click.option("--count", type=click.IntRange(1, 60000), default=800, show_default=True,
              help="Mutants.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=1, show_default=True,
              help="Of their choice.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--first", type=click.IntRange(1), help="Run only so many of them.")
@click.option("--check", "names", multiple=True, help="Run these checks on the survivors.")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path),
              default="build/mutation", show_default=True,
              help="Folder; a campaign in it goes on where it stopped.")  # fmt: skip
@click.option("--build-dir", type=click.Path(file_okay=False, path_type=Path), default="build/sim",
              show_default=True, help="Cache of simulation models.")  # fmt: skip
def main(
    config: str,
    count: int,
    seed: int,
    jobs: int,
    first: int | None,
    names: tuple[str, ...],
    out: Path,
    build_dir: Path,
) -> None:
    """Change the exported Verilog in hundreds of small ways and see which changes are noticed."""

    def say(line: str) -> None:
        click.echo(line, err=True)

    campaign = Campaign(load_accelerator(config), out, count, seed, say, build_dir)
    campaign.run(jobs, campaign.order[:first], names)
    report = reviewed(campaign.report(), load_review())
    write_file(out / "report.json", json_text(report, indent=1) + "\n")
    click.echo(
        f"{report['mutants']} mutants: {report['killed']} died, {report['equivalent']} are "
        f"equivalent, {report['open']} survived: {report['share']:.1%} of those that can die; "
        f"{out / 'report.json'}"
    )


if __name__ == "__main__":
    sys.exit(main())
